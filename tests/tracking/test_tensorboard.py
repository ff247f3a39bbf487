import errno
import logging
import os
import threading
import time

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer import record_writer

from stn_experiments.config.tree import decisive, flatten
from stn_experiments.tracking.columns import METRICS, SHOWN, setting_columns
from stn_experiments.tracking.tensorboard import TAGS, TensorBoard, as_hparam
from tests.conftest import ROOT


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()


def test_what_is_written_can_be_read(tmp_path):
    board = TensorBoard(tmp_path)
    board.hyperparameters({"seed": 0, "stn": {"name": "none"}})
    board.scalars({"error/val": 2.5}, 1)
    board.panel(Image.new("RGB", (30, 20), "red"), 1)
    board.final(1.5, 2.5, Image.new("RGB", (40, 20), "red"), 3)
    board.close()
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("error/val")] == [(1, 2.5)]
    assert [(e.step, e.value) for e in events.Scalars("final/test_error")] == [(3, 1.5)]
    assert "Smoothing 0" in events.SummaryMetadata("error/val").summary_description
    panels = {tag: events.Images(tag) for tag in events.Tags()["images"]}
    sizes = {tag: [(panel.step, panel.width, panel.height) for panel in panels[tag]] for tag in panels}
    assert sizes == {"panel/validation": [(1, 30, 20)], "panel/test": [(3, 40, 20)]}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []  # all in the same run


@pytest.mark.parametrize(
    ("value", "shown"), [(1, 1), (0.5, 0.5), (True, True), ("x", "x"), (None, "None"), ([1, 2], "[1, 2]")]
)
def test_values_that_tensorboard_cannot_show_become_text(value, shown):
    assert as_hparam(value) == shown
    assert type(as_hparam(value)) is type(shown)


@pytest.fixture
def later(monkeypatch):
    """Files are read in the order of their names, which begin with the second of their creation."""
    now = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: now() + seconds)


def write(folder, first_step, steps, value):
    board = TensorBoard(folder, first_step)
    board.hyperparameters({"seed": 0})
    for step in steps:
        board.scalars({"error/val": value + step}, step)
    board.close()


@pytest.mark.slow
def test_wherever_a_file_is_cut_short_each_step_is_shown_once(tmp_path, later):
    write(tmp_path / "whole", 0, range(4), 10)
    (whole,) = (tmp_path / "whole").iterdir()
    content = whole.read_bytes()
    later(10)
    for length in sorted({*range(0, len(content), len(content) // 40), len(content) - 1}):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / whole.name).write_bytes(content[:length])
        write(folder, 2, (2, 3), 20)
        shown = [(event.step, event.value) for event in read(folder).Scalars("error/val")]
        assert shown in [[*[(0, 10), (1, 11)][:count], (2, 22), (3, 23)] for count in range(3)]


@pytest.mark.parametrize(("first_step", "kept"), [(2, [(0, 10), (1, 11)]), (0, [])])
def test_a_resumed_run_hides_the_epochs_that_it_repeats(tmp_path, later, first_step, kept):
    write(tmp_path, 0, range(4), 10)
    later(10)
    write(tmp_path, first_step, [first_step], 20)
    shown = [(event.step, event.value) for event in read(tmp_path).Scalars("error/val")]
    assert shown == [*kept, (first_step, 20 + first_step)]


@pytest.mark.parametrize(
    "method", ["_open", "scalars", "panel", "hyperparameters", "final", "close", "the thread"]
)
def test_the_first_error_is_a_warning_and_then_it_is_silent(tmp_path, monkeypatch, caplog, method):
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
        names = {"panel": "add_image", "hyperparameters": "add_custom_scalars"}
        writer = "scalar" if method == "scalars" else f"SummaryWriter.{names.get(method, 'flush')}"
        monkeypatch.setattr(f"{place}.{writer}", refuse)
    board.hyperparameters({"seed": 0})
    board.panel(Image.new("RGB", (3, 2)), 0)
    for step in range(30):  # more than the thread's queue takes
        board.scalars({"error/val": 1.0}, step)
    board.final(1.0, 1.0, Image.new("RGB", (3, 2)), 1)
    board.close()
    for thread in threading.enumerate():
        if getattr(thread, "exception", None):
            thread.join()
    assert board.broken
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "TensorBoard cannot be written ([Errno 30] Read-only file system)" in record.message


@pytest.mark.slow
def test_every_setting_of_every_shipped_config_has_a_column(compose):
    declared = set(setting_columns({"seed": 0, "plugins": []}))
    for group in ("data", "backbone", "stn", "attention", "optimizer", "scheduler", "trainer"):
        for path in (ROOT / "configs" / group).glob("*.yaml"):
            own = {"npz": ["data.file=x"], "folder": ["data.folder=x"]}
            config = compose(f"{group}={path.stem}", *own.get(path.stem, []))
            found = {name for name in flatten(decisive(config)) if name.count(".") < 3}
            assert found <= declared, path


def test_settings_that_only_a_later_run_has_are_shown_too(tmp_path):
    runs = {"first": {"stn": {"name": "none"}}, "later": {"stn": {"name": "affine", "steps": 2}}}
    for name, settings in runs.items():
        board = TensorBoard(tmp_path / name)
        board.hyperparameters({"seed": 0, **settings})
        board.close()
    content = read(tmp_path / "first").SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = HParamsPluginData.FromString(content).experiment
    assert "stn.steps" in [setting.name for setting in experiment.hparam_infos]
    assert [s.name for s in experiment.hparam_infos if s.differs] == list(SHOWN)
    assert [metric.name.tag for metric in experiment.metric_infos] == list(METRICS)


def test_charts_and_columns_use_tags_that_are_written(tmp_path):
    board = TensorBoard(tmp_path)
    board.hyperparameters({"seed": 0})
    board.close()
    tensor = read(tmp_path).Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    charts = layout_pb2.Layout.FromString(tensor).category[0].chart
    shown = [tag for chart in charts for tag in chart.multiline.tag]
    written = {*TAGS.values(), "speed/images_per_second", "final/test_error", "final/val_error"}
    assert len(charts) == 8
    assert {*shown, *METRICS} <= written
