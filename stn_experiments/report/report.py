"""A report on many runs: tables, plots, and one HTML page without a script or another file."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from stn_experiments.common.files import write_atomically, writing_to
from stn_experiments.evaluation.probe import PROBES
from stn_experiments.evaluation.yardsticks import CENTRE_BOX, named
from stn_experiments.report import plots
from stn_experiments.report.attention import attention
from stn_experiments.report.collect import State, collect
from stn_experiments.report.groups import group_runs
from stn_experiments.report.panels import data_uri, strips
from stn_experiments.report.probes import probe_plot, read_probes
from stn_experiments.report.robustness import robustness, shades
from stn_experiments.report.tables import Bold, Faint, details, footnotes, overview, to_csv


class Report:
    """A report on all runs in some folders.

    Args:
        folders: runs, or folders that hold runs at any depth.

    Raises:
        UserError: a folder is missing, or there is no run that can be read.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        records, self.skipped = collect(folders)
        self.groups = group_runs(records)
        self.data = list(dict.fromkeys(group.data for group in self.groups))
        self.overview = overview(self.groups)
        self.details = details(self.groups)
        self.attention = attention(self.groups)
        self.footnotes = footnotes(self.groups)
        self.unfinished = [str(run) for group in self.groups for run in group.unfinished]
        self.matrix = robustness(self.groups)
        self.shades = shades(self.matrix)
        self.strips = strips(self.groups, self.skipped)
        self.plots = self._draw()

    @property
    def counted(self) -> str:
        """The number of runs in each state, for example ``10 finished, 1 failed``."""
        count = Counter(run.state for group in self.groups for run in group.runs)
        return ", ".join(f"{count[state]} {state}" for state in get_args(State) if count[state])

    @property
    def summary(self) -> str:
        """A sentence with the numbers of runs, models and data sets."""
        runs = counted(sum(len(group.runs) for group in self.groups), "run")
        models = counted(len({(group.names, group.settings) for group in self.groups}), "model")
        return f"{runs} ({self.counted}) of {models} on {counted(len(self.data), 'data set')}."

    @property
    def code_note(self) -> str:
        """A sentence with the commits of the runs, unless all results are of the same committed code."""
        runs = [run for group in self.groups for run in group.finished]
        count = Counter(str(run.result.get("commit", "unknown")) for run in runs)
        if len(count) <= 1 and not any(commit.endswith("-dirty") for commit in count):
            return ""
        commits = ", ".join(f"{commit} ({number})" for commit, number in count.most_common())
        return f"The code may have changed between runs: {commits}."

    def write(self, output: Path) -> None:
        """Write ``index.html``, ``table.md``, ``table.csv`` and ``plots/`` to a folder.

        Raises:
            UserError: the folder cannot be written to.
        """
        with writing_to("--output"):
            (output / "plots").mkdir(parents=True, exist_ok=True)
            for name, svg in self.plots.items():
                file_name = re.sub(r"[^\w.=-]+", "-", name)[:150]
                write_atomically(output / "plots" / f"{file_name}.svg", svg)
            write_atomically(output / "table.csv", to_csv(self.groups))
            write_atomically(output / "table.md", self.markdown())
            write_atomically(output / "index.html", self.html())

    def markdown(self) -> str:
        """All tables in Markdown."""
        parts = [
            "# Test error, %\n",
            f"{self.summary} Mean ± sample standard deviation over seeds. Bold: the lowest of at least two "
            "models that can be compared, that is, without a mark. Of a model with several settings, the one "
            "with the lowest validation error is shown.\n",
            *([f"{self.code_note}\n"] if self.code_note else []),
            self.overview.markdown(),
            *[f"{note}\n" for note in self.footnotes],
            "## All models\n",
            self.details.markdown(),
        ]
        if self.attention.rows:
            parts += [
                "## Attention\n",
                "In brackets: as many random views of the same size. docs/metrics.md explains the scores.\n",
                self.attention.markdown(),
            ]
        if self.unfinished:
            parts += ["## Runs without a result\n", *[f"- {run}" for run in self.unfinished], ""]
        if self.matrix.rows:
            parts += ["## On other data\n", self.matrix.markdown()]
        return "\n".join(parts)

    def html(self) -> str:
        """The page."""
        environment = Environment(
            loader=PackageLoader("stn_experiments.report", "."), autoescape=True, undefined=StrictUndefined
        )
        environment.tests["bold"] = lambda text: isinstance(text, Bold)
        environment.tests["faint"] = lambda text: isinstance(text, Faint)
        environment.filters["svg_uri"] = lambda svg: data_uri("image/svg+xml", svg.encode())
        return environment.get_template("page.html.j2").render(report=self)

    def _draw(self) -> dict[str, str]:
        """The plots that there is data for, by name."""
        drawn = {
            f"curves-{name}": plots.error_curves([group for group in self.groups if group.data == name])
            for name in self.data
        }
        axis, yardstick = "IoU of the attended box and the digit's ink box", named("iou_mean", CENTRE_BOX)
        drawn["iou"] = plots.error_scatter(self.groups, "iou_mean", axis, (0, 1), yardstick)
        drawn["time"] = plots.error_scatter(self.groups, "train_seconds", "training time, s")
        for name in PROBES:
            if found := read_probes(self.groups, name, self.skipped):
                drawn[f"probe-{name}"] = probe_plot(found).decode()
        return {name: svg for name, svg in drawn.items() if svg is not None}


def counted(number: int, noun: str) -> str:
    """A number of things: ``1 run``, ``2 runs``."""
    return f"{number} {noun}" + ("s" if number != 1 else "")
