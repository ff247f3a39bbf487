"""Speed beside torchvision, kornia and Lightning: python scripts/benchmark.py [QUESTION ...] [overrides]."""

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


def main() -> None:
    """Measure, print each table when it is ready, and write all of them."""
    arguments = parse()
    overrides = [word for word in arguments.words if "=" in word]
    questions = [word for word in arguments.words if "=" not in word] or list(QUESTIONS)
    for question in questions:
        if question not in QUESTIONS:
            raise UserError(f"a question must be one of {', '.join(QUESTIONS)}, got {question}")
    for name in ("repeats", "seconds"):
        if not 0 < getattr(arguments, name) < math.inf:
            raise UserError(f"--{name} must be above 0 and finite, got {getattr(arguments, name)}")

    from benchmarks.bench import Bench  # torch is slow to load, and --help does not need it
    from benchmarks.table import Table, write

    from stn_experiments.runs.experiment import build_experiment
    from stn_experiments.runs.train import set_up_torch

    bench = Bench(partial(compose, CONFIGS), overrides, arguments.repeats, arguments.seconds)
    set_up_torch(build_experiment(bench.config()).trainer, bench.device)  # reports a bad override
    command = shlex.join(["python", "scripts/benchmark.py", *sys.argv[1:]])
    found: list[Table] = []
    write(arguments.output, found, command)  # fails before the work if it has to
    for question in questions:
        tables = import_module(f"benchmarks.{question}").tables(bench)
        for table in tables:
            print(table.markdown(), flush=True)
        found += tables
        write(arguments.output, found, command)
    print(f"tables      {arguments.output}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    about = f"any of {', '.join(QUESTIONS)} (default: all), and overrides as for scripts/train.py"
    add("words", nargs="*", metavar="QUESTION or a.b=value", help=about)
    add("--repeats", type=int, default=5, help="measurements of each number, default 5")
    add("--seconds", type=float, default=1.0, help="length of each, default 1")
    add("--output", type=Path, default=Path("outputs/benchmark.md"), help="the file to write")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    run_command(main)
