"""Probes in the report."""

import json
from dataclasses import asdict

import pytest

from stn_experiments.evaluation.probe import PROBES, UNTOUCHED, Probe, probe_steps, true_answers
from stn_experiments.report import probes as module
from stn_experiments.report.probes import probe_plot, probe_table
from stn_experiments.report.report import Report


def perfect(name, **changes):
    """The probe of a transformer that undoes everything, and of a network that is always wrong."""
    steps = probe_steps(name, (40, 60))
    zeros = [0.0] * len(steps)
    fields = {"error": [100.0] * len(steps), "confidence": zeros, "iou": zeros}
    if name in UNTOUCHED:
        fields |= {"answer": true_answers(name, steps).tolist(), "spread": zeros, "slope": 1.0}
    return Probe(name, steps, **{**fields, **changes})


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn."""
    drawn = []
    for function in ("draw_lines", "draw_maps"):
        draw = getattr(module, function)
        keep = lambda *arguments, draw=draw: drawn.append(draw(*arguments)) or drawn[-1]  # noqa: E731
        monkeypatch.setattr(module, function, keep)
    return drawn


@pytest.mark.parametrize("name", PROBES)
def test_runs_with_and_without_a_transformer_are_in_one_picture(figures, name):
    without = perfect(name, iou=None, answer=None, spread=None, slope=None)
    assert probe_plot({"with $_": perfect(name), "without": without}).startswith(b"<?xml")
    (figure,) = figures
    titles = {plot.get_title() or plot.get_ylabel() for plot in figure.axes}
    assert {"error, %", "confidence", "IoU"} <= titles
    if name == "position":
        return
    assert len(figure.axes) == (4 if name in UNTOUCHED else 3)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["with $_", "without", *(["slope 1"] if name in UNTOUCHED else [])]
    if name in UNTOUCHED:
        answer, exact = figure.axes[3].lines
        assert answer.get_ydata() == pytest.approx(answer.get_xdata())
        assert exact.get_xdata() == pytest.approx(exact.get_ydata())


def test_a_map_has_down_at_the_bottom_and_right_at_the_right(figures):
    error = [100 if step == (20, -9) else 1 for step in probe_steps("position", (40, 60))]
    probe_plot({"run": perfect("position", error=error)})
    plot = figures[0].axes[0]
    values = plot.collections[0].get_array()
    assert values.shape == (7, 9)
    assert values[0, -1] == 100
    assert plot.get_ylim()[0] > plot.get_ylim()[1]
    assert plot.get_xlim()[0] < plot.get_xlim()[1]


def test_the_table_is_short_and_has_the_untouched_digits():
    for name in set(PROBES) - {"position"}:
        table = probe_table(perfect(name))
        assert 8 < len(table.rows) <= 13
        assert str(UNTOUCHED.get(name, 0)) in [row[0] for row in table.rows]
    shown = [row[0] for row in probe_table(perfect("position")).rows]
    assert shown == [f"0, {y}" for y in (-9, -6, -3)] + [f"{x}, 0" for x in range(-20, 21, 5)] + [
        f"0, {y}" for y in (3, 6, 9)
    ]
    assert probe_table(perfect("position")).rows[0][-2:] == ["0.000, -9.000", "0.000"]


def test_a_report_has_a_picture_of_each_probe_of_the_first_seed(write_run, root, tmp_path):
    folders = [write_run(f"run{seed}", 1.0, seed=seed) for seed in (0, 1)]
    other = write_run("none", 1.0, stn="none")
    for folder, name in ((folders[1], "rotation"), (other, "rotation"), (other, "noise")):
        (folder / "evaluations").mkdir(exist_ok=True)
        content = asdict(perfect(name))
        (folder / "evaluations" / f"probe-{name}.json").write_text(json.dumps(content))
    (folders[0] / "evaluations").mkdir()
    (folders[0] / "evaluations" / "probe-rotation.json").write_text("{")
    report = Report([root])
    assert [name for name in report.plots if "probe" in name] == ["probe-rotation", "probe-noise"]
    damaged = folders[0] / "evaluations" / "probe-rotation.json"
    assert report.skipped == [f"{damaged}: skipped, it cannot be read"]
    report.write(tmp_path / "out")
    assert "<h2>Probes</h2>" in (tmp_path / "out" / "index.html").read_text()
    assert (tmp_path / "out" / "plots" / "probe-noise.svg").exists()
