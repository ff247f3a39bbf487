import re

import numpy as np
import pytest

from stn_experiments.common.bits import pack_bits
from stn_experiments.report.attention import attention
from stn_experiments.report.report import Report
from stn_experiments.report.tables import Table, details, overview
from stn_experiments.storage.lock import run_lock
from tests.report.harness import bold, column, csv_rows

pytestmark = pytest.mark.usefixtures("without_plots")


def test_the_best_of_each_data_set_is_bold(write_run, groups):
    write_run("a", 0.701)
    write_run("b", 1.4, stn="none")
    write_run("c", 2.0, data="rts", stn="none")  # alone
    write_run("d", 0.704, stn="similarity")  # shows the same error as the best
    assert bold(details(groups())) == ["0.70", "0.70"]
    assert bold(overview(groups())) == ["0.70", "0.70"]
    assert [row["best"] for row in csv_rows(groups())] == ["1", "1", "0", "0"]


@pytest.mark.parametrize(
    ("number", "values", "marked", "winners"),
    [
        ("images_seen", (300, 100, 100), ["1.00 *", "2.00", "3.00"], ["2.00"]),
        ("images_seen", (100, 300), ["1.00 *", "2.00 *"], []),
        ("images_seen", (300,), ["1.00"], []),
        ("images_seen", (300, 300, 100, 100), ["1.00", "2.00", "3.00 *", "4.00 *"], ["1.00"]),
        ("images_seen", (None, 100, 100), ["1.00", "2.00", "3.00"], ["1.00"]),
        ("parameters", (92_416, 75_946), ["1.00", "2.00"], ["1.00"]),
        ("parameters", (200, 100, 130), ["1.00 †", "2.00", "3.00"], ["2.00"]),
        ("parameters", (50, 100, 131, 110), ["1.00 †", "2.00 †", "3.00", "4.00"], ["3.00"]),
        ("parameters", (100, 200), ["1.00 †", "2.00 †"], []),
    ],
)
def test_models_that_cannot_be_compared_are_marked_and_never_bold(
    write_run, root, number, values, marked, winners
):
    for error, value in enumerate(values, 1):  # the first values have the lowest errors
        write_run(f"run{error}", error, result={number: value}, **{"optimizer.lr": error})
    report = Report([root])
    errors = column(report.details, "test error %")
    assert errors == marked
    assert bold(report.details) == winners
    for mark in "*†":
        notes = [note for note in report.footnotes if note.startswith(mark)]
        assert len(notes) == any(mark in error for error in errors)
        assert all(note in report.html() and note in report.markdown() for note in notes)


def test_glimpses_have_a_column_that_counts_those_of_all_paths(write_run, root):
    write_run("a", 1.0)
    assert "glimpses seen" not in Report([root]).details.head
    write_run("b", 2.0, backbone="none", stn="none", attention="ram", result={"glimpses_seen": 32})
    report = Report([root])
    assert column(report.details, "glimpses seen") == ["–", "32"]
    assert [row["glimpses_seen"] for row in csv_rows(report.groups)] == ["", "32.0"]


def test_sizes_are_compared_among_models_that_saw_equally_many_images(write_run, groups):
    for n, (images, size) in enumerate([(100, 50), (100, 50), (300, 100), (300, 100), (300, 50)], 1):
        write_run(f"run{n}", n, result={"images_seen": images, "parameters": size}, **{"stn.width": n})
    assert [group.marks for group in groups()] == ["*†", "*†", "", "", "†"]


def test_a_footnote_says_how_much_compared_sizes_differ(write_run, root):
    write_run("a", 1.0, result={"parameters": 92_416})
    write_run("b", 2.0, stn="none", result={"parameters": 75_946})
    write_run("c", 3.0, stn="tps", result={"parameters": 1_000_000})
    report = Report([root])
    assert "The compared models differ in their number of parameters, by up to 22 %." in report.footnotes
    assert column(report.overview, "parameters") == ["92,416", "75,946", "1,000,000"]


def test_intervals_count_seeds_and_images_and_a_difference_is_of_the_same_images(write_run, groups):
    generator = np.random.default_rng(0)
    hard = generator.random(10_000) < 0.05
    for seed in range(3):
        for stn, rate in (("affine", 0.4), ("tps", 0.41), ("none", 0.6)):
            wrong = hard & (generator.random(10_000) < rate)
            kept = {"test_wrong": pack_bits(wrong), "test_images": 10_000, "test_digest": "a"}
            write_run(f"{stn}{seed}", 100 * wrong.mean(), result=kept, stn=stn, seed=seed)
    best, next_best, worst = details(groups()).rows
    assert [row[1] for row in (best, next_best, worst)] == [
        "compact + affine",
        "compact + tps",
        "compact + none",
    ]
    low, high = map(float, best[3].split(" to "))
    assert low < 2.0 < high
    assert 0.4 < high - low < 1.2
    assert best[4] == "–"
    assert next_best[4].endswith("), may be chance")
    assert re.fullmatch(r"\d\.\d\d \(0\.\d\d to \d\.\d\d\)", worst[4])


@pytest.mark.parametrize("change", [{"test_digest": "b"}, {"test_wrong": "?"}, {"test_digest": None}])
def test_models_tested_on_other_images_have_no_difference(write_run, groups, change):
    kept = {"test_wrong": pack_bits(np.arange(100) < 3), "test_images": 100, "test_digest": "a"}
    write_run("best", 3.0, result=kept)
    write_run("other", 4.0, result={**kept, **change}, stn="none")
    assert column(details(groups()), "more than bold") == ["–", "–"]
    assert column(details(groups()), "95 % interval")[0] != "–"


def test_the_overview_chooses_on_validation_and_has_dashes_for_missing_models(write_run, groups):
    write_run("lucky", 0.5, history=(9.0, 3.0), **{"stn.width": 8})
    write_run("better", 0.6, history=(9.0, 2.0), **{"stn.width": 16})
    write_run("other", 0.55, history=(9.0, 4.0), stn="none")
    write_run("mixed", 1.4, data="mixed", stn="none")
    table = overview(groups())
    assert table.head == ["model", "parameters", "mixed", "rotated", "published"]
    assert table.rows == [
        ["compact + affine stn.width=16", "92,416", "–", "0.60", "0.7ᵇ"],
        ["compact + none", "92,416", "1.40", "0.55", "1.2ᵇ"],
    ]
    assert bold(table) == ["0.55"]


def test_unfinished_runs_are_shown_as_such(write_run, groups):
    write_run("begun", data="rts", history=(9.0,), **{"trainer.epochs": 7})
    write_run("finished", 1.0, seed=2, **{"trainer.epochs": 5})
    with run_lock(write_run("running", seed=1, **{"trainer.epochs": 5})):
        found = groups()
    table = details(found)
    assert column(table, "test error %") == ["1.00; 2 of 5 epochs, running", "1 of 7 epochs, stopped"]
    assert column(table, "seeds") == ["1", "–"]
    assert column(table, "training time") == ["1 min 40 s", "–"]
    assert [row["unfinished"][:6] for row in csv_rows(found)] == ["2 of 5", "1 of 7"]


def test_the_csv_has_full_numbers_and_the_table_rounded_ones(write_run, groups):
    scores = {"iou_mean": 0.4567, "ink_inside": 0.891, "hit_rate": 1.0, "images_per_second": 1234.5}
    write_run("a", 0.1234, result=scores)
    write_run("b", 0.3234, seed=1, result={**scores, "parameters": 93000})
    write_run("c", 1.0, stn="none", result=dict.fromkeys(scores) | {"images_per_second": 99})
    table = details(groups())
    assert [column(table, name) for name in ("images/s", "parameters")] == [
        ["1,234", "99"],
        ["92,416–93,000", "92,416"],
    ]
    assert [column(attention(groups()), name) for name in ("IoU", "ink inside", "hit rate")] == [
        ["0.46"],
        ["0.89"],
        ["1.00"],
    ]
    first, second = csv_rows(groups())
    assert float(first["test_error"]) == pytest.approx(0.2234)
    assert float(first["test_error_spread"]) == pytest.approx(0.1414, abs=1e-4)
    assert (first["seeds"], first["iou_mean"], first["images_per_second"]) == ("2", "0.4567", "1234.5")
    assert (first["published"], first["sureness"], first["source"][:8]) == ("0.7", "second-hand", "Jaderber")
    assert second["hit_rate"] == second["ink_inside"] == second["test_error_spread"] == ""


def test_bars_are_escaped_in_markdown():
    lines = Table(["a|b", "c"], [["x", "y|z"]]).markdown().splitlines()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3, 3, 3]
