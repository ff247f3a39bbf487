"""The tables of README.md and docs/ that are written from kept results, between two comments."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median

from kept.comparisons import BENCHMARKS, CHOICES, LESS, OTHERS, PLACES, TURNED, Row, rows_of
from kept.records import Kept, only
from stn_experiments.common.durations import time_text
from stn_experiments.common.errors import UserError
from stn_experiments.evaluation.intervals import difference_interval
from stn_experiments.report.groups import Group
from stn_experiments.report.published import SURENESS, Published, published
from stn_experiments.report.tables import (
    MISSING,
    Table,
    difference_text,
    error_text,
    interval_text,
    mean_text,
    range_text,
)

BLOCK = re.compile(r"(<!-- results: (.+?) -->\n).*?(<!-- end of results -->)", re.DOTALL)
LETTERS = {"rotated": "R", "rts": "RTS", "projective": "P", "elastic": "E", "cluttered": "TC"}
"""The paper's names of its data."""
YARDSTICKS = {
    "canvas": "whole canvas",
    "centre_box": "best centre box",
    "random_views": "random views",
    "exact_frame": "exact frame",
}
"""The heads of their columns."""
TWINS = {"epochs": "equal epochs", "time": "equal time"}
"""The networks without a transformer, and what they have in common with the one that has it."""


def rewrite(text: str, kept: Mapping[str, Kept]) -> str:
    """A page with all of its blocks written anew.

    Raises:
        UserError: a block has no such table, or a file of results that it needs is missing.
    """

    def block(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        if name not in TABLES:
            raise UserError(f"a block of results must be one of {', '.join(TABLES)}, got {name}")
        try:
            return f"{start}{TABLES[name](kept)}{end}"
        except KeyError as error:
            raise UserError(f"the block {name} needs docs/results/{error.args[0]}.json") from error

    return BLOCK.sub(block, text)


def headline(kept: Mapping[str, Kept]) -> str:
    """Errors with and without a transformer, and the published ones."""
    head = ["", "with a transformer", *(f"without, {twin}" for twin in TWINS.values())]
    rows, found = [], []
    for data, letter in with_twins(kept):
        groups = [only(kept[name].groups) for name in names_of(data, kept)]
        pair = [published(group) for group in groups[:2]]
        figures = [str(figure or MISSING) for figure in pair]
        found += pair
        cells = [f"{error_text(group)} ({interval_text(group)})" for group in groups]
        cells += ["the same"] * (len(TWINS) + 1 - len(cells))
        rows.append([f"{letter}: `data={data}`", *cells, " / ".join(figures)])
    return Table([*head, "published: ST-CNN / CNN"], rows).markdown() + sources(found)


def sources(figures: Iterable[Published | None]) -> str:
    """A line for each source of published figures."""
    lines = [f"\n{SURENESS[one.sureness]} {one.source}, {one.sureness}.\n" for one in figures if one]
    return "".join(dict.fromkeys(lines))


def benchmarks(kept: Mapping[str, Kept]) -> str:
    """Errors on other papers' benchmarks, and the published ones."""
    rows, commands, found = [], [], []
    for row in BENCHMARKS:
        if row.name not in kept:
            continue
        group, reference = (only(kept[name].groups) for name in (row.name, row.reference))
        figure = published(group)
        found.append(figure)
        more = difference_text(group, [reference])
        published_text = f"{figure} {figure.model}" if figure else MISSING
        left = mean_text(group, "pair_rotation_deg", "{:.1f}°".format)
        rows.append([*row.labels, error_text(group), interval_text(group), more, left, published_text])
        commands += kept[row.name].command.splitlines()
    head = ["data", "network", "test error %", "95 % interval", "more than without a transformer"]
    notes = dict.fromkeys(note for figure in found if figure for note in figure.notes)
    table = Table([*head, "rotation left in a pair", "published"], rows).markdown()
    return table + sources(found) + "".join(f"\n{note}\n" for note in notes) + shell(commands)


def differences(kept: Mapping[str, Kept]) -> str:
    """A sentence for each comparison: the difference, its interval and what follows."""
    lines = []
    for data, letter in with_twins(kept):
        transformer, *twins = (only(kept[name].groups) for name in names_of(data, kept))
        heads = TWINS.values() if len(twins) > 1 else [" and ".join(TWINS.values())]
        for twin, common in zip(twins, heads, strict=True):
            lines.append(f"- **{letter}, {common}:** {verdict(transformer, twin)}\n")
    return "".join(lines)


def verdict(group: Group, twin: Group) -> str:
    """Whether a transformer's error differs from its twin's by more than chance.

    Raises:
        UserError: they were tested on different images.
    """
    wrong, others = group.wrong(), twin.wrong()
    if wrong is None or others is None or not group.is_tested_like(twin):
        raise UserError(f"the runs of {group.data} were tested on different images")
    mean, low, high = interval = difference_interval(others, wrong)
    figures = f"{mean:.2f} percentage points (95 % interval {low:.2f} to {high:.2f})"
    if interval.holds_zero:
        return f"no difference beyond chance. The error without a transformer is higher by {figures}."
    word = "lower" if mean > 0 else "higher"
    return f"the transformer's error is {word}. The error without it is higher by {figures}."


def runs(kept: Mapping[str, Kept]) -> str:
    """A row for each command whose runs were tested, with all that a reader needs to repeat it."""
    columns = ["parameters", "epochs", "images_seen"]
    head = ["data", "seeds", "test error %", "95 % interval", "redrawn %", "validation %", *columns]
    rows, commands = [], []
    for data, letter in with_twins(kept):
        for name in names_of(data, kept):
            group = only(kept[name].groups)
            sizes = [range_text([group], column) for column in columns]
            rows.append(
                [
                    f"{letter}, {kind_of(name)}",
                    str(len(group.finished)),
                    error_text(group),
                    interval_text(group),
                    mean_text(group, "redrawn_error", "{:.2f}".format),
                    mean_text(group, "val_error", "{:.2f}".format),
                    *sizes,
                    mean_text(group, "train_seconds", time_text),
                    ", ".join(sorted({run.result["commit"] for run in group.finished})),
                ]
            )
            commands.append(kept[name].command)
    head = [column.replace("_", " ") for column in [*head, "training time", "commit"]]
    names = (name for data, _ in with_twins(kept) for name in names_of(data, kept))
    machines = {machine(kept[name].environment) for name in names}
    return f"{Table(head, rows).markdown()}\nMachine: {'; '.join(sorted(machines))}.\n{shell(commands)}"


def kind_of(name: str) -> str:
    """What distinguishes a file from others of its data."""
    _, _, kind = name.partition("-")
    return f"without, {TWINS[kind]}" if kind in TWINS else kind


def machine(environment: Mapping[str, object]) -> str:
    """The hardware and the version of torch."""
    device = environment["gpu"] or f"one thread of {environment['cores']} cores, {environment['cpu']}"
    return f"{device}, torch {environment['torch']}"


def search(kept: Mapping[str, Kept]) -> str:
    """The validation errors of the learning rates that were tried."""
    rows: dict[str, dict[str, str]] = {}
    commands = []
    for name, one in kept.items():
        if not name.startswith("search-"):
            continue
        commands.append(one.command)
        for group in one.groups:
            rate = f"{group.runs[0].config['optimizer']['lr']:g}"
            model = f"{LETTERS[group.runs[0].data]}, {'with' if group.attends else 'without'}"
            rows.setdefault(model, {})[rate] = mean_text(group, "val_error", "{:.2f}".format)
    rates = sorted({rate for row in rows.values() for rate in row}, key=float)
    body = [[model, *(row.get(rate, MISSING) for rate in rates)] for model, row in rows.items()]
    table = Table(["validation error %", *(f"`optimizer.lr={rate}`" for rate in rates)], body).markdown()
    return table + shell(commands)


def step_times(kept: Mapping[str, Kept]) -> str:
    """How long the same number of steps takes with and without a transformer."""
    rows, commands = [], []
    for data, letter in LETTERS.items():
        pair = [kept.get(f"times-{data}-{model}") for model in ("with", "without")]
        if pair[0] and pair[1]:
            seconds = [
                [run.result["train_seconds"] for run in only(one.groups).finished] for one in pair if one
            ]
            texts = [", ".join(f"{value:.1f}" for value in sorted(values)) for values in seconds]
            ratio = median(seconds[1]) / median(seconds[0])
            rows.append([letter, *texts, f"{ratio:.2f}"])
            commands += [one.command for one in pair if one]
    head = ["seconds of training", "with", "without", "ratio of the medians"]
    return Table(head, rows).markdown() + shell(commands)


def precision(kept: Mapping[str, Kept]) -> str:
    """Errors in float32 and in bfloat16 of the same networks, and whether they differ."""
    rows, commands = [], []
    for data, letter in LETTERS.items():
        if one := kept.get(f"precision-{data}"):
            of = {group.runs[0].config["trainer"]["precision"]: group for group in one.groups}
            pair = [of["float32"], of["bfloat16"]]
            rows.append(
                [
                    f"{letter}: `data={data}`",
                    *(f"{error_text(group)} ({interval_text(group)})" for group in pair),
                    difference_text(pair[1], pair[:1]),
                ]
            )
            commands.append(one.command)
    head = ["test error %", "`float32`", "`bfloat16`", "bfloat16 less float32"]
    return Table(head, rows).markdown() + shell(commands)


def comparison(kept: Mapping[str, Kept], heads: tuple[str, ...], rows: Sequence[Row], than: str) -> str:
    """Errors, how much more they are than that of another network, and how digits are turned in V.

    Args:
        kept: all kept results.
        heads: those of the first columns.
        rows: the networks, if they are kept.
        than: what the other network is.
    """
    scores = {
        "residual_rotation_deg": "{:.1f}°",
        "residual_rotation_within_class_deg": "{:.1f}°",
        "pair_rotation_deg": "{:.1f}°",
        "residual_scale": "{:.3f}",
        "residual_translation_px": "{:.2f}",
        "frame_iou_mean": "{:.2f}",
    }
    cells, commands = [], []
    for row in rows:
        if one := kept.get(row.name):
            group = only(one.groups)
            figures = (mean_text(group, score, form.format) for score, form in scores.items())
            is_first = row.name == row.reference
            more = MISSING if is_first else difference_text(group, kept[row.reference].groups)
            cells.append([*row.labels, error_text(group), interval_text(group), more, *figures])
            commands += one.command.splitlines()
    columns = ["test error %", "95 % interval", f"more than {than}"]
    names = ["rotation left", "… in a class", "… in a pair", "scale", "translation px", "frame IoU"]
    return Table([*heads, *columns, *names], cells).markdown() + shell(commands)


def which(kept: Mapping[str, Kept]) -> str:
    """What to take for which images, and how much it brings."""
    cells = []
    for choice in CHOICES:
        taken, other = (only(kept[name].groups) for name in (choice.taken, choice.other))
        more = difference_text(other, [taken])
        cells.append([choice.images, choice.take, error_text(taken), choice.instead, error_text(other), more])
    head = ["images", "take", "test error %", "instead of", "its error %", "which is more by"]
    return Table(head, cells).markdown()


def yardsticks(kept: Mapping[str, Kept]) -> str:
    """What the yardsticks score on the test sets."""
    scores = ("iou_mean", "found", "ink_inside")
    rows, commands = [], []
    for name, one in kept.items():
        if name.startswith("yardsticks-"):
            group = only(one.groups)
            cells = [
                ", ".join(mean_text(group, f"{score}_of_{yardstick}", "{:.2f}".format) for score in scores)
                for yardstick in YARDSTICKS
            ]
            rows.append([f"`{group.data}`", *cells])
            commands.append(one.command)
    return Table(["data", *YARDSTICKS.values()], rows).markdown() + shell(commands)


def circle(kept: Mapping[str, Kept]) -> str:
    """A sentence: the errors on rotations that training never showed."""
    groups = {model: only(kept[f"turning180-{model}"].groups) for model in ("with", "without")}
    errors = [f"{error_text(group)} % ({interval_text(group)}) {model}" for model, group in groups.items()]
    left = [mean_text(group, "pair_rotation_deg", "{:.0f}°".format) for group in groups.values()]
    return (
        f"Trained on rotations in ±90° and tested on the full circle, the default network errs on "
        f"{errors[0]}\nthe consistency loss, and on {errors[1]} it. Of the difference of two rotations of "
        f"one digit\n{left[0]} and {left[1]} are left in its output.\n"
    )


def shell(commands: Iterable[str]) -> str:
    """Commands in a block of their own, each once."""
    return "\n```sh\n" + "\n".join(dict.fromkeys(commands)) + "\n```\n"


def with_twins(kept: Mapping[str, Kept]) -> Iterator[tuple[str, str]]:
    """The data that have results with and without a transformer, and their letters."""
    for data, letter in LETTERS.items():
        if {f"{data}-with", f"{data}-epochs"} <= kept.keys():
            yield data, letter


def names_of(data: str, kept: Mapping[str, Kept]) -> list[str]:
    """The files of a data set: with a transformer, and its twins.

    Where the steps of both take equally long, the twin of equal epochs is that of equal time as well.
    """
    return [f"{data}-with", *(name for twin in TWINS if (name := f"{data}-{twin}") in kept)]


TABLES: dict[str, Callable[[Mapping[str, Kept]], str]] = {
    "headline": headline,
    "differences": differences,
    "runs": runs,
    "search": search,
    "step times": step_times,
    "precision": precision,
    "turning": partial(comparison, heads=("tested on", "consistency"), rows=rows_of(TURNED), than="with it"),
    "turning, trained on less": partial(
        comparison, heads=("trained on", "consistency"), rows=rows_of(LESS), than="with it"
    ),
    "turning, other distortions": partial(
        comparison, heads=("data", "consistency"), rows=rows_of(OTHERS), than="with it"
    ),
    "places": partial(comparison, heads=("the transformer",), rows=PLACES, than="warping the image"),
    "benchmarks": benchmarks,
    "which": which,
    "circle": circle,
    "yardsticks": yardsticks,
}
"""The blocks by their names."""
