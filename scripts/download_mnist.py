"""Fetch the four MNIST files ahead of time: ``python scripts/download_mnist.py [FOLDER]``."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from stn_experiments.data.mnist import FILES, default_cache, fetch_into
from stn_experiments.errors import UserError

DESCRIPTION = """Fetch the four MNIST files into the cache, where training finds them by itself, or into
FOLDER, which training then reads with data.root=FOLDER or STN_DATA_DIR=FOLDER. Files that are there and sound
are left alone; damaged ones are replaced."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch, and print where the files are; returns the exit code: 0, 2 (a setting) or 3 (no source)."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="default: the cache")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        folder = options.folder or default_cache()
        fetched = fetch_into(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"MNIST {'was fetched into' if fetched else 'was already complete in'} {folder}:")
    for file in FILES:
        print(folder / file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
