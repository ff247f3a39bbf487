"""A search for the best values of a few settings: Optuna asks, a run answers, the next start goes on."""

import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stn_experiments.common.errors import RunLocked, TrainingFailed, UserError
from stn_experiments.common.files import digest
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.saving import History
from stn_experiments.runs.train import train_run
from stn_experiments.storage.lock import run_lock
from stn_experiments.storage.run_folder import RunFolder, run_name
from stn_experiments.sweeps.search_space import SearchConfig, check_own

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

FAILED = "failed"
"""What a trial is marked with that failed by itself and was not cut off."""


def search(config: Mapping[str, Any]) -> str:
    """Run trials until there are as many as ``search.trials`` asks for; says which was best.

    The study lies in ``search.db`` in the folder that runs go to. The same command goes on with it: a run
    that was cut off is taken up again, and in several terminals it shares the work.

    Raises:
        UserError: a setting that cannot work, or Optuna is missing.
        TrainingFailed: no trial came to a result.
    """
    plan = build_experiment(config).search  # and what is wrong with the config is wrong with all trials
    assert plan is not None
    base = {**config, "search": None}
    own = {name: value_at(base, name) for name in plan.space}
    for name, value in own.items():
        check_own(name, plan.space[name], value)
    study = study_of(base, plan)
    if not study.trials:
        study.enqueue_trial(own)  # what the search has to beat
    while (number := len(ended(study)) + take_up(study, base)) < plan.trials:
        run_trial(study, plan, base, number)
    return summary(study, own)


def study_of(base: Mapping[str, Any], plan: SearchConfig) -> "Study":
    """The study of a config and a space, as it was left."""
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        raise UserError("a search needs Optuna: pip install -e '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", "Choices for a categorical", UserWarning)  # a list is stored as JSON
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if plan.prune is not None:
        pruner = optuna.pruners.PercentilePruner(plan.prune, n_startup_trials=3)
    name = run_name(base).rpartition("-")[0]
    decisive = {"config": run_name(base), "space": plan.space, "prune": plan.prune}
    file = Path(base["run"]["root"]) / "search.db"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
        return optuna.create_study(
            storage=storage, pruner=pruner, study_name=f"{name}-{digest(decisive)}", load_if_exists=True
        )
    except (OSError, SQLAlchemyError) as error:
        raise UserError(f"{file} cannot be used: {str(error).splitlines()[0]}") from error


def run_trial(study: "Study", plan: SearchConfig, base: Mapping[str, Any], number: int) -> None:
    """Ask for values, train with them, and tell what came out; ``number`` others came before or run."""
    import optuna

    # A sampler of the trial's own, so that a search that was stopped asks for the same as one that was not.
    study.sampler = optuna.samplers.TPESampler(seed=base["seed"] * 1_000_003 + number, n_startup_trials=5)
    trial = study.ask()
    with run_lock(place_of(study, trial.number, base)):
        values = {name: suggest(trial, name, ends) for name, ends in plan.space.items()}
        print(f"\ntrial {number + 1} of {plan.trials}: {words(values)}", flush=True)
        config = with_values(base, values)
        run = folder_of(config)
        trial.set_user_attr("run", str(run.folder))
        try:
            result = train_run(config, reporter(trial))
        except optuna.TrialPruned as pruned:
            run.fail(str(pruned), "pruned")
            print(pruned)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except TrainingFailed as error:
            print(error)
            trial.set_user_attr(FAILED, str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            print(f"validation error {result['val_error']:.2f} %")
            study.tell(trial, result["val_error"])


def reporter(trial: "Trial") -> Callable[[History], None]:
    """What is called after each epoch: it tells Optuna, which may give the run up."""
    import optuna

    told: set[int] = set()

    def report(history: History) -> None:
        for metrics in history:
            if metrics["epoch"] not in told:
                trial.report(metrics["val_error"], metrics["epoch"])
                told.add(metrics["epoch"])
        if trial.should_prune():
            last = history[-1]
            raise optuna.TrialPruned(
                f"given up after epoch {last['epoch']}, with a validation error of {last['val_error']:.2f} %"
            )

    return report


def suggest(trial: "Trial", name: str, values: Mapping[str, Any]) -> Any:
    """The value that a trial is to try."""
    ((kind, ends),) = values.items()
    if kind == "choice":
        return trial.suggest_categorical(name, ends)
    if kind == "integer":
        return trial.suggest_int(name, *ends)
    return trial.suggest_float(name, *ends, log=kind == "log")


def ended(study: "Study") -> list["FrozenTrial"]:
    """The trials that need not be run again."""
    return [t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED") or FAILED in t.user_attrs]


def take_up(study: "Study", base: Mapping[str, Any]) -> int:
    """How many trials other processes are busy with; those that nobody is any more are put in line again."""
    import optuna

    busy = 0
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        try:
            with run_lock(place_of(study, trial.number, base)):
                if not study.trials[trial.number].state.is_finished():  # meanwhile
                    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                    study.enqueue_trial(trial.params, skip_if_exists=False)
        except RunLocked:
            busy += 1
    return busy


def place_of(study: "Study", number: int, base: Mapping[str, Any]) -> Path:
    """The folder that the process holds that is busy with a trial."""
    return Path(base["run"]["root"]) / ".searches" / f"{study.study_name}-{number}"


def folder_of(config: Mapping[str, Any]) -> RunFolder:
    """The run of a config."""
    return RunFolder(Path(config["run"]["root"]) / run_name(config))


def with_values(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the values of a few settings, by their dotted names."""
    changed: dict[str, Any] = deepcopy(dict(config))
    for name, value in values.items():
        *path, last = name.split(".")
        node = changed
        for key in path:
            node = node[key]
        node[last] = value
    return changed


def value_at(config: Mapping[str, Any], name: str) -> Any:
    """The value of a setting by its dotted name.

    Raises:
        UserError: there is no such setting.
    """
    node: Any = config
    for key in name.split("."):
        if not isinstance(node, Mapping) or key not in node:
            raise UserError(f"search.space.{name} must be the name of a setting; --cfg job shows them all")
        node = node[key]
    return node


def summary(study: "Study", own: Mapping[str, Any]) -> str:
    """The trials, best first, and what the config's own values came to."""
    results = {t.number: t.value for t in study.trials if t.state.name == "COMPLETE" and t.value is not None}
    given_up = sum(trial.state.name == "PRUNED" for trial in study.trials)
    failed = sum(FAILED in trial.user_attrs for trial in study.trials)
    if not results:
        raise TrainingFailed(f"the search found nothing: {given_up} runs were given up, {failed} failed")
    first, *others = sorted(results, key=lambda number: results[number])
    tried = {number: study.trials[number].params for number in results}
    before = "".join(f", {results[n]:.2f} % with {words(own)}" for n in (first, *others) if tried[n] == own)
    lines = [f"{results[number]:6.2f} %  {words(tried[number])}" for number in (first, *others)]
    return "\n".join(
        [
            "\nvalidation error, best first:",
            *lines,
            f"{given_up} given up, {failed} failed",
            f"best        {words(tried[first])}: {results[first]:.2f} %{before}",
            f"run         {study.trials[first].user_attrs['run']}",
        ]
    )


def words(values: Mapping[str, Any]) -> str:
    """Values as on a command line, numbers shortened."""
    texts = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items())
