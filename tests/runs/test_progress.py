from pathlib import Path
from types import SimpleNamespace

import pytest

from stn_experiments.runs import progress
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.progress import ProgressLines, outlook, usual_error
from stn_experiments.storage.run_folder import RunFolder


@pytest.fixture
def lines(monkeypatch, capsys):
    """What is printed while each step takes as many seconds, with or without a terminal."""

    def run(seconds, steps, terminal=False):
        now = [100.0]
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: terminal, raising=False)
        printer = ProgressLines(12, 40)
        for step in steps:
            now[0] += seconds
            printer.update(step)
        return capsys.readouterr().out.splitlines()

    return run


def test_a_line_every_ten_seconds_tells_how_far_and_how_long(lines):
    assert lines(4, range(1, 7)) == [
        "epoch  1/12  step 3 of 480  about 31 min 48 s left",
        "epoch  1/12  step 6 of 480  about 31 min 36 s left",
    ]


def test_the_time_left_counts_only_the_steps_of_this_process(lines):
    assert lines(10, (41, 42)) == [
        "epoch  2/12  step 41 of 480",
        "epoch  2/12  step 42 of 480  about 1 h 13 min left",
    ]


def test_a_terminal_has_a_progress_bar_instead(lines):
    assert lines(4, range(1, 7), terminal=True) == []


def test_after_the_first_epoch_the_default_command_tells_what_to_expect(compose):
    """0.92 % is the mean of 0.98, 1.02, 0.9, 0.84 and 0.88 in docs/results/turning-with.json."""
    assert outlook(build_experiment(compose("seed=7")), RunFolder(Path("outputs/run-1")), 100) == (
        "about 18 min 20 s left until a validation error of about 0.9 %; meanwhile, see "
        "outputs/run-1/panels/panel-0001.png and tensorboard --logdir outputs"
    )
    assert usual_error(compose("seed=7")) == pytest.approx(0.924)


def test_without_kept_runs_of_the_same_config_it_tells_the_time_alone(compose):
    experiment = build_experiment(compose("trainer.epochs=2"))
    assert outlook(experiment, RunFolder(Path("outputs/run-1")), 9).startswith(
        "about 9 s left; meanwhile, see "
    )


def test_it_names_a_panel_that_is_there(compose):
    experiment = build_experiment(compose("trainer.epochs=240", "run.panels=5"))
    assert "/panel-0000.png" in outlook(experiment, RunFolder(Path("outputs/run-1")), 9)


def test_a_damaged_file_of_kept_results_is_no_reason_to_stop(compose, tmp_path, monkeypatch):
    (tmp_path / "damaged.json").write_text("<<<<<<< HEAD")
    monkeypatch.setattr(progress, "KEPT_RESULTS", tmp_path)
    assert usual_error(compose()) is None
