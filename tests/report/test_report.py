"""A report over runs whose folders are written here; no network is trained."""

import csv
import io
import json
import os
import re
import statistics

import pytest
import yaml
from PIL import Image

pytest.importorskip("matplotlib")

from stn_experiments.common.durations import time_text
from stn_experiments.common.errors import UserError
from stn_experiments.report import watch as watching
from stn_experiments.report.collect import collect
from stn_experiments.report.groups import differing_settings, group_runs
from stn_experiments.report.published import DATA, published
from stn_experiments.report.robustness import robustness
from stn_experiments.report.tables import Table, details, overview, to_csv
from stn_experiments.report.write import write_report

PANEL = (532, 1344)
DISTORTIONS = {name: column["distortion"] for name, column in DATA["columns"].items()}


def put(config, name, value):
    *groups, key = name.split(".")
    for one in groups:
        config = config.setdefault(one, {})
    config[key] = value


@pytest.fixture
def write_run(tmp_path):
    """Write a run's folder: finished if ``error`` is given; ``settings`` by their dotted names."""

    def write(
        name,
        data="rotated",
        backbone="compact",
        stn="affine",
        seed=0,
        error=None,
        history=(9.0, 5.0),
        epochs=2,
        result=None,
        evaluations=None,
        written=None,
        root="runs",
        attention=None,
        **settings,
    ):
        folder = tmp_path / root / name
        (folder / "panels").mkdir(parents=True)
        config = {
            "seed": seed,
            "run": {"root": str(tmp_path / root)},
            "data": {"name": data, "root": None, "distortion": dict(DISTORTIONS.get(data, {"canvas": 28}))},
            "backbone": {"_target_": "some.Network", "name": backbone},
            "stn": {"_target_": "some.Transformers", "name": stn},
            "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.003},
            "trainer": {"epochs": epochs, "device": "auto"},
        }
        if attention is not None:
            config["attention"] = {"_target_": "some.Gates", "name": attention}
        for key, value in settings.items():
            put(config, key, value)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        lines = [
            {"epoch": epoch, "val_error": value, "seconds": 10.0, "images": 100}
            for epoch, value in enumerate(history, 1)
        ]
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        Image.new("RGB", PANEL, (seed, 100, 200)).save(folder / "panels" / f"panel-{len(history):04d}.png")
        if error is not None:
            values = {"test_error": error, "val_error": min(history), "epochs": epochs, "parameters": 92416}
            values |= {"train_seconds": 100.0, "iou_mean": 0.5, "seed": seed, **(result or {})}
            (folder / "result.json").write_text(json.dumps(values))
            if written is not None:
                os.utime(folder / "result.json", (written, written))
        for key, value in (evaluations or {}).items():
            place = folder / "evaluations" / key
            place.mkdir(parents=True)
            text = json.dumps({"data": key.rpartition("-")[0], "test_error": value})
            (place / "result.json").write_text(text)
        return folder

    return write


@pytest.fixture
def groups(tmp_path):
    """The groups of all runs written so far."""
    return lambda: group_runs(collect([tmp_path / "runs"])[0])


def column(table, name):
    return [row[table.head.index(name)] for row in table.rows]


# Grouping


def test_runs_that_differ_in_their_seed_are_one_cell(write_run, groups):
    for seed, error in enumerate((0.88, 0.90, 0.80)):
        write_run(f"r{seed}", seed=seed, error=error, result={"train_seconds": 60.0 * (seed + 1)})
    (group,) = groups()
    assert group.mean("test_error") == pytest.approx(0.86)
    assert group.spread("test_error") == pytest.approx(statistics.stdev([0.88, 0.90, 0.80]))
    assert group.spread("test_error") == pytest.approx((0.0056 / 2) ** 0.5)
    table = details([group])
    assert column(table, "test error %") == ["0.86 ± 0.05"]
    assert column(table, "seeds") == ["3"]
    assert column(table, "training time") == ["2 min 00 s"]
    assert column(table, "parameters") == ["92,416"]


def test_what_cannot_change_a_result_makes_no_cell(write_run, groups):
    write_run("one", error=1.0)
    write_run("other", seed=1, error=3.0, **{"data.root": "/x", "trainer.device": "cpu", "run.root": "/y"})
    (group,) = groups()
    assert group.mean("test_error") == 2.0


def test_two_runs_of_a_seed_are_not_two_seeds(write_run, groups):
    write_run("old", error=9.0, written=1_000)
    write_run("new", error=1.0, written=2_000)
    (group,) = groups()
    assert (len(group.finished), group.older) == (1, 1)
    assert group.mean("test_error") == 1.0
    assert group.spread("test_error") is None
    assert column(details([group]), "test error %") == ["1.00"]


def test_other_settings_are_other_models(write_run, groups):
    for seed in range(2):
        write_run(f"usual{seed}", seed=seed, error=1.0, **{"stn.localisation": "auto"})
    write_run("special", error=2.0, **{"stn.localisation": "convolutional", "stn.at": ["input", "layer2"]})
    write_run("sgd", error=3.0, **{"stn.localisation": "auto", "optimizer._target_": "torch.optim.SGD"})
    assert [(group.model, len(group.finished)) for group in groups()] == [
        ("compact + affine", 2),
        ("compact + affine stn.localisation=convolutional", 1),
        ("compact + affine optimizer=SGD", 1),
    ]


def test_models_are_told_apart_by_their_attention(write_run, groups):
    """A run from before there was any other attention has none."""
    write_run("old", stn="none", error=1.0)
    write_run("plain", stn="none", seed=1, error=2.0, attention="none")
    write_run("cbam", stn="none", error=3.0, attention="cbam")
    write_run("both", error=4.0, attention="cbam")
    found = groups()
    assert [(group.model, len(group.finished), group.attends) for group in found] == [
        ("compact + none", 2, False),
        ("compact + cbam", 1, True),
        ("compact + affine + cbam", 1, True),
    ]
    assert [row[0] for row in overview(found).rows] == sorted(group.model for group in found)
    assert [row["attention"] for row in csv.DictReader(io.StringIO(to_csv(found)))] == [
        "none",
        "cbam",
        "cbam",
    ]
    assert [figure and figure.error for figure in map(published, found)] == [1.2, None, None]


def test_the_table_has_scores_of_attention_and_speed(write_run, groups):
    scores = {"iou_mean": 0.4567, "ink_inside": 0.891, "hit_rate": 1.0, "images_per_second": 1234.5}
    write_run("cbam", error=1.0, attention="cbam", result=scores)
    se = dict.fromkeys(("iou_mean", "ink_inside", "hit_rate")) | {"images_per_second": 99}
    write_run("se", stn="none", error=2.0, attention="se", result=se)
    table = details(groups())
    assert column(table, "IoU") == ["0.46", "–"]
    assert column(table, "ink inside") == ["0.89", "–"]
    assert column(table, "hit rate") == ["1.00", "–"]
    assert column(table, "images/s") == ["1,234", "99"]
    first, second = csv.DictReader(io.StringIO(to_csv(groups())))
    assert (first["iou_mean"], first["images_per_second"]) == ("0.4567", "1234.5")
    assert (second["hit_rate"], second["ink_inside"]) == ("", "")


def test_settings_that_most_runs_share_are_omitted():
    assert differing_settings([{"a": 1}, {"a": 1}, {"a": 2}]) == ["", "", "a=2"]
    assert differing_settings([{"a": True}, {"a": None}]) == ["a=true", "a=null"]
    assert differing_settings([{"a": 1, "b": 5}, {"a": 1}]) == ["", ""]
    assert differing_settings([{"a": [64, 64]}, {"a": [8, 8]}, {}]) == ["a=[64,64]", "a=[8,8]", ""]


def test_another_canvas_is_other_data(write_run, groups):
    write_run("one", data="cluttered", error=1.0, **{"data.distortion.canvas": 60})
    write_run("two", data="cluttered", error=1.1, seed=1, **{"data.distortion.canvas": 60})
    write_run("large", data="cluttered", error=5.0, **{"data.distortion.canvas": 80})
    table = details(groups())
    assert column(table, "data") == ["cluttered", "cluttered data.distortion.canvas=80"]
    assert column(table, "published %")[1] == "–"
    assert "**5.00**" in table.markdown()


# Tables


def test_the_best_of_each_data_set_is_bold(write_run, groups):
    write_run("a", error=0.7, stn="affine")
    write_run("b", error=1.4, stn="none")
    write_run("c", data="rts", error=2.0, stn="none")
    text = details(groups()).markdown()
    assert re.findall(r"\*\*(.+?)\*\*", text) == ["0.70", "2.00"]
    text = overview(groups()).markdown()
    assert re.findall(r"\*\*(.+?)\*\*", text) == ["0.70 [0.7 B]", "2.00 [0.8 B]"]


def test_cells_that_show_the_same_error_are_both_best(write_run, groups):
    write_run("a", error=0.701)
    write_run("b", error=0.704, stn="none")
    assert details(groups()).markdown().count("**0.70**") == 2


def test_the_overview_has_dashes_for_missing_models(write_run, groups):
    write_run("a", error=0.7)
    write_run("b", data="mixed", error=1.4, stn="none")
    table = overview(groups())
    assert table.head == ["model", "mixed", "rotated"]
    assert table.rows == [["compact + affine", "–", "0.70 [0.7 B]"], ["compact + none", "1.40", "–"]]


def test_the_overview_chooses_on_validation(write_run, groups):
    write_run("lucky", error=0.5, history=(9.0, 3.0), **{"stn.width": 8})
    write_run("better", error=0.6, history=(9.0, 2.0), **{"stn.width": 16})
    write_run("other", stn="none", error=0.55, history=(9.0, 4.0))
    assert overview(groups()).rows == [
        ["compact + affine", "0.60 [0.7 B]"],
        ["compact + none", "0.55 [1.2 B]"],
    ]
    assert overview(groups()).markdown().count("**0.55") == 1


def test_unfinished_runs_are_shown_as_such(write_run, groups, tmp_path):
    write_run("begun", data="rts", history=(9.0,), epochs=7)
    write_run("running", seed=1, history=(9.0, 8.0), epochs=5)
    (tmp_path / "runs" / "running" / "lock").touch()
    write_run("finished", seed=2, error=1.0, epochs=5)
    table = details(groups())
    assert column(table, "test error %") == [
        "1.00; 2 of 5 epochs, running",
        "1 of 7 epochs, stopped",
    ]
    assert column(table, "seeds") == ["1", "–"]
    assert column(table, "training time") == ["1 min 40 s", "–"]


def test_a_seed_that_was_finished_elsewhere_is_not_unfinished(write_run, groups):
    write_run("finished", error=1.0)
    write_run("begun")
    (group,) = groups()
    assert (len(group.finished), group.unfinished) == (1, ())


def test_csv_has_full_numbers_and_empty_fields(write_run, groups):
    write_run("a", error=0.1234)
    write_run("b", seed=1, error=0.3234)
    write_run("c", data="mixed", stn="none")
    mixed, rotated = csv.DictReader(io.StringIO(to_csv(groups())))
    assert float(rotated["test_error"]) == pytest.approx(0.2234)
    assert float(rotated["test_error_spread"]) == pytest.approx(0.1414, abs=1e-4)
    assert (rotated["seeds"], rotated["best"], rotated["published"]) == ("2", "1", "0.7")
    assert (rotated["sureness"], rotated["source"][:8]) == ("B", "Jaderber")
    assert (mixed["test_error"], mixed["published"], mixed["best"]) == ("", "", "0")
    assert mixed["unfinished"] == "2 of 2 epochs, stopped"


def test_bars_are_escaped_in_markdown():
    lines = Table(["a|b", "c"], [["x", "y|z"]]).markdown().splitlines()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3, 3, 3]


def test_times():
    assert [time_text(value) for value in (59.4, 61, 7260)] == ["59 s", "1 min 01 s", "2 h 01 min"]


# Published


@pytest.mark.parametrize(
    ("data", "backbone", "stn", "expected"),
    [
        ("rotated", "fcn", "none", "2.1 (FCN, R; B)"),
        ("rotated", "cnn", "none", "1.2 (CNN, R; B)"),
        ("rotated", "cnn", "affine", "0.7 (ST-CNN affine, R; B)"),
        ("rotated", "compact", "tps", "0.7 (compared with ST-CNN TPS, R; B)"),
        ("rts", "fcn", "projective", "0.9 (ST-FCN projective, RTS; C)"),
        ("projective", "cnn", "projective", "0.8 (ST-CNN projective, P; B)"),
        ("elastic", "fcn", "affine", "2.7 (ST-FCN affine, E; C)"),
        ("cluttered", "fcn", "none", "13.2 (FCN, TC; A)"),
        ("cluttered", "compact", "none", "3.5 (compared with CNN, TC; A)"),
        ("cluttered", "cnn", "tps", "None"),
        ("rotated", "resnet18", "affine", "None"),
        ("rotated", "cnn", "similarity", "None"),
        ("mixed", "cnn", "affine", "None"),
        ("addition", "fcn", "none", "47.7 (FCN, MNIST addition; A)"),
        ("addition", "fcn", "affine", "18.5 (one transformer, at best, MNIST addition; A)"),
    ],
)
def test_published_figures(write_run, groups, data, backbone, stn, expected):
    write_run("run", data=data, backbone=backbone, stn=stn, error=1.0)
    assert str(published(groups()[0])) == expected


def test_two_transformers_on_two_digits(write_run, groups):
    for count in (1, 2, 3):
        write_run(f"r{count}", data="addition", backbone="cnn", error=count, **{"stn.count": count})
    assert [figure and figure.error for figure in map(published, groups())] == [18.5, 5.8, None]


def test_the_published_table_is_that_of_the_paper():
    assert DATA["models"]["ST-CNN affine"] == ["0.7 B", "0.5 B", "0.8 B", "1.2 B", "1.7 A"]
    assert DATA["models"]["CNN"] == ["1.2 B", "0.8 B", "1.5 B", "1.4 B", "3.5 A"]
    assert [len(row) for row in DATA["models"].values()] == [5] * 8
    assert list(DATA["addition"].values()) == [47.7, 14.7, 18.5, 5.8]


# Robustness


def test_evaluations_become_a_matrix(write_run, groups):
    write_run("a", error=1.0, evaluations={"clean-11": 2.0, "noisy-22": 4.0})
    write_run("b", seed=1, error=3.0, evaluations={"clean-11": 5.0})
    write_run("c", stn="none", error=7.0, evaluations={"noisy-22": 8.0})
    write_run("d", stn="tps", error=9.0)
    table = robustness(groups()).table()
    assert table.head == ["trained on", "model", "clean", "noisy", "rotated"]
    assert table.rows == [
        ["rotated", "compact + affine", "3.50", "4.00", "2.00"],
        ["rotated", "compact + none", "–", "8.00", "7.00"],
    ]
    assert "**7.00**" in table.markdown()


def test_two_evaluations_of_one_name_are_kept_apart(write_run, groups):
    write_run("a", error=1.0, evaluations={"noisy-11": 2.0, "noisy-22": 4.0})
    matrix = robustness(groups())
    assert (matrix.data, matrix.errors) == (["noisy", "noisy-22", "rotated"], [[2.0, 4.0, 1.0]])


# Damage


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.yaml", "a: [", "config.yaml cannot be read"),
        ("config.yaml", b"\xff\xfe\xfa", "config.yaml cannot be read"),
        ("config.yaml", "[]", "config.yaml cannot be read"),
        ("config.yaml", "seed: 1", "config.yaml has no data.name"),
        ("result.json", '{"test_error": 1', "result.json cannot be read"),
        ("result.json", "[" * 100_000, "result.json cannot be read"),
        ("result.json", "[]", "result.json holds no object"),
        ("result.json", '{"test_error": NaN}', "result.json has no test_error"),
    ],
)
def test_a_damaged_run_is_skipped_with_a_line(write_run, tmp_path, file, content, told):
    write_run("whole", error=1.0)
    folder = write_run("damaged", seed=1, error=2.0)
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    report = write_report([tmp_path / "runs"])
    assert [line for line in report.skipped if str(folder) in line] == report.skipped
    assert told in report.skipped[0]
    assert len(report.skipped) == 1
    assert [len(group.finished) for group in report.groups] == [1]
    assert told in (report.folder / "index.html").read_text()


def test_a_run_with_a_damaged_part_is_not_lost(write_run, tmp_path):
    folder = write_run("run", error=1.0, evaluations={"clean-11": 2.0})
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"epoch": 3, "val_err\n')
    (folder / "panels" / "panel-0002.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "evaluations" / "clean-11" / "result.json").write_text("{}")
    report = write_report([tmp_path / "runs"])
    assert len(report.skipped) == 3
    assert "line 3 skipped" in "".join(report.skipped)
    (group,) = report.groups
    assert len(group.finished[0].history) == 2
    assert "<h3>rotated</h3>" in (report.folder / "index.html").read_text()


def test_runs_of_earlier_versions_and_empty_ones_are_read(write_run, tmp_path):
    folder = write_run("old", error=1.0)
    (folder / "result.json").write_text('{"test_error": 1.5}')
    (folder / "history.jsonl").unlink()
    empty = write_run("begun", data="rts", history=())
    (empty / "history.jsonl").unlink()
    report = write_report([tmp_path / "runs"])
    table = details(report.groups)
    assert table.rows[0][2:] == ["1.50", "1", *["–"] * 7, "0.7 (compared with ST-CNN affine, R; B)"]
    assert column(table, "test error %")[1] == "0 of 2 epochs, stopped"
    assert not (report.folder / "plots" / "iou.svg").exists()


# Files


def test_runs_are_found_at_any_depth_and_once(write_run, tmp_path):
    folder = write_run("a/b/run", error=1.0)
    write_run(".hidden/run", error=1.0)
    records, _ = collect([tmp_path, folder, tmp_path / "runs" / "a" / ".." / "a"])
    assert [record.folder for record in records] == [folder]


def test_the_page_needs_nothing_but_itself(write_run, tmp_path):
    for seed in range(2):
        write_run(f"a{seed}", seed=seed, error=1.0 + seed, evaluations={"clean-11": 2.0})
    write_run("b", data="npz", stn="none", error=2.0, **{"data.name": "<i>&$x_$"})
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    names = {str(path.relative_to(report.folder)) for path in report.folder.rglob("*") if path.is_file()}
    plots = {"curves-rotated", "curves--i-x_-", "iou", "time", "robustness"}
    assert names == {"index.html", "table.md", "table.csv", *(f"plots/{name}.svg" for name in plots)}
    html = (report.folder / "index.html").read_text()
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]{1,30})""", html)
    assert len(sources) >= 9
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?://|<script|<link|@import", html)
    assert "<i>" not in html
    assert "&lt;i&gt;&amp;$x_$" in html
    assert "1.50 ± 0.71" in html
    for section in (
        "All models",
        "Runs without a result",
        "by epoch",
        "attention and time",
        "Robustness",
        "Panels",
    ):
        assert section in html


def test_many_models_are_drawn_in_several_plots(write_run, tmp_path):
    for width in range(9):
        write_run(f"r{width}", error=1.0 + width, **{"stn.width": width})
    report = write_report([tmp_path / "runs"])
    svg = (report.folder / "plots" / "curves-rotated.svg").read_text()
    assert len(re.findall(r'id="axes_\d+"', svg)) == 2
    assert len(re.findall(r'id="legend_\d+"', svg)) == 2


def test_the_same_runs_make_the_same_report(write_run, tmp_path):
    write_run("a", error=1.0, evaluations={"clean-11": 2.0})
    one, other = (write_report([tmp_path / "runs"], tmp_path / name).folder for name in ("one", "other"))
    for path in one.rglob("*.*"):
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()


# The command


def test_the_command(write_run, tmp_path, run_script):
    write_run("a", error=1.0)
    write_run("b", stn="none")
    (write_run("c", stn="tps") / "config.yaml").write_text("{")
    done = run_script("report.py", tmp_path / "runs")
    assert (done.returncode, done.stderr) == (0, "")
    assert "c: skipped, config.yaml cannot be read" in done.stdout
    assert "1 finished, 1 stopped" in done.stdout
    assert (tmp_path / "runs" / "report" / "index.html").exists()


def test_mistakes_are_one_line(write_run, tmp_path):
    run = write_run("a", error=1.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        write_report([tmp_path / "runs", tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"there is no run in .*empty"):
        write_report([tmp_path / "empty"])
    with pytest.raises(UserError, match="--output must be a folder that can be written to"):
        write_report([tmp_path / "runs"], run / "config.yaml")
    (run / "config.yaml").write_text("{")
    with pytest.raises(UserError, match=r"no run in .* that can be read: .*config\.yaml cannot be read"):
        write_report([tmp_path / "runs"])


@pytest.mark.parametrize("arguments", [["nowhere"], [], ["--watch", "0", "."], ["--watch", "nowhere"]])
def test_a_mistake_on_the_command_line_ends_with_2(run_script, arguments):
    done = run_script("report.py", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


# Watching


def test_the_status_tells_what_is_left(write_run, tmp_path):
    write_run("finished", error=1.0)
    for name, epochs in (("running", 7), ("slower", 12)):
        (write_run(name, epochs=epochs, stn="none") / "lock").touch()
    write_run("stopped", stn="tps", epochs=4)
    write_run("new", stn="projective", epochs=4, history=())
    text = watching.status(collect([tmp_path / "runs"])[0]).splitlines()
    # Two epochs of 10 s each are done: 5 are left of the one, 10 of the other.
    assert text[0] == "all runs: 1 finished, 2 running, 0 failed, 2 stopped"
    assert "  running: 2 of 7 epochs, running, about 50 s left" in text
    assert "  stopped: 2 of 4 epochs, stopped" in text
    assert "  new: 0 of 4 epochs, stopped" in text


def test_watching_ends_when_all_is_finished(write_run, tmp_path, monkeypatch, capsys):
    folder = write_run("run")
    pauses = []

    def finish(seconds):
        pauses.append(seconds)
        (folder / "result.json").write_text('{"test_error": 1.0}')

    monkeypatch.setattr(watching.time, "sleep", finish)
    watching.watch([tmp_path / "runs"], 3.0)
    assert pauses == [3.0]
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "all runs: 0 finished, 0 running, 0 failed, 1 stopped"
    assert last == "all runs: 1 finished, 0 running, 0 failed, 0 stopped"


def test_ctrl_c_ends_watching_quietly(write_run, tmp_path, monkeypatch):
    write_run("run")

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    watching.watch([tmp_path / "runs"], 3.0)


def test_the_data_of_the_paper_are_those_of_the_configs(compose):
    for name, settings in DISTORTIONS.items():
        shipped = compose(f"data={name}")["data"]["distortion"]
        assert settings == {key: value for key, value in shipped.items() if key != "_target_"}


def test_other_data_of_the_same_name_have_no_published_figure(write_run, groups):
    write_run("larger", data="rotated", error=1.0, **{"data.distortion.canvas": 42})
    (group,) = groups()
    assert (group.data, published(group)) == ("rotated", None)
