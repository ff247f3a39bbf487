"""The tables of README.md and docs/ that are written from kept results, between two comments."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import mean, median

from kept.comparisons import (
    BENCHMARKS,
    CHOICES,
    LESS,
    LETTERS,
    OTHERS,
    PLACES,
    TRIED,
    TURNED,
    TWINS,
    Row,
    rows_of,
    with_twins,
)
from kept.records import Kept
from kept.sentences import circle, differences, hardest, lowest
from stn_experiments.common.durations import time_text
from stn_experiments.common.errors import UserError
from stn_experiments.report.groups import Group
from stn_experiments.report.published import SURENESS, Published, lowest_published, published
from stn_experiments.report.tables import (
    MISSING,
    POSE,
    Table,
    difference_text,
    error_text,
    interval_text,
    mean_text,
    range_text,
)

BLOCK = re.compile(r"(<!-- results: (.+?) -->\n).*?(<!-- end of results -->)", re.DOTALL)
YARDSTICKS = {
    "canvas": "whole canvas",
    "centre_box": "best centre box",
    "random_views": "random views",
    "exact_frame": "exact frame",
}
"""The heads of their columns."""
SCORES = {
    **{name: column for name, column in POSE.items() if name.endswith("_deg")},
    "residual_scale": ("scale", "{:.3f}".format),
    "residual_translation_px": ("translation px", "{:.2f}".format),
    "frame_iou_mean": ("frame IoU", "{:.2f}".format),
}
"""What is left of the digits' poses in V: the heads of the columns, and their form."""


def rewrite(text: str, kept: Mapping[str, Kept]) -> str:
    """A page with all of its blocks written anew."""

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
    rows, found = [], []
    for data, letter, names in with_twins(kept):
        groups = [kept[name].group for name in names]
        pair = [published(group) for group in groups[:2]]
        found += pair
        cells = [*map(error_and_interval, groups), "the same"][: 1 + len(TWINS)]
        rows.append([f"{letter}: `data={data}`", *cells, " / ".join(str(one or MISSING) for one in pair)])
    head = ["", "with a transformer", *(f"without, {twin}" for twin in TWINS.values())]
    return Table([*head, "published: ST-CNN / CNN"], rows).markdown() + sources(found)


def benchmarks(kept: Mapping[str, Kept]) -> str:
    """Errors on other papers' benchmarks, and the published ones."""
    compared = compare(kept, BENCHMARKS)
    rows, found = [], []
    for name, cells in compared.items():
        group = kept[name].group
        if figure := published(group) or lowest_published(group):
            found.append(figure)
        rows.append(
            [
                *(*cells, str(len(group.finished))),
                mean_text(group, "pair_rotation_deg", "{:.1f}°".format),
                mean_text(group, "train_seconds", time_text),
                f"{figure} {figure.model}" if figure else MISSING,
            ]
        )
    head = ["data", "network", "test error %", "95 % interval", "more than without a transformer", "seeds"]
    head += ["rotation left in a pair", "training time", "published: alike, or the lowest"]
    notes = dict.fromkeys(f"\n{note}\n" for figure in found for note in figure.notes)
    return Table(head, rows).markdown() + sources(found) + "".join(notes) + shell(kept, compared)


def sources(found: Iterable[Published | None]) -> str:
    """A sentence for each mark of published figures: their sources and how sure they are."""
    names: dict[str, dict[str, None]] = {}
    for one in found:
        if one:
            names.setdefault(one.sureness, {})[one.source] = None
    marks = [(mark, how) for how, mark in SURENESS.items() if how in names]
    sentences = [f"{mark} {'; '.join(names[how])} ({how})." for mark, how in marks]
    return f"\n{' '.join(sentences)}\n" if sentences else ""


def runs(kept: Mapping[str, Kept]) -> str:
    """A row for each command whose runs were tested, with all that a reader needs to repeat it."""
    kinds = {"with": "with", **{twin: f"without, {common}" for twin, common in TWINS.items()}}
    names = {
        name: f"{letter}, {kinds[name.partition('-')[2]]}"
        for _, letter, of_data in with_twins(kept)
        for name in of_data
    }
    rows = [[label, *figures(kept[name].group)] for name, label in names.items()]
    machines = sorted({machine(kept[name].environment) for name in names})
    table = Table(["data", *FIGURES], rows).markdown()
    return f"{table}\nMachine: {'; '.join(machines)}.\n{shell(kept, names)}"


def full_length(kept: Mapping[str, Kept]) -> str:
    """The errors of recipes at their full length, and the published ones of the paper's networks."""
    names = {name: data for data in LETTERS if (name := f"full-{data}") in kept}
    rows, found = [], []
    for name, data in names.items():
        group = kept[name].group
        found.append(published(group))
        rows.append([f"{LETTERS[data]}: `data={data}`", *figures(group), str(found[-1] or MISSING)])
    table = Table(["data", *FIGURES, "published: ST-CNN"], rows).markdown()
    return table + sources(found) + shell(kept, names)


def tried(kept: Mapping[str, Kept]) -> str:
    """The training and validation errors of recipes, none of their test errors."""
    names = [name for name in TRIED if name in kept]
    rows = []
    for name in names:
        group = kept[name].group
        last = [run.history[-1]["train_error"] for run in group.finished]
        sizes = [range_text([group], size) for size in ("parameters", "epochs")]
        errors = [f"{mean(last):.2f}", mean_text(group, "val_error")]
        rows.append([*TRIED[name], str(len(last)), *sizes, *errors])
    head = ["data", "recipe", "seeds", "parameters", "epochs", "training error %", "validation error %"]
    return Table(head, rows).markdown() + shell(kept, names)


FIGURES = (
    *("seeds", "test error %", "95 % interval", "redrawn %", "validation %"),
    *("parameters", "epochs", "images seen", "training time", "commit"),
)
"""The heads of the columns of :func:`figures`."""


def figures(group: Group) -> list[str]:
    """The columns that describe a group of runs."""
    return [
        *(str(len(group.finished)), error_text(group), interval_text(group)),
        *(mean_text(group, "redrawn_error"), mean_text(group, "val_error")),
        *(range_text([group], size) for size in ("parameters", "epochs", "images_seen")),
        mean_text(group, "train_seconds", time_text),
        ", ".join(sorted({run.result["commit"] for run in group.finished})),
    ]


def questions(kept: Mapping[str, Kept]) -> str:
    """The errors of co-attention on questions, with both inputs and with one of them hidden."""
    names = sorted(name for name in kept if name.startswith("questions"))
    groups = [group for name in names for group in kept[name].groups]
    of = {(one.config["attention"]["mode"], one.config["attention"]["blind"]): one for one in groups}
    rows = [
        [
            *(mode, hidden or "nothing", str(len(group.finished)), error_text(group), interval_text(group)),
            difference_text(group, [of["alternating", None]]),
            mean_text(group, "train_seconds", time_text),
        ]
        for (mode, hidden), group in of.items()
    ]
    head = ["co-attention", "hidden", "seeds", "test error %", "95 % interval"]
    head += ["more than alternating", "training time"]
    return Table(head, rows).markdown() + shell(kept, names)


def two_steps(kept: Mapping[str, Kept]) -> str:
    """The errors of layers of co-attention, one after another, on questions that need two steps."""
    names = sorted(name for name in kept if name.startswith("two-steps"))
    of = {kept[name].group.config["attention"].get("layers", 1): kept[name].group for name in names}
    rows = [
        [
            *(str(layers), str(len(group.finished)), error_text(group), interval_text(group)),
            difference_text(group, [of[1]]),
            range_text([group], "parameters"),
            mean_text(group, "train_seconds", time_text),
        ]
        for layers, group in of.items()
    ]
    head = ["layers", "seeds", "test error %", "95 % interval", "more than one layer", "parameters"]
    return Table([*head, "training time"], rows).markdown() + shell(kept, names)


def machine(environment: Mapping[str, object]) -> str:
    """The hardware and the version of torch."""
    device = environment["gpu"] or f"one thread of {environment['cores']} cores, {environment['cpu']}"
    return f"{device}, torch {environment['torch']}"


def search(kept: Mapping[str, Kept]) -> str:
    """The validation errors of the learning rates that were tried."""
    names = [name for name in kept if name.startswith("search-")]
    rows: dict[str, dict[str, str]] = {}
    for group in (group for name in names for group in kept[name].groups):
        rate = f"{group.config['optimizer']['lr']:g}"
        model = f"{LETTERS[group.config['data']['name']]}, {'with' if group.attends else 'without'}"
        rows.setdefault(model, {})[rate] = mean_text(group, "val_error")
    rates = sorted({rate for row in rows.values() for rate in row}, key=float)
    body = [[model, *(row.get(rate, MISSING) for rate in rates)] for model, row in rows.items()]
    head = ["validation error %", *(f"`optimizer.lr={rate}`" for rate in rates)]
    return Table(head, body).markdown() + shell(kept, names)


def step_times(kept: Mapping[str, Kept]) -> str:
    """How long the same number of steps takes with and without a transformer."""
    rows, names = [], []
    for data, letter in LETTERS.items():
        pair = [f"times-{data}-{model}" for model in ("with", "without")]
        if pair[0] in kept:
            seconds = [sorted(kept[name].group.values("train_seconds")) for name in pair]
            texts = [", ".join(f"{value:.1f}" for value in values) for values in seconds]
            rows.append([letter, *texts, f"{median(seconds[1]) / median(seconds[0]):.2f}"])
            names += pair
    head = ["seconds of training", "with", "without", "ratio of the medians"]
    return Table(head, rows).markdown() + shell(kept, names)


def precision(kept: Mapping[str, Kept]) -> str:
    """Errors in float32 and in bfloat16 of the same networks, and whether they differ."""
    rows, names = [], []
    for data, letter in LETTERS.items():
        if (name := f"precision-{data}") in kept:
            of = {group.config["trainer"]["precision"]: group for group in kept[name].groups}
            full, half = of["float32"], of["bfloat16"]
            errors = map(error_and_interval, (full, half))
            rows.append([f"{letter}: `data={data}`", *errors, difference_text(half, [full])])
            names.append(name)
    head = ["test error %", "`float32`", "`bfloat16`", "bfloat16 less float32"]
    return Table(head, rows).markdown() + shell(kept, names)


def windows(kept: Mapping[str, Kept]) -> str:
    """Errors and scores of boxes that start as windows, and of those that start as the whole image."""
    names, rows = [name for name in kept if name.startswith("windows-")], []
    for name in names:
        of = {group.config["stn"]["localisation"]: group for group in kept[name].groups}
        window, whole = of["window"], of["keypoints"]
        errors = map(error_and_interval, (window, whole))
        shares = [percentage(group, "found") for group in (window, whole)]
        ious = [mean_text(group, "frame_iou_mean") for group in (window, whole)]
        rows.append([f"`data={window.data}`", *errors, difference_text(whole, [window]), *shares, *ious])
    head = ["", "test error %: window", "whole image", "which is more by"]
    head += ["found %: window", "whole image", "frame IoU: window", "whole image"]
    return Table(head, rows).markdown() + shell(kept, names)


def comparison(kept: Mapping[str, Kept], heads: tuple[str, ...], rows: Sequence[Row], than: str) -> str:
    """Errors, how much more they are than that of another network, and how digits are turned in V.

    Args:
        kept: all kept results.
        heads: those of the first columns.
        rows: the networks, if they are kept.
        than: what the other network is.
    """
    compared = compare(kept, rows)
    body = [
        [*cells, *(mean_text(kept[name].group, score, form) for score, (_, form) in SCORES.items())]
        for name, cells in compared.items()
    ]
    head = [*heads, "test error %", "95 % interval", f"more than {than}"]
    head += [column for column, _ in SCORES.values()]
    return Table(head, body).markdown() + shell(kept, compared)


def compare(kept: Mapping[str, Kept], rows: Sequence[Row]) -> dict[str, list[str]]:
    """For each row that is kept, by its file: labels, error, interval, and the difference from another."""
    cells = {}
    for labels, name, reference in rows:
        if name in kept:
            group = kept[name].group
            difference = difference_text(group, [kept[reference].group])
            cells[name] = [*labels, error_text(group), interval_text(group), difference]
    return cells


def colocalisation(kept: Mapping[str, Kept]) -> str:
    """The share of digits that were found, and the yardsticks', for each class."""
    rows = [
        [
            *(str(group.config["data"]["digit"]), str(len(group.finished))),
            percentage(group, "found"),
            f"{100 * min(group.values('found')):.1f}",
            *(percentage(group, f"found_of_{yardstick}") for yardstick in ("centre_box", "random_views")),
            mean_text(group, "frame_iou_mean"),
            range_text([group], "test_images"),
            mean_text(group, "train_seconds", time_text),
        ]
        for group in sorted(kept["colocalisation"].groups, key=lambda group: group.config["data"]["digit"])
    ]
    head = ["digit", "seeds", "found %", "… by the worst seed", "… by the best centre box"]
    head += ["… by random views", "frame IoU", "test images", "training time"]
    return Table(head, rows).markdown() + shell(kept, ["colocalisation"])


def percentage(group: Group, name: str) -> str:
    """The mean of a share over the seeds, in %."""
    return mean_text(group, name, lambda share: f"{100 * share:.1f}")


def which(kept: Mapping[str, Kept]) -> str:
    """What to take for which images, and how much it brings."""
    rows = []
    for images, networks in CHOICES.items():
        (take, taken), (instead, other) = ((name, kept[file].group) for name, file in networks.items())
        more = difference_text(other, [taken])
        rows.append([images, take, error_text(taken), instead, error_text(other), more])
    head = ["images", "take", "test error %", "instead of", "its error %", "which is more by"]
    return Table(head, rows).markdown()


def yardsticks(kept: Mapping[str, Kept]) -> str:
    """What the yardsticks score on the test sets."""
    names = [name for name in kept if name.startswith("yardsticks-")]
    rows = []
    for group in (kept[name].group for name in names):
        scores = [
            [mean_text(group, f"{score}_of_{yardstick}") for score in ("iou_mean", "found", "ink_inside")]
            for yardstick in YARDSTICKS
        ]
        rows.append([f"`{group.data}`", *map(", ".join, scores)])
    return Table(["data", *YARDSTICKS.values()], rows).markdown() + shell(kept, names)


def error_and_interval(group: Group) -> str:
    """The error in %, and in brackets its interval."""
    return f"{error_text(group)} ({interval_text(group)})"


def shell(kept: Mapping[str, Kept], names: Iterable[str]) -> str:
    """The commands of some files in a block of their own, each once."""
    lines = dict.fromkeys(line for name in names for line in kept[name].command.splitlines())
    return "\n```sh\n" + "\n".join(lines) + "\n```\n"


TABLES: dict[str, Callable[[Mapping[str, Kept]], str]] = {
    "headline": headline,
    "differences": differences,
    "runs": runs,
    "full length": full_length,
    "tried": tried,
    "hardest": hardest,
    "questions": questions,
    "two steps": two_steps,
    "search": search,
    "step times": step_times,
    "precision": precision,
    "windows": windows,
    **{
        name: partial(comparison, heads=(first, "consistency"), rows=rows_of(kinds), than="with it")
        for name, first, kinds in (
            ("turning", "tested on", TURNED),
            ("turning, trained on less", "trained on", LESS),
            ("turning, other distortions", "data", OTHERS),
        )
    },
    "places": partial(comparison, heads=("the transformer",), rows=PLACES, than="warping the image"),
    "benchmarks": benchmarks,
    "colocalisation": colocalisation,
    "which": which,
    "circle": circle,
    "lowest": lowest,
    "yardsticks": yardsticks,
}
"""The blocks by their names."""
