import errno
import logging
import os
import re
import threading
import time

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer import record_writer

from stn_experiments.runs.train import TAGS
from stn_experiments.tracking import columns
from stn_experiments.tracking.tensorboard import TensorBoard, flatten
from tests.conftest import ROOT


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()


def test_what_is_written_can_be_read(tmp_path):
    board = TensorBoard(tmp_path)
    board.hyperparameters({"seed": 0, "stn": {"name": "none"}})
    board.scalars({"error/val": 2.5}, 1)
    board.panel(Image.new("RGB", (30, 20), "red"), 1)
    board.final(1.5, 2.5, 3)
    board.close()
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("error/val")] == [(1, 2.5)]
    assert [(e.step, e.value) for e in events.Scalars("final/test_error")] == [(3, 1.5)]
    (panel,) = events.Images("panel")
    assert (panel.step, panel.width, panel.height) == (1, 30, 20)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []  # all in the same run


def test_a_resumed_run_hides_what_it_does_again(tmp_path):
    first = TensorBoard(tmp_path)
    for step, value in enumerate((10.0, 11.0, 12.0)):
        first.scalars({"error/val": value}, step)
    first.close()
    again = TensorBoard(tmp_path, first_step=2)
    again.scalars({"error/val": 22.0}, 2)
    again.close()
    assert [e.value for e in read(tmp_path).Scalars("error/val")] == [10.0, 11.0, 22.0]


def test_settings_are_flat_plain_and_without_the_runs_place():
    nested = {
        "seed": 1,
        "run": {"root": "outputs"},
        "data": {"_target_": "x", "name": "rts", "root": None, "distortion": {"scale": [0.7, 1.2]}},
    }
    assert flatten(nested) == {
        "seed": 1,
        "data": "rts",
        "data.root": "None",
        "data.distortion.scale": "[0.7, 1.2]",
    }


@pytest.fixture
def later(monkeypatch):
    """Files are read in the order of their names, which begin with the second that they were made in."""
    now = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: now() + seconds)


def write(folder, first_step, steps, value):
    board = TensorBoard(folder, first_step)
    board.hyperparameters({"seed": 0})
    for step in steps:
        board.scalars({"error/val": value + step}, step)
    board.close()


def test_wherever_a_file_is_cut_short_each_step_is_shown_once(tmp_path, later):
    write(tmp_path / "whole", 0, range(4), 10)
    (whole,) = (tmp_path / "whole").iterdir()
    content = whole.read_bytes()
    later(10)
    for length in (*range(0, len(content), 11), len(content) - 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / whole.name).write_bytes(content[:length])
        write(folder, 2, (2, 3), 20)
        shown = [(event.step, event.value) for event in read(folder).Scalars("error/val")]
        assert shown in [[*[(0, 10), (1, 11)][:count], (2, 22), (3, 23)] for count in range(3)]


def test_a_run_that_begins_again_hides_all_that_was_there(tmp_path, later):
    write(tmp_path, 0, range(3), 10)
    later(10)
    write(tmp_path, 0, range(2), 20)
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("error/val")] == [(0, 20), (1, 21)]


@pytest.mark.parametrize(
    "method", ["_open", "scalars", "panel", "hyperparameters", "final", "close", "the thread"]
)
def test_after_its_first_trouble_it_is_silent(tmp_path, monkeypatch, caplog, method):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    place = "stn_experiments.tracking.tensorboard"
    if method == "_open":
        monkeypatch.setattr(f"{place}.SummaryWriter", refuse)
    board = TensorBoard(tmp_path)
    if method == "the thread":
        monkeypatch.setattr(threading, "excepthook", lambda failure: None)  # a command has its own
        monkeypatch.setattr(record_writer.RecordWriter, "write", refuse)
    elif method != "_open":
        names = {"scalars": "add_scalar", "panel": "add_image", "hyperparameters": "_get_file_writer"}
        monkeypatch.setattr(f"{place}.SummaryWriter.{names.get(method, 'flush')}", refuse)
    board.hyperparameters({"seed": 0})
    board.panel(Image.new("RGB", (3, 2)), 0)
    for step in range(30):  # more than the thread's queue takes
        board.scalars({"error/val": 1.0}, step)
    board.final(1.0, 1.0, 1)
    board.close()
    for thread in threading.enumerate():
        if getattr(thread, "exception", None):
            thread.join()
    assert board.broken
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "TensorBoard cannot be written ([Errno 30] Read-only file system)" in record.message


def test_every_setting_of_every_shipped_config_has_a_column(compose):
    # Without those that change no result, and those of the single distortions that a mixture is made of.
    silent = re.compile(
        r"data\.root|trainer\.device|optimizer\.fused|data\.(distortion\.(each|kinds)|training)\..*"
    )
    found = set()
    for group in ("data", "backbone", "stn", "attention", "optimizer", "scheduler", "trainer", "experiment"):
        for path in (ROOT / "configs" / group).glob("*.yaml"):
            config = compose(f"{group}={path.stem}", *["data.file=x"] * (path.stem == "npz"))
            found |= {name for name in flatten(config) if not silent.fullmatch(name)}
    assert found == set(columns.SETTINGS)


def test_what_only_a_later_run_has_is_shown_too(tmp_path):
    runs = {"first": {"stn": {"name": "none"}}, "later": {"stn": {"name": "affine", "steps": 2}}}
    for name, settings in runs.items():
        board = TensorBoard(tmp_path / name)
        board.hyperparameters({"seed": 0, **settings})
        board.close()
    content = read(tmp_path / "first").SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = HParamsPluginData.FromString(content).experiment
    assert "stn.steps" in [setting.name for setting in experiment.hparam_infos]
    assert [s.name for s in experiment.hparam_infos if s.differs] == list(columns.SHOWN)
    assert [metric.name.tag for metric in experiment.metric_infos] == list(columns.METRICS)


def test_the_pages_charts_and_columns_are_of_tags_that_are_written(tmp_path):
    board = TensorBoard(tmp_path)
    board.hyperparameters({"seed": 0})
    board.close()
    tensor = read(tmp_path).Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    charts = layout_pb2.Layout.FromString(tensor).category[0].chart
    shown = [tag for chart in charts for tag in chart.multiline.tag]
    written = {*TAGS.values(), "speed/images_per_second", "final/test_error", "final/val_error"}
    assert len(shown) == 7
    assert {*shown, *columns.METRICS} <= written
