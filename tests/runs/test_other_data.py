"""Overrides that select other data for a trained run."""

from pathlib import Path

import pytest

from stn_experiments.common.errors import UserError
from stn_experiments.runs.other_data import other_data, other_plugins, split_choices
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"


def test_several_data_sets_are_split():
    assert split_choices([]) == [[]]
    assert split_choices(["data=rts,clean", "data.seed=7"]) == [
        ["data=rts", "data.seed=7"],
        ["data=clean", "data.seed=7"],
    ]
    assert split_choices(["data=[rts,clean]"]) == [["data=rts"], ["data=clean"]]
    assert split_choices(["data.distortion.canvas=[28,40]"]) == [["data.distortion.canvas=[28,40]"]]
    with pytest.raises(UserError, match=r"^data=rts data=clean: write one word, as in data=rts,cluttered"):
        split_choices(["data=rts", "data=clean"])


def test_other_data_keep_the_canvas_and_the_root_of_the_run(compose):
    own = compose("data=cluttered", "data.distortion.canvas=[50,60]", "data.root=somewhere")["data"]
    assert other_data(own, [], CONFIGS) == own
    data = other_data(own, ["data=rotated"], CONFIGS)
    assert (data["name"], data["distortion"]["canvas"], data["root"]) == ("rotated", [50, 60], "somewhere")
    data = other_data(own, ["data=rotated", "data.distortion.canvas=28", "data.root=here"], CONFIGS)
    assert (data["distortion"]["canvas"], data["root"]) == (28, "here")
    data = other_data(own, ["data=npz", "data.file=own.npz"], CONFIGS)
    assert (data["file"], "distortion" in data) == ("own.npz", False)


def test_images_of_another_folder_get_the_size_and_channels_of_the_own(compose):
    own = compose("data=folder", "data.folder=a", "data.size=[32,40]", "data.colour=false")["data"]
    data = other_data(own, ["data=folder", "data.folder=b"], CONFIGS)
    assert (data["folder"], data["size"], data["colour"]) == ("b", [32, 40], False)
    data = other_data(own, ["data=folder", "data.folder=b", "data.size=20"], CONFIGS)
    assert (data["size"], data["colour"]) == (20, False)
    assert "size" not in other_data(own, ["data=rotated"], CONFIGS)


def test_single_settings_of_the_own_data_can_change(compose):
    own = compose("data=rotated")["data"]
    changed = other_data(own, ["data.distortion.angle=45"], CONFIGS)
    assert changed == {**own, "distortion": {**own["distortion"], "angle": 45}}


def test_data_of_a_further_folder_of_configs(compose, tmp_path):
    more = tmp_path / 'a "folder" (1)'
    (more / "data").mkdir(parents=True)
    mine = "_target_: my_package.Mine\nname: mine\ndistortion: {_target_: my_package.Task}\n"
    (more / "data" / "mine.yaml").write_text(mine)
    own = compose("data=cluttered")["data"]
    data = other_data(own, ["plugins=[my_package]", "data=mine"], CONFIGS, more)
    assert (data["name"], data["distortion"]) == ("mine", {"_target_": "my_package.Task"})  # without a canvas
    assert other_data(data, ["data=rotated"], CONFIGS)["distortion"]["canvas"] == 28
    assert other_plugins(["data=mine", "plugins=[my_package,other]"]) == ["my_package", "other"]
    assert other_plugins(["data=mine"]) == []
    with pytest.raises(UserError, match=r"^plugins must be a list of packages, .*, got 'my_package'"):
        other_plugins(["plugins=my_package"])
    with pytest.raises(UserError, match=r"--config-dir must be a folder .*, got nowhere"):
        other_data(own, ["data=mine"], CONFIGS, Path("nowhere"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=3", "only data can be changed"),
        ("data.distortion.angle=[1", r"^data\.distortion\.angle=\[1 cannot be read: put special characters"),
        ("data.distortion.angle=${x", "cannot be read: put special characters in quotes"),
        ("data=nowhere", "data must be one of .*, got nowhere"),
    ],
)
def test_an_invalid_override_is_rejected(compose, override, message):
    with pytest.raises(UserError, match=message):
        other_data(compose("data=rotated")["data"], [override], CONFIGS)
