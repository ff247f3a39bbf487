"""Kept results and the tables that are written from them."""

import json
import re
import shutil

import numpy as np
import pytest
import results
from kept import comparisons, pages, records

from stn_experiments.common.bits import pack_bits
from stn_experiments.common.errors import UserError
from stn_experiments.config.compose import compose as compose_config
from stn_experiments.runs.evaluate import evaluation_folder
from stn_experiments.runs.other_data import other_data
from stn_experiments.storage.run_folder import RunFolder, run_digest
from tests.conftest import ROOT

SHIPPED = json.loads((ROOT / "tests/data/test_sets.json").read_text())
FILES = sorted(results.RESULTS.glob("*.json"))
COMMAND = "python scripts/train.py -m data=rotated seed=0,1"


def trained(root, overrides, error, commit="abc", **more):
    """A folder as a run leaves it, with ``error`` of 200 test images wrong."""
    config = compose_config(ROOT / "configs", overrides)
    folder = root / f"run-{run_digest(config)}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(config))
    environment = {
        "seed": config["seed"],
        "commit": commit,
        "cpu": "A",
        "cores": 2,
        "gpu": None,
        "torch": "2",
    }
    (folder / "environment.json").write_text(json.dumps(environment | more))
    lines = [{"epoch": epoch, "val_error": 9.123456789 / epoch, "train_loss": 1.0} for epoch in (1, 2)]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {
        "test_error": error / 2,
        "val_error": 2.0,
        "test_images": 200,
        "test_digest": "d1",
        "test_wrong": pack_bits(np.arange(200) < error),
        "parameters": 1000,
        "epochs": 2,
        "images_seen": 400,
        "train_seconds": 61.0,
        "commit": commit,
        "status": "finished",
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def keep(root, file, command=COMMAND):
    return records.keep(command, root, ROOT / "configs", file)


def test_runs_are_kept_and_read_again(tmp_path):
    for seed, error in enumerate((10, 14)):
        trained(tmp_path / "runs", ["data=rotated", f"seed={seed}"], error)
    file = tmp_path / "rotated-with.json"
    assert keep(tmp_path / "runs", file) == 2
    kept = records.load(file)
    assert kept.command == COMMAND
    assert kept.environment["cpu"] == "A"
    (group,) = kept.groups
    assert [run.seed for run in group.finished] == [0, 1]
    assert group.values("test_error") == [5.0, 7.0]
    assert group.wrong().sum(1).tolist() == [10, 14]
    assert [line["val_error"] for line in group.finished[0].history] == [9.12346, 4.56173]
    assert len(file.read_text()) / 2 < 5000


def evaluated(folder, words, **result):
    """What ``scripts/evaluate.py`` leaves in a run's folder."""
    run = RunFolder(folder)
    path = evaluation_folder(run, other_data(run.config()["data"], words, ROOT / "configs"))
    path.mkdir(parents=True)
    (path / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize("word", ["stn", "none", "stn="])
def test_a_word_of_the_command_without_a_value_is_refused(word):
    with pytest.raises(UserError, match=f"must have NAME=VALUE after python scripts/train.py, got {word}$"):
        records.runs_of(f"-m seed=0,1 {word}")


def test_a_name_that_is_a_path_is_refused(monkeypatch):
    monkeypatch.setattr("sys.argv", ["results.py", "--keep", "../elsewhere", "--command", COMMAND])
    with pytest.raises(
        UserError, match=r"^--keep must be a name of letters, digits, - and _, got \.\./elsewhere$"
    ):
        results.parse()


def test_scores_on_other_data_are_kept(tmp_path):
    words = "data.distortion.angle=180"
    file = tmp_path / "circle-with.json"
    for seed in range(2):
        trained(tmp_path / "runs", ["data=rotated", f"seed={seed}"], 10)
    with pytest.raises(UserError, match=r"was not evaluated on data\.distortion\.angle=180"):
        records.keep(COMMAND, tmp_path / "runs", ROOT / "configs", file, words)
    for folder in (tmp_path / "runs").iterdir():
        wrong = pack_bits(np.arange(200) < 40)
        evaluated(folder, [words], test_error=20.0, test_wrong=wrong, test_images=200, test_digest="d9")
    assert records.keep(COMMAND, tmp_path / "runs", ROOT / "configs", file, words) == 2
    kept = records.load(file)
    assert kept.command.splitlines()[1] == f"python scripts/evaluate.py outputs/RUN {words}  # for each run"
    assert kept.groups[0].values("test_error") == [20.0, 20.0]
    assert kept.groups[0].wrong().sum(1).tolist() == [40, 40]


def test_images_of_one_digit_count_as_one_on_the_data_that_runs_were_evaluated_on(tmp_path):
    folder = trained(tmp_path / "runs", ["data=rotated"], 10)
    wrong = pack_bits(np.arange(50) < 10)  # of five draws of ten digits
    evaluated(
        folder, ["data=rotated12k"], test_error=20.0, test_wrong=wrong, test_images=50, test_digest="d9"
    )
    command = "python scripts/train.py data=rotated seed=0"
    file = tmp_path / "kept.json"
    records.keep(command, tmp_path / "runs", ROOT / "configs", file, "data=rotated12k")
    assert records.load(file).groups[0].wrong() == pytest.approx(np.full((1, 10), 0.2))


def test_test_sets_that_other_seeds_drew_are_kept_as_a_mean(tmp_path):
    for seed in range(2):
        folder = trained(tmp_path / "runs", ["data=rotated", f"seed={seed}"], 10)
        for words, error in (
            (["data.seed=1"], 6.0),
            (["data.seed=2"], 7.0),
            (["data.distortion.angle=180"], 9.0),
            (["data=noisy"], 8.0),
        ):
            evaluated(folder, words, test_error=error + seed, test_digest="d2")
    file = tmp_path / "rotated-with.json"
    keep(tmp_path / "runs", file)
    (group,) = records.load(file).groups
    assert group.values("redrawn_error") == [6.5, 7.5]
    assert group.values("redrawn_sets") == [2, 2]


def test_runs_that_differ_in_a_setting_are_groups(tmp_path):
    rates = ("0.001", "0.01")
    for rate in rates:
        trained(tmp_path / "runs", ["seed=7", f"optimizer.lr={rate}"], 10)
    file = tmp_path / "search.json"
    keep(tmp_path / "runs", file, f"{records.COMMAND}-m seed=7 optimizer.lr={','.join(rates)}")
    groups = records.load(file).groups
    assert sorted(group.settings for group in groups) == ["optimizer.lr=0.001", "optimizer.lr=0.01"]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("missing", "has no finished run"),
        ("dirty", "of commit abc-dirty: commit first"),
        ("another machine", "have different environments"),
        ("another model", "keep each model in a file of its own"),
        ("another command", "must start with"),
    ],
)
def test_runs_that_cannot_be_kept_are_refused(tmp_path, trouble, message):
    command = COMMAND
    trained(tmp_path / "runs", ["seed=0"], 10)
    if trouble == "another machine":
        trained(tmp_path / "runs", ["seed=1"], 10, cpu="B")
    elif trouble == "another model":
        command = f"{records.COMMAND}-m stn=similarity,none"
        trained(tmp_path / "runs", ["stn=none"], 10)
    elif trouble != "missing":
        trained(tmp_path / "runs", ["seed=1"], 10, commit="abc-dirty" if trouble == "dirty" else "abc")
    if trouble == "another command":
        command = "make train"
    file = tmp_path / "kept.json"
    with pytest.raises(UserError, match=message):
        keep(tmp_path / "runs", file, command)
    assert not file.exists()


def test_commas_are_choices_except_in_a_list():
    assert records.runs_of("-m seed=0,1 stn.at=[input,layer2]") == [
        ["seed=0", "stn.at=[input,layer2]"],
        ["seed=1", "stn.at=[input,layer2]"],
    ]


def test_a_command_with_an_open_quotation_mark_is_refused():
    with pytest.raises(UserError, match="--command cannot be read"):
        records.runs_of("-m 'seed=0,1")


def test_a_block_whose_results_are_missing_names_the_file():
    with pytest.raises(UserError, match=r"needs docs/results/turning180-with\.json"):
        pages.rewrite("<!-- results: circle -->\n<!-- end of results -->", {})


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    file = tmp_path / "other.json"
    file.write_text('{"runs": [{}]}')
    with pytest.raises(UserError, match=r"other\.json holds no kept results"):
        records.load(file)


@pytest.fixture(scope="module")
def kept_twins(tmp_path_factory):
    """A folder of results with a transformer, and without one at equal epochs and at equal time."""
    tmp_path = tmp_path_factory.mktemp("twins")
    (tmp_path / "kept").mkdir()
    errors = {"with": (10, 12), "epochs": (40, 44), "time": (11, 13)}
    for name, pair in errors.items():
        model = [] if name == "with" else ["stn=none", f"trainer.epochs={3 + len(name)}"]
        for seed, error in enumerate(pair):
            trained(tmp_path / "runs", ["data=rotated", *model, f"seed={seed}"], error)
        keep(
            tmp_path / "runs",
            tmp_path / "kept" / f"rotated-{name}.json",
            f"{records.COMMAND}-m data=rotated {' '.join(model)} seed=0,1",
        )
    return tmp_path / "kept"


@pytest.fixture
def twins(kept_twins):
    return records.load_all(kept_twins)


def test_tables_have_means_intervals_and_what_repeats_them(twins):
    head, _, row = pages.headline(twins).splitlines()[:3]
    assert head.count("without") == 2
    assert "R: `data=rotated`" in row
    assert "5.50 ± 0.71 (" in row
    assert "21.00 ± 1.41 (" in row
    table = pages.runs(twins)
    assert "1 min 01 s" in table
    assert "one thread of 2 cores, A, torch 2" in table
    assert "seed=0,1\n" in table
    assert table.count("| abc") == 3


def test_conclusions_follow_the_intervals(twins):
    sure, unsure = pages.differences(twins).splitlines()
    assert sure.startswith("- **R, equal epochs:** the transformer's error is lower. The error without it is")
    assert "higher by 15.50 percentage points" in sure
    assert unsure.startswith("- **R, equal time:** no difference beyond chance.")


def test_without_a_twin_of_equal_time_the_other_is_both(twins):
    del twins["rotated-time"]
    assert pages.headline(twins).splitlines()[2].count("| the same") == 1
    (line,) = pages.differences(twins).splitlines()
    assert line.startswith("- **R, equal epochs and equal time:** the transformer's error is lower.")
    assert pages.runs(twins).count("| abc") == 2


def test_runs_on_different_images_are_not_compared(twins):
    for run in twins["rotated-time"].groups[0].finished:
        run.result["test_digest"] = "d2"
    with pytest.raises(UserError, match="tested on different images"):
        pages.differences(twins)


def test_only_the_blocks_of_a_page_are_written(twins):
    page = "above\n<!-- results: differences -->\nold\n<!-- end of results -->\nbelow 1.5\n"
    written = pages.rewrite(page, twins)
    assert written.startswith("above\n<!-- results: differences -->\n- **R")
    assert written.endswith("<!-- end of results -->\nbelow 1.5\n")
    assert pages.rewrite(written, twins) == written
    with pytest.raises(UserError, match=r"must be one of headline, .* got nothing"):
        pages.rewrite(page.replace("differences", "nothing"), twins)


def test_the_tables_are_those_of_the_kept_runs():
    """``make results`` writes them."""
    kept = records.load_all(results.RESULTS)
    for page in results.PAGES:
        assert pages.rewrite(page.read_text(), kept) == page.read_text(), page.name


def test_a_changed_figure_or_run_is_noticed(tmp_path, monkeypatch, capsys):
    for name in ("docs", "README.md"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    page, folder = tmp_path / "README.md", tmp_path / "docs" / "results"
    monkeypatch.setattr(results, "PAGES", (page,))
    monkeypatch.setattr(results, "RESULTS", folder)
    monkeypatch.setattr("sys.argv", ["results.py"])
    whole = page.read_text()
    page.write_text(re.sub(r"(\d\.\d)\d ±", r"\g<1>X ±", whole, count=1))
    results.main()
    assert page.read_text() == whole
    file = folder / "rotated-with.json"
    file.write_text(re.sub(r'"test_error": [\d.]+', '"test_error": 9.0', file.read_text(), count=1))
    results.main()
    assert page.read_text() != whole
    assert capsys.readouterr().out == 2 * "written     README.md\n"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_kept_runs_were_tested_on_the_shipped_sets(file):
    kept = records.load(file)
    other = r"data\.distortion\.angle=(?!90\b)|sweep=two_steps"
    is_on_other_data = bool(re.search(other, kept.command.splitlines()[-1]))
    for group in kept.groups:
        for run in group.finished:
            is_usual = not is_on_other_data and run.config["data"].get("digit", 7) == 7
            assert (run.result["test_digest"] == SHIPPED[run.data]) is is_usual
        wrong = 100 * group.wrong().mean(1)
        assert wrong.tolist() == pytest.approx(group.values("test_error"), rel=1e-5)  # six digits


ROWS = [*comparisons.PLACES, *comparisons.rows_of(comparisons.TURNED | comparisons.LESS | comparisons.OTHERS)]
KEPT_ROWS = [row for row in ROWS if (results.RESULTS / f"{row.name}.json").exists()]


@pytest.mark.parametrize("row", KEPT_ROWS, ids=lambda row: row.name)
def test_what_stands_in_one_column_was_tested_on_the_same_images(row):
    one, other = (records.load(results.RESULTS / f"{name}.json") for name in (row.name, row.reference))
    assert one.group.difference(other.group) is not None


def test_no_figure_on_the_page_of_results_is_typed_by_hand():
    text = pages.BLOCK.sub("", (ROOT / "docs" / "results.md").read_text())
    text = re.sub("`[^`\n]*`", "", text)  # settings
    assert re.findall(r"\d+\.\d+", text.replace("et al. 2", "")) == []


@pytest.mark.parametrize("words", [["--root", "outputs"], ["--evaluated", "data=rts"]])
def test_options_of_keep_alone_are_refused(refused, words):
    assert "--root and --evaluated belong to --keep" in refused("results.py", *words)
