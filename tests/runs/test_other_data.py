"""Overrides that select other data for a trained run."""

import pytest

from stn_experiments.common.errors import UserError
from stn_experiments.runs.other_data import other_data, split_choices
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"


def test_several_data_sets_are_split():
    assert split_choices([]) == [[]]
    assert split_choices(["data=rts,clean", "data.seed=7"]) == [
        ["data=rts", "data.seed=7"],
        ["data=clean", "data.seed=7"],
    ]
    assert split_choices(["data.distortion.canvas=[28,40]"]) == [["data.distortion.canvas=[28,40]"]]


def test_other_data_keep_the_canvas_and_the_root_of_the_run(compose):
    own = compose("data=cluttered", "data.distortion.canvas=[50,60]", "data.root=somewhere")["data"]
    assert other_data(own, [], CONFIGS) == own
    data = other_data(own, ["data=rotated"], CONFIGS)
    assert (data["name"], data["distortion"]["canvas"], data["root"]) == ("rotated", [50, 60], "somewhere")
    data = other_data(own, ["data=rotated", "data.distortion.canvas=28", "data.root=here"], CONFIGS)
    assert (data["distortion"]["canvas"], data["root"]) == (28, "here")
    data = other_data(own, ["data=npz", "data.file=own.npz"], CONFIGS)
    assert (data["file"], "distortion" in data) == ("own.npz", False)


def test_single_settings_of_the_own_data_can_change(compose):
    own = compose("data=rotated")["data"]
    changed = other_data(own, ["data.distortion.angle=45"], CONFIGS)
    assert changed == {**own, "distortion": {**own["distortion"], "angle": 45}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=3", "only data can be changed"),
        ("data=nowhere", "data must be one of .*, got nowhere"),
    ],
)
def test_an_invalid_override_is_rejected(compose, override, message):
    with pytest.raises(UserError, match=message):
        other_data(compose("data=rotated")["data"], [override], CONFIGS)
