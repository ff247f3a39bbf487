"""``scripts/evaluate.py`` with several runs and several data sets: all that can be done is done."""

import json
import shutil

import pytest
import yaml

SMALL = ("trainer=quick", "trainer.epochs=1", "stn=none", "backbone.pool=2", "trainer.device=cpu")


@pytest.fixture
def runs(command, few_digits, tmp_path):
    """The folders of three runs, two of them on a canvas of 42 pixels."""
    command("train.py", "-m", *few_digits, *SMALL, "data=rotated", "seed=0")
    command("train.py", "-m", *few_digits, *SMALL, "data=rts", "seed=0,1")
    rotated, *rts = sorted((tmp_path / "outputs").glob("*-seed*"))
    assert [run.name.split("-")[0] for run in (rotated, *rts)] == ["rotated", "rts", "rts"]
    return [rotated, *rts]


@pytest.fixture
def evaluate(command):
    """Run ``scripts/evaluate.py``: its exit code, what it said of each evaluation, and its errors."""

    def run(*words):
        code, out, err = command("evaluate.py", *words, "--device", "cpu")
        said = dict.fromkeys(("test error", "result", "panel"), ())
        for line in out.splitlines():
            head, _, text = line.partition("  ")
            said[head] = (*said[head], text.strip())
        assert len(said["test error"]) == len(said["result"]) == len(said["panel"])
        return code, said, err.splitlines()

    return run


def found(run):
    """The data that a run was evaluated on, and when."""
    files = run.glob("evaluations/*/result.json")
    return {file.parent.name.rpartition("-")[0]: file.stat().st_mtime_ns for file in files}


def test_each_run_is_evaluated_on_each_data_set(runs, evaluate, tmp_path):
    code, said, errors = evaluate(*runs, "data=rotated,clean", "data.valid_size=40")
    assert (code, errors) == (0, [])
    assert [text.split(" on ")[1] for text in said["test error"]] == ["rotated", "clean"] * 3
    for run, places in zip(runs, zip(said["result"][::2], said["result"][1::2], strict=True), strict=True):
        assert found(run).keys() == {"rotated", "clean"}
        for place in places:
            result = json.loads((tmp_path / place).read_text())
            assert place.startswith(f"{run}/evaluations/{result['data']}-")
            assert (tmp_path / place).with_name("panel.png").exists()


def test_a_folder_stands_for_all_runs_in_it_and_no_data_for_their_own(runs, evaluate, tmp_path):
    (tmp_path / "outputs" / "no run").mkdir()
    code, said, errors = evaluate(tmp_path / "outputs")
    assert (code, errors) == (0, [])
    assert [text.split(" on ")[1] for text in said["test error"]] == ["rotated", "rts", "rts"]
    for run in runs:
        (own,) = run.glob("evaluations/*/result.json")
        trained = json.loads((run / "result.json").read_text())
        assert json.loads(own.read_text())["test_error"] == trained["test_error"]


def test_several_data_sets_share_their_other_settings(runs, evaluate):
    code, _, errors = evaluate(runs[0], "data=rotated,clean", "data.seed=7", "data.valid_size=40")
    assert (code, errors) == (0, [])
    assert found(runs[0]).keys() == {"rotated", "clean"}
    same, _, errors = evaluate(runs[0], "data.distortion.angle=[10,20]")
    assert same == 2
    (line,) = errors
    assert line.startswith("error: data.distortion.angle must be")


def test_missing_passes_over_what_was_evaluated_since_training(runs, evaluate, tmp_path):
    words = ["data=rotated,clean", "data.valid_size=40", "--missing"]
    evaluate(runs[0], "data=clean", "data.valid_size=40")
    before = found(runs[0])
    code, said, errors = evaluate(tmp_path / "outputs", *words)
    assert (code, errors) == (0, [])
    assert len(said["test error"]) == 5
    assert found(runs[0])["clean"] == before["clean"]
    every = [found(run) for run in runs]
    code, said, errors = evaluate(tmp_path / "outputs", *words)
    assert (code, errors, said["test error"]) == (0, [], ())
    assert [found(run) for run in runs] == every

    best = runs[1] / "checkpoints" / "best.pt"  # which is trained again
    shutil.copy(best, best.with_name("copy"))
    best.with_name("copy").replace(best)
    code, said, _ = evaluate(tmp_path / "outputs", *words)
    assert code == 0
    assert [place.split("/evaluations")[0] for place in said["result"]] == [str(runs[1])] * 2
    code, said, _ = evaluate(tmp_path / "outputs", *words[:2])  # without it all are done again
    assert len(said["test error"]) == 6


def test_missing_holds_for_a_runs_own_data_too(runs, evaluate, tmp_path):
    assert len(evaluate(tmp_path / "outputs", "--missing")[1]["test error"]) == 3
    assert len(evaluate(tmp_path / "outputs", "--missing")[1]["test error"]) == 0


def test_what_fails_is_a_line_each_and_the_others_are_done(runs, evaluate, tmp_path):
    rotated, damaged, whole = runs
    (damaged / "checkpoints" / "best.pt").write_bytes(b"")
    words = ["data=clean,mnits,cluttered", "data.valid_size=40"]
    code, said, errors = evaluate(rotated, damaged, tmp_path / "nowhere", whole, *words)
    assert code == 2
    assert [text.split(" on ")[1] for text in said["test error"]] == ["clean", "cluttered"] * 2
    assert [place.split("/evaluations")[0] for place in said["result"]] == [str(rotated)] * 2 + [
        str(whole)
    ] * 2
    wanted = [
        (rotated, "mnits", "Could not find 'data/mnits'"),
        (damaged, "clean", "best.pt is damaged"),
        (damaged, "mnits", "Could not find 'data/mnits'"),
        (damaged, "cluttered", "best.pt is damaged"),
        *((tmp_path / "nowhere", data, "is no run") for data in ("clean", "mnits", "cluttered")),
        (whole, "mnits", "Could not find 'data/mnits'"),
    ]
    assert len(errors) == len(wanted)
    for line, (run, data, words) in zip(errors, wanted, strict=True):
        assert line.startswith(f"error: {run.name} data={data} data.valid_size=40: ")
        assert words in line
    assert found(damaged) == {}


def test_one_evaluation_alone_has_no_name_before_its_line(runs, evaluate):
    code, _, errors = evaluate(runs[0], "data=mnits")
    assert code == 2
    (line,) = errors
    assert line.startswith("error: In 'train': Could not find 'data/mnits'")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data=clean,rts"], "the folder of a run is needed"),
        (["empty"], "empty is no run: config.yaml cannot be read"),
        (["empty", "seed=3"], "empty is no run"),
        (["--missing"], "the following arguments are required: RUN"),
    ],
)
def test_what_is_no_run_is_one_line(evaluate, tmp_path, words, says):
    (tmp_path / "empty").mkdir()
    code, said, errors = evaluate(*words)
    assert (code, said["test error"]) == (2, ())
    (line,) = errors
    assert line.startswith("error: ")
    assert says in line
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_a_run_of_an_earlier_version_is_told_by_what_its_config_lacks(runs, evaluate):
    file = runs[0] / "config.yaml"
    config = yaml.safe_load(file.read_text())
    del config["attention"]
    file.write_text(yaml.safe_dump(config))
    code, _, errors = evaluate(runs[0])
    assert code == 2
    (line,) = errors
    assert line.endswith("config.yaml says nothing of attention: an earlier version trained this run")
