import shlex
import subprocess
import sys

import pytest

from stn_experiments.config.names import LONGEST, name_of, with_run_name
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("", "default"),
        ("data=rts stn=tps trainer.epochs=3", "rts-tps-epochs3"),
        ("trainer.epochs=3 stn=tps data=rts", "epochs3-tps-rts"),
        ("data=rotated seed=0 stn=similarity trainer.epochs=12 seed=1", "seed1"),
        ("data=cluttered data.distortion.canvas=60 data.distortion.clutter=3", "cluttered-clutter3"),
        ("stn=none attention=cbam", "no_stn-cbam"),
        ("stn.at=[input,layer2]", "at_input_layer2"),
        ("optimizer.lr=1e-4 data.online=false", "lr0.0001-online_false"),
        ("seed=2 data.seed=7", "seed2-data_seed7"),
        ("backbone.width=4 stn.width=8", "backbone_width4-stn_width8"),
        ("data=npz data.file=/photos/birds.npz", "birds"),
        ("data=npz 'data.file=\"/my photos/ü b=1.npz\"'", "b_1"),
        ("data=folder data.folder=/photos/birds", "birds"),
        ("experiment=traffic_signs data.folder=/photos/GTSRB data.size=32", "traffic_signs-GTSRB-size32"),
        ("experiment=best_rotated", "best_rotated"),
        ("experiment=attention_models/cbam seed=0", "cbam-seed0"),
        ("sweep=search data=rotated", "rotated"),
        ("sweep=search trainer=default", "default"),
        ("trainer=quick run.root=/tmp run.force=true trainer.device=cpu data.root=/x", "quick"),
        ("~scheduler seed=1", "seed1"),
    ],
)
def test_a_name_has_what_differs_from_the_defaults(compose, line, name):
    assert compose(*shlex.split(line))["run"]["name"] == name


def test_a_sweep_names_defaults_too(compose):
    words = ["stn=affine", "seed=0", "sweep=smoke"]
    assert name_of(compose(*words), words, in_sweep=True) == "affine-seed0"


def test_a_name_is_short(compose):
    words = [f"data.distortion.{key}={value}" for key, value in (("angle", 1.23456789), ("canvas", 42))]
    words += ["optimizer.lr=0.00123", "optimizer.weight_decay=0.00123", "trainer.localisation_lr=0.00123"]
    words += ["trainer.images_per_epoch=12345", "trainer.localisation_clip=0.00123"]
    name = compose(*words)["run"]["name"]
    assert name.startswith("angle1.23457-canvas42-lr0.00123-weight_decay0.00123-")
    assert len(name) <= LONGEST


def test_a_name_that_is_given_stays():
    assert with_run_name({"run": {"name": "mine"}}, ["seed=1"]) == {"run": {"name": "mine"}}
    assert with_run_name({"run": None}, ["seed=1"]) == {"run": None}


def test_a_run_is_named_without_torch():
    """Otherwise the first line would take seconds."""
    modules = "config.names", "storage.run_folder", "config.compose", "cli.hydra_command"
    code = "; ".join([*(f"import stn_experiments.{module}" for module in modules), "import sys"])
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
