"""Fetch the four MNIST files ahead of time: python scripts/download_mnist.py [FOLDER]."""

import logging
from pathlib import Path

from stn_experiments.cli.command import ArgumentParser, run_command
from stn_experiments.data.idx import FILES
from stn_experiments.data.mnist import default_cache, fetch_into

DESCRIPTION = """Fetch the four MNIST files into the cache, where training finds them, or into FOLDER, which
training reads with data.root=FOLDER or STN_DATA_DIR=FOLDER. Valid files are kept, damaged ones replaced."""


def main() -> None:
    """Fetch the files and print their paths."""
    parser = ArgumentParser(description=DESCRIPTION)
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="default: the cache")
    folder = parser.parse_args().folder or default_cache()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    fetched = fetch_into(folder)
    print(f"MNIST {'was fetched into' if fetched else 'was already complete in'} {folder}:")
    for file in FILES:
        print(folder / file.name)


if __name__ == "__main__":
    run_command(main)
