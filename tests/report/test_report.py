"""A report over runs whose folders are written here; no network is trained."""

import csv
import io
import itertools
import json
import math
import os
import re
import statistics

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from stn_experiments.common.bits import pack_bits
from stn_experiments.report import plots
from stn_experiments.report import watch as watching
from stn_experiments.report.collect import collect
from stn_experiments.report.groups import differing_settings, group_runs
from stn_experiments.report.published import DATA, published
from stn_experiments.report.report import Report
from stn_experiments.report.robustness import robustness
from stn_experiments.report.tables import Table, details, overview, to_csv
from stn_experiments.storage.lock import run_lock
from stn_experiments.storage.run_folder import data_digest

DISTORTIONS = {name: column["distortion"] for name, column in DATA["columns"].items()}


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
        Image.new("RGB", (532, 1344)).save(folder / "panels" / f"panel-{len(history):04d}.png")
        if error is not None:
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
def groups(root):
    """The groups of all runs written so far."""
    return lambda: group_runs(collect([root])[0])


def column(table, name):
    return [row[table.head.index(name)] for row in table.rows]


def bold(table):
    return re.findall(r"\*\*(.+?)\*\*", table.markdown())


def csv_rows(groups):
    return list(csv.DictReader(io.StringIO(to_csv(groups))))


# Grouping


def test_runs_that_differ_in_nothing_but_seed_and_place_are_one_group(write_run, groups):
    errors = [0.88, 0.90, 0.80]
    for seed, error in enumerate(errors):
        other = {"data.root": f"/{seed}", "trainer.device": f"cuda:{seed}", "run.root": f"/{seed}"}
        write_run(f"r{seed}", error, seed=seed, result={"train_seconds": 60.0 * (seed + 1)}, **other)
    (group,) = groups()
    assert group.mean("test_error") == pytest.approx(0.86)
    assert group.spread("test_error") == pytest.approx(statistics.stdev(errors)) == (0.0056 / 2) ** 0.5
    row = "rotated|compact + affine|0.86 ± 0.05|–|–|3|0.50|–|–|92,416|2|–|2 min 00 s|–|0.7ᵇ|ST-CNN affine"
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
    ],
)
def test_settings_that_most_runs_share_are_omitted(settings, expected):
    assert differing_settings(settings) == expected


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


def test_settings_that_differ_between_models_are_in_their_labels(write_run, groups):
    write_run("plain", 1.0, stn="none", **{"optimizer.lr": 0.1, "backbone.width": 8})
    write_run("affine", 2.0, **{"optimizer.lr": 0.2, "backbone.width": 16, "stn.width": 1})
    write_run("fcn", 3.0, backbone="fcn", **{"optimizer.lr": 0.2, "backbone.width": 32, "stn.width": 2})
    assert [group.model for group in groups()] == [
        "compact + none backbone.width=8 optimizer.lr=0.1",
        "compact + affine backbone.width=16 stn.width=1",
        "fcn + affine stn.width=2",
    ]


# Tables


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
        ("test_images", (500, 10_000, 10_000), ["1.00 ‡", "2.00", "3.00"], ["2.00"]),
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
    for mark in "*†‡":
        notes = [note for note in report.footnotes if note.startswith(mark)]
        assert len(notes) == any(mark in error for error in errors)
        assert all(note in report.html() and note in report.markdown() for note in notes)
    assert ("test images" in report.details.head) == (number == "test_images")


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
    assert column(details(groups()), "above bold") == ["–", "–"]
    assert column(details(groups()), "95 % interval")[0] != "–"


def test_the_overview_chooses_on_validation_and_has_dashes_for_missing_models(write_run, groups):
    write_run("lucky", 0.5, history=(9.0, 3.0), **{"stn.width": 8})
    write_run("better", 0.6, history=(9.0, 2.0), **{"stn.width": 16})
    write_run("other", 0.55, history=(9.0, 4.0), stn="none")
    write_run("mixed", 1.4, data="mixed", stn="none")
    table = overview(groups())
    assert table.head == ["model", "parameters", "mixed", "rotated", "paper"]
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
    assert [column(table, name) for name in ("IoU", "ink inside", "hit rate", "images/s", "parameters")] == [
        ["0.46", "–"],
        ["0.89", "–"],
        ["1.00", "–"],
        ["1,234", "99"],
        ["92,416–93,000", "92,416"],
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


# Published errors


@pytest.mark.parametrize(
    ("data", "backbone", "stn", "settings", "expected"),
    [
        ("rotated", "fcn", "none", {}, "2.1ᵇ FCN"),
        ("rotated", "compact", "tps", {}, "0.7ᵇ ST-CNN TPS"),
        ("rts", "fcn", "projective", {}, "0.9ᶜ ST-FCN projective"),
        ("projective", "cnn", "projective", {}, "0.8ᵇ ST-CNN projective"),
        ("elastic", "fcn", "affine", {}, "2.7ᶜ ST-FCN affine"),
        ("cluttered", "compact", "none", {}, "3.5ᵃ CNN"),
        ("cluttered", "cnn", "tps", {}, "None"),
        ("rotated", "resnet18", "affine", {}, "None"),
        ("rotated", "cnn", "similarity", {}, "None"),
        ("rotated", "cnn", "affine", {"attention": "cbam"}, "None"),
        ("rotated", "cnn", "affine", {"data.distortion": {"canvas": 42, "angle": 90}}, "None"),
        ("mixed", "cnn", "affine", {}, "None"),
        ("addition", "fcn", "none", {}, "47.7ᵃ FCN"),
        ("addition", "fcn", "affine", {}, "18.5ᵃ one transformer, at best"),
        ("addition", "cnn", "affine", {"stn.count": 2}, "5.8ᵃ two transformers, at best"),
        ("addition", "cnn", "affine", {"stn.count": 3}, "None"),
    ],
)
def test_published_errors(write_run, groups, data, backbone, stn, settings, expected):
    write_run("run", 1.0, data=data, backbone=backbone, stn=stn, **settings)
    figure = published(groups()[0])
    assert (f"{figure} {figure.model}" if figure else "None") == expected


def test_the_published_table_is_that_of_the_paper_on_the_data_of_the_configs(compose):
    models = DATA["models"]
    assert models["ST-CNN affine"]["error"] == [0.7, 0.5, 0.8, 1.2, 1.7]
    assert models["CNN"]["error"] == [1.2, 0.8, 1.5, 1.4, 3.5]
    assert [len(row) for model in models.values() for row in model.values()] == [5] * 16
    for model in models.values():
        for error, sureness in zip(model["error"], model["sureness"], strict=True):
            assert (sureness in DATA["sureness"]) == (error is not None)
    assert list(DATA["addition"]["models"].values()) == [47.7, 14.7, 18.5, 5.8]
    for name, settings in DISTORTIONS.items():
        shipped = compose(f"data={name}")["data"]["distortion"]
        assert settings == {key: value for key, value in shipped.items() if key != "_target_"}


def test_footnotes_say_how_sure_the_shown_figures_are(write_run, root):
    write_run("a", 1.0, backbone="cnn")
    write_run("b", 1.0, data="projective", backbone="fcn")
    first, second = Report([root]).footnotes
    assert "; ᵇ second-hand, ᶜ recalled." in first
    assert "its projective data is known at second hand" in second
    assert "read in the paper" not in first


# Robustness


def test_evaluations_become_a_matrix(write_run, groups):
    write_run("a", 1.0, evaluations={"clean-11": 2.0, "noisy-22": 4.0})
    write_run("b", 3.0, seed=1, evaluations={"clean-11": 5.0})
    own = "rotated-" + data_digest({"name": "rotated", "distortion": DISTORTIONS["rotated"]})
    others = {"noisy-22": 8.0, "noisy-33": 9.0, own: 7.0, "rotated-00": 6.0}
    write_run("c", 7.0, stn="none", evaluations=others)
    write_run("d", 9.0, stn="tps")
    table = robustness(groups()).table()
    assert table.head == ["trained on", "model", "clean", "noisy", "noisy-33", "rotated", "rotated-00"]
    assert table.rows == [
        ["rotated", "compact + affine", "3.50", "4.00", "–", "2.00", "–"],
        ["rotated", "compact + none", "–", "8.00", "9.00", "7.00", "6.00"],
    ]
    assert bold(table) == ["2.00", "7.00"]


# Damaged files


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
    (folder / "panels" / "panel-0002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "evaluations" / "clean-11" / "result.json").write_text("{}")
    report = Report([root])
    assert [line.split(": ", 1)[1] for line in report.skipped] == [
        "line 3 skipped, it is no epoch",
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
    assert report.details.rows[0][2:-2] == ["1.50", "–", "–", "1", *["–"] * 8]
    assert column(report.details, "test error %")[1] == "0 of 2 epochs, stopped"
    assert report.plots == {}
    assert "rts" in report.html()


# Files


def test_runs_are_found_at_any_depth_and_once(write_run, root):
    folder = write_run("a/b/run", 1.0)
    write_run(".hidden/run", 1.0)
    write_run("a/b/run/evaluations/other", 1.0)
    records, _ = collect([root, folder, root / "a" / ".." / "a"])
    assert [record.folder for record in records] == [folder]


def test_the_page_needs_nothing_but_itself_and_is_reproducible(write_run, root, tmp_path):
    for seed in range(2):
        write_run(f"a{seed}", 1.0 + seed, seed=seed, evaluations={"clean-11": 2.0})
    write_run("b", 2.0, data="<i>&$x_$", stn="none")
    write_run("c", stn="tps")

    def written(folder):
        Report([root]).write(folder)
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")}

    one = written(tmp_path / "one")
    assert one == written(tmp_path / "two")
    drawn = ("curves-rotated", "curves--i-x_-", "iou", "time", "robustness")
    assert set(one) == {"index.html", "table.md", "table.csv", *(f"plots/{name}.svg" for name in drawn)}
    html = one["index.html"].decode()
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]{1,30})""", html)
    assert len(sources) >= 9
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|<script|<link|@import|<i>", html)
    assert "&lt;i&gt;&amp;$x_$" in html
    for text in ("All models", "by epoch", "attention and time", "Robustness", "Panels", "1.50 ± 0.71"):
        assert text in html
    assert "<li>c: 2 of 2 epochs, stopped</li>" in html
    assert "Those without a result are listed" in html
    assert "- c: 2 of 2 epochs, stopped\n" in one["table.md"].decode()


@pytest.mark.parametrize(
    ("commits", "note"),
    [
        (["abc", "abc"], ""),
        (["abc", "def", "abc"], "The code may have changed between runs: abc (2), def (1)."),
        (["abc-dirty"], "The code may have changed between runs: abc-dirty (1)."),
    ],
)
def test_runs_of_different_code_are_told(write_run, root, tmp_path, commits, note):
    for seed, commit in enumerate(commits):
        write_run(f"run{seed}", 1.0, seed=seed, result={"commit": commit})
    report = Report([root])
    report.write(tmp_path / "out")
    assert report.code_note == note
    for file in ("table.md", "index.html"):
        assert ("The code may have changed" in (tmp_path / "out" / file).read_text()) == bool(note)


def test_many_models_are_drawn_in_several_plots(write_run, root):
    for width in range(9):
        write_run(f"r{width}", 1.0 + width, **{"stn.width": width})
    svg = Report([root]).plots["curves-rotated"]
    assert len(re.findall(r'id="axes_\d+"', svg)) == 2
    assert len(re.findall(r'id="legend_\d+"', svg)) == 2


def test_a_plot_of_one_epoch_has_one_tick_and_each_point_a_number(write_run, root, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "to_svg", lambda figure: figures.append(figure) or "")
    for width in range(3):  # at one place
        write_run(f"r{width}", 1.0, history=(2.0,), **{"stn.width": width, "trainer.epochs": 1})
    Report([root])
    curves, by_iou, _ = (figure.axes[0] for figure in figures)
    low, high = curves.get_xlim()
    assert [tick for tick in curves.get_xticks() if low <= tick <= high] == [1]
    assert [text.get_text() for text in by_iou.texts] == ["1", "2", "3"]
    legend = [text.get_text() for text in by_iou.get_legend().get_texts()]
    assert legend == [f"{n + 1} rotated: compact + affine stn.width={n}" for n in range(3)]
    offsets = [text.get_position() for text in by_iou.texts]
    assert all(math.dist(a, b) >= plots.NUMBER_SIZE for a, b in itertools.combinations(offsets, 2))


def test_the_points_of_models_in_bold_are_larger(write_run, root, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "to_svg", lambda figure: figures.append(figure) or "")
    write_run("none", 1.0, stn="none", result={"iou_mean": None})
    write_run("affine", 2.0)
    write_run("tps", 3.0, stn="tps")
    Report([root])
    _, by_iou, by_time = ([line.get_markersize() for line in figure.axes[0].lines] for figure in figures)
    assert by_iou == [6, 6]
    assert by_time == [10, 6, 6]


def test_long_names_of_data_are_wrapped_below_the_heat_map(write_run, root, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "to_svg", lambda figure: figures.append(figure) or "")
    names = [f"noisy_with_a_long_name_{n}" for n in range(8)]
    write_run("run", 1.0, evaluations={f"{name}-11": 2.0 for name in names})
    Report([root])
    texts = [text.get_text() for text in figures[-1].axes[0].get_xticklabels()]
    assert [text.replace("\n", "") for text in texts] == [*names, "rotated"]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 11


# The command


def test_the_command(write_run, root, command):
    write_run("a", 1.0)
    write_run("b", stn="none")
    (write_run("c", stn="tps") / "config.yaml").write_text("{")
    code, stdout, stderr = command("report.py", root)
    assert (code, stderr) == (0, "")
    assert "c: skipped, config.yaml cannot be read" in stdout
    assert "1 finished, 1 stopped" in stdout
    assert "unfinished  b: 2 of 2 epochs, stopped" in stdout
    assert (root / "report" / "index.html").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["runs", "nowhere"], "there is no folder nowhere"),
        (["--watch", "nowhere"], "there is no folder nowhere"),
        (["empty"], "there is no run in empty"),
        (["damaged"], "there is no run in damaged that can be read: damaged/a: skipped, config.yaml cannot"),
        (["runs", "--output", "runs/a/config.yaml"], "--output must be a folder that can be written to: "),
        ([], "at least one folder with runs is needed"),
        (["--watch", "0", "runs"], "--watch must be a number of seconds above 0, got 0"),
    ],
)
def test_a_mistake_is_one_line(write_run, tmp_path, command, arguments, error):
    write_run("a", 1.0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged" / "a").mkdir(parents=True)
    (tmp_path / "damaged" / "a" / "config.yaml").write_text("{")
    code, _, stderr = command("report.py", *arguments)
    assert (code, len(stderr.splitlines())) == (2, 1)
    assert stderr.startswith(f"error: {error}")


# Watching


def test_the_status_shows_progress_and_time_left(write_run, root):
    write_run("finished", 1.0)
    write_run("stopped", stn="tps", **{"trainer.epochs": 4})
    write_run("new", stn="projective", history=())
    with run_lock(write_run("running", stn="none", **{"trainer.epochs": 7})):
        records, _ = collect([root])
    # Two epochs of 10 s each are done and five are left.
    assert watching.status(records).splitlines() == [
        "all runs: 1 finished, 1 running, 0 failed, 2 stopped",
        "  new: 0 of 2 epochs, stopped",
        "  running: 2 of 7 epochs, running, about 50 s left",
        "  stopped: 2 of 4 epochs, stopped",
    ]


@pytest.mark.parametrize("end", ["all runs are finished", "Ctrl-C"])
def test_watching_ends(write_run, root, monkeypatch, capsys, end):
    folder = write_run("run")

    def sleep(seconds):
        assert seconds == 3.0
        if end == "Ctrl-C":
            raise KeyboardInterrupt
        (folder / "result.json").write_text('{"test_error": 1.0}')

    monkeypatch.setattr(watching.time, "sleep", sleep)
    watching.watch([root], 3.0)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "all runs: 0 finished, 0 running, 0 failed, 1 stopped"
    assert last == ("" if end == "Ctrl-C" else "all runs: 1 finished, 0 running, 0 failed, 0 stopped")
