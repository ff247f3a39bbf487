"""The last panels of several models side by side. All show the same digits in the same rows."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stn_experiments.report.groups import Group
from stn_experiments.tracking.panels import BORDER, CAPTION_SIZE, GAP, HEADS

COLOURS = 64  # enough for a panel, with a third of the bytes


@dataclass(frozen=True)
class Strip:
    """The panel of a group: the inputs and the other columns, as data URIs."""

    group: Group
    inputs: str
    outputs: str


def strips(groups: Sequence[Group], skipped: list[str]) -> list[Strip]:
    """The last panel of each group's first seed; ``skipped`` gets a line for each that cannot be read."""
    found = []
    for group in groups:
        if not group.finished:
            continue
        folder = group.finished[0].folder / "panels"
        panels = sorted(folder.glob("panel-*.png"))
        if not panels:
            skipped.append(f"{folder}: skipped, it holds no panel")
            continue
        try:
            found.append(Strip(group, *cut(panels[-1])))
        except (OSError, ValueError, SyntaxError):  # a broken PNG is any of them to Pillow
            skipped.append(f"{panels[-1]}: skipped, it cannot be read")
    return found


def cut(panel: Path) -> tuple[str, str]:
    """A panel's column of inputs and its other columns, without the caption."""
    with Image.open(panel) as image:
        picture = image.convert("RGB")
    pitch = (picture.width - 2 * BORDER + GAP) // len(HEADS)
    top, middle = BORDER + CAPTION_SIZE + GAP // 2, BORDER + pitch - GAP // 2
    boxes = ((BORDER - GAP // 2, middle), (middle, picture.width - BORDER + GAP // 2))
    left, right = (picture.crop((start, top, end, picture.height)) for start, end in boxes)
    return data_uri(left), data_uri(right)


def data_uri(picture: Image.Image) -> str:
    """A picture as a PNG in a data URI."""
    buffer = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
