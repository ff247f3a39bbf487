"""Errors on data that a model was not trained on, from the results of ``scripts/evaluate.py``."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from stn_experiments.report.groups import Group
from stn_experiments.report.tables import MISSING, Bold, Table
from stn_experiments.tracking.learning import MIN_ERROR


def robustness(groups: Sequence[Group]) -> Table:
    """The errors in % of each group with an evaluation on each data set, in bold on its own data."""
    known = [(group, errors_on(group)) for group in groups if any(run.evaluations for run in group.finished)]
    data = sorted({name for _, errors in known for name in errors})
    rows = []
    for group, errors in known:
        texts = {name: f"{errors[name]:.2f}" if name in errors else MISSING for name in data}
        if group.data in texts:
            texts[group.data] = Bold(texts[group.data])
        rows.append([group.data, group.model, *texts.values()])
    return Table(["trained on", "model", *data], rows)


def errors_on(group: Group) -> dict[str, float]:
    """A group's mean test error on each data set that any of its runs was evaluated on."""
    errors = defaultdict(list)
    for run in group.finished:
        for name, error in {**run.evaluations, run.data: run.result["test_error"]}.items():
            errors[name].append(error)
    return {name: mean(values) for name, values in errors.items()}


def shades(table: Table) -> dict[str, str]:
    """The CSS of the errors in a table of :func:`robustness`: the larger, the darker.

    The scale is logarithmic; white text is on dark cells.
    """
    texts = {text for row in table.rows for text in row[2:] if text != MISSING}
    logs = {text: math.log(max(float(text), MIN_ERROR)) for text in texts}
    low, high = min(logs.values(), default=0), max(logs.values(), default=0)
    styles = {}
    for text, value in logs.items():
        share = (value - low) / (high - low or 1)
        colour = "; color: white" if share > 0.55 else ""
        styles[text] = f"background: hsl(215 45% {96 - 66 * share:.0f}%){colour}"
    return styles
