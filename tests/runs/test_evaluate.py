"""``scripts/evaluate.py`` with several runs and several data sets."""

import json
import shutil

import numpy as np
import pytest
import yaml

from stn_experiments.common.errors import UserError
from stn_experiments.data.own_images import ImageFolder
from stn_experiments.runs.evaluate import check_compatible
from stn_experiments.storage.run_folder import RunFolder

SMALL = ("trainer=quick", "trainer.epochs=1", "stn=none", "backbone.pool=2", "trainer.device=cpu")

pytestmark = pytest.mark.xdist_group("evaluate")  # one worker trains the runs that all tests evaluate


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder for the runs that all tests begin with; the first test fills it."""
    return tmp_path_factory.mktemp("trained") / "outputs"


@pytest.fixture
def runs(command, few_digits, tmp_path, trained):
    """The folders of three runs, two of them on a canvas of 42 pixels."""
    if trained.exists():
        shutil.copytree(trained, tmp_path / "outputs")
    else:
        command("train.py", "-m", "data=rotated", "seed=0", *few_digits, *SMALL)
        command("train.py", "-m", "data=rts", "seed=0,1", *few_digits, *SMALL)
        shutil.copytree(tmp_path / "outputs", trained)
    rotated, *rts = sorted((tmp_path / "outputs").glob("*-seed*"))
    assert [run.name.split("-")[0] for run in (rotated, *rts)] == ["rotated", "rts", "rts"]
    return [rotated, *rts]


@pytest.fixture
def evaluate(command):
    """Run ``scripts/evaluate.py``: exit code, what it printed of each evaluation, and errors."""

    def run(*words):
        code, out, err = command("evaluate.py", *words, "--device", "cpu")
        printed = dict.fromkeys(("runs", "test error", "result", "panel"), ())
        for line in out.splitlines():
            head, _, text = line.partition("  ")
            printed[head] = (*printed[head], text.strip())
        assert len(printed["test error"]) == len(printed["result"]) == len(printed["panel"])
        return code, printed, err.splitlines()

    return run


def found(run):
    """The data that a run was evaluated on, and when."""
    files = run.glob("evaluations/*/result.json")
    return {file.parent.name.rpartition("-")[0]: file.stat().st_mtime_ns for file in files}


def test_each_run_is_evaluated_on_each_data_set(runs, evaluate, tmp_path):
    code, printed, errors = evaluate(*runs, "data=rotated,clean", "data.valid_size=40", "data.seed=7")
    assert (code, errors) == (0, [])
    assert [text.split(" on ")[1] for text in printed["test error"]] == ["rotated", "clean"] * 3
    for run, places in zip(
        runs, zip(printed["result"][::2], printed["result"][1::2], strict=True), strict=True
    ):
        assert found(run).keys() == {"rotated", "clean"}
        for place in places:
            result = json.loads((tmp_path / place).read_text())
            assert place.startswith(f"{run}/evaluations/{result['data']}-")
            assert (tmp_path / place).with_name("panel.png").exists()
            assert (tmp_path / place).with_name("panel-mistakes.png").exists()


def test_a_folder_means_all_runs_in_it_and_no_data_means_their_own(runs, evaluate, tmp_path):
    (tmp_path / "outputs" / "no run").mkdir()
    code, printed, errors = evaluate(tmp_path / "outputs")
    assert (code, errors) == (0, [])
    assert printed["runs"] == (f"3 in {tmp_path / 'outputs'}",)
    assert [text.split(" on ")[1] for text in printed["test error"]] == ["rotated", "rts", "rts"]
    for run in runs:
        (own,) = run.glob("evaluations/*/result.json")
        trained = json.loads((run / "result.json").read_text())
        assert json.loads(own.read_text())["test_error"] == trained["test_error"]


def test_no_panel_of_mistakes_is_left_where_there_are_none(runs, evaluate, tmp_path, monkeypatch):
    _, printed, _ = evaluate(runs[0])
    panel = (tmp_path / printed["result"][0]).with_name("panel-mistakes.png")
    assert panel.exists()
    monkeypatch.setattr("stn_experiments.runs.evaluate.mistakes", lambda test, scores: None)
    evaluate(runs[0])
    assert not panel.exists()


def test_the_line_of_a_stopped_run_says_so(runs, evaluate):
    (runs[1] / "result.json").unlink()
    _, printed, _ = evaluate(*runs[:2])
    assert printed["test error"][0].endswith(" on rotated")
    assert printed["test error"][1].endswith(" on rts  (no result yet: 1 of 1 epochs, stopped)")


@pytest.mark.slow
def test_missing_skips_evaluations_that_are_newer_than_the_run(runs, evaluate, tmp_path):
    words = ["data=rotated,clean", "data.valid_size=40", "--missing"]
    evaluate(runs[0], "data=clean", "data.valid_size=40")
    before = found(runs[0])
    code, printed, errors = evaluate(tmp_path / "outputs", *words)
    assert (code, errors) == (0, [])
    assert len(printed["test error"]) == 5
    assert found(runs[0])["clean"] == before["clean"]
    every = [found(run) for run in runs]
    code, printed, errors = evaluate(tmp_path / "outputs", *words)
    assert (code, errors, printed["test error"]) == (0, [], ())
    assert [found(run) for run in runs] == every

    best = runs[1] / "checkpoints" / "model.pt"  # which is trained again
    shutil.copy(best, best.with_name("copy"))
    best.with_name("copy").replace(best)
    code, printed, _ = evaluate(tmp_path / "outputs", *words)
    assert code == 0
    assert [place.split("/evaluations")[0] for place in printed["result"]] == [str(runs[1])] * 2

    assert len(evaluate(*runs)[1]["test error"]) == 3  # own data
    assert len(evaluate(*runs, "--missing")[1]["test error"]) == 0


def test_missing_repeats_evaluations_on_a_data_file_of_other_content(runs, evaluate, tmp_path):
    file = tmp_path / "own.npz"
    images, labels = np.zeros((20, 28, 28), np.uint8), np.arange(20) % 10
    np.savez(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = [runs[0], "data=npz", f"data.file={file}", "--missing"]
    counts = [len(evaluate(*words)[1]["test error"]) for _ in range(2)]
    np.savez(file, x_train=images, y_train=labels, x_test=images + 1, y_test=labels)
    assert [*counts, len(evaluate(*words)[1]["test error"])] == [1, 0, 1]


def test_each_failure_is_a_line_and_the_others_are_done(runs, evaluate, tmp_path):
    rotated, damaged, whole = runs
    (damaged / "checkpoints" / "model.pt").write_bytes(b"")
    words = ["data=clean,mnits,cluttered", "data.valid_size=40"]
    code, printed, errors = evaluate(rotated, damaged, tmp_path / "nowhere", whole, *words)
    assert code == 2
    assert [text.split(" on ")[1] for text in printed["test error"]] == ["clean", "cluttered"] * 2
    assert [place.split("/evaluations")[0] for place in printed["result"]] == [str(rotated)] * 2 + [
        str(whole)
    ] * 2
    wanted = [(rotated, "mnits"), *((damaged, data) for data in ("clean", "mnits", "cluttered"))]
    wanted += [*((tmp_path / "nowhere", data) for data in ("clean", "mnits", "cluttered")), (whole, "mnits")]
    for line, (run, data) in zip(errors, wanted, strict=True):
        assert line.startswith(f"error: {run.name} data={data} data.valid_size=40: ")
        reason = "is not a run" if run.name == "nowhere" else "model.pt is damaged"
        assert ("data must be one of addition" if data == "mnits" and run.exists() else reason) in line
    assert found(damaged) == {}


def test_the_line_of_a_single_evaluation_has_no_name(runs, evaluate):
    for words, says in (
        ("data=mnits", "error: data must be one of addition"),
        ("data.distortion.angle=[10,20]", "error: data.distortion.angle must be"),
    ):
        code, _, (line,) = evaluate(runs[0], words)
        assert code == 2
        assert line.startswith(says)


@pytest.mark.parametrize(
    ("shape", "classes", "says"),
    [
        ((3, 28, 28), 10, "reads grey images, got colour images: convert those in other.npz"),
        ((4, 28, 28), 10, "reads grey images, got images of 4 channels: convert those in other.npz"),
        ((28, 30), 10, "reads images of 28×28 pixels, got images of 28×30 pixels: resize those in other.npz"),
        ((28, 28), 4, "reads images of 10 classes, got images of 4 classes: choose other data"),
    ],
)
def test_images_that_the_network_cannot_read_are_one_line(runs, evaluate, tmp_path, shape, classes, says):
    images, labels = np.zeros((20, *shape), np.uint8), np.arange(20) % classes
    np.savez(tmp_path / "other.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    code, _, errors = evaluate(runs[0], "data=npz", "data.file=other.npz")
    assert (code, errors) == (2, [f"error: {runs[0]} {says}"])


def test_images_of_a_folder_must_fit_the_network_and_its_classes(tmp_path):
    for number, names in enumerate(("ab", "ab", "ac")):
        for name in names:
            (tmp_path / str(number) / name).mkdir(parents=True)
            for image in range(3):
                (tmp_path / str(number) / name / f"{image}.png").touch()
    own, same, other = (ImageFolder(str(tmp_path / str(number)), 20) for number in range(3))
    check_compatible(RunFolder(tmp_path), own, same)
    for data, says in (
        (other, "reads the class b, where c is now: choose other data"),
        (ImageFolder(str(tmp_path / "1"), 30), "20×20 pixels, got images of 30×30 pixels: set data.size"),
        (ImageFolder(str(tmp_path / "1"), 20, colour=False), "got grey images: set data.colour"),
    ):
        with pytest.raises(UserError, match=says):
            check_compatible(RunFolder(tmp_path), own, data)


def test_a_config_that_is_not_of_this_version_is_refused(runs, evaluate):
    file = runs[0] / "config.yaml"
    config = yaml.safe_load(file.read_text())
    del config["attention"]
    for content, words in (
        (config, "config.yaml has no group attention: an earlier version trained this run"),
        ([], "is not a run: config.yaml holds no config"),
    ):
        file.write_text(yaml.safe_dump(content))
        code, _, (line,) = evaluate(runs[0])
        assert code == 2
        assert line.endswith(words)


@pytest.mark.parametrize("words", [[], ["--probe", "scale"]])
def test_a_folder_of_configs_without_a_choice_is_refused(refused, tmp_path, words):
    line = refused("evaluate.py", tmp_path, *words, "--config-dir", tmp_path)
    assert "--config-dir has further choices for data=NAME, which is missing" in line


def test_a_folder_with_a_config_of_something_else_is_no_run(refused, tmp_path):
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert "config.yaml has no group data" in refused("evaluate.py", tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("data=null", "a group takes one of its choices"),
        ("data.distortion={7:3}", "data.distortion must have names as keys, got "),
        ("data.name=../../x", "data.name must be up to"),
    ],
)
def test_data_that_have_no_name_or_number_their_settings_are_one_line(runs, evaluate, words, says):
    code, _, (line,) = evaluate(runs[0], words)
    assert code == 2
    assert says in line
