"""What commands print and how they exit: line by line, right and wrong command lines."""

import argparse
import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from stn_experiments.cli.command import (
    Failure,
    attempt,
    exit_with_failures,
    refuse_spaces,
    run_command,
)
from stn_experiments.cli.hydra_command import arrange
from stn_experiments.cli.signals import Stopped
from stn_experiments.common.errors import DataUnavailable, RunLocked, TrainingFailed, UserError
from tests.conftest import ROOT

TRAIN = "stn_experiments.runs.train.train"

WRONG = [
    ("foo=1", "foo is not a setting"),
    ("data=mnits", "data must be one of addition, affnist"),
    ("stn=null", "a group takes one of its choices, as in stn=none or attention=none, not null"),
    ("data=rotated,rts", "data=rotated,rts has several values: add -m to sweep over them\n"),
    (
        "data=[rotated,rts]",
        "data must be one choice, got [rotated,rts]: -m data=rotated,rts trains one after",
    ),
    ("-m sweep=smoke,table1", "sweep must be one choice, got smoke,table1: type one command for each\n"),
    ("sweep=[smoke,table1]", "sweep must be one choice, got [smoke,table1]: type one command for each\n"),
    ("-m seed=0, 1", "there is a space in seed=0, 1, write seed=0,1\n"),
    (
        "run.name=../up",
        "run.name must be up to 80 letters, digits and any of _.+- (a folder is named by it), got '../up'",
    ),
    ("run.root=a(b)", "put special characters in quotes, 'run.root=\"a(b)\"'"),
    ("data=npz data.file=~/nowhere.npz", f"data.file {Path.home()}/nowhere.npz: there is no such file"),
    ("attention=cbam attention.kernel=4", "attention.kernel must be odd, got 4"),
    ("data=npz", "data.file is missing: give it a value"),
    ("data.root=/does/not/exist", "data.root: /does/not/exist is not a readable folder"),
    ("--foo", "unrecognized arguments: --foo"),
    ("seed=${nowhere}", "Interpolation key 'nowhere' not found"),
    ("seed=${trainer.epochs} trainer.epochs=-1", "seed must be an integer from 0 to 2147483647, got -1"),
    ("seed=[1", "seed=[1 cannot be read: put special characters in quotes"),
]
"""Lines of each kind; those of single settings are in ``tests/runs/test_bad_input.py``."""


# The functions of cli.command


@pytest.mark.parametrize(
    ("error", "code"), [(UserError, 2), (DataUnavailable, 3), (TrainingFailed, 4), (RunLocked, 5)]
)
def test_an_error_of_the_user_is_one_line_and_an_exit_code(capsys, error, code):
    def main():
        raise error("two\nlines")

    with pytest.raises(SystemExit) as left:
        run_command(main)
    assert left.value.code == code
    assert capsys.readouterr() == ("", "error: two lines\n")


def test_each_line_is_visible_at_once_in_a_pipe(monkeypatch):
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
    run_command(lambda: print("a line"))
    assert pipe.getvalue() == b"a line\n"


PRINTS_FOR_EVER = """
import itertools
from stn_experiments.cli.command import run_command
run_command(lambda: [print(number) for number in itertools.count()])
"""


def test_a_closed_pipe_ends_a_command_quietly():
    command = [sys.executable, "-c", PRINTS_FOR_EVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141  # as of other commands


def test_a_closed_pipe_ends_help_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "scripts/train.py", "--help"]
    with os.fdopen(writer) as closed:
        ended = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_closed_pipe_stops_a_sweep():
    def closed():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(Stopped, match="stopped by SIGPIPE"):
        attempt(closed, "a job")


@pytest.mark.parametrize(
    ("line", "joined"),
    [
        ("trainer.epochs =1", "trainer.epochs=1"),
        ("seed=0 trainer.epochs= 1 stn=none", "trainer.epochs=1"),
        ("trainer.epochs = 1", "trainer.epochs=1"),
        ("optimizer.lr= -1", "optimizer.lr=-1"),
        ("-m seed=0, 1 ,2", "seed=0,1,2"),
        ("stn.at=[input, layer2] stn.steps=2", "stn.at=[input,layer2]"),
        ("data.distortion.canvas=[ 28 , 40 ]", "data.distortion.canvas=[28,40]"),
        ("outputs/RUN data= rts", "data=rts"),
    ],
)
def test_a_setting_with_spaces_is_named_with_what_to_write(line, joined):
    with pytest.raises(UserError, match=f"^there is a space in .*, write {re.escape(joined)}$"):
        refuse_spaces(line.split())


@pytest.mark.parametrize(
    "line",
    [
        "--config-dir=a b=1 outputs/RUN",
        "--config-name train -m seed=0,1 stn=none --cfg job",
        "run.name= stn=none",
        "outputs/RUN data=rts outputs/OTHER --device cpu",
        "data.file= --cfg job",
        "seed= ~optimizer",
        "",
    ],
)
def test_other_words_may_follow_one_another(line):
    refuse_spaces(line.split())


def test_a_defect_is_raised():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)


def test_several_failures_are_a_line_each_and_the_code_of_the_first(capsys):
    def fail():
        raise RunLocked("busy")

    failures = [Failure("seed=1", "too\nhot", 4), attempt(fail, "seed=2"), attempt(fail, "")]
    with pytest.raises(SystemExit) as left:
        exit_with_failures(failures)
    assert left.value.code == 4
    assert capsys.readouterr().err == "error: seed=1: too hot\nerror: seed=2: busy\nerror: busy\n"
    assert attempt(lambda: None, "seed=3") is None
    exit_with_failures([])


def test_the_error_of_a_thread_is_a_warning_unless_the_thread_stores_it(capsys, monkeypatch):
    def fail():
        raise OSError("no disk")

    class Storing(threading.Thread):
        def run(self):
            try:
                fail()
            except OSError as error:
                self.exception = error
                raise

    def main():
        for thread in (threading.Thread(target=fail, name="writer"), Storing()):
            thread.start()
            thread.join()

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    run_command(main)
    assert capsys.readouterr().err == "warning: writer: OSError: no disk\n"


def test_the_patch_of_hydras_parser_ends_with_the_command(command):
    before = argparse.ArgumentParser.error
    assert command("train.py", "--foo")[0] == 2
    assert argparse.ArgumentParser.error is before


# scripts/train.py and scripts/evaluate.py


@pytest.mark.parametrize(("line", "words"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_command_line_is_one_clear_line(command, tmp_path, line, words):
    code, out, err = command("train.py", *line.split())
    assert code == 2
    assert all(line.startswith(("run outputs/", "on cpu ")) for line in out.splitlines())
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["nowhere"], "nowhere is not a run: there is no such folder"),
        (["x" * 300], "is not a run: there is no such folder"),
        (["."], ". is not a run: it has no config.yaml, which the folder of each run has"),
        (["data=clean,rts"], "the folder of a run is needed"),
        (["--missing"], "the following arguments are required: RUN"),
        (["nowhere", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["x", "x", "data=rts,clean"], "each of 4 evaluations: x is not a run: there is no such"),
        (["nowhere", "data", "=rts"], "there is a space in data =rts, write data=rts"),
    ],
)
def test_evaluate_rejects_a_wrong_command_line(refused, tmp_path, line, words):
    assert words in refused("evaluate.py", *line)
    assert list(tmp_path.iterdir()) == []


def test_missing_mnist_has_its_own_exit_code(command, monkeypatch, tmp_path):
    from stn_experiments.data import mnist

    def unreachable(work):
        raise OSError("no network")

    monkeypatch.setattr(mnist, "SOURCES", {"a mirror": unreachable})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("STN_DATA_DIR", raising=False)
    code, _, err = command("train.py")
    assert code == 3
    assert err.splitlines()[-1].startswith("error: MNIST could not be fetched; tried a mirror (no network)")
    assert not (tmp_path / "outputs").exists()


def test_ctrl_c_is_one_line(command, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(TRAIN, interrupted)
    code, _, err = command("train.py")
    assert (code, err) == (130, "interrupted\n")


def test_training_prints_a_line_per_epoch_and_the_paths(command, few_digits, tmp_path):
    code, out, _ = command("train.py", *few_digits, "trainer=quick")
    assert code == 0
    lines = out.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines[5:] if line.startswith(("run", "panel", "look")))
    settings = "data=rotated backbone=compact stn=similarity attention=none seed=0 trainer.epochs=2"
    assert lines[0] == f"run {shown['run']}: {settings}"
    assert lines[1].startswith("on cpu in float32: ")
    assert lines[1].endswith(" parameters, 2 epochs of 120 images")
    assert [line.split("  ")[0] for line in (lines[2], lines[4])] == ["epoch 1/2", "epoch 2/2"]
    assert lines[3].startswith("about ")
    assert (tmp_path / shown["run"] / "result.json").exists()
    assert (tmp_path / shown["panel"]).exists()
    assert shown["look"] == "tensorboard --logdir outputs --samples_per_plugin images=1000"
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.parametrize(
    ("launcher", "package"), [("joblib", "joblib"), ("slurm", "submitit"), ("submitit_local", "submitit")]
)
def test_a_launcher_that_is_not_installed_is_one_line(refused, monkeypatch, launcher, package):
    Plugins.instance()  # Hydra looks only once for what is installed
    for choice in ("joblib", "submitit_slurm", "submitit_local"):
        monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"{choice}.yaml")
    monkeypatch.setitem(sys.modules, f"hydra_plugins.hydra_{package}_launcher", None)
    monkeypatch.setitem(sys.modules, f"hydra_plugins.hydra_{package}_launcher.{package}_launcher", None)
    line = f"this hydra/launcher needs {package}, which is not installed: pip install '.[sweep]'"
    assert refused("train.py", "-m", f"hydra/launcher={launcher}", "seed=-1,-2") == line


def test_options_may_stand_between_overrides():
    words = ["run.root=x", "-m", "seed=0,1", "--config-name", "train", "data.file=~/a.npz", "~optimizer"]
    file = f"data.file={Path.home()}/a.npz"
    assert arrange(words) == ["-m", "--config-name", "train", "~optimizer", "run.root=x", "seed=0,1", file]
