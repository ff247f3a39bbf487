"""Configs from overrides, and Hydra's errors in one line."""

import pytest
from omegaconf import OmegaConf

from stn_experiments.config.compose import compose, error_line, to_plain
from tests.conftest import ROOT


def test_overrides_change_groups_and_values():
    config = compose(ROOT / "configs", ["data=rts", "seed=3"])
    assert (config["data"]["name"], config["seed"]) == ("rts", 3)
    assert type(config["data"]["distortion"]) is dict


def test_without_a_transformer_its_settings_in_a_recipe_are_dropped():
    words = ["experiment=best_rotated", "stn=none"]
    assert compose(ROOT / "configs", words)["stn"] == {"_target_": None, "name": "none"}
    assert compose(ROOT / "configs", words[:1])["stn"]["localisation"] == "keypoints"
    assert compose(ROOT / "configs", [*words, "+stn.at=layer2"])["stn"]["at"] == "layer2"  # a mistake


def test_interpolations_are_resolved():
    config = OmegaConf.create({"a": {"b": 1}, "c": "${a.b}", "d": ["${c}"]})
    assert to_plain(config) == {"a": {"b": 1}, "c": 1, "d": [1]}


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a message\n  of  several\nlines", "a message of several lines"),
        ("it is wrong. See https://hydra.cc for advice", "it is wrong."),
        ("none of that name. Config search path:\nprovider=hydra", "none of that name."),
        (
            "Could not find 'hydra/launcher/joblib'",
            "this hydra/launcher needs joblib, which is not installed: pip install '.[sweep]'",
        ),
    ],
)
def test_advice_that_does_not_apply_is_removed(message, line):
    assert error_line(Exception(message)) == line
