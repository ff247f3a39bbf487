"""Pictures as files: a PNG, or an animation of several; whole, or as they were before."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

LAST_SECONDS = 2.0


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG; ``path`` holds it whole or is left as it was."""
    with _replacing(path) as temporary:
        picture.save(temporary, "PNG")


def save_animation(frames: Sequence[Path], path: Path, seconds_per_frame: float = 0.5) -> None:
    """Write pictures of one size as an endless GIF; ``path`` holds it whole or is left as it was.

    Args:
        frames: the pictures in their order. Of equal neighbours one is stored, and shown for as long as all.
        path: the GIF.
        seconds_per_frame: how long each is shown; the last one for at least two seconds.

    Raises:
        ValueError: there are no frames.
    """
    if not frames:
        raise ValueError("an animation needs at least one frame, got none")
    first, *others = _in_one_palette(frames)
    seconds = [seconds_per_frame] * len(others) + [max(seconds_per_frame, LAST_SECONDS)]
    durations = [round(1000 * second) for second in seconds]
    with _replacing(path) as temporary:
        first.save(temporary, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _in_one_palette(frames: Sequence[Path]) -> list[Image.Image]:
    """The pictures in the same 256 colours, so that what stands still does not flicker and costs no bytes."""
    samples = [_open(frames[place]) for place in (0, len(frames) // 2, -1)]
    width, height = samples[0].size
    sample = Image.new("RGB", (width, height * len(samples)))
    for place, frame in enumerate(samples):
        sample.paste(frame, (0, place * height))
    # This method keeps the rare colours and the white of the paper, which the usual one greys.
    palette = sample.quantize(256, Image.Quantize.MAXCOVERAGE)
    return [_open(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def _open(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
