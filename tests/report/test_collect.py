"""Damaged and old files in the folders of runs."""

import pytest

from stn_experiments.report.report import Report
from tests.report.harness import column


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("config.yaml", b"a: [", "config.yaml cannot be read"),
        ("config.yaml", b"\xff\xfe\xfa", "config.yaml cannot be read"),
        ("config.yaml", b"data: {name: 3}", "config.yaml has no data.name"),
        ("config.yaml", b"data: rotated", "config.yaml has no data.name"),
        ("result.json", b'{"test_error": 1', "result.json has no test_error"),
        ("result.json", b'{"test_error": NaN}', "result.json has no test_error"),
    ],
)
def test_a_damaged_run_is_skipped_with_a_line(write_run, root, file, content, line):
    write_run("whole", 1.0)
    folder = write_run("damaged", 2.0, seed=1)
    (folder / file).write_bytes(content)
    report = Report([root])
    assert report.skipped == [f"{folder}: skipped, {line}"]
    assert [len(group.finished) for group in report.groups] == [1]
    assert line in report.html()


def test_a_run_with_a_damaged_part_is_not_lost(write_run, root):
    folder = write_run("run", 1.0, evaluations={"clean-11": 2.0})
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"epoch": 3, "val_err\n')
    (folder / "panels" / "panel-test.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "evaluations" / "clean-11" / "result.json").write_text("{}")
    report = Report([root])
    assert [line.split(": ", 1)[1] for line in report.skipped] == [
        "line 3 skipped, it is not an epoch",
        "skipped, result.json has no test_error or no data",
        "skipped, it cannot be read",
    ]
    assert len(report.groups[0].finished[0].history) == 2
    assert "<h3>rotated</h3>" in report.html()


def test_runs_of_earlier_versions_and_empty_ones_are_read(write_run, root):
    folder = write_run("old", 1.0)
    (folder / "result.json").write_text('{"test_error": 1.5}')
    (folder / "history.jsonl").unlink()
    (write_run("begun", data="rts", history=()) / "history.jsonl").unlink()
    report = Report([root])
    assert report.details.rows[0][2:-2] == ["1.50", "–", "–", "1", *["–"] * 5]
    assert column(report.details, "test error %")[1] == "0 of 2 epochs, stopped"
    assert report.plots == {}
    assert "rts" in report.html()
