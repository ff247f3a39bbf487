"""Pictures as files, written whole or not at all: a PNG, or an animation of several."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from stn_experiments.common.files import replacing

LAST_SECONDS = 2.0
"""How long an animation shows its last frame at least."""


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG."""
    with replacing(path) as temporary:
        picture.save(temporary, "PNG")


def save_animation(frames: Sequence[Image.Image], path: Path, seconds_per_frame: float = 0.5) -> None:
    """Write RGB pictures of one size as an endless GIF. Equal neighbours are stored once.

    Each is shown for ``seconds_per_frame``, the last one for at least ``LAST_SECONDS``.
    """
    first, *others = _in_one_palette(frames)
    seconds = [seconds_per_frame] * len(others) + [max(seconds_per_frame, LAST_SECONDS)]
    durations = [round(1000 * second) for second in seconds]
    with replacing(path) as temporary:
        first.save(temporary, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _in_one_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """The pictures in the same 256 colours, so that unchanged parts neither flicker nor cost bytes."""
    samples = [frames[place] for place in (0, len(frames) // 2, -1)]
    width, height = samples[0].size
    sample = Image.new("RGB", (width, height * len(samples)))
    for place, frame in enumerate(samples):
        sample.paste(frame, (0, place * height))
    # The default method turns rare colours and the white background grey.
    palette = sample.quantize(256, Image.Quantize.MAXCOVERAGE)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
