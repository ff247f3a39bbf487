import pytest

from stn_experiments.evaluation.yardsticks import SCORES, YARDSTICKS, named
from stn_experiments.report.attention import attention
from stn_experiments.report.report import Report
from tests.report.harness import column, csv_rows

BOXES = {name: 0.1 * n for n, name in enumerate(YARDSTICKS, 1)}
"""All scores of each yardstick."""
INPUT = {
    "input_rotation_deg": 52.0,
    "input_rotation_within_class_deg": 51.0,
    "input_pair_rotation_deg": 53.0,
}
LEFT = {
    "residual_rotation_deg": 20.0,
    "residual_rotation_within_class_deg": 15.04,
    "pair_rotation_deg": 10.0,
    "mirrored_share": 0.25,
}


def result(iou, **others):
    """The scores of a model, all the same, and of all yardsticks."""
    boxes = {named(score, name): value for name, value in BOXES.items() for score in SCORES}
    return {**dict.fromkeys(SCORES, iou), **boxes, **others}


def test_models_stand_beside_random_views_and_above_the_yardsticks_of_their_data(write_run, groups):
    write_run("a", 1.0, result=result(0.6, **INPUT, **LEFT))
    write_run("b", 2.0, stn="none", attention="cbam", result=result(0.5, iou_mean_of_random_views=0.45))
    write_run("c", 2.0, stn="none", result={"iou_mean": None})
    write_run("d", 3.0, data="rts", result={"iou_mean": 0.7, "found": 0.8})  # of an earlier version
    table = attention(groups())
    assert [tuple(row[:2]) for row in table.rows] == [
        ("rotated", "compact + affine"),
        ("rotated", "compact + cbam"),
        ("rotated", "whole canvas"),
        ("rotated", "best box that never moves"),
        ("rotated", "exact frame"),
        ("rts", "compact + affine"),
    ]
    assert column(table, "IoU") == ["0.60 (0.30)", "0.50 (0.45)", "0.10", "0.20", "0.40", "0.70"]
    assert column(table, "found") == ["0.60 (0.30)", "0.50 (0.30)", "0.10", "0.20", "0.40", "0.80"]
    assert column(table, "off target")[-1] == "–"
    assert column(table, "rotation left") == ["20.0°", "–", "52.0°", "52.0°", "0.0°", "–"]
    assert column(table, "… in a class") == ["15.0°", "–", "51.0°", "51.0°", "0.0°", "–"]
    assert column(table, "… in a pair") == ["10.0°", "–", "53.0°", "53.0°", "0.0°", "–"]
    assert column(table, "mirrored") == ["0.25", "–", "0.00", "0.00", "0.00", "–"]


@pytest.mark.usefixtures("without_plots")
def test_the_page_the_markdown_and_the_csv_have_the_scores(write_run, root, groups):
    write_run("a", 1.0, result=result(0.6, **INPUT, **LEFT))
    report = Report([root])
    assert '<span class="note">whole canvas</span>' in report.html()
    assert "*best box that never moves*" in report.markdown()
    (row,) = csv_rows(groups())
    assert row["found"] == row["off_target"] == "0.6"
    assert row["pair_rotation_deg"] == "10.0"
    assert row["found_of_exact_frame"] == "0.4"


@pytest.mark.usefixtures("without_plots")
def test_without_a_score_there_is_no_table(write_run, root):
    write_run("a", 1.0, stn="none", result={"iou_mean": None})
    report = Report([root])
    assert not report.attention.rows
    for text in (report.html(), report.markdown()):
        assert "Attention</h2>" not in text
        assert "## Attention" not in text


def test_a_line_of_the_plot_is_the_box_that_never_moves(write_run, root, figures):
    write_run("a", 1.0, result=result(0.6))
    write_run("b", 2.0, data="rts", result={"iou_mean": 0.7})
    Report([root])
    (by_iou,) = (figure.axes[0] for figure in figures if "IoU" in figure.axes[0].get_xlabel())
    lines = {line.get_label(): line.get_xdata() for line in by_iou.lines if "never" in line.get_label()}
    assert lines == {"rotated: the best box that never moves": [0.2, 0.2]}
