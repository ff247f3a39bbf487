"""The panels of test images of several models side by side. All show the same digits in the same rows."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from stn_experiments.report.groups import Group
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.tracking.panels import BORDER, CAPTION_SIZE, GAP, HEADS

COLOURS = 64  # enough for a panel, with a third of the bytes


class Strip(NamedTuple):
    """The panel of a group: the column of inputs and the other columns, as data URIs."""

    group: Group
    inputs: str
    outputs: str


def strips(groups: Sequence[Group], skipped: list[str]) -> list[Strip]:
    """The panel of test images of each group's first seed; ``skipped`` gets a line for each damaged one."""
    found = []
    for group in groups:
        if not group.finished:
            continue
        panel = RunFolder(group.finished[0].folder).test_panel
        try:
            found.append(Strip(group, *split_panel(panel)))
        except (OSError, ValueError, SyntaxError):  # Pillow raises any of them for a damaged PNG
            skipped.append(f"{panel}: skipped, it cannot be read")
    return found


def split_panel(panel: Path) -> tuple[str, str]:
    """A panel's column of inputs and its other columns, without the caption."""
    with Image.open(panel) as image:
        picture = image.convert("RGB")
    pitch = (picture.width - 2 * BORDER + GAP) // len(HEADS)
    top, middle = BORDER + CAPTION_SIZE + GAP // 2, BORDER + pitch - GAP // 2
    left, right = BORDER - GAP // 2, picture.width - BORDER + GAP // 2
    inputs, outputs = (left, top, middle, picture.height), (middle, top, right, picture.height)
    return png_uri(picture.crop(inputs)), png_uri(picture.crop(outputs))


def png_uri(picture: Image.Image) -> str:
    """A picture as a PNG in a data URI."""
    buffer = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return data_uri("image/png", buffer.getvalue())


def data_uri(media_type: str, content: bytes) -> str:
    """The content of a file as a data URI."""
    return f"data:{media_type};base64," + base64.b64encode(content).decode()
