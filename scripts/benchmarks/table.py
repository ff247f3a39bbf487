"""Tables of measurements, as Markdown and as JSON."""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Times, spread
from stn_experiments.common.errors import UserError
from stn_experiments.common.files import to_json, write_atomically
from stn_experiments.storage.environment import environment


class Cell(NamedTuple):
    """A label, a number with its repeats, or an empty cell with a ``reason``."""

    text: str
    value: float | None = None
    repeats: tuple[float, ...] = ()
    reason: str = ""


class Table(NamedTuple):
    """Rows with a label in their first cell."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown; reasons of empty cells are below it."""
        reasons = list(dict.fromkeys(cell.reason for row in self.rows for cell in row if cell.reason))
        lines = [list(self.columns), ["---", *["---:"] * (len(self.columns) - 1)]]
        lines += [
            [f"– ({reasons.index(cell.reason) + 1})" if cell.reason else cell.text for cell in row]
            for row in self.rows
        ]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        below = "\n".join(f"({number}) {reason}  " for number, reason in enumerate(reasons, 1))
        return "\n\n".join(part for part in (f"## {self.title}", table, below, self.note) if part) + "\n"

    def json(self) -> dict[str, Any]:
        """The table as plain values: a list of rows, each a dict by column."""
        rows = [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]
        return {"name": self.name, "title": self.title, "note": self.note, "rows": rows}


def label(text: object) -> Cell:
    """The name of a row."""
    return Cell(str(text))


def missing(reason: str) -> Cell:
    """An empty cell."""
    return Cell("", reason=reason)


def number(values: tuple[float, ...], unit: str = "") -> Cell:
    """The median of some values, and their spread if there are several."""
    median = statistics.median(values)
    around = f" ± {100 * spread(values):.0f} %" if len(values) > 1 else ""
    return Cell(f"{_short(median)}{unit}{around}", median, values)


def of(times: Times | str, figure: Callable[[float], float], unit: str = "") -> Cell:
    """A figure of the seconds per unit of work, or an empty cell."""
    return missing(times) if isinstance(times, str) else number(tuple(map(figure, times.seconds)), unit)


def rate(times: Times | str, images: int) -> Cell:
    """Images per second, for units of this many images."""
    return of(times, lambda seconds: images / seconds)


def milliseconds(times: Times | str) -> Cell:
    """Milliseconds per unit of work."""
    return of(times, lambda seconds: 1000 * seconds)


def quotient(one: Times | str, other: Times | str, factor: float = 1, unit: str = "×") -> Cell:
    """The ratio of two times, repeat by repeat, because both met the same drift of the machine."""
    if isinstance(one, str) or isinstance(other, str):
        return missing(one if isinstance(one, str) else str(other))
    return number(tuple(factor * a / b for a, b in zip(one.seconds, other.seconds, strict=True)), unit)


def hardware(workers: int) -> dict[str, Any]:
    """The machine, versions and commit."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0] if models else cpu
    about = {name: value for name, value in environment(0).items() if name not in ("seed", "platform")}
    for package in ("kornia", "lightning"):
        with suppress(PackageNotFoundError):
            about[package] = version(package)
    return {"cpu": cpu, "cores": cores(), "workers": workers, **about}


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write(folder: Path, tables: Sequence[Table], about: dict[str, Any]) -> None:
    """Write ``benchmark.md`` and ``benchmark.json``.

    Raises:
        UserError: the folder cannot be written to.
    """
    facts = ", ".join(f"{name} {value}" for name, value in about.items() if value is not None)
    text = "\n".join(["# Benchmark\n", facts + "\n", *(table.markdown() for table in tables)])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "benchmark.md", text)
        write_atomically(
            folder / "benchmark.json", to_json({**about, "tables": [table.json() for table in tables]})
        )
    except OSError as error:
        raise UserError(f"--output must be a folder that can be written to: {error}") from error


def _plain(cell: Cell) -> Any:
    if cell.reason:
        return {"value": None, "reason": cell.reason}
    return cell.text if cell.value is None else {"value": cell.value, "repeats": list(cell.repeats)}


def _short(value: float) -> str:
    """Three significant digits, or a whole number as it is."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
