"""Nested configs by dotted names."""

import pytest

from stn_experiments.common.errors import UserError
from stn_experiments.config.tree import (
    WITHOUT_EFFECT,
    decisive,
    flatten,
    value_at,
    with_absolute_paths,
    with_values,
)

CONFIG = {"seed": 0, "data": {"_target_": "x", "name": "rts", "root": "here", "size": [1, 2], "extra": {}}}


def test_flatten_joins_names_and_drops_targets():
    assert flatten(CONFIG) == {
        "seed": 0,
        "data": "rts",
        "data.root": "here",
        "data.size": [1, 2],
        "data.extra": {},
    }


def test_values_are_read_and_changed_by_dotted_names():
    changed = with_values(CONFIG, {"data.root": "there", "seed": 1})
    assert (value_at(changed, "data.root"), value_at(changed, "seed")) == ("there", 1)
    assert value_at(CONFIG, "data.root") == "here"  # the original is unchanged


@pytest.mark.parametrize("name", ["date", "data.rot", "seed.value"])
def test_an_unknown_name_is_an_error(name):
    with pytest.raises(UserError, match=f"{name} is not a setting"):
        value_at(CONFIG, name)


def test_settings_without_effect_are_no_part_of_an_identity():
    everything = with_values({"run": {}, "search": None, "trainer": {}, **CONFIG}, {"trainer.device": "cpu"})
    kept = flatten(decisive(everything))
    assert not [name for name in kept if name.startswith(WITHOUT_EFFECT)]
    assert kept.keys() >= {"seed", "data", "data.size"}
    assert value_at(everything, "data.root") == "here"  # the original is unchanged


@pytest.mark.parametrize("angle", [0, 90])
@pytest.mark.parametrize(("weight", "end"), [(0, 0), (0.0, None), (0.3, 0), (0, 0.3)])
def test_a_loss_is_part_of_an_identity_if_it_has_a_weight_and_a_transform(weight, end, angle):
    config = {
        "trainer": {"epochs": 1},
        "stn": {"consistency": {"weight": weight, "end": end, "angle": angle}},
    }
    kept = flatten(decisive(config))
    assert ("stn.consistency.angle" in kept) is bool(angle and (weight or end))
    assert kept["trainer.epochs"] == 1


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"data": {"training": {"_target_": "x", "angle": 0.0, "scale": [1.0, 1.0], "flip": False}}}, False),
        ({"data": {"training": {"angle": 0.0, "scale": [0.9, 1.0], "flip": False}}}, True),
        ({"data": {"training": {"angle": 5, "scale": [1.0, 1.0], "flip": False}}}, True),
        ({"data": {"training": None}}, True),  # of digits; runs of earlier versions have it
        ({"backbone": {"standardise": False}}, False),
        ({"backbone": {"standardise": True}}, True),
        ({"stn": {"start": None, "share": False}}, False),
        ({"stn": {"start": 0}}, True),
        ({"stn": {"family.rotation": True, "family.scale": True}}, False),
        ({"stn": {"family.rotation": False, "family.scale": True}}, True),
    ],
)
def test_settings_of_later_versions_are_part_of_an_identity_if_they_change_anything(settings, kept):
    (group,) = settings
    assert bool(decisive(settings)[group]) is kept


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"data": {"file": "own.npz", "root": None}, "run": {"root": "outputs", "name": "x"}}
    absolute = {
        "data": {"file": f"{tmp_path}/own.npz", "root": None},
        "run": {"root": f"{tmp_path}/outputs", "name": "x"},
    }
    assert with_absolute_paths(config) == absolute == with_absolute_paths(absolute)
    assert with_absolute_paths({"data": {"folder": "own"}}) == {"data": {"folder": f"{tmp_path}/own"}}
    for path in ("~/own.npz", "", None, 7):  # the readers expand a home folder
        assert with_absolute_paths({"data": {"file": path}}) == {"data": {"file": path}}
