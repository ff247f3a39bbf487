"""The progress of runs and sweeps, for a second terminal."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import get_args

from stn_experiments.common.durations import time_text
from stn_experiments.report.collect import Record, State, collect, number
from stn_experiments.sweeps.progress import SweepStatus, active_sweeps

CLEAR = "\x1b[2J\x1b[H"
INTERVAL = 5.0  # seconds


def watch(folders: Sequence[Path]) -> None:
    """Print the progress of the runs repeatedly, until no run and no sweep is active."""
    while True:
        records, skipped = collect(folders)
        roots = {folder.resolve() for folder in [*folders, *(run.folder.parent for run in records)]}
        sweeps = [sweep for root in sorted(roots) for sweep in active_sweeps(root)]
        print((CLEAR if sys.stdout.isatty() else "") + status(records, sweeps, skipped), flush=True)
        if not sweeps and all(run.state != "running" for run in records):
            return
        time.sleep(INTERVAL)


def status(records: Sequence[Record], sweeps: Sequence[SweepStatus] = (), skipped: Sequence[str] = ()) -> str:
    """A line for each active sweep, one for all runs, and one for each unfinished run."""
    count = Counter(run.state for run in records)
    lines = [f"sweep {sweep.name}\n  {sweep}" for sweep in sweeps]
    lines.append("all runs: " + ", ".join(f"{count[state]} {state}" for state in get_args(State)))
    for run in records:
        if run.state != "finished":
            seconds = seconds_left(run) if run.state == "running" else None
            lines.append(f"  {run}" + (f", about {time_text(seconds)} left" if seconds is not None else ""))
    lines += [f"  {line}" for line in skipped]
    return "\n".join(lines)


def seconds_left(run: Record) -> float | None:
    """The expected time of the remaining epochs; ``None`` before the first."""
    times = [seconds for metrics in run.history if (seconds := number(metrics, "seconds")) is not None]
    return mean(times) * max(run.epochs - len(run.history), 0) if times else None
