"""Speed beside other ways to do the same: python scripts/benchmark.py [QUESTION ...] [overrides]."""

import argparse
import math
import shlex
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

from stn_experiments.cli.command import ArgumentParser, run_command
from stn_experiments.common.errors import UserError
from stn_experiments.config.compose import compose

CONFIGS = Path(__file__).parent.parent / "configs"
QUESTIONS = ("data", "own_images", "training", "transformer", "page", "time_to_error", "growth")
"""Each is a module of ``benchmarks`` whose ``tables`` answers it."""
QUICK = ("trainer.epochs=1", "trainer.images_per_epoch=6400")


def main() -> None:
    """Measure, print each table when it is ready, and write all of them."""
    arguments = parse()
    overrides = [word for word in arguments.words if "=" in word]
    questions = [word for word in arguments.words if "=" not in word] or list(QUESTIONS)
    for question in questions:
        if question not in QUESTIONS:
            raise UserError(f"a question must be one of {', '.join(QUESTIONS)}, got {question}")
    repeats = arguments.repeats or (3 if arguments.quick else 5)
    seconds = arguments.seconds or (0.3 if arguments.quick else 1.0)
    if arguments.quick:
        overrides = [*QUICK, *overrides]

    from benchmarks.bench import Bench  # torch is slow to load, and --help does not need it
    from benchmarks.table import Table, cores, machine, write

    from stn_experiments.runs.experiment import build_experiment
    from stn_experiments.runs.train import set_up_torch

    workers = cores() if arguments.workers is None else arguments.workers
    bench = Bench(partial(compose, CONFIGS), overrides, repeats, seconds, workers)
    set_up_torch(build_experiment(bench.config()).trainer, bench.device)  # reports a bad override
    command = shlex.join(["python", "scripts/benchmark.py", *sys.argv[1:]])
    about = {"command": command, **machine(workers)}
    found: list[Table] = []
    write(arguments.output, found, about)  # fails before the work if it has to
    if arguments.quick:
        print(
            f"A brief measurement: {repeats} × {seconds} s for each number, and one short epoch of each loop."
        )
    for question in questions:
        tables = import_module(f"benchmarks.{question}").tables(bench)
        for table in tables:
            print(table.markdown(), flush=True)
        found += tables
        write(arguments.output, found, about)
    print(f"tables      {arguments.output / 'benchmark.md'}, {arguments.output / 'benchmark.json'}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    about = f"any of {', '.join(QUESTIONS)} (default: all), and overrides as for scripts/train.py"
    add("words", nargs="*", metavar="QUESTION or a.b=value", help=about)
    add("--repeats", type=partial(above, 0, int), help="measurements of each number, default 5")
    add("--seconds", type=partial(above, 0, float), help="length of each, default 1")
    add("--workers", type=partial(above, -1, int), help="workers of each DataLoader, default: one per core")
    add("--output", type=Path, default=Path("outputs/benchmark"), help="the folder to write to")
    add("--quick", action="store_true", help="one brief measurement of each number, in a few minutes")
    return parser.parse_intermixed_args()


def above(bound: int, kind: type[int] | type[float], text: str) -> float:
    """The number of an option.

    Raises:
        ArgumentTypeError: it is not above the bound, or not finite.
    """
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not bound < value < math.inf:
        noun = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"must be a {noun} above {bound}, got {text}")
    return value


if __name__ == "__main__":
    run_command(main)
