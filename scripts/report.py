"""Report over many runs: python scripts/report.py outputs [MORE ...] [--output FOLDER]."""

import argparse
import math
from pathlib import Path

from stn_experiments.cli.command import run_command
from stn_experiments.common.errors import UserError

EVERY = "5"  # seconds


def main() -> None:
    """Write a report and say where it lies, or watch runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="runs, or folders that hold them")
    parser.add_argument("--output", type=Path, help="the folder to write to, by default FOLDER/report")
    parser.add_argument(
        "--watch",
        nargs="?",
        const=EVERY,
        metavar="SECONDS",
        help=f"write nothing, but tell how far the runs are, every {EVERY} seconds, until all are finished",
    )
    arguments = parser.parse_args()
    folders, seconds = arguments.folders, arguments.watch
    if seconds is not None and not is_number(seconds):  # it is the first folder
        folders, seconds = [seconds, *folders], EVERY
    if not folders:
        raise UserError("at least one folder with runs is needed, as in: python scripts/report.py outputs")
    paths = [Path(folder) for folder in folders]
    if seconds is not None:
        if not 0 < float(seconds) < math.inf:
            raise UserError(f"--watch must be a number of seconds above 0, got {seconds}")
        from stn_experiments.report.watch import watch  # torch loads slowly, --help needs none

        watch(paths, float(seconds))
        return

    from stn_experiments.report.page import counted
    from stn_experiments.report.write import write_report

    report = write_report(paths, arguments.output)
    for line in report.skipped:
        print(line)
    print(f"runs        {counted(report.cells)}")
    print(f"tables      {report.folder / 'table.md'}, {report.folder / 'table.csv'}")
    print(f"page        {report.folder / 'index.html'}")


def is_number(text: str) -> bool:
    """Whether a word of the command line is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    run_command(main)
