"""Repeat one step of a run to see what happened in it: python scripts/replay.py RUN --step 100."""

from pathlib import Path

from stn_experiments.cli.command import ArgumentParser, run_command


def main() -> None:
    """Print the batch, loss, theta and gradients of a step."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument("--step", type=int, required=True, help="number of the step, from 1")
    arguments = parser.parse_args()

    from stn_experiments.runs.replay import replay  # imported here, because --help needs no torch
    from stn_experiments.storage.run_folder import RunFolder

    print(replay(RunFolder(arguments.run.absolute()), arguments.step))


if __name__ == "__main__":
    run_command(main)
