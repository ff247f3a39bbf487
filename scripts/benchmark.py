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
QUESTIONS = ("data", "training", "transformer", "time_to_error", "growth")
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
    for name in ("repeats", "epochs", "seconds"):
        if not 0 < (value := getattr(arguments, name)) < math.inf:
            raise UserError(f"--{name} must be above 0, got {value}")
    if arguments.workers is not None and arguments.workers < 0:
        raise UserError(f"--workers must be at least 0, got {arguments.workers}")
    if arguments.quick:
        arguments.repeats, arguments.seconds, arguments.epochs = 3, 0.3, 1
        overrides = [*QUICK, *overrides]

    from benchmarks.bench import Bench  # torch is slow to load, and --help does not need it
    from benchmarks.table import Table, cores, machine, write

    from stn_experiments.runs.experiment import build_experiment
    from stn_experiments.runs.train import set_up_torch

    workers = cores() if arguments.workers is None else arguments.workers
    bench = Bench(
        partial(compose, CONFIGS), overrides, arguments.repeats, arguments.seconds, arguments.epochs, workers
    )
    set_up_torch(build_experiment(bench.config()).trainer)  # reports a bad override
    command = shlex.join(["python", "scripts/benchmark.py", *sys.argv[1:]])
    about = {"command": command, **machine(workers)}
    found: list[Table] = []
    write(arguments.output, found, about)  # fails before the work if it has to
    if arguments.quick:
        print("A brief measurement: three times 0.3 s for each number, and one short epoch of each loop.")
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
    parser.add_argument(
        "words",
        nargs="*",
        metavar="QUESTION or a.b=value",
        help=f"any of {', '.join(QUESTIONS)} (default: all), and overrides as for scripts/train.py",
    )
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each number, default 5")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement, default 1")
    parser.add_argument(
        "--epochs", type=int, default=12, help="largest number of epochs of the tutorial's loop, default 12"
    )
    parser.add_argument("--workers", type=int, help="workers of each DataLoader, default: one per core")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmark"), help="the folder to write to"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one brief measurement of each number, in minutes"
    )
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    run_command(main)
