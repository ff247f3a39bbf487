"""Report on runs: python scripts/report.py outputs [MORE ...] [--output FOLDER]."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from stn_experiments.cli.command import ArgumentParser, run_command
from stn_experiments.common.errors import UserError


def main() -> None:
    """Write a report or an animation and print where it is, or watch runs."""
    arguments = parse()
    folders = arguments.folders
    if arguments.output and (arguments.animation or arguments.watch):
        raise UserError("--output is the folder of a report, which --animation and --watch do not write")
    # What is imported below needs torch, which --help does not.
    if arguments.watch:
        from stn_experiments.report.watch import watch

        watch(folders)
    elif arguments.animation:
        from stn_experiments.report.animation import animate

        animate(folders, arguments.animation)
        print(f"animation   {arguments.animation}")
    else:
        write_report(folders, arguments.output or folders[0] / "report", arguments.tensorboard)


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="runs, or folders of runs")
    about = "the folder to write to, by default report/ in the first of them"
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=about)
    add = parser.add_mutually_exclusive_group().add_argument
    about = "also write TensorBoard runs: the means of runs that differ in the seed alone, with a band"
    add("--tensorboard", type=Path, metavar="FOLDER", help=about)
    about = "write nothing, but print the progress of the runs every five seconds until none is running"
    add("--watch", action="store_true", help=about)
    about = "write only this: how the runs learned, side by side"
    add("--animation", type=Path, metavar="GIF", help=about)
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
        print(f"means       {means}: tensorboard --logdir {shlex.quote(str(tensorboard))}")


if __name__ == "__main__":
    run_command(main)
