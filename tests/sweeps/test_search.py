"""A search over settings: what it tries, how it continues after an interruption, and what it prints."""

import json
import math
import re
import sys
from contextlib import contextmanager

import pytest

pytest.importorskip("optuna")

import optuna

from stn_experiments.common.errors import TrainingFailed, UserError
from stn_experiments.config.tree import value_at
from stn_experiments.storage.lock import run_lock
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.sweeps import search as module
from stn_experiments.sweeps.search import search
from tests.runs.harness import TOO_LONG, npz_settings, start_script, wait_until

LR = "trainer.localisation_lr"
BEST = 0.3
SPACE = {LR: {"log": [0.001, 30]}}


def error_of(config):
    """The validation error of a fake run, which is lowest at one learning rate."""
    return 1 + 10 * abs(math.log10(value_at(config, LR) / BEST))


class FakeRun:
    """A run of two epochs that trains nothing."""

    def __init__(self, experiment, splits, folder):
        self.config, self.folder, self.history = experiment.config, folder, []

    def close(self):
        pass

    def epochs(self):
        for epoch in (1, 2):
            self.history.append({"epoch": epoch, "val_error": error_of(self.config) + 1 / epoch})
            yield self.history[-1]

    def finish(self):
        return {"val_error": error_of(self.config)}


@pytest.fixture
def actions():
    """What a run does as it begins, by the number of the run."""
    return {}


@pytest.fixture
def runs(monkeypatch, actions):
    """The configs of all runs, which train nothing."""
    configs = []

    @contextmanager
    def open_folder(experiment, folder):
        with run_lock(folder.folder):
            configs.append(experiment.config)
            actions.get(len(configs), lambda: None)()
            yield None

    monkeypatch.setattr(module, "open_folder", open_folder)
    monkeypatch.setattr(module, "TrainingRun", FakeRun)
    return configs


@pytest.fixture
def make(compose, tmp_path):
    """The config of a search."""

    def config(*overrides, root="outputs", **plan):
        target = "stn_experiments.sweeps.search.SearchConfig"
        plan = {"_target_": target, "trials": 6, "space": SPACE, "prune": None, **plan}
        config = compose(*overrides) | {"search": plan}
        config["run"]["root"] = str(tmp_path / root)
        return config

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
    lines = search(make(f"{LR}=0.001", trials=10)).splitlines()
    assert len(set(tried(runs))) == len(runs) == 10
    assert tried(runs)[0] == 0.001
    assert all(0.001 <= value <= 30 for value in tried(runs))
    assert sum(value < 1 for value in tried(runs)[1:6]) >= 2  # on a linear scale these would be rare
    best = min(runs, key=error_of)
    assert error_of(best) < error_of(runs[0]) / 2
    assert lines[1] == "validation error, best first:"
    errors = [float(line.split()[0]) for line in lines[2:12]]
    assert errors == sorted(errors)
    assert RunFolder.of(runs[0]).folder.name.startswith("localisation_lr0.001-")
    value = f"{LR}={best['trainer']['localisation_lr']:.4g}"
    beaten = f"{error_of(runs[0]):.2f} % with {LR}=0.001"
    assert lines[12:] == [
        "0 pruned, 0 failed",
        f"best        {value}: {error_of(best):.2f} %, {beaten}",
        f"run         {RunFolder.of(best).folder}",
    ]
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("trial ")] == [
        f"trial {number} of 10: {LR}={value:.4g}" for number, value in enumerate(tried(runs), 1)
    ]


def test_the_seed_decides_what_is_tried_and_only_searched_settings_differ(runs, make):
    for seed, root in ((0, "one"), (0, "same"), (1, "other")):
        search(make(f"seed={seed}", trials=3, root=root))
    one, same, other = (tried(runs)[start : start + 3] for start in (0, 3, 6))
    assert one == same
    assert one[0] == other[0] == 1.0
    assert not set(one[1:]) & set(other[1:])
    assert runs[8] == {**make("seed=1", f"{LR}={other[2]!r}", root="other"), "search": None}


def test_each_kind_of_space(runs, make, recwarn, capfd):
    kinds = {
        "optimizer.lr": ({"log": [0.0001, 0.1]}, 0.003, lambda value: 0.0001 <= value <= 0.1),
        "optimizer.weight_decay": ({"uniform": [0, 1]}, 0.01, lambda value: 0 <= value <= 1),
        "backbone.width": ({"integer": [8, 40]}, 32, lambda value: type(value) is int and 8 <= value <= 40),
        "stn.antialias": ({"choice": [True, False]}, True, lambda value: type(value) is bool),
        "stn.padding": ({"choice": ["zeros", "border"]}, "zeros", ["zeros", "border"].__contains__),
        "trainer.localisation_clip": ({"choice": [None, 1.0]}, None, [None, 1.0].__contains__),
        "stn.at": (
            {"choice": ["input", ["input", "layer2"]]},
            "input",
            ["input", ["input", "layer2"]].__contains__,
        ),
    }
    text = search(make(trials=8, space={name: values for name, (values, *_) in kinds.items()}))
    for name, (_, own, is_one) in kinds.items():
        first, *others = tried(runs, name)
        assert (first, type(first)) == (own, type(own))
        assert all(map(is_one, others))
        assert len({str(value) for value in others}) > 1
        assert f"{name}={own}" in text.splitlines()[-2]
    assert not [str(warning.message) for warning in recwarn if "optuna" in warning.filename]
    assert capfd.readouterr().err == ""


# Mistakes

BAD_SPACES = [
    {"log": [0, 1]},
    {"log": [2, 1]},
    {"uniform": [1]},
    {"uniform": ["a", "b"]},
    {"uniform": [False, True]},
    {"uniform": [0.0, math.inf]},
    {"integer": [1.5, 3]},
    {"choice": []},
    {"choice": 3},
    {"linear": [0, 1]},
    {"log": [1, 2], "choice": [3]},
    [1, 2],
    None,
]
KINDS = "one of choice: [...], log, uniform or integer: [lowest, highest]"
MISTAKES = [
    *(({"space": {LR: bad}}, f"search.space.{LR} must be {KINDS}, got {bad}") for bad in BAD_SPACES),
    ({"space": {}}, "search.space must name a setting or more, got none"),
    ({"space": None}, "search.space must be a group"),
    ({"space": {"trainer.foo": {"log": [1, 2]}}}, "search.space.trainer.foo is not a setting; --cfg job"),
    ({"space": {"seed.foo": {"log": [1, 2]}}}, "search.space.seed.foo is not a setting; --cfg job"),
    ({"space": {"backbone.width": {"choice": [8, 16]}}}, "backbone.width must hold the config's own value"),
    ({"space": {"backbone.width": {"integer": [8, 16]}}}, "which is tried first: 32"),
    ({"space": {"trainer.localisation_clip": {"log": [0.1, 10]}}}, "which is tried first: None"),
    ({"trials": 0}, "search.trials must be an integer at least 1, got 0"),
    ({"prune": 101}, "search.prune must be a number from 0 to 100 or null, got 101"),
]


@pytest.mark.parametrize(("plan", "words"), MISTAKES)
def test_a_search_that_cannot_work_is_one_clear_line(runs, make, tmp_path, plan, words):
    with pytest.raises(UserError) as raised:
        search(make(**plan))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert runs == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("++search.space={seed:{integer:[2,1]}}", f"search.space.seed must be {KINDS}"),
        ("seed=-1", "seed must be an integer from 0"),
        ("search.trails=3", "search.trails is not a setting"),
    ],
)
def test_the_command_reports_it_in_one_line(refused, tmp_path, line, words):
    assert refused("train.py", "sweep=search", line).startswith(words)
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_cannot_work_ends_the_search_with_the_line_of_a_run(runs, actions, make):
    actions[2] = raising(UserError("backbone.width must be an integer from 1 to 4096, got 9999"))
    with pytest.raises(UserError, match="got 9999"):
        search(make())


def test_without_optuna_the_line_tells_how_to_install_it(runs, make, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"^a search needs Optuna: pip install -e '\.\[search\]'$"):
        search(make())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["other bytes", "a folder", "a file for its folder"])
def test_a_file_that_cannot_be_used_is_one_line_and_is_left_there(runs, make, tmp_path, damage):
    file = tmp_path / "outputs" / "search.db"
    if damage == "a file for its folder":
        file.parent.touch()
    elif damage == "a folder":
        file.mkdir(parents=True)
    else:
        file.parent.mkdir()
        file.write_bytes(b"no database " * 400)
    before = list(tmp_path.rglob("*")), file.is_file() and file.read_bytes()
    with pytest.raises(UserError) as raised:
        search(make())
    assert re.fullmatch(rf"{file} cannot be used: .+", str(raised.value))
    assert (list(tmp_path.rglob("*")), file.is_file() and file.read_bytes()) == before
    assert runs == []


# Continuing


def interrupt_in_run(number, actions, config):
    """Press Ctrl-C as the n-th run begins."""
    actions[number] = raising(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        search(config)


@pytest.mark.slow
def test_an_interrupted_search_continues_as_if_it_had_not_been(runs, actions, make):
    """``numbers`` are those of the runs, in each command, during which the search is stopped."""
    search(whole := make(root="whole"))
    values, config, numbers = tried(runs), make(), (1, 1, 2, 2, 3)
    for number in numbers:
        runs.clear()
        actions.clear()
        interrupt_in_run(number, actions, config)
    runs.clear()
    actions.clear()
    text = search(config)
    assert tried(runs) == values[-len(runs) :]
    assert len(runs) == 6 - sum(number - 1 for number in numbers)
    assert trials(config) == trials(whole)
    assert len(text.splitlines()[2:-3]) == 6


def test_more_trials_continue_a_search(runs, make):
    search(make(root="whole", trials=7))
    whole = tried(runs)
    runs.clear()
    first = search(make(trials=4))
    assert search(make(trials=4)) == search(make(trials=2)) == first
    assert tried(runs) == whole[:4]
    search(make(trials=7))
    assert tried(runs) == whole


def test_another_space_or_config_is_another_search(runs, make):
    search(make(trials=2))
    search(make("data=rts", trials=2))
    search(make(trials=2, space={LR: {"log": [0.01, 30]}}))
    assert len(runs) == 6
    assert tried(runs)[::2] == [1.0] * 3


def test_a_second_terminal_shares_the_work(runs, actions, make):
    config = make()
    actions[2] = lambda: search(config)
    search(config)
    assert len(set(tried(runs))) == len(runs) == 6
    assert [state for _, state, _ in trials(config)] == ["COMPLETE"] * 6


# Runs without a result


def test_failed_and_pruned_runs_count_and_are_reported(runs, actions, make, capsys):
    # Once pruning begins, only runs among the best quarter go on.
    actions[2] = raising(TrainingFailed("training stopped: too hot"))
    config = make(f"{LR}={BEST}", trials=8, prune=25)
    text = search(config)
    printed = capsys.readouterr().out
    states = [state for _, state, _ in trials(config)]
    assert len(runs) == len(states) == 8
    assert states[1] == "FAIL"
    assert "training stopped: too hot\n" in printed
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
            assert f"{failure['why']}\n" in printed
    assert search(config) == text
    assert len(runs) == 8


def test_a_search_of_which_all_runs_fail_fails(runs, actions, make):
    actions |= dict.fromkeys((1, 2, 3), raising(TrainingFailed("too hot")))
    for _ in range(2):
        with pytest.raises(TrainingFailed, match=r"^the search found nothing: 0 runs were pruned, 3 failed$"):
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


@pytest.mark.slow
def test_a_real_search_that_is_killed_continues(tmp_path):
    root = tmp_path / "outputs"
    words = ["sweep=search", *npz_settings(tmp_path), "trainer.epochs=1", f"run.root={root}"]
    words += ["optimizer=adamw", "search.trials=3", "seed=1"]

    def times():
        return {file.parent.name: file.stat().st_mtime_ns for file in root.glob("*/result.json")}

    killed = start_script(*words)
    wait_until(lambda: len(list(root.glob("*/checkpoints/last.pt"))) == 2 or killed.poll() is not None)
    killed.kill()
    out, _ = killed.communicate(timeout=TOO_LONG)
    first, second = re.findall(r"(?m)^trial \d of 3: (.*)$", out)
    assert first == f"{LR}=0.001"
    done = times()

    again = start_script(*words)
    out, err = again.communicate(timeout=TOO_LONG)
    assert again.returncode == 0, err
    begun = re.findall(r"(?m)^trial (\d) of 3: (.*)$", out)
    assert begun[0] == ("2", second)
    assert len(begun) == 2
    assert "resumes after step " in out
    results = times()
    assert len(results) == 3
    assert {name: results[name] for name in done} == done
    lines = out.splitlines()
    assert lines[-3] == "0 pruned, 0 failed"
    assert f"% with {first}" in lines[-2]
    assert (root / lines[-1].rpartition("/")[2] / "result.json").exists()


def test_a_search_cannot_train_again(make):
    with pytest.raises(UserError, match=r"^run.force must be false in a search, .* delete .*search.db and"):
        search(make("run.force=true"))
