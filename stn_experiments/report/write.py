"""Writes the folder of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import write_atomically
from stn_experiments.report import plots
from stn_experiments.report.collect import collect
from stn_experiments.report.groups import Group, group_runs
from stn_experiments.report.page import curves_name, page
from stn_experiments.report.panels import strips
from stn_experiments.report.published import SOURCE, SURENESS
from stn_experiments.report.robustness import Matrix, robustness
from stn_experiments.report.tables import details, overview, to_csv


@dataclass(frozen=True)
class Report:
    """The folder of a report, its groups, and a line for each skipped file."""

    folder: Path
    groups: list[Group]
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
        groups = group_runs(records)
        matrix = robustness(groups)
        drawn = draw(groups, matrix)
        for name, svg in drawn.items():
            write_atomically(output / "plots" / f"{name}.svg", svg)
        write_atomically(output / "table.csv", to_csv(groups))
        write_atomically(output / "table.md", markdown(groups, matrix))
        panels = strips(groups, skipped)
        write_atomically(output / "index.html", page(groups, drawn, matrix.table(), panels, skipped))
    except OSError as error:
        raise UserError(f"--output must be a folder that can be written to: {error}") from error
    return Report(output, groups, skipped)


def draw(groups: Sequence[Group], matrix: Matrix) -> dict[str, str]:
    """All plots by name."""
    data = dict.fromkeys(group.data for group in groups)
    drawn: dict[str, str | None] = {
        curves_name(name): plots.error_curves([group for group in groups if group.data == name])
        for name in data
    }
    drawn["iou"] = plots.error_scatter(
        groups, "iou_mean", "IoU of the attended box and the digit's box", False
    )
    drawn["time"] = plots.error_scatter(groups, "train_seconds", "training time, s", True)
    drawn["robustness"] = plots.heat_map(matrix)
    return {name: svg for name, svg in drawn.items() if svg is not None}


def markdown(groups: Sequence[Group], matrix: Matrix) -> str:
    """All tables in Markdown."""
    parts = [
        "# Test error, %\n",
        f"Mean ± sample standard deviation over seeds. In brackets: {SOURCE}; {SURENESS}. Of a model with "
        "several settings, the one with the lowest validation error is shown.\n",
        overview(groups).markdown(),
        "## All models\n",
        details(groups).markdown(),
    ]
    if matrix.groups:
        parts += ["## On other data\n", matrix.table().markdown()]
    return "\n".join(parts)
