"""``scripts/evaluate.py --probe`` on runs with the weights from before training."""

import json
import runpy

import numpy as np
import pytest
from PIL import Image

from stn_experiments.evaluation.probe import PROBES
from tests.conftest import ROOT


@pytest.fixture
def run_of(untrained, few_digits, monkeypatch):
    """The folder of an untrained run, for probes of three steps."""
    monkeypatch.setattr("stn_experiments.evaluation.probe.probe_steps", lambda name, size: [0.5, 1, 2])
    return lambda name, *settings: untrained(name, *few_digits, *settings)


def test_runs_are_probed_one_after_the_other_and_drawn_in_one_picture(run_of, command):
    runs = [run_of("affine", "data=rts"), run_of("none", "data=rotated", "stn=none")]
    code, out, err = command("evaluate.py", *runs, "--probe", "scale", "--device", "cpu")
    assert (code, err) == (0, "")
    found = [json.loads((run / "evaluations" / "probe-scale.json").read_text()) for run in runs]
    for probe, keys in zip(found, ({"iou", "answer", "spread", "slope"}, set()), strict=True):
        assert probe["name"] == "scale"
        assert {key for key in ("iou", "answer", "spread", "slope") if probe[key] is not None} == keys
        assert len(probe["steps"]) == len(probe["error"]) == len(probe["confidence"])
    lines = out.splitlines()
    assert lines[0] == "scale       affine, slope 0.000"
    assert " ".join(lines[1].split()) == "| scale | error, % | confidence | IoU | answer | spread |"
    assert [line.split()[1] for line in lines if line.startswith("| 1 ")] == ["1", "1"]
    assert "scale       none" in lines
    picture = runs[0] / "evaluations" / "probe-scale.png"
    assert lines[-1] == f"plot        {picture}"
    assert Image.open(picture).width > 1000
    assert not (runs[1] / "evaluations" / "probe-scale.png").exists()


def test_the_choices_are_the_probes():
    assert runpy.run_path(str(ROOT / "scripts" / "evaluate.py"))["PROBES"] == PROBES


def test_a_mistake_is_one_line(run_of, refused, tmp_path):
    images, labels = np.zeros((40, 28, 28), np.uint8), np.arange(40) % 10
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    npz = run_of("npz", "data=npz", f"data.file={tmp_path / 'own.npz'}")
    question = run_of("question", "data=question", "attention=coattention", "stn=none")
    addition = run_of("addition", "data=addition")
    rotated = run_of("rotated", "data=rotated")
    for words, says in (
        ([npz, "--probe", "scale"], f"{npz} cannot read: it was trained with data=npz"),
        ([question, "--probe", "noise"], "it was trained with data=question"),
        ([addition, "--probe", "noise"], "it was trained with data=addition"),
        ([rotated, "data=clean", "--probe", "noise"], "--probe draws its own images: leave out data=clean"),
        ([rotated, "--missing", "--probe", "noise"], "not allowed with argument --missing"),
        ([rotated, "--probe", "turning"], "invalid choice: 'turning'"),
        ([tmp_path / "nowhere", "--probe", "noise"], "nowhere is not a run"),
    ):
        assert says in refused("evaluate.py", *words)
    (rotated / "evaluations").write_text("")
    assert "evaluations cannot be written to" in refused("evaluate.py", rotated, "--probe", "noise")


def test_a_run_that_fails_leaves_the_others(run_of, command, tmp_path):
    rotated = run_of("rotated", "data=rotated")
    code, out, err = command("evaluate.py", tmp_path / "nowhere", rotated, "--probe", "noise")
    assert code == 2
    assert err.startswith("error: nowhere: ")
    assert (rotated / "evaluations" / "probe-noise.png").exists()
    assert f"plot        {rotated / 'evaluations' / 'probe-noise.png'}" in out
