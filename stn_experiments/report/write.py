"""From runs to the folder of a report."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stn_experiments.common.errors import UserError
from stn_experiments.report import plots
from stn_experiments.report.cells import Cell, group
from stn_experiments.report.collect import collect
from stn_experiments.report.page import curves_name, page, sureness
from stn_experiments.report.panels import strips
from stn_experiments.report.published import SOURCE
from stn_experiments.report.robustness import Matrix, robustness
from stn_experiments.report.tables import details, overview, to_csv


@dataclass(frozen=True)
class Report:
    """What was written where, and a line for each thing that was skipped."""

    folder: Path
    cells: list[Cell]
    skipped: list[str]


def write_report(folders: Sequence[Path], output: Path | None = None) -> Report:
    """Write ``index.html``, ``table.md``, ``table.csv`` and ``plots/`` about all runs in some folders.

    Args:
        folders: runs, or folders that hold runs at any depth.
        output: the folder to write to, by default ``report`` in the first of them.

    Raises:
        UserError: a folder is missing, there is no run, or the output cannot be written.
    """
    records, skipped = collect(folders)
    output = output or folders[0] / "report"
    try:
        (output / "plots").mkdir(parents=True, exist_ok=True)
        cells = group(records)
        matrix = robustness(cells)
        drawn = draw(cells, matrix)
        for name, svg in drawn.items():
            write(output / "plots" / f"{name}.svg", svg)
        write(output / "table.csv", to_csv(cells))
        write(output / "table.md", markdown(cells, matrix))
        panels = strips(cells, skipped)
        write(output / "index.html", page(cells, drawn, matrix.table(), panels, skipped))
    except OSError as error:
        raise UserError(f"--output must be a folder that can be written to: {error}") from error
    return Report(output, cells, skipped)


def draw(cells: Sequence[Cell], matrix: Matrix) -> dict[str, str]:
    """All plots by their names."""
    data = dict.fromkeys(cell.data for cell in cells)
    drawn: dict[str, str | None] = {
        curves_name(name): plots.error_curves([cell for cell in cells if cell.data == name]) for name in data
    }
    drawn["iou"] = plots.error_scatter(
        cells, "iou_mean", "IoU of what is attended to with the digit's box", False
    )
    drawn["time"] = plots.error_scatter(cells, "train_seconds", "training time, s", True)
    drawn["robustness"] = plots.heat_map(matrix)
    return {name: svg for name, svg in drawn.items() if svg is not None}


def markdown(cells: Sequence[Cell], matrix: Matrix) -> str:
    """All tables."""
    parts = [
        "# Test error, %\n",
        f"Mean ± sample standard deviation over seeds. In brackets: {SOURCE}; {sureness()}. Of a model with "
        "several settings, the one of lowest validation error.\n",
        overview(cells).markdown(),
        "## All models\n",
        details(cells).markdown(),
    ]
    if matrix.cells:
        parts += ["## On other data\n", matrix.table().markdown()]
    return "\n".join(parts)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all, in UTF-8 wherever we are."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
