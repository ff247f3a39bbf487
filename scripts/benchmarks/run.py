"""Answers questions by tables, on the terminal and in a folder."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import data, growth, time_to_error, training, transformer
from benchmarks.bench import Bench
from benchmarks.table import Table, hardware, write
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.train import set_up_torch

QUESTIONS = {
    "data": data.tables,
    "training": training.tables,
    "transformer": transformer.tables,
    "time_to_error": time_to_error.tables,
    "growth": growth.tables,
}


def run(bench: Bench, questions: Sequence[str], output: Path) -> None:
    """Answer questions one by one; print and write the tables after each.

    Raises:
        UserError: an override cannot work, MNIST cannot be had, or the folder cannot be written to.
    """
    set_up_torch(build_experiment(bench.config()).trainer)  # reports a bad override
    about = {
        "command": shlex.join(["python", "scripts/benchmark.py", *sys.argv[1:]]),
        **hardware(bench.workers),
    }
    found: list[Table] = []
    write(output, found, about)  # fails before the work if it has to
    for question in questions:
        tables = QUESTIONS[question](bench)
        for table in tables:
            print(table.markdown(), flush=True)
        found += tables
        write(output, found, about)
