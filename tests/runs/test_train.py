import json

import numpy as np
import pytest
import torch
from PIL import Image

from stn_experiments.common.errors import RunLocked, UserError
from stn_experiments.data import datasets
from stn_experiments.evaluation.evaluate import predict
from stn_experiments.runs import run_log
from stn_experiments.runs import train as module
from stn_experiments.runs.evaluate import evaluate_run
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.load import load_run
from stn_experiments.runs.train import summary, train
from stn_experiments.storage import checkpoints
from stn_experiments.storage.run_folder import RunFolder, run_digest
from stn_experiments.tracking.panels import draw_panel
from tests.data.signs import write_signs
from tests.runs.harness import npz_settings, small_panels, without_times

FIXED_FIELDS = (
    "test_error val_error epochs images_seen test_images train_seconds images_per_second parameters seed "
    "data backbone stn attention device precision commit status"
)


@pytest.fixture
def config(compose, few_digits, tmp_path, monkeypatch):
    small_panels(monkeypatch)

    def make(*overrides, root="outputs"):
        settings = compose(*few_digits, "trainer=quick", "trainer.device=cpu", *overrides)
        settings["run"]["root"] = str(tmp_path / root)
        return settings

    return make


def test_the_folder_of_a_finished_run(config):
    settings = config("data=rotated", "seed=3")
    result = train(settings)
    run = RunFolder.of(settings)
    assert run.folder.name == f"{settings['run']['name']}-{run_digest(settings)}"
    assert set(FIXED_FIELDS.split()) <= set(result)
    assert all(not isinstance(value, dict) for value in result.values())
    assert run.result() == result
    assert result["status"] == "finished"
    assert result["images_seen"] == 2 * 120
    assert result["images_per_second"] == pytest.approx(result["images_seen"] / result["train_seconds"])
    history = [json.loads(line) for line in run.history_file.read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2]
    assert result["val_error"] == min(line["val_error"] for line in history)
    assert run.config() == settings
    facts = json.loads(run.environment_file.read_text())
    assert facts["seed"] == 3
    assert facts["torch"] == torch.__version__.split("+")[0]
    assert facts["commit"] == result["commit"]
    files = [*map(run.panel, range(3)), run.test_panel]
    assert run.test_panel.name == "panel-test.png"
    assert not run.figure.exists()  # for this data is no mixture
    pictures = [Image.open(file) for file in files]
    assert len({picture.size for picture in pictures}) == 1
    assert Image.open(run.animation).is_animated
    assert list(run.folder.glob("events.out.tfevents.*"))
    assert not list(run.folder.rglob("*.tmp"))
    text = summary(run, result)
    assert f"test error  {result['test_error']:.2f} %" in text
    assert str(run.test_panel) in text
    assert f"tensorboard --logdir {settings['run']['root']} --samples_per_plugin images=1000" in text


def test_a_result_has_yardsticks_and_pairs_and_an_evaluation_has_the_same(config):
    settings = config("data=rotated", "trainer.epochs=1", "seed=4")
    result = train(settings)
    scores = [name for name in result if "_of_" in name or "pair" in name or "residual" in name]
    assert {"pair_rotation_deg", "found_of_canvas", "residual_rotation_within_class_deg"} <= {*scores}
    again, _ = evaluate_run(RunFolder.of(settings), device_name="cpu")
    for name in scores:
        if not name.startswith("val_"):
            assert again[name] == pytest.approx(result[name], abs=1e-4), name


def test_a_run_that_answers_questions(config):
    settings = config("experiment=question_answering", "trainer.epochs=1", "attention.width=8")
    result = train(settings)
    assert result["attention"] == "coattention"
    assert {"ink_inside", "hit_rate"} <= set(result)
    assert evaluate_run(RunFolder.of(settings))[0]["test_error"] == pytest.approx(result["test_error"])
    with pytest.raises(UserError, match="reads questions of 30 words, got no questions: choose other data"):
        evaluate_run(RunFolder.of(settings), config("data=rotated", "data.distortion.canvas=60")["data"])


@pytest.mark.slow
@pytest.mark.parametrize("recurrent", ["true", "false"])
def test_a_run_that_reads_sequences(config, recurrent):
    settings = config("experiment=sequence", "trainer.epochs=1", f"stn.recurrent={recurrent}")
    result = train(settings)
    assert {"sequence_error", "found"} <= set(result)
    assert evaluate_run(RunFolder.of(settings))[0]["test_error"] == pytest.approx(result["test_error"])
    with pytest.raises(
        UserError, match="reads images of 10 classes, 3 in each, got images of 10 classes: ch"
    ):
        evaluate_run(RunFolder.of(settings), config("data=rotated", "data.distortion.canvas=100")["data"])


def test_a_finished_run_is_not_trained_again_unless_forced(config, capsys, monkeypatch):
    """It tells whether the code is another."""
    settings = config()
    result = train(settings)
    before = RunFolder.of(settings).last.stat().st_mtime_ns
    for trained, now, told in (
        ("abc", "abc", ""),
        ("abc", "def", ", by the code of commit abc, which is now def"),
        ("abc-dirty", "abc-dirty", ", by the code of commit abc-dirty, which is now abc-dirty"),
    ):
        RunFolder.of(settings).result_file.write_text(json.dumps({**result, "commit": trained}))
        monkeypatch.setattr(module, "commit", lambda now=now: now)
        capsys.readouterr()
        assert train(settings) == {**result, "commit": trained}
        assert f"is finished already{told}; run.force=true trains it again" in capsys.readouterr().out
    assert RunFolder.of(settings).last.stat().st_mtime_ns == before
    monkeypatch.setattr(module, "commit", lambda: result["commit"])
    again = train(config("run.force=true"))
    assert without_times(again) == without_times(result)
    assert RunFolder.of(settings).last.stat().st_mtime_ns != before


def test_a_run_on_a_relative_file_is_evaluated_in_any_working_folder(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npz_settings(tmp_path)
    settings = {**config("data=npz", "data.file=digits.npz")}
    settings["run"] = {**settings["run"], "root": "outputs"}
    result, folder = train(settings), RunFolder.of(settings).folder.absolute()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate_run(RunFolder(folder))[0]["test_error"] == result["test_error"]
    assert RunFolder(folder).config()["run"]["root"] == str(folder.parent)


def test_an_interrupted_run_resumes_in_a_renamed_folder(config, capsys):
    settings = config()
    folder = RunFolder.of(settings)
    train(settings)
    folder.result_file.unlink()
    renamed = folder.folder.rename(folder.folder.with_name(f"mine-{folder.digest}"))
    train(settings)
    assert f"{renamed} resumes after step 12" in capsys.readouterr().out
    assert not folder.folder.exists()


def test_two_command_lines_cannot_begin_the_same_run_in_two_folders(config):
    settings = config("run.name=one")
    folder, other = RunFolder.of(settings), RunFolder.of(config("run.name=other"))
    other.folder.mkdir(parents=True)
    with pytest.raises(RunLocked, match=r"other-.* is the same run, and was begun at the same time"):
        train(settings, folder)
    assert not folder.folder.exists()


def test_a_data_file_that_changes_while_its_run_trains_changes_no_folder(config, tmp_path, monkeypatch):
    settings = npz_settings(tmp_path)
    settings = config(*settings)
    folder = RunFolder.of(settings)

    def overwrite(*arguments, **more):
        (tmp_path / "digits.npz").write_bytes(b"")
        return draw_panel(*arguments, **more)

    monkeypatch.setattr(run_log, "draw_panel", overwrite)
    result = train(settings, folder)
    assert run_digest(settings) != folder.digest
    assert folder.result() == result
    assert list((tmp_path / "outputs").glob("*/result.json")) == [folder.result_file]


def test_another_precision_than_that_of_the_first_steps_is_a_line(config, capsys, monkeypatch):
    settings = config("trainer.precision=auto")
    folder = RunFolder.of(settings)
    for half, line in (
        (False, ""),
        (False, ""),
        (True, "its steps until now were in float32, the next ones are in bfloat16\n"),
    ):
        monkeypatch.setattr("stn_experiments.training.config.has_bfloat16", lambda device, half=half: half)
        capsys.readouterr()
        train(settings)
        out = capsys.readouterr().out
        assert ("its steps" in out) == bool(line)
        assert line in out
        folder.result_file.unlink()


def test_progress_is_shown_where_it_is_asked_for(config, capsys, monkeypatch):
    monkeypatch.setattr("stn_experiments.runs.progress.EVERY", 0)
    train(config("seed=1"), show_progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("on cpu in float32: ")
    assert [line.split("  ")[1] for line in lines if "step" in line][-1] == "step 12 of 12"
    train(config("seed=2"))
    assert all(
        line.startswith("epoch ") and "step" not in line for line in capsys.readouterr().out.splitlines()
    )


def test_the_last_epoch_is_tested_and_the_best_one_is_told_beside_it(config, monkeypatch):
    errors = iter([30.0, 10.0, 20.0, 15.0])  # of three epochs, and the test error of the best one
    seen = []
    evaluate, evaluate_test = module.evaluate, module.evaluate_test

    def scripted(model, batch):
        seen.append(batch)
        return evaluate(model, batch) | {"error": next(errors)}

    def tested(model, batch, draw_pairs):
        seen.append(batch)
        return evaluate_test(model, batch, draw_pairs)

    monkeypatch.setattr(module, "evaluate", scripted)
    monkeypatch.setattr(module, "evaluate_test", tested)
    settings = config("trainer.epochs=3")
    result = train(settings)
    best = {name: value for name, value in result.items() if name.startswith("best_epoch")}
    assert best == {"best_epoch": 2, "best_epoch_val_error": 10.0, "best_epoch_test_error": 15.0}
    assert result["val_error"] == 20.0
    assert len(seen) == 5
    assert all(batch.images.equal(seen[0].images) for batch in seen[:3])
    assert not any(batch.images.equal(seen[0].images) for batch in seen[3:])
    run = RunFolder.of(settings)
    assert (checkpoints.load(run.best)["epoch"], checkpoints.load(run.model)["epoch"]) == (2, 3)
    again, _ = evaluate_run(run, device_name="cpu")
    assert again["test_error"] == result["test_error"]
    assert again["test_loss"] == pytest.approx(result["test_loss"])


def test_a_run_of_many_epochs_has_few_panels(config):
    settings = config("trainer.epochs=3", "run.panels=2")
    train(settings)
    names = [path.name for path in sorted(RunFolder.of(settings).animation.parent.glob("*.png"))]
    assert names == [
        "panel-0000.png",
        "panel-0002.png",
        "panel-0003.png",
        "panel-mistakes.png",
        "panel-test.png",
    ]


def test_a_mistake_creates_no_folder_and_fetches_no_data(config, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_mnist", lambda root: pytest.fail("fetched"))
    with pytest.raises(UserError, match="output_size must be at most 4 times"):
        train(config("stn.output_size=500"))
    with pytest.raises(UserError, match="batch_size must be at most the 120 training images"):
        train(config("trainer.batch_size=500"))
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_the_cpu_emulates_is_a_warning(config, monkeypatch, caplog):
    monkeypatch.setattr(module, "has_bfloat16", lambda device: False)
    experiment = build_experiment(config("trainer.precision=bfloat16"))
    module.set_up_torch(experiment.trainer, experiment.device)
    (warning,) = caplog.messages
    assert "this cpu has no instructions for trainer.precision=bfloat16" in warning
    experiment = build_experiment(config("trainer.precision=auto"))
    module.set_up_torch(experiment.trainer, experiment.device)
    assert caplog.messages == [warning]


@pytest.mark.slow
def test_the_recipe_for_traffic_signs_finds_and_names_them(compose, tmp_path):
    folder = write_signs(tmp_path / "signs", {"train": 100, "valid": 10, "test": 20}, classes=9)
    words = (f"data.folder={folder}", f"run.root={tmp_path / 'outputs'}", "trainer.device=cpu")
    config = compose("experiment=traffic_signs", *words, "trainer.epochs=14", "trainer.batch_size=60")
    result = train(config)
    assert result["test_error"] < 15, "chance is 89 %"
    run = RunFolder.of(config)
    assert run.folder.name.startswith("traffic_signs-signs-")
    model, _ = load_run(run.folder)
    test = build_experiment(config).data.load(torch.device("cpu")).test
    theta = predict(model, test).views[0].transform.theta
    assert theta.std(0)[[2, 5]].min() > 0.05, "the transformer follows the signs"
    assert evaluate_run(run)[0]["test_error"] == result["test_error"]
    with Image.open(run.test_panel) as panel:
        inputs = np.asarray(panel.convert("RGB").crop((14, 60, 134, panel.height - 14))).astype(int)
    assert np.ptp(inputs, axis=-1).mean() > 20, "the panel is in colour"


def test_every_model_is_tested_on_the_very_same_images(config):
    one, other = (
        build_experiment(config("data=cluttered", *more)).data.load(torch.device("cpu")).test
        for more in (("stn=none",), ("stn=affine", "seed=1"))
    )
    assert one.images.equal(other.images)
    assert one.pose.box.equal(other.pose.box)
