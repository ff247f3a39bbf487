"""Train a network: python scripts/train.py data=rotated backbone=compact stn=affine ... (see --help)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from stn_experiments.cli.command import Failure
from stn_experiments.cli.hydra_command import run_hydra_command, run_job
from stn_experiments.config.compose import as_written, to_plain
from stn_experiments.config.names import with_run_name
from stn_experiments.config.tree import flatten
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.sweeps.progress import end_sweep


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> Failure | None:
    """Train what the command line describes, or each run of a sweep."""
    return run_job(partial(train, config))


def train(config: DictConfig) -> None:
    """Train one run, or search for settings; print the outcome."""
    hydra_config = HydraConfig.get()
    is_sweep = hydra_config.mode == RunMode.MULTIRUN
    overrides = as_written(hydra_config.overrides.task)
    settings = with_run_name(to_plain(config, overrides), overrides, is_sweep)
    folder = RunFolder.of(settings)
    is_search = OmegaConf.select(config, "search") is not None
    if not is_search and not is_sweep:
        print(f"run {folder.folder}: {describe(settings)}")

    from stn_experiments.runs import train as runs  # imported here, because torch takes seconds
    from stn_experiments.sweeps.search import search

    if is_search:
        print(search(settings))
    else:
        print(runs.summary(folder, runs.train(settings, folder, show_progress=not is_sweep)))


def describe(config: Mapping[str, Any]) -> str:
    """The choices, the seed and the number of epochs of a config."""
    settings = flatten(config)
    names = ("data", "backbone", "stn", "attention", "seed", "trainer.epochs")
    return " ".join(f"{name}={settings.get(name)}" for name in names)


if __name__ == "__main__":
    run_hydra_command(end_sweep()(main))
