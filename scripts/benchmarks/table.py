"""Tables of measurements, as Markdown and as JSON."""

import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Values
from stn_experiments.common.errors import UserError
from stn_experiments.common.files import to_json, write_atomically
from stn_experiments.storage.environment import environment

EXPLANATION = """A number is the median of its repeats, ± half their range. A column *one ÷ other* is the
speed of one divided by the speed of the other, so above 1× the first is the faster one."""


class Table(NamedTuple):
    """Values by row and column; the first column has labels."""

    name: str
    title: str
    rows: Sequence[Mapping[str, Values]]
    note: str = ""

    def markdown(self) -> str:
        """The table in Markdown: medians with spreads, and below it why some are missing."""
        columns = list(self.rows[0])
        lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
        reasons: dict[str, str] = {}
        for row in self.rows:
            label, *cells = row.items()
            lines.append([str(label[1])])
            for column, values in cells:
                if isinstance(values, str):
                    text = f"– {reasons.setdefault(values, f'({len(reasons) + 1})')}"
                else:
                    text = number(values, "×" if "÷" in column else "")
                lines[-1].append(text)
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        below = "\n".join(f"{mark} {reason}  " for reason, mark in reasons.items())
        return "\n\n".join(part for part in (f"## {self.title}", table, below, self.note) if part) + "\n"

    def json(self) -> dict[str, Any]:
        """The table as plain values: a list of rows, each a dict by column."""
        rows = []
        for row in self.rows:
            label, *cells = row.items()
            rows.append(dict([label, *((column, _plain(values)) for column, values in cells)]))
        return {"name": self.name, "title": self.title, "note": self.note, "rows": rows}


def number(values: tuple[float, ...], unit: str = "") -> str:
    """The median, and half the range in percent of it if there are several values."""
    median = statistics.median(values)
    if isinstance(median, int):
        text = f"{median:,}"
    else:  # three significant digits
        text = f"{float(f'{median:.3g}'):,.0f}" if abs(median) >= 100 else f"{median:#.3g}"
    spread = f" ± {50 * (max(values) - min(values)) / median:.0f} %" if len(values) > 1 else ""
    return text + unit + spread


def machine(workers: int) -> dict[str, Any]:
    """The machine, versions and commit."""
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    about = {name: value for name, value in environment(0).items() if name not in ("seed", "platform")}
    for package in ("kornia", "lightning"):
        with suppress(PackageNotFoundError):
            about[package] = version(package)
    cpu = models[0] if models else platform.processor() or platform.machine()
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
    text = "\n".join(
        ["# Benchmark\n", facts + "\n", EXPLANATION + "\n", *(table.markdown() for table in tables)]
    )
    content = to_json({**about, "tables": [table.json() for table in tables]})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "benchmark.md", text)
        write_atomically(folder / "benchmark.json", content)
    except OSError as error:
        raise UserError(f"--output must be a folder that can be written to: {error}") from error


def _plain(values: Values) -> dict[str, Any]:
    if isinstance(values, str):
        return {"value": None, "reason": values}
    return {"value": statistics.median(values), "repeats": list(values)}
