"""Tables of measurements as Markdown."""

import statistics
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Row, Values
from stn_experiments.common.errors import UserError
from stn_experiments.common.files import write_atomically
from stn_experiments.storage.environment import environment

EXPLANATION = """A number is the median of its repeats, ± half their range. A column *one ÷ other* is the
speed of one divided by the speed of the other, so above 1× the first is the faster one."""


class Table(NamedTuple):
    """Values by row and column; the first column has labels."""

    title: str
    rows: Sequence[Row]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown: medians with spreads."""
        first, *others = self.rows[0]
        lines = [[first, *others], ["---", *["---:"] * len(others)]]
        for row in self.rows:
            cells = (number(row[column], "×" if "÷" in column else "") for column in others)
            lines.append([row[first], *cells])
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join(part for part in (f"## {self.title}", table, self.note) if part) + "\n"


def number(values: Values, unit: str = "") -> str:
    """The median, and half the range in percent of it if there are several values."""
    if not values:
        return "–"
    median = statistics.median(values)
    if isinstance(median, int):
        text = f"{median:,}"
    else:  # three significant digits
        text = f"{float(f'{median:.3g}'):,.0f}" if abs(median) >= 100 else f"{median:#.3g}"
    spread = f" ± {50 * (max(values) - min(values)) / median:.0f} %" if len(values) > 1 else ""
    return text + unit + spread


def write(file: Path, tables: Sequence[Table], command: str) -> None:
    """Write tables to a file, below the command that measured them, the machine, versions and commit."""
    about = {"command": command, **environment(0)}
    for package in ("kornia", "lightning"):
        with suppress(PackageNotFoundError):
            about[package] = version(package)
    facts = ", ".join(f"{name} {value}" for name, value in about.items() if value is not None)
    parts = ["# Benchmark\n", facts + "\n", EXPLANATION + "\n", *(table.markdown() for table in tables)]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, "\n".join(parts))
    except OSError as error:
        raise UserError(f"--output must be a file that can be written: {error}") from error
