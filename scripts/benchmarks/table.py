"""Tables of measurements as Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Values
from stn_experiments.common.errors import UserError
from stn_experiments.common.files import write_atomically
from stn_experiments.storage.environment import environment

EXPLANATION = """A number is the median of its repeats, ± half their range. A column *one ÷ other* is the
speed of one divided by the speed of the other, so above 1× the first is the faster one."""


class Table(NamedTuple):
    """Values by row and column; the first column has labels."""

    title: str
    rows: Sequence[Mapping[str, Values]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown: medians with spreads, and below it why some are missing."""
        columns = list(self.rows[0])
        lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
        reasons: dict[str, str] = {}
        for row in self.rows:
            lines.append([str(row[columns[0]])])
            for column in columns[1:]:
                values = row[column]
                if isinstance(values, str):
                    text = f"– {reasons.setdefault(values, f'({len(reasons) + 1})')}"
                else:
                    text = number(values, "×" if "÷" in column else "")
                lines[-1].append(text)
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        below = "\n".join(f"{mark} {reason}  " for reason, mark in reasons.items())
        return "\n\n".join(part for part in (f"## {self.title}", table, below, self.note) if part) + "\n"


def number(values: tuple[float, ...], unit: str = "") -> str:
    """The median, and half the range in percent of it if there are several values."""
    median = statistics.median(values)
    if isinstance(median, int):
        text = f"{median:,}"
    else:  # three significant digits
        text = f"{float(f'{median:.3g}'):,.0f}" if abs(median) >= 100 else f"{median:#.3g}"
    spread = f" ± {50 * (max(values) - min(values)) / median:.0f} %" if len(values) > 1 else ""
    return text + unit + spread


def write(file: Path, tables: Sequence[Table], command: str) -> None:
    """Write tables to a file, below the command that measured them, the machine, versions and commit.

    Raises:
        UserError: the file cannot be written.
    """
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
