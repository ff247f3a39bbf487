from typing import Annotated, Literal

import pytest
import torch

from stn_experiments.common.errors import TrainingFailed, UserError
from stn_experiments.common.ranges import Range, Size
from stn_experiments.config.build import build, check, describe
from stn_experiments.data.distortions import Distortion, Mixed

DISTORTION = "stn_experiments.data.distortions.Distortion"
Share = Annotated[float, Range(0, 1)]


def node(**settings):
    return {"_target_": DISTORTION, "name": "a label", **settings}


def test_build_calls_the_target_with_its_settings():
    assert build(node(canvas=40, angle=3), "data") == Distortion(canvas=40, angle=3.0)
    assert build(node(canvas=[40, 50]), "data").size == (40, 50)


def test_build_builds_what_is_nested():
    mixed = {
        "_target_": "stn_experiments.data.distortions.Mixed",
        "canvas": 30,
        "kinds": {"a": node(canvas=30)},
    }
    assert build(mixed, "data") == Mixed(canvas=30, kinds={"a": Distortion(canvas=30)})


def test_a_null_target_builds_nothing():
    assert build({"_target_": None, "name": "none"}, "stn") is None


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (node(angel=3), r"data\.angel is not a setting of data: it has canvas, angle"),
        (node(angle="x"), r"data\.angle must be a number from 0 to 180, got 'x'"),
        (node(angle=181), r"data\.angle must be a number from 0 to 180, got 181"),
        (node(angle=float("nan")), r"data\.angle must be .* got nan"),
        (node(angle=True), r"data\.angle must be .* got True"),
        (node(clutter=1.5), r"data\.clutter must be an integer from 0 to 1000, got 1\.5"),
        (node(place="left"), r"data\.place must be one of centre, anywhere, inside, got 'left'"),
        (node(scale=[1, 2, 3]), r"data\.scale must be a list of 2, each a number from 0\.1 to 4, got \[1"),
        (node(canvas=5), r"data\.canvas must be at least the digit's own 28 pixels, got 5"),
        (node(canvas=None), r"data\.canvas must be an integer from 1 to 1024 or a list of 2"),
        (node(angle={"_target_": DISTORTION}), r"data\.angle\._target_ must make a number"),
        ({"_target_": None, "family": "affine"}, r"data\.family is not a setting of data: it has no"),
        ({"_target_": "stn_experiments.data.distortions.Mixed", "canvas": 30}, r"data\.kinds is missing"),
        ({"_target_": "os.system", "command": "true"}, r"data\._target_ must begin with .*got 'os.system'"),
        ({"_target_": "stn_experiments.storage.run_folder.subprocess.run"}, r"data\._target_ cannot be"),
        ({"_target_": "stn_experiments.data.distortions.math"}, r"data\._target_ must make a Distortion"),
        ({"_target_": "stn_experiments.storage.environment.version"}, r"data\._target_ must make a"),
        ({"_target_": "stn_experiments.nowhere.Thing"}, r"data\._target_ cannot be imported"),
        ({"_target_": 3}, r"data\._target_ must begin with"),
        ({"canvas": 30}, r"data must be a config group with a _target_"),
        (7, r"data must be a config group with a _target_, got 7"),
        ({"_target_": "torch.optim.AdamW", "params": []}, r"data: optimizer got an empty parameter list"),
    ],
)
def test_a_mistake_is_one_clear_line(mistake, words):
    with pytest.raises(UserError, match=words) as caught:
        build(mistake, "data", Distortion | Mixed | torch.optim.Optimizer | None)
    assert "\n" not in str(caught.value)


def test_a_target_that_an_allowed_module_only_imports_is_refused():
    with pytest.raises(UserError, match=r"data\._target_ must make"):
        build({"_target_": "stn_experiments.storage.run_folder.Path"}, "data")


def test_what_the_program_gives_is_no_setting():
    with pytest.raises(UserError, match=r"data\.canvas is not a setting"):
        build(node(canvas=30), "data", canvas=40)


def test_the_kind_of_error_is_kept(monkeypatch):
    def fail(self):
        raise TrainingFailed("angle went wrong")

    monkeypatch.setattr(Distortion, "__post_init__", fail)
    with pytest.raises(TrainingFailed, match=r"data\.angle went wrong"):
        build(node(), "data")


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (1, float, 1.0),
        (None, Annotated[int, Range(1)] | None, None),
        (0.5, Share, 0.5),
        ([3, 4], Size, (3, 4)),
        ("a", Literal["a", "b"], "a"),
        ([1, 2], list[float], [1.0, 2.0]),
        (False, bool, False),
    ],
)
def test_check_converts_where_nothing_is_lost(value, hint, result):
    checked = check(value, hint, "x")
    assert checked == result
    assert type(checked) is type(result)


@pytest.mark.parametrize(
    ("value", "hint"),
    [(1, bool), (True, int), (1.0, int), ("1", int), (1, str), (None, int), (1, Literal["1"]), ([1], float)],
)
def test_check_refuses_other_kinds(value, hint):
    with pytest.raises(UserError, match="x must be"):
        check(value, hint, "x")


def test_describe_says_it_in_words():
    assert describe(Annotated[int, Range(1)] | None) == "an integer at least 1 or null"
    assert describe(list[Share]) == "a list, each a number from 0 to 1"
