"""Means over seeds in TensorBoard, read back from the event files."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from stn_experiments.common.errors import UserError
from stn_experiments.report.seeds import write_means


def scalars(events, tag):
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_runs_that_differ_in_the_seed_alone_are_one_run(write_run, groups, tmp_path):
    histories = [(9.0, 5.0), (11.0, 6.0), (13.0, 7.0)]
    for seed, history in enumerate(histories):
        result = {"images_per_second": 100.0 * seed}
        write_run(f"a{seed}", 1.0 + seed, history, result, seed=seed)
    write_run("b", 4.0, stn="none")
    write_run("unfinished", stn="tps")
    for _ in range(2):  # the second time replaces the first
        assert write_means(groups(), tmp_path / "means") == 2
    folders = sorted((tmp_path / "means").iterdir())
    assert [folder.name for folder in folders] == ["rotated-compact+affine", "rotated-compact+none"]
    events, alone = (EventAccumulator(str(folder)).Reload() for folder in folders)
    assert scalars(events, "error/val") == [(1, 11), (2, 6)]
    assert scalars(events, "lower/error/val") == [(1, 9), (2, 5)]
    assert scalars(events, "upper/error/val") == [(1, 13), (2, 7)]
    for band, error in (("", 2), ("lower/", 1), ("upper/", 3)):
        assert scalars(events, f"{band}final/test_error") == [(2, error)]
        assert scalars(alone, f"{band}final/test_error") == [(2, 4)]
    assert scalars(events, "speed/images_per_second") == [(2, 100)]

    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    charts = layout_pb2.Layout.FromString(layout).category[0].chart
    assert [chart.title for chart in charts] == ["validation error, %"]  # nothing else is in the histories
    assert [(s.value, s.lower, s.upper) for s in charts[0].margin.series] == [
        ("error/val", "lower/error/val", "upper/error/val")
    ]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["seed"].string_value == "0, 1, 2"
    assert settings["stn"].string_value == "affine"


def test_a_folder_that_cannot_be_written_to_is_one_line(write_run, groups, tmp_path):
    write_run("a", 1.0)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--tensorboard cannot be written to"):
        write_means(groups(), tmp_path / "file")
