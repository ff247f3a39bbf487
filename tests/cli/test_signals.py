"""How a run obeys a signal: at once, losing nothing, and with the exit code that a shell expects."""

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stn_experiments.cli.signals import OBEYED, Stopped, StopSignals
from stn_experiments.data.datasets import DistortedMnist
from stn_experiments.runs import train as module
from stn_experiments.runs.train import train_run
from stn_experiments.storage import checkpoints
from stn_experiments.training import loop
from tests.conftest import ROOT
from tests.runs.test_faults import (
    STEPS,
    Train,
    end,
    of_a_file,
    quicken,
    same_but_for_panels,
    see_that_all_is_whole,
)

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR2: 140}


class Unhandled(BaseException):
    """A signal came where nothing of ours was set up to take it."""


@pytest.fixture(autouse=True)
def all_handlers_are_given_back():
    def unhandled(number, _):
        raise Unhandled(signal.Signals(number).name)

    before = {number: signal.signal(number, unhandled) for number in OBEYED}
    yield
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert set(after.values()) == {unhandled}


@pytest.fixture
def train(few_digits, compose, monkeypatch, tmp_path, capfd):
    quicken(monkeypatch)
    return Train(few_digits, compose, tmp_path, capfd)


@pytest.fixture
def whole(train):
    return train.whole()


def steps_saved(run):
    progress = checkpoints.load(run.last)["training"]["progress"]
    return (progress["epoch"] - 1) * STEPS + progress["done"]


def send(number):
    """To this process; its handler is called before this returns."""
    os.kill(os.getpid(), number)


def on_call(monkeypatch, owner, name, call, action):
    """Do ``action`` before a certain call of a function."""
    function, calls = getattr(owner, name), []

    def acting(*arguments):
        calls.append(name)
        if len(calls) == call:
            action()
        return function(*arguments)

    monkeypatch.setattr(owner, name, acting)


# A real process of scripts/train.py, of which each step takes long enough for a signal to come within it.
SLOW = """
import runpy, sys, time
from stn_experiments.training import loop
step = loop.train_step
def slow_step(*arguments):
    print("a step begins", flush=True)
    time.sleep(0.5)
    return step(*arguments)
loop.train_step = slow_step
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_process_stops_at_each_signal_and_the_next_goes_on_from_there(train, tmp_path):
    """One run, stopped by the one, the other and the third, each time a few steps further."""
    settings = of_a_file(tmp_path / "digits.npz")
    run = train.run_of(small=settings)
    command = [sys.executable, "-c", SLOW, ROOT / "scripts" / "train.py", *settings]
    command += [f"run.root={run.folder.parent}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    saved = 0
    for number, code in CODES.items():
        process = subprocess.Popen(command, cwd=ROOT, **pipes)
        for line in process.stdout:
            if line == "a step begins\n":
                break
        sent = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - sent < 5
        assert (process.returncode, err) == (code, f"stopped by {number.name}\n")
        assert steps_saved(run) > saved
        saved = steps_saved(run)
        assert out.endswith(f"stopped after step {saved}; the same command goes on from there\n")
        see_that_it_can_go_on(run)
    assert saved < 2 * STEPS
    for root in ("outputs", "whole"):
        assert train(root=root, small=settings)[0] == 0
    assert same_but_for_panels(run, train.run_of(root="whole", small=settings))


def see_that_it_can_go_on(run):
    see_that_all_is_whole(run)
    assert run.result() is None
    assert not (run.folder / "lock").exists()


@pytest.mark.parametrize(
    ("number", "owner", "name", "call", "saved"),
    [
        (signal.SIGINT, loop, "train_step", 1, 1),  # within the first step
        (signal.SIGTERM, loop, "train_step", 6, 6),
        (signal.SIGINT, module, "evaluate", 1, 4),  # of the validation set
        (signal.SIGTERM, module, "evaluate", 2, 8),
        (signal.SIGUSR2, module, "record_epoch", 1, 4),  # between evaluation and checkpoint
        (signal.SIGTERM, module, "save", 1, 4),
        (signal.SIGTERM, module, "record_epoch", 2, 8),  # after the last step, when no other would notice
        (signal.SIGINT, module, "evaluate", 3, 8),  # of the test set
        (signal.SIGTERM, module, "evaluate", 3, 8),
        (signal.SIGUSR2, module, "save_animation", 1, 8),
    ],
)
def test_wherever_a_signal_comes_the_same_command_goes_on(
    train, whole, monkeypatch, number, owner, name, call, saved
):
    with monkeypatch.context() as patched:
        on_call(patched, owner, name, call, lambda: send(number))
        code, out, err = train()
    assert (code, err) == (CODES[number], f"stopped by {number.name}\n")
    assert steps_saved(train.run) == saved  # a step that is under way is done
    told = f"stopped after step {saved}; the same command goes on from there\n" in out
    assert told is ((name, call) not in (("evaluate", 3), ("save_animation", 1)))  # training was done
    see_that_it_can_go_on(train.run)
    code, out, err = train()
    assert (code, err) == (0, "")
    assert "goes on after step" in out
    assert end(train.run) == whole


@pytest.mark.parametrize("where", ["load", "build_experiment", "prepare"])
def test_before_training_there_is_nothing_to_save(train, monkeypatch, where):
    owner = DistortedMnist if where == "load" else module
    on_call(monkeypatch, owner, where, 1, lambda: send(signal.SIGTERM))
    assert train() == (143, "", "stopped by SIGTERM\n")
    assert not train.run.last.exists()
    assert not (train.run.folder / "lock").exists()


def test_a_second_ctrl_c_stops_at_once(train, whole, monkeypatch):
    def twice():
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("the step goes on")

    with monkeypatch.context() as patched:
        on_call(patched, loop, "train_step", 6, twice)
        code, out, err = train("run.checkpoint_steps=3")
    assert (code, err) == (130, "interrupted\n")
    assert "stopped after" not in out
    assert steps_saved(train.run) == 4
    assert train()[0] == 0
    assert end(train.run) == whole


def test_a_second_ctrl_c_while_the_checkpoint_is_written_leaves_the_one_before_it(train, whole, monkeypatch):
    fsync, calls = os.fsync, []

    def impatient(opened):
        if Path(f"/proc/self/fd/{opened}").readlink().name == "last.pt.tmp":
            calls.append(opened)
            if len(calls) == 2:
                send(signal.SIGINT)
        fsync(opened)

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not tell which file is open")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", impatient)
        on_call(patched, loop, "train_step", 6, lambda: send(signal.SIGINT))
        code, _, err = train()
    assert (code, err) == (130, "interrupted\n")
    assert len(calls) == 2
    assert steps_saved(train.run) == 4
    see_that_it_can_go_on(train.run)
    assert train()[0] == 0
    assert end(train.run) == whole


@pytest.mark.parametrize(("name", "call"), [("train_step", 2), ("record_epoch", 2), ("evaluate", 3)])
def test_a_sweep_that_is_stopped_does_not_begin_its_next_run(train, monkeypatch, name, call):
    """Not even where the signal comes when the last epoch of a run is done."""
    on_call(monkeypatch, loop if name == "train_step" else module, name, call, lambda: send(signal.SIGTERM))
    arguments = ["train.py", "-m", *train.small, f"run.root={train.folder}/outputs", "seed=0,1"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "scripts" / "train.py"), run_name="__main__")
    assert left.value.code == 143
    assert train.capfd.readouterr().err == "stopped by SIGTERM\n"
    assert list((train.folder / "outputs").glob("[!.]*")) == [train.run.folder]
    see_that_it_can_go_on(train.run)


def test_without_an_end_of_its_own_a_signal_waits_for_a_check():
    with StopSignals() as signals:
        for number in OBEYED:
            send(number)
        with pytest.raises(Stopped) as stopped:
            signals.check()
        assert stopped.value.exit_code == 140
        assert str(stopped.value) == "stopped by SIGUSR2"
    with StopSignals() as signals:
        signals.check()


def test_at_once_means_at_once_and_only_there():
    with StopSignals() as signals:
        with signals.at_once():
            for number, code in CODES.items():
                with pytest.raises(Stopped) as stopped:
                    send(number)
                assert stopped.value.exit_code == code
                signals._asked.clear()
        send(signal.SIGTERM)
        with pytest.raises(Stopped), signals.at_once():
            pytest.fail("there was one already")


def test_only_ctrl_c_twice_is_impatience():
    with StopSignals():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_signal_that_somebody_else_obeys_is_left_to_them_when_all_is_saved(train, whole, monkeypatch):
    """As in a cluster's job: it ignores SIGTERM, and at SIGUSR2 it has itself queued again and ends."""
    heard = []

    def ignore(number, _):
        heard.append((number, steps_saved(train.run)))

    def requeue(number, _):
        ignore(number, _)
        assert (train.run.folder / "lock").exists()
        sys.exit(255)

    def both():
        send(signal.SIGTERM)
        send(signal.SIGUSR2)

    term, usr2 = signal.SIGTERM, signal.SIGUSR2
    before = {number: signal.signal(number, handler) for number, handler in ((term, ignore), (usr2, requeue))}
    with monkeypatch.context() as patched:
        on_call(patched, loop, "train_step", 3, lambda: send(signal.SIGTERM))
        on_call(patched, module, "evaluate", 1, lambda: send(signal.SIGTERM))
        on_call(patched, loop, "train_step", 6, both)
        with pytest.raises(SystemExit):
            train_run(train.config())
    assert [signal.signal(*pair) for pair in before.items()] == [ignore, requeue]
    assert heard == [(term, 3), (term, 4), (term, 6), (usr2, 6)]
    out = train.capfd.readouterr().out
    assert out.count("stopped after step") == 3
    assert out.count("it goes on at once") == 2
    see_that_it_can_go_on(train.run)
    train_run(train.config())
    assert "goes on after step 6 " in train.capfd.readouterr().out
    assert end(train.run) == whole


def test_with_nobody_to_leave_a_signal_to_the_program_stops():
    for number, handler in zip(
        OBEYED, (signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN), strict=True
    ):
        before = signal.signal(number, handler)
        with StopSignals() as signals:
            send(number)
            with pytest.raises(Stopped) as stopped:
                signals.hand_on()
            assert stopped.value.exit_code == CODES[number]
            signals.hand_on()
        assert signal.signal(number, before) == handler


def test_a_run_may_train_outside_the_main_thread(train, whole):
    """Where Python lets nobody set a handler."""
    thread = threading.Thread(target=lambda: train_run(train.config()))
    thread.start()
    thread.join()
    assert end(train.run) == whole
