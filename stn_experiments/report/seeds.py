"""Runs that differ in the seed alone as one TensorBoard run: means over the seeds in a band."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from stn_experiments.common.files import digest, writing_to
from stn_experiments.report.collect import number
from stn_experiments.report.groups import Group
from stn_experiments.tracking.columns import CHARTS
from stn_experiments.tracking.tensorboard import TAGS, TensorBoard

FINAL = {
    "test_error": "final/test_error",
    "val_error": "final/val_error",
    "images_per_second": "speed/images_per_second",
}
"""The tags of numbers in ``result.json``."""


def write_means(groups: Sequence[Group], output: Path) -> int:
    """Write a TensorBoard run for each group with a finished run; returns their number.

    Raises:
        UserError: the folder cannot be written to.
    """
    finished = [group for group in groups if group.finished]
    lines = [line for group in finished for run in group.finished for line in run.history]
    layout = margin_charts({tag for line in lines for name, tag in TAGS.items() if name in line})
    for group in finished:
        text = re.sub(r"[^\w.=+-]+", "-", f"{group.data} {group.model}".replace(" + ", "+"))
        folder = output / (text if len(text) <= 150 else f"{text[:150]}-{digest({'name': text})}")
        with writing_to("--tensorboard"):
            folder.mkdir(parents=True, exist_ok=True)
            for earlier in folder.glob("events.out.tfevents.*"):
                earlier.unlink()
        write_mean(group, folder, layout)
    return len(finished)


def write_mean(group: Group, folder: Path, layout: Mapping[str, Any]) -> None:
    """Write the means of a group's finished runs, its settings beside the final ones, and the charts."""
    board, first = TensorBoard(folder), group.finished[0]
    seeds = ", ".join(str(run.seed) for run in group.finished)
    epochs: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in group.finished:
        for metrics in run.history:
            for name, tag in TAGS.items():
                if (value := number(metrics, name)) is not None:
                    epochs[metrics["epoch"]][tag].append(value)
    board.hyperparameters({**first.config, "seed": seeds}, layout)
    for epoch, values in sorted(epochs.items()):
        board.scalars(with_band(values), epoch)
    board.scalars(with_band({tag: group.values(name) for name, tag in FINAL.items()}), first.epochs)
    board.close()


def with_band(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Means by tag, and under ``lower/`` and ``upper/`` those less and plus one sample standard deviation."""
    band: dict[str, float] = {}
    for tag, some in values.items():
        if some:
            middle, spread = mean(some), stdev(some) if len(some) > 1 else 0.0
            band |= {tag: middle, f"lower/{tag}": middle - spread, f"upper/{tag}": middle + spread}
    return band


def margin_charts(written: Collection[str]) -> dict[str, dict[str, list[Any]]]:
    """The first tag of each chart with its band, in the form of ``SummaryWriter.add_custom_scalars``.

    Charts whose tag is not among those that are ``written`` are omitted.
    """
    return {
        "overview: mean over seeds ± standard deviation": {
            title.partition(" (")[0]: ["Margin", [tags[0], f"lower/{tags[0]}", f"upper/{tags[0]}"]]
            for title, tags in reversed(CHARTS.items())  # TensorBoard 2.21 draws the last of these first
            if tags[0] in written
        }
    }
