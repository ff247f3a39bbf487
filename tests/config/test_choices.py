"""The files in ``configs/`` list every setting."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import fields

import pytest

from stn_experiments.common.errors import UserError
from stn_experiments.config.choices import GROUPS, choices, owners
from stn_experiments.data.distortions import Distortion
from stn_experiments.storage.run_folder import run_digest

CHOICES = {f"{group}={name}": node for group in GROUPS for name, node in choices(group).items()}
GIVEN = {"optimizer": {"params"}, "backbone": {"shape", "classes"}}
"""What the program itself gives to a choice of these groups."""
BESIDE = {"_target_", "name", "parameters"}  # runs.experiment reads the number of parameters


def targets(node):
    """All nodes with a target in a node."""
    if isinstance(node, Mapping):
        if node.get("_target_"):
            yield node
        for value in node.values():
            yield from targets(value)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_lists_every_setting_that_its_class_takes(choice):
    for node in targets(CHOICES[choice]):
        module, _, name = node["_target_"].rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
        takes = {one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
        assert node.keys() - BESIDE == takes - GIVEN.get(choice.partition("=")[0], set())


def test_what_a_data_set_does_not_name_has_no_effect(compose):
    listed = compose("data=clean")["data"]["distortion"]
    del listed["_target_"]
    assert listed == {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default
        for field in fields(Distortion)
    }


def test_settings_that_a_data_set_does_not_name_can_be_given(compose):
    given = compose("data=cluttered", "data.distortion.scale=[0.8,1.2]", "optimizer.betas=[0.8,0.9]")
    assert given["data"]["distortion"]["scale"] == [0.8, 1.2]
    assert given["optimizer"]["betas"] == [0.8, 0.9]


def test_a_default_that_is_given_makes_the_same_run(compose):
    given = ("data.distortion.scale=[1,1]", "data.distortion.noise=0", "optimizer.amsgrad=false")
    assert (
        run_digest(compose(*given))
        == run_digest(compose())
        != run_digest(compose("data.distortion.noise=0.1"))
    )


def test_a_setting_of_other_choices_names_them(compose):
    assert owners("backbone.width") == ["compact", "gcnn", "polar", "tipooling"]
    with pytest.raises(
        UserError, match=r"stn\.width is not a setting; only stn=affine,.*,translation has it"
    ):
        compose("stn=none", "stn.width=8")


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"]])
def test_help_shows_every_setting_of_the_choices_and_trains_nothing(command, tmp_path, words):
    code, out, err = command("train.py", *words, "data=cluttered", "optimizer=sgd")
    assert (code, err, list(tmp_path.iterdir())) == (0, "", [])
    listed = {line.strip().partition(":")[0] for line in out.splitlines()}
    assert {field.name for field in fields(Distortion)} | {"nesterov", "localisation_clip"} <= listed
