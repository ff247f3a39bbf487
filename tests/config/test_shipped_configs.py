"""Every config that is shipped composes, is named as its file, and makes a network that runs."""

import inspect
import re

import numpy as np
import pytest
import torch
import yaml

from stn_experiments.config.build import build
from stn_experiments.data.batch import Batch, Task
from stn_experiments.data.datasets import DataSet
from stn_experiments.data.distortions import FixedDistortion
from stn_experiments.evaluation.evaluate import predict
from stn_experiments.models.backbones import Backbone
from stn_experiments.models.gates import GateConfig
from stn_experiments.models.grids import Family
from stn_experiments.models.prediction import AttentionHeadConfig
from stn_experiments.runs.experiment import build_experiment
from tests.conftest import ROOT
from tests.data.signs import write_signs


def choices(group):
    folder = ROOT / "configs" / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


GROUPS = ("data", "backbone", "stn", "attention", "optimizer", "scheduler", "trainer", "experiment", "sweep")
CHOICES = [(group, choice) for group in GROUPS for choice in choices(group)]
GO_TOGETHER = ("data=question", "attention=coattention")


# Those of a family differ in one number each, and test_model_size builds the paper's.
SLOW = [choice for choice in CHOICES if re.match("what_is_p/(?!axes_2_5)|paper/", choice[1])]


@pytest.mark.parametrize(
    ("group", "choice"),
    [pytest.param(*one, marks=pytest.mark.slow if one in SLOW else ()) for one in CHOICES],
)
def test_every_choice_makes_a_network_that_runs(compose, tmp_path, group, choice):
    overrides = [f"{group}={choice}", "trainer.device=cpu"]
    if overrides[0] in GO_TOGETHER:
        overrides += GO_TOGETHER
    if overrides[0] == "data=colocalisation":
        overrides += ["stn=translation", "stn.colocalisation=1"]
    if choice == "npz":
        arrays = {f"{kind}_{split}": value for split in ("train", "test") for kind, value in
                  (("x", np.zeros((200, 900), np.uint8)), ("y", np.arange(200) % 7))}  # fmt: skip
        np.savez(tmp_path / "own.npz", **arrays)
        overrides += [f"data.file={tmp_path / 'own.npz'}", "trainer.batch_size=10"]
    if choice in ("folder", "traffic_signs"):
        folder = write_signs(tmp_path / "signs", {"train": 5, "test": 1}, classes=3)
        overrides += [f"data.folder={folder}", "trainer.batch_size=4"]
    config = compose(*overrides)
    if "name" in config.get(group, ()):
        assert config[group]["name"] == choice
    experiment = build_experiment(config)
    question = torch.ones(2, 5, dtype=torch.long) if experiment.data.vocab_size else None
    batch = Batch(torch.rand(2, *experiment.data.shape), torch.zeros(2, dtype=torch.long), None, question)
    prediction = predict(experiment.model, batch)
    length = experiment.data.length
    assert prediction.logits.shape == (2, experiment.data.classes, length)[: 2 + (length > 1)]
    attentions = config["attention"].get("glimpses", int(config["attention"]["name"] != "none"))
    steps = length if config["stn"].get("recurrent") else 1
    assert len(prediction.views) == config["stn"].get("count", 0) * steps + attentions


@pytest.mark.parametrize("choice", ["attention=ram", "experiment=ram_cluttered"])
def test_glimpses_read_pixels_unless_a_backbone_is_named(compose, choice):
    for others in ([], ["data=cluttered", "stn=none"]):
        assert compose(choice, *others)["backbone"]["name"] == "none"
        assert compose(*others, "backbone=cnn", choice)["backbone"]["name"] == "cnn"


PUBLISHED = {  # what differs from an undistorted digit
    "noisy": {"noise": 0.335},
    "motion_blur": {"blur": 5, "blur_angle": 15},
    "low_contrast": {"contrast": 0.5, "noise": 0.251},
    "noisy_translated": {"canvas": 42, "place": "anywhere", "noise": 0.335},
    "motion_blur_translated": {"canvas": 42, "place": "anywhere", "blur": 5, "blur_angle": 15},
    "low_contrast_translated": {"canvas": 42, "place": "anywhere", "contrast": 0.5, "noise": 0.251},
    "cluttered_ram": {"canvas": 60, "place": "anywhere", "clutter": 4, "clutter_size": 8},
    "cluttered_ram100": {"canvas": 100, "place": "anywhere", "clutter": 8, "clutter_size": 8},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_data_of_other_papers_are_as_published(compose, name):
    plain = compose("data=clean")["data"]["distortion"]
    assert compose(f"data={name}")["data"]["distortion"] == {**plain, **PUBLISHED[name]}


def test_sim2mnist_has_the_published_protocol(compose):
    data = build(compose("data=sim2mnist")["data"], "data", DataSet)
    assert (data.train_size, data.valid_size, data.online) == (10_000, 5_000, False)
    assert data.training_task is data.distortion


def test_glimpses_on_cluttered_digits_read_the_data_of_their_paper(compose):
    assert compose("experiment=ram_cluttered")["data"]["name"] == "cluttered_ram"


WHAT_IS_P = yaml.safe_load((ROOT / "configs" / "sweep" / "what_is_p.yaml").read_text())["hydra"]["sweeper"]


def test_the_sweep_for_p_has_every_candidate():
    recipes = WHAT_IS_P["params"]["experiment"].split(",")
    assert sorted(recipes) == [name for name in choices("experiment") if name.startswith("what_is_p/")]


@pytest.mark.slow
def test_the_candidates_for_p_differ_in_their_corners_alone_beside_r_and_e(compose):
    recipes = WHAT_IS_P["params"]["experiment"].split(",")
    today = compose("data=projective")["data"]
    found = []
    for recipe in recipes:
        config = compose("sweep=what_is_p", "backbone=fcn", f"experiment={recipe}")
        assert (config["trainer"]["batch_size"], config["trainer"]["epochs"]) == (256, 750)
        assert (config["stn"]["name"], config["backbone"]["parameters"]) == ("none", 400_000)
        found.append(config["data"])
    assert found[:2] == [compose(f"data={name}")["data"] for name in ("rotated", "elastic")]
    assert found[2] == today
    definitions = [
        tuple(data["distortion"][key] for key in ("corners", "corner_frame", "corner_moves"))
        for data in found[2:]
    ]
    assert len(set(definitions)) == len(definitions) == 9
    for data, definition in zip(found[2:], definitions, strict=True):
        settings = dict(zip(("corners", "corner_frame", "corner_moves"), definition, strict=True))
        assert data == {**today, "distortion": {**today["distortion"], **settings}}


def test_the_map_of_configs_names_every_choice():
    text = (ROOT / "configs" / "train.yaml").read_text()
    for group in GROUPS:
        (line,) = (line for line in text.splitlines() if line.startswith(f"  - {group}: "))
        assert sorted(line.partition("#")[2].split()) == choices(group)


def test_every_distortion_backbone_and_attention_has_a_config():
    text = "".join(path.read_text() for path in (ROOT / "configs").rglob("*.yaml"))
    missing = [
        f"{kind.__module__}.{kind.__name__}"
        for base in (Task, Backbone, GateConfig, AttentionHeadConfig, Family)
        for kind in subclasses(base)
        if kind.__module__.startswith("stn_experiments.")
        and not inspect.isabstract(kind)
        and kind is not FixedDistortion  # no data set: probes and the page to play with draw with it
    ]
    missing = [name for name in missing if f"_target_: {name}\n" not in text]
    assert missing == []


def subclasses(kind):
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


@pytest.mark.slow
def test_the_attentions_that_a_sweep_compares_are_all_there_and_of_about_one_size(compose):
    sweep = yaml.safe_load((ROOT / "configs" / "sweep" / "attention_models.yaml").read_text())
    recipes = sweep["hydra"]["sweeper"]["params"]["experiment"].split(",")
    assert sorted(recipes) == [name for name in choices("experiment") if name.startswith("attention_models/")]
    for data in ("rotated", "cluttered"):
        for recipe in recipes:
            model = build_experiment(compose(f"data={data}", f"experiment={recipe}")).model
            count = sum(parameter.numel() for parameter in model.parameters())
            assert count == pytest.approx(127_600, rel=0.0125)
