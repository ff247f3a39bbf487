"""A search over settings: what it tries, how it continues after an interruption, and what it prints."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

pytest.importorskip("optuna")

import optuna

from stn_experiments.common.errors import TrainingFailed, UserError
from stn_experiments.config.tree import value_at
from stn_experiments.storage.lock import run_lock
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.sweeps import search as module
from stn_experiments.sweeps.search import search
from tests.conftest import ROOT
from tests.runs.soak import TOO_LONG, npz_settings, wait_until

LR = "trainer.localisation_lr"
BEST = 0.3
SPACE = {LR: {"log": [0.001, 30]}}


def error_of(config):
    """The validation error that a run is given: the better, the nearer to one learning rate."""
    return 1 + 10 * abs(math.log10(config["trainer"]["localisation_lr"] / BEST))


class FakeRun:
    """A run of two epochs that trains nothing."""

    def __init__(self, config):
        self.config, self.folder, self.history = config, RunFolder.of(config), []

    def epochs(self):
        for epoch in (1, 2):
            self.history.append({"epoch": epoch, "val_error": error_of(self.config) + 1 / epoch})
            yield self.history[-1]

    def finish(self):
        return {"val_error": error_of(self.config)}


@pytest.fixture
def runs(monkeypatch):
    """The configs of all runs, which train nothing; ``then`` has what happens instead in the next ones."""

    class Runs(list):
        then = ()

    runs = Runs()

    @contextmanager
    def open_run(experiment):
        run = FakeRun(experiment.config)
        with run_lock(run.folder.folder):
            runs.append(experiment.config)
            (run.folder.folder / "config.yaml").write_text("{}")
            run.folder.failure_file.unlink(missing_ok=True)
            act = runs.then[len(runs) - 1] if len(runs) <= len(runs.then) else None
            if act is not None:
                act()
            yield run

    monkeypatch.setattr(module, "open_run", open_run)
    return runs


@pytest.fixture
def make(compose, tmp_path):
    """The config of a search."""

    def config(*overrides, trials=6, space=SPACE, prune=None, root="outputs"):
        plan = {
            "_target_": "stn_experiments.sweeps.search.SearchConfig",
            "trials": trials,
            "space": space,
            "prune": prune,
        }
        return compose(*overrides, f"run.root={tmp_path / root}") | {"search": plan}

    return config


def tried(runs, name=LR):
    return [value_at(config, name) for config in runs]


def trials(config):
    """The trials that count, as they stand in the file: values, state and error."""
    (study,) = optuna.get_all_study_names(storage := f"sqlite:///{config['run']['root']}/search.db")
    study = optuna.load_study(study_name=study, storage=storage)
    counted = ("COMPLETE", "PRUNED")
    ended = [trial for trial in study.trials if trial.state.name in counted or "failed" in trial.user_attrs]
    return [(trial.params, trial.state.name, trial.value) for trial in ended]


def raising(error):
    def act():
        raise error

    return act


# What is tried


def test_a_search_starts_with_the_configs_own_values_and_finds_better_ones(runs, make, capsys):
    config = make(f"{LR}=0.001", trials=10)
    text = search(config)
    assert len(runs) == 10
    assert tried(runs)[0] == 0.001
    assert len(set(tried(runs))) == 10
    assert all(0.001 <= value <= 30 for value in tried(runs))
    best = min(runs, key=error_of)
    assert error_of(best) < error_of(runs[0]) / 2
    lines = text.splitlines()
    assert lines[1] == "validation error, best first:"
    errors = [float(line.split()[0]) for line in lines[2:12]]
    assert errors == sorted(errors)
    assert lines[12] == "0 pruned, 0 failed"
    value = f"{LR}={best['trainer']['localisation_lr']:.4g}"
    beaten = f"{error_of(runs[0]):.2f} % with {LR}=0.001"
    assert lines[13] == f"best        {value}: {error_of(best):.2f} %, {beaten}"
    assert lines[14] == f"run         {RunFolder.of(best).folder}"
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if line.startswith("trial ")] == [
        f"trial {number} of 10: {LR}={value:.4g}" for number, value in enumerate(tried(runs), 1)
    ]


def test_only_the_searched_settings_differ(runs, make):
    search(make("seed=3", trials=3))
    for config in runs:
        typed = make("seed=3", f"{LR}={config['trainer']['localisation_lr']!r}")
        assert config == {**typed, "search": None}


def test_the_seed_decides_what_is_tried(runs, make):
    for seed, root in ((0, "one"), (0, "same"), (1, "other")):
        search(make(f"seed={seed}", trials=3, root=root))
    one, same, other = (tried(runs)[start : start + 3] for start in (0, 3, 6))
    assert one == same
    assert one[0] == other[0] == 1.0
    assert not set(one[1:]) & set(other[1:])


@pytest.mark.parametrize(
    ("name", "values", "own", "is_one"),
    [
        ("optimizer.lr", {"log": [0.0001, 0.1]}, 0.003, lambda value: 0.0001 <= value <= 0.1),
        ("optimizer.weight_decay", {"uniform": [0, 1]}, 0.01, lambda value: 0 <= value <= 1),
        ("backbone.width", {"integer": [8, 40]}, 32, lambda value: type(value) is int and 8 <= value <= 40),
        ("backbone.width", {"choice": [16, 32]}, 32, lambda value: value in (16, 32)),
        ("stn.antialias", {"choice": [True, False]}, True, lambda value: type(value) is bool),
        ("stn.padding", {"choice": ["zeros", "border"]}, "zeros", lambda value: value in ("zeros", "border")),
        ("trainer.localisation_clip", {"choice": [None, 1.0]}, None, lambda value: value in (None, 1.0)),
        ("stn.at", {"choice": ["input", ["input", "layer2"]]}, "input", lambda value: True),
    ],
)
def test_each_kind_of_space(runs, make, recwarn, capfd, name, values, own, is_one):
    text = search(make(trials=4, space={name: values}))
    first, *others = tried(runs, name)
    assert first == own
    assert type(first) is type(own)
    assert len(others) == 3
    assert all(map(is_one, others))
    assert "with" in text.splitlines()[-2] or len({str(value) for value in others}) < 3
    assert not [str(warning.message) for warning in recwarn if "optuna" in warning.filename]
    assert capfd.readouterr().err == ""


def test_several_settings_are_searched_together(runs, make):
    space = {**SPACE, "backbone.width": {"integer": [8, 40]}, "stn.padding": {"choice": ["zeros", "border"]}}
    text = search(make(trials=5, space=space))
    assert {tuple(sorted(params)) for params, *_ in trials(make())} == {tuple(sorted(space))}
    assert (tried(runs)[0], tried(runs, "backbone.width")[0]) == (1.0, 32)
    assert len(set(tried(runs, "backbone.width"))) > 2
    assert "backbone.width=32" in text


# Mistakes


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"space": {}}, "search.space must name a setting or more, got none"),
        (
            {"space": {LR: {"log": [0, 1]}}},
            f"search.space.{LR} must be one of choice: [...], log, uniform or",
        ),
        ({"space": {LR: {"log": [2, 1]}}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: {"uniform": [1]}}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: {"uniform": ["a", "b"]}}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: {"uniform": [False, True]}}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: {"uniform": [0.0, math.inf]}}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: {"integer": [1.5, 3]}}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: {"choice": []}}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: {"choice": 3}}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: {"linear": [0, 1]}}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: {"log": [1, 2], "choice": [3]}}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: [1, 2]}}, f"search.space.{LR} must be one of"),
        ({"space": {LR: None}}, f"search.space.{LR} must be one of"),
        ({"space": None}, "search.space must be a group"),
        (
            {"space": {"trainer.foo": {"log": [1, 2]}}},
            "search.space.trainer.foo must be the name of a setting",
        ),
        ({"space": {"foo": {"log": [1, 2]}}}, "search.space.foo must be the name of a setting"),
        ({"space": {"seed.foo": {"log": [1, 2]}}}, "search.space.seed.foo must be the name of a setting"),
        # the config's own values are tried first
        (
            {"space": {"backbone.width": {"choice": [8, 16]}}},
            "backbone.width must hold the config's own value",
        ),
        ({"space": {"backbone.width": {"integer": [8, 16]}}}, "which is tried first: 32"),
        ({"space": {"trainer.localisation_clip": {"log": [0.1, 10]}}}, "which is tried first: None"),
        ({"trials": 0}, "search.trials must be an integer at least 1, got 0"),
        ({"trials": "many"}, "search.trials must be an integer at least 1, got 'many'"),
        ({"prune": 101}, "search.prune must be a number from 0 to 100 or null, got 101"),
        ({"foo": 1}, "search.foo is not a setting of search"),
    ],
)
def test_a_search_that_cannot_work_is_one_clear_line(runs, make, tmp_path, plan, words):
    config = make()
    config["search"] |= plan
    with pytest.raises(UserError) as raised:
        search(config)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert runs == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("search.trials=0", "search.trials must be an integer at least 1, got 0"),
        (
            "++search.space={trainer.foo:{log:[1,2]}}",
            "search.space.trainer.foo must be the name of a setting",
        ),
        ("++search.space={seed:{integer:[2,1]}}", "search.space.seed must be one of choice: [...]"),
        ("seed=-1", "seed must be an integer from 0"),
        ("search.trails=3", "search.trails is not a setting"),
    ],
)
def test_the_command_reports_it_in_one_line(command, tmp_path, line, words):
    code, out, err = command("train.py", "sweep=search", line)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {words}")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_cannot_work_ends_the_search_with_the_line_of_a_run(runs, make):
    runs.then = [None, raising(UserError("backbone.width must be an integer from 1 to 4096, got 9999"))]
    with pytest.raises(UserError, match="got 9999"):
        search(make())


def test_without_optuna_the_line_tells_how_to_install_it(runs, make, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"^a search needs Optuna: pip install -e '\.\[search\]'$"):
        search(make())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"no database " * 400, "a folder"], ids=["other bytes", "a folder"])
def test_a_damaged_file_is_one_line_and_is_left_there(runs, make, tmp_path, damage):
    file = tmp_path / "outputs" / "search.db"
    file.parent.mkdir()
    if damage == "a folder":
        file.mkdir()
    else:
        file.write_bytes(damage)
    with pytest.raises(UserError) as raised:
        search(make())
    assert str(raised.value).startswith(f"{file} cannot be used: ")
    assert "\n" not in str(raised.value)
    assert file.is_dir() or file.read_bytes() == damage
    assert runs == []


def test_a_root_that_is_no_folder_is_one_line(runs, make, tmp_path):
    (tmp_path / "outputs").write_text("")
    with pytest.raises(UserError, match=r"search\.db cannot be used: "):
        search(make())


# Going on


@pytest.mark.parametrize(
    ("how", "at"), [("Ctrl-C", 1), ("Ctrl-C", 6), ("a kill", 2), ("a kill", 6)], ids=lambda value: str(value)
)
def test_an_interrupted_search_continues_as_if_it_had_not_been(runs, make, how, at):
    search(make(root="whole"))
    whole = tried(runs)
    runs.clear()
    runs.then = [None] * (at - 1) + [raising(KeyboardInterrupt)]
    config = make()
    with pytest.raises(KeyboardInterrupt):
        search(config)
    if how == "a kill":  # which leaves the lock of the run
        if not (pid := os.fork()):
            run_lock(RunFolder.of(runs[-1]).folder).__enter__()
            os._exit(0)
        os.waitpid(pid, 0)
    first = tried(runs)
    assert first == whole[:at]
    runs.clear()
    runs.then = []
    text = search(config)
    assert tried(runs) == whole[at - 1 :]
    assert trials(config) == trials(make(root="whole"))
    lines = text.splitlines()
    assert len(lines[2:-3]) == 6


def test_interrupted_in_each_trial_it_still_tries_the_same(runs, make):
    search(make(root="whole", trials=3))
    whole = tried(runs)
    config = make(trials=3)
    for number in range(3):
        runs.clear()
        runs.then = [None] * bool(number) + [raising(KeyboardInterrupt)]
        with pytest.raises(KeyboardInterrupt):
            search(config)
    runs.clear()
    runs.then = []
    search(config)
    assert tried(runs) == whole[2:]
    assert trials(config) == trials(make(root="whole"))


def test_more_trials_continue_a_search(runs, make):
    search(make(root="whole", trials=7))
    whole = tried(runs)
    runs.clear()
    first = search(make(trials=4))
    assert search(make(trials=4)) == first
    assert tried(runs) == whole[:4]
    assert search(make(trials=2)) == first
    search(make(trials=7))
    assert tried(runs) == whole


def test_another_space_or_config_is_another_search(runs, make):
    search(make(trials=2))
    search(make("data=rts", trials=2))
    search(make(trials=2, space={LR: {"log": [0.01, 30]}}))
    assert len(runs) == 6
    assert tried(runs)[::2] == [1.0] * 3


def test_a_second_terminal_shares_the_work(runs, make):
    config = make(trials=6)

    def type_it_there():
        runs.then = []
        search(config)

    runs.then = [None, type_it_there]
    search(config)
    assert len(runs) == 6
    assert len(set(tried(runs))) == 6
    assert [state for _, state, _ in trials(config)] == ["COMPLETE"] * 6


# Runs without a result


def test_failed_and_pruned_runs_count_and_are_reported(runs, make, capsys):
    # Of those that there are once pruning begins only the best quarter may go on.
    runs.then = [None, raising(TrainingFailed("training stopped: too hot"))]
    config = make(f"{LR}={BEST}", trials=8, prune=25)
    text = search(config)
    states = [state for _, state, _ in trials(config)]
    assert len(runs) == len(states) == 8
    assert states[1] == "FAIL"
    pruned = states.count("PRUNED")
    assert pruned
    assert text.splitlines()[-3] == f"{pruned} pruned, 1 failed"
    assert f"best        {LR}={BEST}: 1.00 %, 1.00 % with {LR}={BEST}" in text
    for run, state in zip(runs, states, strict=True):
        file = RunFolder.of(run).failure_file
        assert file.exists() == (state == "PRUNED")  # a real run marks its failure itself
        if state == "PRUNED":
            failure = json.loads(file.read_text())
            assert failure["status"] == "pruned"
            assert re.fullmatch(r"pruned after epoch 1, with a validation error of [\d.]+ %", failure["why"])
            assert f"{failure['why']}\n" in (told := capsys.readouterr().out) or told == ""
    again = search(config)
    assert again == text
    assert len(runs) == 8


def test_where_all_fail_the_search_fails(runs, make, capsys):
    runs.then = [raising(TrainingFailed("training stopped: too hot"))] * 3
    with pytest.raises(TrainingFailed, match=r"^the search found nothing: 0 runs were pruned, 3 failed$"):
        search(make(trials=3))
    assert len(runs) == 3
    assert capsys.readouterr().out.count("training stopped: too hot\n") == 3
    with pytest.raises(TrainingFailed):
        search(make(trials=3))
    assert len(runs) == 3


def test_a_resumed_run_reports_all_its_epochs_once(runs, make, monkeypatch):
    reported = []
    monkeypatch.setattr(optuna.Trial, "report", lambda self, value, step: reported.append((value, step)))

    def resume(run):
        run.history = [{"epoch": epoch, "val_error": 10.0 - epoch} for epoch in (1, 2)]
        for epoch in (3, 4):
            run.history.append({"epoch": epoch, "val_error": 10.0 - epoch})
            yield run.history[-1]

    monkeypatch.setattr(FakeRun, "epochs", resume)
    search(make(trials=1))
    assert reported == [(9.0, 1), (8.0, 2), (7.0, 3), (6.0, 4)]


# The command


@pytest.mark.slow
def test_a_real_search_that_is_killed_continues(tmp_path):
    words = [*npz_settings(tmp_path), "trainer.epochs=1", f"run.root={tmp_path / 'outputs'}"]
    words += ["optimizer=adamw", "optimizer.lr=0.01", "trainer.batch_size=20", "search.trials=3", "seed=1"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "sweep=search", *words]

    def start():
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **pipes)

    def amid_the_second():
        begun = list(tmp_path.glob("outputs/*/checkpoints/last.pt"))
        return len(begun) == 2 or killed.poll() is not None

    killed = start()
    try:
        wait_until(amid_the_second)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(killed.pid, signal.SIGKILL)
    out, err = killed.communicate(timeout=TOO_LONG)
    assert killed.returncode == -signal.SIGKILL, err
    first, second = re.findall(r"(?m)^trial \d of 3: (.*)$", out)
    done = {file.parent.name: file.stat().st_mtime_ns for file in tmp_path.glob("outputs/*/result.json")}

    again = start()
    out, err = again.communicate(timeout=TOO_LONG)
    assert again.returncode == 0, err
    assert re.findall(r"(?m)^trial (\d) of 3: (.*)$", out)[0] == ("2", second)
    assert len(re.findall(r"(?m)^trial ", out)) == 2
    assert "resumes after step " in out or "is finished already" in out
    results = {file.parent.name: file.stat().st_mtime_ns for file in tmp_path.glob("outputs/*/result.json")}
    assert len(results) == 3
    assert {name: results[name] for name in done} == done
    lines = out.splitlines()
    assert lines[-3] == "0 pruned, 0 failed"
    assert first == f"{LR}=0.001"
    assert f"% with {first}" in lines[-2]
    assert (tmp_path / "outputs" / lines[-1].split()[-1].rpartition("/")[2] / "result.json").exists()
