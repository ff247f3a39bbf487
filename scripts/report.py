"""Report on runs: python scripts/report.py outputs [MORE ...] [--output FOLDER]."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from stn_experiments.cli.command import ArgumentParser, run_command
from stn_experiments.common.errors import UserError

INTERVAL = "5"  # seconds


def main() -> None:
    """Write a report or an animation and print where it is, or watch runs."""
    arguments = parse()
    folders, seconds = arguments.folders, arguments.watch
    if arguments.output and (arguments.animation or seconds is not None):
        raise UserError("--output is the folder of a report, which --animation and --watch do not write")
    if seconds is not None and not is_number(seconds):  # it is the first folder
        folders, seconds = [seconds, *folders], INTERVAL
    if not folders:
        raise UserError("at least one folder with runs is needed, as in: python scripts/report.py outputs")
    paths = [Path(folder) for folder in folders]
    # What is imported below needs torch, which --help does not.
    if seconds is not None:
        if not 0 < float(seconds) < math.inf:
            raise UserError(f"--watch must be a number of seconds above 0, got {seconds}")
        from stn_experiments.report.watch import watch

        watch(paths, float(seconds))
    elif arguments.animation:
        from stn_experiments.report.animation import animate

        animate(paths, arguments.animation)
        print(f"animation   {arguments.animation}")
    else:
        write_report(paths, arguments.output or paths[0] / "report", arguments.tensorboard)


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="runs, or folders of runs")
    parser.add_argument("--output", type=Path, help="the folder to write to, by default FOLDER/report")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--tensorboard",
        type=Path,
        metavar="FOLDER",
        help="also write TensorBoard runs: the means of runs that differ in the seed alone, with a band",
    )
    other.add_argument(
        "--watch",
        nargs="?",
        const=INTERVAL,
        metavar="SECONDS",
        help=f"write nothing, but print the progress of the runs every {INTERVAL} seconds until all end",
    )
    other.add_argument(
        "--animation", type=Path, metavar="GIF", help="write only this: how the runs learned, side by side"
    )
    return parser.parse_args()


def write_report(paths: Sequence[Path], output: Path, tensorboard: Path | None) -> None:
    """Write a report, and TensorBoard runs of means if a folder for them is given."""
    from stn_experiments.report.report import Report

    report = Report(paths)
    report.write(output)
    for line in report.skipped:
        print(line)
    print(f"runs        {report.counted}")
    for run in report.unfinished:
        print(f"unfinished  {run}")
    print(f"tables      {output / 'table.md'}, {output / 'table.csv'}")
    print(f"page        {output / 'index.html'}")
    if tensorboard:
        from stn_experiments.report.seeds import write_means

        means = write_means(report.groups, tensorboard)
        print(f"means       {means}: tensorboard --logdir {tensorboard}")


def is_number(text: str) -> bool:
    """Whether a word of the command line is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    run_command(main)
