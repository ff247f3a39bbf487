"""One page that holds the whole report: no script, no network, no other file."""

import base64
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import get_args

from stn_experiments.report.cells import Cell
from stn_experiments.report.collect import State
from stn_experiments.report.panels import Strip
from stn_experiments.report.published import SOURCE, SURENESS
from stn_experiments.report.tables import Bold, Table, details, overview

IN_A_LINE = 4  # panels
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #20242a; background: #fff; max-width: 1220px;
       margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 44px 0 8px; }
h3 { font-size: 16px; margin: 24px 0 6px; } p { margin: 6px 0 10px; max-width: 900px; }
.note, figcaption { color: #59616b; font-size: 13px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; margin: 8px 0; }
th { text-align: left; border-bottom: 2px solid #59616b; vertical-align: bottom; padding: 4px 12px 4px 0; }
td { border-bottom: 1px solid #e3e6ea; vertical-align: top; padding: 4px 12px 4px 0; }
td.first { border-top: 2px solid #aab0b8; }
td { overflow-wrap: break-word; min-width: 44px; } td.keep { white-space: nowrap; }
figure { margin: 8px 0 16px; break-inside: avoid; } img { max-width: 100%; }
.panels { display: grid; grid-template-columns: 128fr repeat(4, 384fr); gap: 6px 10px; align-items: start;
          margin: 10px 0 18px; break-inside: avoid; }
.panels figure { margin: 0; display: contents; } .panels img { display: block; width: 100%; grid-row: 2; }
.panels figcaption { grid-row: 1; overflow-wrap: anywhere; align-self: end; line-height: 1.3; }
ul { padding-left: 20px; } li { font-size: 13px; overflow-wrap: anywhere; }
@media print { body { font-size: 11px; max-width: none; padding: 0; } table { font-size: 9.5px; }
               h2, h3 { break-after: avoid; } tr { break-inside: avoid; } @page { margin: 12mm; } }
"""


def page(
    cells: Sequence[Cell],
    plots: Mapping[str, str],
    robustness: Table,
    strips: Sequence[Strip],
    skipped: Sequence[str],
) -> str:
    """The page, as HTML.

    Args:
        cells: all of them.
        plots: SVG by name: ``curves_name``, ``iou``, ``time`` and ``robustness``; each may miss.
        robustness: of whom was evaluated on what.
        strips: the panels.
        skipped: lines about what could not be read.
    """
    data = list(dict.fromkeys(cell.data for cell in cells))
    parts = [
        "<h1>Report</h1>",
        paragraph(summary(cells), "note"),
        "<h2>Test error, %</h2>",
        paragraph(
            "Mean ± sample standard deviation over seeds; the best of each data set in bold. In brackets "
            f"the figure of {SOURCE}, where it has one, with how sure we are of it: {sureness()}. Of a model "
            "with several settings, the one of lowest validation error. Compact, like cnn, is compared with "
            "the paper's CNN and ST-CNN, fcn with its FCN and ST-FCN."
        ),
        table(overview(cells), keep=range(1, len(data) + 1)),
        "<h3>All models</h3>",
        paragraph(
            "Of the settings in which models of one data set, backbone and attention differ, that which "
            "most of them have goes unsaid. IoU is that of what is attended to with the box of the digit's "
            "ink (its whole 28×28 frame has about 0.5), ink inside the share of that ink that lies there, "
            "hit_rate the share of the views with any of it. What weighs channels alone has no place, and "
            "none of the three."
        ),
        table(details(cells), keep=range(3, 11), grouped=True),
        *older(cells),
        "<h2>Runs without a result</h2>",
        listing(str(run) for cell in cells for run in cell.unfinished),
        "<h2>Validation error over epochs</h2>",
        paragraph("Lowest test error first; a band is ± the standard deviation over seeds."),
    ]
    for name in data:
        if svg := plots.get(curves_name(name)):
            parts += [f"<h3>{escape(name)}</h3>", plot(svg, f"validation error over epochs, {name}")]
    parts += [
        "<h2>Test error against attention and time</h2>",
        paragraph(
            "Hollow: a network that attends to nothing. Large: the best on its data, of those that have the "
            "number."
        ),
        *(plot(plots[name], f"test error against {name}") for name in ("iou", "time") if name in plots),
        "<h2>Robustness</h2>",
        paragraph(
            "Test error in % on other data than those trained on, of the models that were evaluated there; "
            "in bold on their own. "
            "<code>python scripts/evaluate.py RUN data=NAME</code> fills a cell.",
        ),
    ]
    if "robustness" in plots:
        keep = range(2, len(robustness.head))
        parts += [plot(plots["robustness"], "test error of each model on each data"), table(robustness, keep)]
    else:
        parts.append(paragraph("No run was evaluated yet."))
    parts += [
        "<h2>Panels</h2>",
        paragraph(
            "The same ten digits of each test set: the input, what is attended to on it (a line about it, a "
            "tint where it is soft, bars where channels alone are weighed; dashed: the digit's box), what is "
            "given on, the prediction. First seed of each model, at its best epoch."
        ),
    ]
    for name in data:
        shown = [strip for strip in strips if strip.cell.data == name]
        parts += [f"<h3>{escape(name)}</h3>"] if shown else []
        for start in range(0, len(shown), IN_A_LINE):
            parts.append(line_of(shown[start : start + IN_A_LINE]))
    if skipped:
        parts += ["<h2>Skipped</h2>", listing(skipped)]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Report</title>'
    body = "\n".join(parts)
    head = f"<head>{head}<style>{STYLE}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'


def curves_name(data: str) -> str:
    """The name of the plot of a data set's curves, fit for a file."""
    return "curves-" + re.sub(r"[^\w.=-]+", "-", data)[:150]


def summary(cells: Sequence[Cell]) -> str:
    """How much there is."""
    models, data = len(cells), len({cell.data for cell in cells})
    return f"{counted(cells)} runs of {models} models on {data} data sets."


def counted(cells: Sequence[Cell]) -> str:
    """How many runs are in which state, as in ``10 finished, 1 failed``."""
    count = Counter(run.state for cell in cells for run in cell.runs)
    return ", ".join(f"{count[state]} {state}" for state in get_args(State) if count[state])


def sureness() -> str:
    """What the letters mean."""
    return ", ".join(f"{letter} {meaning}" for letter, meaning in SURENESS.items())


def older(cells: Sequence[Cell]) -> list[str]:
    """A word on the runs that were left out."""
    count = sum(cell.older for cell in cells)
    text = f"{count} finished runs are left out, because a later one is the same but for where it lies."
    return [paragraph(text, "note")] if count else []


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; its text is HTML."""
    return f'<p class="{kind}">{text}</p>' if kind else f"<p>{text}</p>"


def listing(lines: Iterable[str]) -> str:
    """Lines as a list."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else paragraph("None.")


def table(content: Table, keep: Iterable[int] = (), grouped: bool = False) -> str:
    """A table; the columns ``keep`` are not broken; ``grouped`` says what the first column holds but once."""
    kept = set(keep)
    rows, above = [], None
    for row in content.rows:
        first = grouped and row[0] != above
        cells = []
        for place, text in enumerate(row):
            kind = " ".join(["first"] * first + ["keep"] * (place in kept))
            shown = escape(text) if not grouped or place or first else ""
            shown = f"<b>{shown}</b>" if isinstance(text, Bold) else shown
            cells.append(f'<td class="{kind}">{shown}</td>' if kind else f"<td>{shown}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
        above = row[0]
    head = "".join(f"<th>{escape(text)}</th>" for text in content.head)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(rows)}</tbody></table>"


def plot(svg: str, about: str) -> str:
    """A plot as an image within the page."""
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return f'<figure><img src="{uri}" alt="{escape(about)}"></figure>'


def line_of(strips: Sequence[Strip]) -> str:
    """A line of panels, the inputs once at its left."""
    figures = [f'<figure><figcaption></figcaption><img src="{strips[0].inputs}" alt="inputs"></figure>']
    for strip in strips:
        cell = strip.cell
        error = f"{cell.values('test_error')[0]:.2f} %, seed {cell.finished[0].seed}"
        figures.append(
            f"<figure><figcaption><b>{escape(cell.base)}</b> {escape(cell.settings)}<br>{error}</figcaption>"
            f'<img src="{strip.outputs}" alt="{escape(cell.model)}"></figure>'
        )
    return f'<div class="panels">{"".join(figures)}</div>'
