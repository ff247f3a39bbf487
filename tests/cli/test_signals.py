"""A run stops at a signal without losing anything, and with the exit code that a shell expects."""

import os
import pickle
import signal
import sys
import threading
from pathlib import Path

import pytest

from stn_experiments.cli.signals import STOP_SIGNALS, Stopped, StopSignals
from stn_experiments.data.datasets import DistortedMnist
from stn_experiments.runs import run_log
from stn_experiments.runs import train as runs
from stn_experiments.runs.run_log import RunLog
from stn_experiments.runs.train import TrainingRun
from stn_experiments.runs.train import train as train_run
from stn_experiments.storage import checkpoints
from stn_experiments.storage.lock import lock_file
from stn_experiments.training.loop import Trainer
from tests.conftest import variation
from tests.runs.harness import Command, assert_complete, make_quick, outcome

INT, TERM, USR2 = STOP_SIGNALS
EXIT_CODES = {INT: 130, TERM: 143, USR2: 140}

STEP = (Trainer, "train_step")
EVALUATION = (runs, "evaluate")
TEST = (runs, "evaluate_test")
RECORD = (RunLog, "epoch")  # between evaluation and checkpoint
SAVE = (TrainingRun, "_save")
ANIMATION = (run_log, "save_animation")  # training is done
LOAD = (DistortedMnist, "load")
BUILD = (runs, "build_experiment")
PREPARE = (runs, "make_trainer")


@pytest.fixture(autouse=True)
def handlers_are_restored():
    def unexpected(number, _):
        raise AssertionError(f"nothing handles {signal.Signals(number).name}")

    before = {number: signal.signal(number, unexpected) for number in STOP_SIGNALS}
    yield
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert set(after.values()) == {unexpected}


@pytest.fixture
def train(few_digits, compose, monkeypatch, tmp_path, capfd):
    make_quick(monkeypatch)
    return Command(few_digits, compose, tmp_path, capfd)


@pytest.fixture
def whole(train):
    """The outcome of a run that is not stopped."""
    return train.whole()


def send(*numbers):
    """Send signals to this process; the handler is called before ``kill`` returns."""
    for number in numbers:
        os.kill(os.getpid(), number)


def before_call(patch, point, call, action):
    """Call ``action`` before the n-th call of a function."""
    owner, name = point
    function, calls = getattr(owner, name), []

    def wrapper(*arguments):
        calls.append(name)
        if len(calls) == call:
            action()
        return function(*arguments)

    patch.setattr(owner, name, wrapper)


def saved_steps(run):
    return checkpoints.load(run.last)["trainer"]["step"]


def assert_resumable(run):
    assert_complete(run)
    assert run.result() is None
    assert not lock_file(run.folder).exists()


# StopSignals


def test_signals_are_kept_until_check():
    with StopSignals() as signals:
        signals.check()
        send(*STOP_SIGNALS)
        with pytest.raises(Stopped, match="stopped by SIGUSR2") as stopped:
            signals.check()
        assert stopped.value.exit_code == 140


@pytest.mark.parametrize(("number", "code"), EXIT_CODES.items())
def test_immediate_raises_within_its_block_only(number, code):
    with StopSignals() as signals:
        with signals.immediate(), pytest.raises(Stopped) as stopped:
            send(number)
        assert stopped.value.exit_code == code
        with pytest.raises(Stopped), signals.immediate():
            pytest.fail("a signal was received before")
    with StopSignals() as signals:
        with signals.immediate():
            pass
        send(number)  # is kept


def test_only_two_ctrl_c_in_a_row_interrupt():
    with StopSignals():
        send(TERM, TERM, INT)
        with pytest.raises(KeyboardInterrupt):
            send(INT)


@pytest.mark.parametrize(
    ("number", "handler"), [(INT, signal.default_int_handler), (TERM, signal.SIG_DFL), (USR2, signal.SIG_IGN)]
)
def test_a_signal_without_a_handler_of_its_own_stops_the_program(number, handler):
    before = signal.signal(number, handler)
    with StopSignals() as signals:
        send(number)
        with pytest.raises(Stopped) as stopped:
            signals.forward_signal()
        assert stopped.value.exit_code == EXIT_CODES[number]
        signals.forward_signal()  # nothing is left
    assert signal.signal(number, before) == handler


def test_stopped_can_be_sent_by_a_worker():
    copy = pickle.loads(pickle.dumps(Stopped(TERM)))
    assert (str(copy), copy.exit_code) == ("stopped by SIGTERM", 143)


# Runs


@pytest.mark.parametrize(
    ("number", "point", "call", "saved"),
    [
        (INT, STEP, 1, 1),
        variation(TERM, STEP, 6, 6),
        variation(INT, EVALUATION, 1, 4),
        (TERM, EVALUATION, 2, 8),
        variation(USR2, RECORD, 1, 4),
        (TERM, SAVE, 1, 4),
        variation(TERM, RECORD, 2, 8),  # after the last step
        variation(TERM, TEST, 1, 8),
        (USR2, ANIMATION, 1, 8),
    ],
)
def test_a_stopped_run_is_resumed_with_the_same_outcome(
    train, whole, monkeypatch, number, point, call, saved
):
    with monkeypatch.context() as patch:
        before_call(patch, point, call, lambda: send(number))
        code, out, err = train()
    assert (code, err) == (EXIT_CODES[number], f"stopped by {number.name}\n")
    assert saved_steps(train.run) == saved  # the current step was finished
    was_training = (point, call) not in ((TEST, 1), (ANIMATION, 1))
    assert (f"stopped after step {saved}; the same command resumes from there\n" in out) is was_training
    assert_resumable(train.run)
    code, out, err = train()
    assert (code, err) == (0, "")
    assert "resumes after step" in out
    assert outcome(train.run) == whole


@pytest.mark.parametrize("point", [LOAD, BUILD, PREPARE], ids=lambda point: point[1])
def test_a_signal_before_training_saves_nothing(train, monkeypatch, point):
    before_call(monkeypatch, point, 1, lambda: send(TERM))
    assert train() == (143, "", "stopped by SIGTERM\n")  # without a word of a sweep
    assert not train.run.last.exists()
    assert not lock_file(train.run.folder).exists()


def test_a_second_ctrl_c_stops_within_a_step(train, whole, monkeypatch):
    def twice():
        send(INT, INT)
        pytest.fail("the step goes on")

    with monkeypatch.context() as patch:
        before_call(patch, STEP, 6, twice)
        code, out, err = train("run.checkpoint_steps=3")
    assert (code, err) == (130, "interrupted\n")
    assert "stopped after" not in out
    assert saved_steps(train.run) == 4
    assert train()[0] == 0
    assert outcome(train.run) == whole


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs to know which file is open")
def test_a_second_ctrl_c_during_saving_keeps_the_previous_checkpoint(train, whole, monkeypatch):
    fsync, calls = os.fsync, []

    def interrupt(opened):
        if Path(f"/proc/self/fd/{opened}").readlink().name.strip(".").startswith("last.pt."):
            calls.append(opened)
            if len(calls) == 2:
                send(INT)
        fsync(opened)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        before_call(patch, STEP, 6, lambda: send(INT))
        code, _, err = train()
    assert (code, err, len(calls)) == (130, "interrupted\n", 2)
    assert saved_steps(train.run) == 4
    assert_resumable(train.run)
    assert train()[0] == 0
    assert outcome(train.run) == whole


@pytest.mark.parametrize(("point", "call"), [(STEP, 2), variation(RECORD, 2), (TEST, 1)])
def test_a_stopped_sweep_does_not_begin_its_next_run(train, command, monkeypatch, point, call):
    """Not even if the signal arrives after the last epoch of a run."""
    before_call(monkeypatch, point, call, lambda: send(TERM))
    code, out, err = command("train.py", "-m", *train.small, f"run.root={train.folder}/outputs", "seed=0,1")
    assert (code, err) == (143, "stopped by SIGTERM\n")
    continues = "the sweep is not complete; the same command continues it and repeats no finished run"
    assert out.splitlines()[-1] == continues
    run = train.run_of()
    assert list((train.folder / "outputs").glob("[!.]*")) == [run.folder]
    assert_resumable(run)


def test_the_previous_handler_gets_the_signal_after_saving(train, whole, monkeypatch):
    """As in a cluster's job, which ignores SIGTERM, and at SIGUSR2 requeues itself and exits."""
    received = []

    def ignore(number, _):
        received.append((number, saved_steps(train.run)))

    def requeue(number, _):
        ignore(number, _)
        assert lock_file(train.run.folder).exists()
        sys.exit(255)

    before = {number: signal.signal(number, handler) for number, handler in ((TERM, ignore), (USR2, requeue))}
    with monkeypatch.context() as patch:
        before_call(patch, STEP, 3, lambda: send(TERM))
        before_call(patch, EVALUATION, 1, lambda: send(TERM))
        before_call(patch, STEP, 6, lambda: send(TERM, USR2))
        with pytest.raises(SystemExit):
            train_run(train.config())
    assert [signal.signal(*pair) for pair in before.items()] == [ignore, requeue]
    assert received == [(TERM, 3), (TERM, 4), (TERM, 6), (USR2, 6)]
    out = train.capfd.readouterr().out
    assert out.count("stopped after step") == 3
    assert out.count("training continues") == 2
    assert_resumable(train.run)
    train_run(train.config())
    assert "resumes after step 6 " in train.capfd.readouterr().out
    assert outcome(train.run) == whole


def test_a_run_can_train_outside_the_main_thread(train, whole):
    thread = threading.Thread(target=lambda: train_run(train.config()))
    thread.start()
    thread.join()
    assert outcome(train.run) == whole


# A process of scripts/train.py, each step of which lasts long enough to receive a signal.
