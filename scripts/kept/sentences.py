"""The sentences of README.md and docs/ that are written from kept results."""

from collections.abc import Mapping

from kept.comparisons import LETTERS, TWINS, with_twins
from kept.records import Kept
from stn_experiments.common.errors import UserError
from stn_experiments.report.groups import Group
from stn_experiments.report.published import lowest_published, published
from stn_experiments.report.tables import error_text, interval_text, mean_text

LOWEST = {
    "bench-rotated12k-both": "rotated MNIST 12k",
    "bench-sim2mnist-both": "SIM2MNIST",
}
"""What the best network for a benchmark is tested on."""


def differences(kept: Mapping[str, Kept]) -> str:
    """A sentence for each comparison: the difference, its interval and what follows."""
    lines = []
    for _, letter, names in with_twins(kept):
        transformer, *twins = (kept[name].group for name in names)
        heads = TWINS.values() if len(twins) > 1 else [" and ".join(TWINS.values())]
        for twin, common in zip(twins, heads, strict=True):
            lines.append(f"- **{letter}, {common}:** {verdict(transformer, twin)}\n")
    return "".join(lines)


def verdict(group: Group, twin: Group) -> str:
    """Whether a transformer's error differs from its twin's by more than chance."""
    interval = twin.difference(group)
    if interval is None:
        raise UserError(f"the runs of {group.data} were tested on different images")
    mean, low, high = interval
    text = f"{mean:.2f} percentage points (95 % interval {low:.2f} to {high:.2f})"
    if interval.holds_zero:
        return f"no difference beyond chance. The error without a transformer is higher by {text}."
    word = "lower" if mean > 0 else "higher"
    return f"the transformer's error is {word}. The error without it is higher by {text}."


def hardest(kept: Mapping[str, Kept]) -> str:
    """A sentence: how many rotated digits all networks get wrong."""
    group = kept["full-rotated"].group
    wrong = group.wrong()
    assert wrong is not None
    always = (wrong == 1).all(0).sum()
    share = 100 * always * len(wrong) / wrong.sum()
    return (
        f"All {len(wrong)} networks are wrong on the same {always} of {wrong.shape[1]:,} rotated digits. "
        f"These are {share:.0f} % of their mistakes.\n"
    )


def circle(kept: Mapping[str, Kept]) -> str:
    """A sentence: the errors on rotations that training never showed."""
    groups = {model: kept[f"turning180-{model}"].group for model in ("with", "without")}
    errors = [f"{error_text(group)} % ({interval_text(group)}) {model}" for model, group in groups.items()]
    left = [mean_text(group, "pair_rotation_deg", "{:.0f}°".format) for group in groups.values()]
    return (
        f"Trained on rotations in ±90° and tested on the full circle, the default network errs on "
        f"{errors[0]}\nthe consistency loss, and on {errors[1]} it. Of the difference of two rotations of "
        f"one digit\n{left[0]} and {left[1]} are left in its output.\n"
    )


def lowest(kept: Mapping[str, Kept]) -> str:
    """Sentences: the errors at full length and on other papers' benchmarks, beside published ones.

    Full lengths of which fewer than three seeds are kept are in their table alone.
    """
    longest = []
    for data, letter in LETTERS.items():
        name = f"full-{data}"
        if name in kept and len(kept[name].group.finished) > 2:
            group = kept[name].group
            seeds = f"{len(group.finished)} seeds"
            error = f"{error_text(group)} % ({interval_text(group)}, {seeds}) of {letter}"
            known = published(group)
            longest.append(f"{error} (published: {known} %)" if known else error)
    texts = []
    for name, data in LOWEST.items():
        group = kept[name].group
        figure = lowest_published(group)
        assert figure is not None
        error = f"{error_text(group)} % ({interval_text(group)}) of images made as {data}"
        texts.append(f"{error} (published for its own: {figure.error} %, {figure.model})")
    start = "At full length a transformer errs on " + ",\nand on ".join(longest) + ".\n"
    start += "Without augmentation, a transformer before group convolutions errs on\n"
    return start + ",\nand on ".join(texts) + ".\n"
