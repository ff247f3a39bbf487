"""Train a network: python scripts/train.py data=rotated backbone=compact stn=affine ... (see --help)."""

from functools import partial

import hydra
from omegaconf import DictConfig, OmegaConf

from stn_experiments.cli.command import Failure
from stn_experiments.cli.hydra_command import run_hydra_command, run_job
from stn_experiments.config.compose import to_plain


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> Failure | None:
    """Train what the command line describes, or each run of a sweep."""
    return run_job(partial(train, config))


def train(config: DictConfig) -> None:
    """Train one run, replay one of its steps, or search for settings; print the outcome."""
    from stn_experiments.runs import train as runs  # imported here, because --help needs no torch
    from stn_experiments.runs.replay import replay
    from stn_experiments.sweeps.search import search

    settings = to_plain(config)
    if OmegaConf.select(config, "search") is not None:
        print(search(settings))
    elif OmegaConf.select(config, "run.replay") is not None:
        print(replay(settings))
    else:
        print(runs.summary(settings, runs.train(settings)))


if __name__ == "__main__":
    run_hydra_command(main)
