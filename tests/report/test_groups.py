"""Which runs are one model, and which models can be compared."""

import os
import statistics

import numpy as np
import pytest

from stn_experiments.common.bits import pack_bits
from stn_experiments.report.groups import differing_settings
from stn_experiments.report.report import Report
from stn_experiments.report.tables import details, overview
from tests.report.harness import bold, column, csv_rows

pytestmark = pytest.mark.usefixtures("without_plots")


def test_runs_that_differ_in_nothing_but_seed_and_place_are_one_group(write_run, groups):
    errors = [0.88, 0.90, 0.80]
    for seed, error in enumerate(errors):
        other = {"data.root": f"/{seed}", "trainer.device": f"cuda:{seed}", "run.root": f"/{seed}"}
        write_run(f"r{seed}", error, seed=seed, result={"train_seconds": 60.0 * (seed + 1)}, **other)
    (group,) = groups()
    assert group.mean("test_error") == pytest.approx(0.86)
    assert group.spread("test_error") == pytest.approx(statistics.stdev(errors)) == (0.0056 / 2) ** 0.5
    row = "rotated|compact + affine|0.86 ± 0.05|–|–|3|92,416|2|–|2 min 00 s|–|0.7ᵇ|ST-CNN affine"
    assert details([group]).rows[0] == row.split("|")


def test_the_last_finished_run_of_a_seed_counts(write_run, groups):
    for name, error, written in (("old", 9.0, 1_000), ("new", 1.0, 2_000)):
        os.utime(write_run(name, error) / "result.json", (written, written))
    write_run("unfinished")
    (group,) = groups()
    assert (len(group.finished), group.unfinished, group.older) == (1, (), 1)
    assert group.spread("test_error") is None
    assert column(details([group]), "test error %") == ["1.00"]


def test_models_differ_in_names_and_settings(write_run, groups):
    for seed in range(2):
        write_run(f"usual{seed}", 1.0, seed=seed, **{"stn.localisation": "auto", "attention": "none"})
    write_run("early", 1.5, seed=2, **{"stn.localisation": "auto"})  # before there was another attention
    write_run("special", 2.0, **{"stn.localisation": "convolutional", "stn.at": ["input", "layer2"]})
    write_run("sgd", 3.0, **{"stn.localisation": "auto", "optimizer._target_": "torch.optim.SGD"})
    write_run("cbam", 4.0, attention="cbam")
    write_run("only cbam", 5.0, attention="cbam", stn="none")
    write_run("plain", 6.0, stn="none")
    found = groups()
    assert [(group.model, len(group.finished), group.attends) for group in found] == [
        ("compact + affine", 3, True),
        ("compact + affine stn.localisation=convolutional", 1, True),
        ("compact + affine optimizer=SGD", 1, True),
        ("compact + affine + cbam", 1, True),
        ("compact + cbam", 1, True),
        ("compact + none", 1, False),
    ]
    assert column(overview(found), "model") == sorted({group.base for group in found})
    assert [row["attention"] for row in csv_rows(found)] == [*["none"] * 3, "cbam", "cbam", "none"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([{"a": 1}, {"a": 1}, {"a": 2}], ["", "", "a=2"]),
        ([{"a": True}, {"a": None}], ["a=true", "a=null"]),
        ([{"a": 1, "b": 5}, {"a": 1}], ["", ""]),
        ([{"a": [64, 64]}, {"a": [8, 8]}, {}], ["a=[64,64]", "a=[8,8]", ""]),
        ([{"a": None}, {"a.b": 1, "a.c": 2}], ["a=null", "a.b=1 a.c=2"]),
        ([{"a": "x"}, {"a.b": 1}], ["", ""]),
    ],
)
def test_settings_that_most_runs_share_are_omitted(settings, expected):
    assert differing_settings(settings) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"stn.share": False}, {"stn.share": True}),
        ({}, {"stn.family": {"scale": False}}),
        (
            {"attention": "coattention", "attention.layers": 1},
            {"attention": "coattention", "attention.layers": 2},
        ),
        ({"data.training": {"angle": 0, "bend": 0}}, {"data.training": {"angle": 15, "bend": 0}}),
        ({"data.training": None}, {"data.training": {"angle": 15}}),
    ],
)
def test_a_neutral_value_is_another_model_than_another_value(write_run, groups, one, other):
    write_run("one", 1.0, **one)
    write_run("other", 2.0, **other)
    assert sorted(len(group.finished) for group in groups()) == [1, 1]


def test_a_loss_that_is_off_is_another_model_than_one_that_is_on(write_run, groups):
    """Its settings are absent from runs of older code, and without effect where it is off."""
    off = {"stn.consistency": {"weight": 0.0, "end": 0.0, "angle": 45}}
    for seed, settings in enumerate(({}, off)):
        write_run(f"off{seed}", 2.0, seed=seed, **settings)
    write_run("on", 1.0, **{"stn.consistency": {"weight": 0.3, "end": 0.0, "angle": 90}})
    assert [(group.model, len(group.finished)) for group in groups()] == [
        ("compact + affine stn.consistency.weight=0.3", 1),
        ("compact + affine", 2),
    ]


def test_another_canvas_is_other_data(write_run, groups):
    for seed in range(2):
        write_run(f"r{seed}", 1.0, seed=seed, data="cluttered", **{"data.valid_size": seed + 1})
    write_run("large", 5.0, data="cluttered", **{"data.distortion": {"canvas": 80}})
    table = details(groups())
    assert column(table, "data")[0] == column(table, "data")[1] == "cluttered"
    assert column(table, "data")[2].startswith("cluttered data.distortion.canvas=80")
    assert bold(table) == ["1.00", "1.00"]


def test_another_test_set_is_other_data_and_decides_no_bold(write_run, root):
    for name, error, settings in (
        ("a", 3.0, {}),
        ("b", 2.0, {"stn": "none"}),
        ("c", 1.0, {"stn": "tps", "data.seed": 7}),
    ):
        write_run(name, error, **{"data.seed": 0, **settings})
    report = Report([root])
    assert column(report.details, "data") == ["rotated", "rotated", "rotated data.seed=7"]
    assert bold(report.details) == bold(report.overview) == ["2.00"]
    (note,) = [note for note in report.footnotes if "another test set" in note]
    assert note in report.html()
    assert note in report.markdown()


def test_models_tested_on_other_images_are_in_no_column_together(write_run, root):
    """Code that draws another test set for the same settings, or a data file with other content."""
    for name, error, digest in (("a", 3.0, "d1"), ("b", 2.0, "d1"), ("c", 1.0, "d2"), ("d", 0.5, None)):
        write_run(name, error, result={"test_digest": digest}, **{"optimizer.lr": error})
    write_run("begun", **{"optimizer.lr": 9.0})
    report = Report([root])
    names = ["rotated", "rotated test_digest=None", "rotated test_digest=d2"]
    assert list(dict.fromkeys(group.data for group in report.groups)) == names
    assert bold(report.details) == ["2.00"]
    assert any("another test set" in note for note in report.footnotes)
    (begun,) = [group for group in report.groups if not group.finished]
    assert begun.data == "rotated"


SEQUENCES = {"_target_": "stn_experiments.data.sequences.Sequences", "digits": 3}


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({}, [1, 1, 0, 1, 0, 0]),
        ({"data.test_draws": 2}, [1, 0.5, 0]),  # images 0 and 3, 1 and 4, 2 and 5 are of one digit
        ({"data.distortion": SEQUENCES}, [2 / 3, 1 / 3]),
        ({"data.distortion": {"digits": 4}}, [1, 1, 0, 1, 0, 0]),  # as of questions, which have one answer
    ],
)
def test_images_of_one_digit_count_as_one(write_run, groups, settings, shares):
    wrong = pack_bits(np.array([1, 1, 0, 1, 0, 0], bool))
    result = {"test_digest": "d", "test_images": 6, "test_wrong": wrong}
    write_run("run", 50.0, result=result, **settings)
    (group,) = groups()
    assert group.wrong().tolist() == [pytest.approx(shares)]


def test_settings_that_differ_between_models_are_in_their_labels(write_run, groups):
    write_run("plain", 1.0, stn="none", **{"optimizer.lr": 0.1, "backbone.width": 8})
    write_run("affine", 2.0, **{"optimizer.lr": 0.2, "backbone.width": 16, "stn.width": 1})
    write_run("fcn", 3.0, backbone="fcn", **{"optimizer.lr": 0.2, "backbone.width": 32, "stn.width": 2})
    assert [group.model for group in groups()] == [
        "compact + none backbone.width=8 optimizer.lr=0.1",
        "compact + affine backbone.width=16 stn.width=1",
        "fcn + affine stn.width=2",
    ]
