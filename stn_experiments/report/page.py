"""One HTML page with the whole report: no script, no network, no other file."""

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from stn_experiments.report.collect import State
from stn_experiments.report.groups import Group
from stn_experiments.report.panels import Strip
from stn_experiments.report.published import SOURCE, SURENESS
from stn_experiments.report.tables import Bold, Table, details, overview


def page(
    groups: Sequence[Group],
    plots: Mapping[str, str],
    robustness: Table,
    strips: Sequence[Strip],
    skipped: Sequence[str],
) -> str:
    """The page.

    Args:
        groups: all of them.
        plots: SVG by name: ``curves_name``, ``iou``, ``time`` and ``robustness``; each may be missing.
        robustness: the errors on other data.
        strips: the panels.
        skipped: lines about files that could not be read.
    """
    environment = Environment(
        loader=PackageLoader("stn_experiments.report", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"svg_uri": svg_uri, "curves_name": curves_name}
    environment.tests["bold"] = lambda text: isinstance(text, Bold)
    return environment.get_template("page.html.j2").render(
        groups=groups,
        data=list(dict.fromkeys(group.data for group in groups)),
        counted=counted(groups),
        source=SOURCE,
        sureness=SURENESS,
        overview=overview(groups),
        details=details(groups),
        older=sum(group.older for group in groups),
        unfinished=[str(run) for group in groups for run in group.unfinished],
        plots=plots,
        robustness=robustness,
        strips=strips,
        skipped=skipped,
    )


def curves_name(data: str) -> str:
    """The file name of the plot of a data set's curves."""
    return "curves-" + re.sub(r"[^\w.=-]+", "-", data)[:150]


def counted(groups: Sequence[Group]) -> str:
    """The number of runs in each state, for example ``10 finished, 1 failed``."""
    count = Counter(run.state for group in groups for run in group.runs)
    return ", ".join(f"{count[state]} {state}" for state in get_args(State) if count[state])


def svg_uri(svg: str) -> str:
    """An SVG as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
