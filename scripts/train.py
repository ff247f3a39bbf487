"""Train: python scripts/train.py data=rotated backbone=compact stn=affine ... (--help tells the rest)."""

import hydra
from omegaconf import DictConfig, OmegaConf

from stn_experiments.cli.command import Failure, attempt, plain, run_command


@hydra.main(config_path="../configs", config_name="train", version_base="1.3")
def main(config: DictConfig) -> Failure | None:
    """Train what the command line describes, and say what came out and where it lies."""
    return attempt(lambda: train(config))


def train(config: DictConfig) -> None:
    """One run, or the replay of a step of one, or a search over many."""
    from stn_experiments.runs.replay import replay  # here, as torch loads slowly and --help needs none
    from stn_experiments.runs.train import summary
    from stn_experiments.runs.train import train as train_run

    settings = plain(config)
    if OmegaConf.select(config, "search") is not None:
        from stn_experiments.sweeps.search import search

        print(search(settings))
    elif OmegaConf.select(config, "run.replay") is not None:
        print(replay(settings))
    else:
        print(summary(settings, train_run(settings)))


if __name__ == "__main__":
    run_command(main)
