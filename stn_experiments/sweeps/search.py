"""A search for the best values of a few settings with Optuna. Each trial is a run."""

import warnings
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stn_experiments.common.errors import RunLocked, TrainingFailed, UserError
from stn_experiments.common.files import digest
from stn_experiments.config.build import build, settings_of
from stn_experiments.config.names import WITHOUT_SETTINGS, join_names, name_of
from stn_experiments.config.tree import value_at, with_values
from stn_experiments.runs.experiment import NAMED_GROUPS, build_experiment
from stn_experiments.runs.train import TrainingRun, open_folder
from stn_experiments.storage.lock import run_lock
from stn_experiments.storage.run_folder import RunFolder, run_digest
from stn_experiments.sweeps.search_space import SearchConfig, check_own_value

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

FAILED = "failed"
"""The attribute of a trial whose training failed. Without it, a failed trial was interrupted."""
RETRIED = "retries"
"""The attribute of a trial that repeats an interrupted one, with the number of that one."""


def search(config: Mapping[str, Any]) -> str:
    """Run trials until there are ``search.trials``; returns a text with all of them, best first.

    The study is in ``search.db`` in the folder of runs. The same command continues it: an interrupted trial
    is repeated, and its run resumes. In several terminals it shares the work.

    Raises:
        UserError: a setting cannot work, or Optuna is not installed.
        TrainingFailed: no trial has a result.
    """
    return Search(config).run()


class Search:
    """A search: the config of its runs, what is searched, and Optuna's study.

    Args:
        config: a config whose ``search`` is not null.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.plan: SearchConfig = build(config["search"], "search", SearchConfig)
        self.base = {**config, "search": None}
        build_experiment(self.base)  # a mistake in it is a mistake in each trial
        with settings_of("search.space"):
            self.own = {name: value_at(self.base, name) for name in self.plan.space}
            for name, values in self.plan.space.items():
                check_own_value(name, values, self.own[name])
        self.root = Path(config["run"]["root"])
        if config["run"]["force"]:
            raise UserError(
                "run.force must be false in a search, which repeats no trial: to search anew, delete "
                f"{self.root / 'search.db'} and the runs"
            )
        self.study = self._open_study()

    def _open_study(self) -> "Study":
        try:
            import optuna
            from sqlalchemy.exc import SQLAlchemyError
        except ImportError:
            raise UserError("a search needs Optuna: pip install -e '.[search]'") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # this module reports failed trials itself
        warnings.filterwarnings("ignore", "Choices for a categorical")  # lists are stored as JSON
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.plan.prune is not None:
            pruner = optuna.pruners.PercentilePruner(self.plan.prune, n_startup_trials=3)
        identity = digest(
            {"config": run_digest(self.base), "space": self.plan.space, "prune": self.plan.prune}
        )
        names = [self.base[group]["name"] for group in NAMED_GROUPS]
        file = self.root / "search.db"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return optuna.create_study(
                storage=optuna.storages.RDBStorage(f"sqlite:///{file}"),
                pruner=pruner,
                study_name="-".join([*names, f"seed{self.base['seed']}", identity]),
                load_if_exists=True,
            )
        except (OSError, SQLAlchemyError) as error:
            raise UserError(f"{file} cannot be used: {str(error).splitlines()[0]}") from error

    def run(self) -> str:
        """See :func:`search`."""
        import optuna

        if not self.study.trials:
            self.study.enqueue_trial(self.own)  # the search has to beat these values
        while (number := len(self.ended()) + self._requeue_interrupted()) < self.plan.trials:
            # Each trial has a sampler of its own, so an interrupted search proposes the same values.
            seed = self.base["seed"] * 1_000_003 + number
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
            self.study.optimize(lambda trial: self._train(trial, number), 1, catch=(TrainingFailed,))
        return self.summary()

    def ended(self) -> list["FrozenTrial"]:
        """The trials that need not be repeated."""
        return [
            t for t in self.study.trials if t.state.name in ("COMPLETE", "PRUNED") or FAILED in t.user_attrs
        ]

    def _requeue_interrupted(self) -> int:
        """Enqueue the trials that were interrupted; returns how many other processes are running.

        Optuna's heartbeat would notice a killed process only after some time; its lock shows it at once.
        """
        import optuna

        running = 0
        retried = {trial.user_attrs.get(RETRIED) for trial in self.study.trials}
        for trial in self.study.trials:
            if trial.state.name == "RUNNING":
                try:
                    with run_lock(self._lock_folder(trial.number)):
                        if not self.study.trials[trial.number].state.is_finished():
                            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                except RunLocked:
                    running += 1
                    continue
            elif trial.state.name != "FAIL" or FAILED in trial.user_attrs:
                continue
            if trial.number not in retried:
                attributes = {RETRIED: trial.number}
                self.study.enqueue_trial(trial.params, attributes, skip_if_exists=False)
        return running

    def _lock_folder(self, number: int) -> Path:
        """The folder that is locked by the process which runs a trial."""
        return self.root / ".searches" / f"{self.study.study_name}-{number}"

    def _train(self, trial: "Trial", number: int) -> float:
        """Train with the values that Optuna suggests; returns the validation error in percent."""
        with run_lock(self._lock_folder(trial.number)):
            values = {name: suggest(trial, name, one) for name, one in self.plan.space.items()}
            print(f"\ntrial {number + 1} of {self.plan.trials}: {as_overrides(values)}", flush=True)
            config = with_values(self.base, {**values, "run.name": trial_name(self.base, values)})
            folder = RunFolder.of(config)
            trial.set_user_attr("run", str(folder.folder))
            try:
                result = folder.result() or train_unless_pruned(trial, config, folder)
            except TrainingFailed as failure:
                print(failure)
                trial.set_user_attr(FAILED, str(failure))
                raise
            print(f"validation error {result['val_error']:.2f} %")
            return result["val_error"]

    def summary(self) -> str:
        """All trials, best first, and the result of the config's own values."""
        trials = self.study.trials
        results = {t.number: t.value for t in trials if t.state.name == "COMPLETE" and t.value is not None}
        pruned = sum(trial.state.name == "PRUNED" for trial in trials)
        failed = sum(FAILED in trial.user_attrs for trial in trials)
        if not results:
            raise TrainingFailed(f"the search found nothing: {pruned} runs were pruned, {failed} failed")
        ranking = sorted(results, key=lambda number: results[number])
        best = f"{as_overrides(trials[ranking[0]].params)}: {results[ranking[0]]:.2f} %"
        own = next((number for number in ranking if trials[number].params == self.own), None)
        if own is not None:
            best += f", {results[own]:.2f} % with {as_overrides(self.own)}"
        return "\n".join(
            [
                "\nvalidation error, best first:",
                *(f"{results[n]:6.2f} %  {as_overrides(trials[n].params)}" for n in ranking),
                f"{pruned} pruned, {failed} failed",
                f"best        {best}",
                f"run         {trials[ranking[0]].user_attrs['run']}",
            ]
        )


def train_unless_pruned(trial: "Trial", config: Mapping[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Train a run and report each of its epochs to Optuna; returns the run's result.

    Raises:
        TrialPruned: the run is worse than the others after as many epochs.
    """
    import optuna

    experiment = build_experiment(config)
    with (
        open_folder(experiment, folder) as splits,
        closing(TrainingRun(experiment, splits, folder)) as run,
        closing(run.epochs()) as epochs,
    ):
        reported = 0
        for _ in epochs:
            for metrics in run.history[reported:]:  # with those from before an interruption
                trial.report(metrics["val_error"], metrics["epoch"])
            reported = len(run.history)
            if trial.should_prune():
                epoch, error = run.history[-1]["epoch"], run.history[-1]["val_error"]
                reason = f"pruned after epoch {epoch}, with a validation error of {error:.2f} %"
                print(reason)
                run.folder.mark_failed(reason, "pruned")
                raise optuna.TrialPruned(reason)
        return run.finish()


def trial_name(base: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The name of a trial's run: that of the search's config, and the trial's values."""
    words = [f"{name}={value}" for name, value in values.items()]
    name = base["run"]["name"]
    common = "" if name in (None, WITHOUT_SETTINGS) else name
    return join_names([common, name_of(with_values(base, values), words, in_sweep=True)])


def suggest(trial: "Trial", name: str, values: Mapping[str, Any]) -> Any:
    """The value of a setting for a trial."""
    ((kind, ends),) = values.items()
    if kind == "choice":
        return trial.suggest_categorical(name, ends)
    if kind == "integer":
        return trial.suggest_int(name, *ends)
    return trial.suggest_float(name, *ends, log=kind == "log")


def as_overrides(values: Mapping[str, Any]) -> str:
    """Values as on a command line, with numbers shortened."""
    texts = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()}
    return " ".join(f"{name}={text}" for name, text in texts.items())
