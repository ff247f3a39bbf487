"""Folders of runs, written here: no network is trained."""

import json

import pytest
from omegaconf import OmegaConf
from PIL import Image

from stn_experiments.report import plots
from stn_experiments.report.collect import collect
from stn_experiments.report.groups import group_runs
from stn_experiments.report.report import Report
from tests.report.harness import DISTORTIONS


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def write_run(root):
    """Write a run's folder; it is finished if it has an error. Settings have dotted names."""

    def write(name, error=None, history=(9.0, 5.0), result=None, evaluations=None, **settings):
        names = {"data.name": "rotated", "backbone.name": "compact", "stn.name": "affine"}
        values = {**names, "seed": 0, "trainer.epochs": 2, "optimizer._target_": "torch.optim.AdamW"}
        values |= {key if "." in key or key == "seed" else f"{key}.name": settings[key] for key in settings}
        values.setdefault("data.distortion", DISTORTIONS.get(values["data.name"], {}))
        config = OmegaConf.create()
        for key, value in values.items():
            OmegaConf.update(config, key, value)
        folder = root / name
        (folder / "panels").mkdir(parents=True)
        OmegaConf.save(config, folder / "config.yaml")
        epochs = [{"epoch": n, "val_error": value, "seconds": 10.0} for n, value in enumerate(history, 1)]
        (folder / "history.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
        panel = Image.new("RGB", (532, 1344))
        panel.save(folder / "panels" / f"panel-{len(history):04d}.png")
        if error is not None:
            panel.save(folder / "panels" / "panel-test.png")
            numbers = {"test_error": error, "val_error": min(history), "epochs": 2, "parameters": 92416}
            numbers |= {"train_seconds": 100.0, "iou_mean": 0.5, **(result or {})}
            (folder / "result.json").write_text(json.dumps(numbers))
        for key, value in (evaluations or {}).items():
            (folder / "evaluations" / key).mkdir(parents=True)
            text = json.dumps({"data": key.rpartition("-")[0], "test_error": value})
            (folder / "evaluations" / key / "result.json").write_text(text)
        return folder

    return write


@pytest.fixture
def without_plots(monkeypatch):
    """Reports draw no plots, which take most of their time."""
    monkeypatch.setattr(Report, "_draw", lambda report: {})


@pytest.fixture
def figures(monkeypatch):
    """The figures of the plots that were drawn so far, which are not written as SVG."""
    drawn = []
    monkeypatch.setattr(plots, "to_svg", lambda figure: drawn.append(figure) or "")
    return drawn


@pytest.fixture
def groups(root):
    """The groups of all runs written so far."""
    return lambda: group_runs(collect([root])[0])
