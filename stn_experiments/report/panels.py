"""The last panels of several models side by side: all show the same digits, in the same rows."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stn_experiments.report.cells import Cell
from stn_experiments.tracking.panels import BORDER, CAPTION_SIZE, GAP, HEADS

COLOURS = 64  # more than a panel needs; a third of the bytes


@dataclass(frozen=True)
class Strip:
    """A cell's panel: as data URIs its inputs, and all that its network makes of them."""

    cell: Cell
    inputs: str
    outputs: str


def strips(cells: Sequence[Cell], skipped: list[str]) -> list[Strip]:
    """Of each finished cell the last panel of its first seed; a line is added for one that cannot be read."""
    found = []
    for cell in cells:
        if not cell.finished:
            continue
        folder = cell.finished[0].folder / "panels"
        panels = sorted(folder.glob("panel-*.png"))
        if not panels:
            skipped.append(f"{folder}: skipped, it holds no panel")
            continue
        try:
            found.append(Strip(cell, *cut(panels[-1])))
        except (OSError, ValueError, SyntaxError):  # a broken PNG is any of them to Pillow
            skipped.append(f"{panels[-1]}: skipped, it cannot be read")
    return found


def cut(panel: Path) -> tuple[str, str]:
    """The column of inputs of a panel, and its other columns, without the caption."""
    with Image.open(panel) as image:
        picture = image.convert("RGB")
    pitch = (picture.width - 2 * BORDER + GAP) // len(HEADS)
    top, middle = BORDER + CAPTION_SIZE + GAP // 2, BORDER + pitch - GAP // 2
    boxes = ((BORDER - GAP // 2, middle), (middle, picture.width - BORDER + GAP // 2))
    left, right = (picture.crop((start, top, end, picture.height)) for start, end in boxes)
    return data_uri(left), data_uri(right)


def data_uri(picture: Image.Image) -> str:
    """A picture as a PNG within an address."""
    buffer = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
