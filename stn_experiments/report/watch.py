"""How far the runs of a few folders are, for a second terminal."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from stn_experiments.report.collect import Record, collect, number
from stn_experiments.report.tables import time_text

CLEAR = "\x1b[2J\x1b[H"


def watch(folders: Sequence[Path], seconds: float) -> None:
    """Print how far the runs are, again and again, until all are finished or Ctrl-C.

    Raises:
        UserError: a folder is missing, or there is no run that can be read.
    """
    try:
        while True:
            records, skipped = collect(folders)
            print((CLEAR if sys.stdout.isatty() else "") + status(records, skipped), flush=True)
            if all(run.result is not None for run in records):
                return
            time.sleep(seconds)
    except KeyboardInterrupt:
        print()


def status(records: Sequence[Record], skipped: Sequence[str] = ()) -> str:
    """A line for all runs, and one for each that is not finished."""
    finished = sum(run.result is not None for run in records)
    running = [run for run in records if run.running]
    stopped = len(records) - finished - len(running)
    left = [seconds for run in running if (seconds := seconds_left(run)) is not None]
    # They run at the same time, so the slowest says when all are done.
    ending = f", about {time_text(max(left))} left" if left else ""
    lines = [f"{finished} finished, {len(running)} running, {stopped} stopped{ending}"]
    for run in records:
        if run.result is None:
            seconds = seconds_left(run)
            lines.append(f"  {run}" + (f", about {time_text(seconds)} to go" if seconds is not None else ""))
    lines += [f"  {line}" for line in skipped]
    return "\n".join(lines)


def seconds_left(run: Record) -> float | None:
    """What the epochs to come will take, if they take as long as those before; ``None`` before the first."""
    times = [seconds for metrics in run.history if (seconds := number(metrics, "seconds")) is not None]
    return mean(times) * max(run.epochs - len(run.history), 0) if times else None
