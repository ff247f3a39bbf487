"""Kept results, and the tables that are written from them: python scripts/results.py."""

import argparse
import re
from pathlib import Path

from kept.pages import rewrite
from kept.records import keep, load_all

from stn_experiments.cli.command import ArgumentParser, run_command
from stn_experiments.common.errors import UserError
from stn_experiments.common.files import write_atomically

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def main() -> None:
    """Write the tables, or keep the runs of a command."""
    arguments = parse()
    if arguments.name:
        file = RESULTS / f"{arguments.name}.json"
        root = arguments.root or Path("outputs")
        count = keep(arguments.command, root, ROOT / "configs", file, arguments.evaluated)
        print(f"kept {count} runs in {file}")
        return
    kept = load_all(RESULTS)
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (written := rewrite(text, kept)) != text:
            stale.append(page.name)
            write_atomically(page, written)
    print(f"written     {', '.join(stale) or 'nothing: all tables are up to date'}")


def parse() -> argparse.Namespace:
    """The arguments."""
    about = "Write the tables of README.md and docs/ from the runs that docs/results keeps."
    parser = ArgumentParser(description=about)
    add = parser.add_argument
    add("--keep", dest="name", metavar="NAME", help="keep runs as docs/results/NAME.json")
    add("--command", help="with --keep: what trained them, with all seeds")
    add("--root", type=Path, metavar="FOLDER", help="with --keep: the folder of the runs, by default outputs")
    about = "with --keep: the data that scripts/evaluate.py evaluated them on, if not their own"
    add("--evaluated", default="", metavar="DATA", help=about)
    arguments = parser.parse_args()
    if arguments.name and not re.fullmatch(r"[\w-]+", arguments.name):
        raise UserError(f"--keep must be a name of letters, digits, - and _, got {arguments.name}")
    if bool(arguments.name) != bool(arguments.command):
        raise UserError("--keep and --command belong together")
    if not arguments.name and (arguments.root or arguments.evaluated):
        raise UserError("--root and --evaluated belong to --keep")
    return arguments


if __name__ == "__main__":
    run_command(main)
