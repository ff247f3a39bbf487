"""What is drawn into a cell of a panel: images, outlines, heats, marks and words."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stn_experiments.models.view import Heat

Colour = tuple[int, int, int]
Point = tuple[float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER, FADED, INK, GREY = (255, 255, 255), (240, 241, 243), (32, 36, 42), (118, 124, 133)
OUTSIDE, EDGE, TRUTH = (52, 56, 63), (112, 118, 127), (235, 235, 235)
RIGHT, WRONG = (0, 128, 96), (204, 41, 54)
# After Okabe and Ito (2008), less what is dark on black and what could be taken for right or wrong.
COLOURS = ((86, 180, 233), (240, 165, 30), (230, 140, 195), (240, 228, 66), (60, 200, 165))

# Of an image's two channels; together they are white, so both of two digits can be told where they cross.
TINTS = ((255, 225, 110), (150, 130, 255))
MOST_CHANNELS = 4  # of an image; what has more is a feature map

OVERSAMPLE = 4
FARTHEST = 1e4  # in normalised units: far beyond any cell, and within Pillow's 32-bit pixels
WORD_SIZE, LINE_PITCH = 0.1, 0.13  # of a question, as shares of a cell
HEAT_SHARE = 0.6  # of its colour in the tint at its peak, that the image still shows


class Place(NamedTuple):
    """Where an image lies in a cell: a rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int

    def pixels(self, points: Tensor) -> list[Point]:
        """Normalised points (N, 2) of the image as pixels of the cell."""
        halves = ((points.clamp(-FARTHEST, FARTHEST) + 1) / 2).tolist()
        return [(self.left + x * self.width, self.top + y * self.height) for x, y in halves]


class Word(NamedTuple):
    """A word of a question, and the colour behind it."""

    text: str
    shade: Colour


def between(one: Colour, other: Colour, share: float) -> Colour:
    """The colour on the way from one to another."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def blank(cell: int, colour: Colour) -> Image.Image:
    """A cell in which to draw large, for ``reduce`` to smooth."""
    return Image.new("RGB", (cell * OVERSAMPLE, cell * OVERSAMPLE), colour)


def fit(image: Tensor, size: tuple[int, int], share: float) -> Place:
    """The place of an image (C, H, W) amid a space of (width, height), of which it fills ``share``."""
    height, width = image.shape[-2:]
    factor = share * min(size[0] / width, size[1] / height)
    width, height = max(round(width * factor), 1), max(round(height * factor), 1)
    return Place((size[0] - width) // 2, (size[1] - height) // 2, width, height)


def paste_image(picture: Image.Image, image: Tensor, place: Place) -> None:
    """Paste an image (C, H, W): one channel in grey, two in two colours, of more the mean.

    What is beyond the range of an image is brought into it, and a feature map fills it, however faint.
    """
    image = image.float().nan_to_num(0, 1, 0)
    is_map = len(image) > MOST_CHANNELS
    if len(image) > 2:
        image = image.mean(0, keepdim=True)
        low, high = image.aminmax()
        if low < 0 or high > 1 or is_map:
            image = (image - low) / (high - low).clamp(min=1e-12)
    tints = torch.tensor(TINTS if len(image) == 2 else ((255, 255, 255),), dtype=torch.float)
    values = torch.einsum("chw,ck->hwk", image.clamp(0, 1), tints).round().clamp(max=255).byte().numpy()
    size = (place.width, place.height)
    picture.paste(Image.fromarray(values).resize(size, Image.Resampling.NEAREST), (place.left, place.top))


def lay_heat(picture: Image.Image, heat: Heat, place: Place, colour: Colour) -> None:
    """Tint an image by a heat's weights (h, w): not at all where it is 0, most at its peak."""
    weights = heat.weights.nan_to_num(0, 0, 0).flatten()
    peak = weights.max().clamp(min=torch.finfo(weights.dtype).tiny)
    tints = (255 * HEAT_SHARE * weights / peak).round().int().tolist()
    corners = place.pixels(_cells(heat.places).nan_to_num(FARTHEST))
    layer = Image.new("L", picture.size)
    draw = ImageDraw.Draw(layer)
    for index in weights.argsort().tolist():  # the hottest last: where cells overlap they are seen
        draw.polygon(corners[4 * index : 4 * index + 4], tints[index])
    picture.paste(colour, mask=layer)


def _cells(places: Tensor) -> Tensor:
    """The corners (h * w * 4, 2) of a map's cells, whose middles are at ``places`` (h, w, 2).

    Each lies amid four middles; at the edge of the map as far beyond the middles as within it.
    """
    for _ in range(2):
        beyond = [2 * places[:1] - places[1:2], places, 2 * places[-1:] - places[-2:-1]]
        around = torch.cat(beyond) if len(places) > 1 else places.expand(3, -1, -1)
        places = ((around[1:] + around[:-1]) / 2).transpose(0, 1)
    corners = [places[:-1, :-1], places[:-1, 1:], places[1:, 1:], places[1:, :-1]]
    return torch.stack(corners, 2).view(-1, 2)


def draw_outline(
    picture: Image.Image, outline: Tensor, place: Place, colour: Colour, fine: bool = False
) -> str:
    """Draw an outline (K, 2), and say why if there is nothing of it to see.

    It has a dot at its first point, or is ``fine``, with a thin line and none.
    """
    if not outline.isfinite().all():
        return "box not finite"
    points = place.pixels(outline)
    x, y = points[0]
    width = picture.height // (88 if fine else 44)
    dot = 0 if fine else picture.height // 27
    line = Image.new("L", picture.size)
    draw = ImageDraw.Draw(line)
    draw.line([*points, *points[:2]], 255, width, "curve")
    draw.ellipse([x - dot, y - dot, x + dot, y + dot], 255)
    picture.paste(colour, mask=line)
    return "" if line.getbbox() else "box out of view"


def draw_marks(
    picture: Image.Image, points: Tensor, place: Place, colour: Colour, fine: bool = False
) -> None:
    """Draw points (M, 2) as small dots, or ``fine`` ones."""
    draw = ImageDraw.Draw(picture)
    radius = picture.height // (120 if fine else 60)
    for x, y in place.pixels(points.nan_to_num(FARTHEST)):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], colour)


def draw_number(picture: Image.Image, number: int, at: Point, colour: Colour) -> None:
    """Write a small number about a point of a picture, readable on any ground."""
    font = _font(picture.height / 12)
    style: dict[str, Any] = {"anchor": "mm", "stroke_width": picture.height // 96, "stroke_fill": INK}
    ImageDraw.Draw(picture).text(at, str(number), colour, font, **style)


def draw_dashed(picture: Image.Image, corners: list[Point]) -> None:
    """Draw a closed line thin and dashed, each side of it beginning and ending with a dash."""
    draw = ImageDraw.Draw(picture)
    width = picture.height // 120
    for (x, y), (next_x, next_y) in zip(corners, corners[1:] + corners[:1], strict=True):
        steps = 2 * max(round(math.dist((x, y), (next_x, next_y)) / (7 * width)), 1) + 1
        for step in range(0, steps, 2):
            at = [(x + (next_x - x) * i / steps, y + (next_y - y) * i / steps) for i in (step, step + 1)]
            draw.line(at, TRUTH, width)


def write(picture: Image.Image, text: str, colour: Colour, at: Point, size: float) -> None:
    """Write about the point ``at``; that and the letters' size are shares of the picture's height."""
    x, y = (picture.height * share for share in at)
    font = fitting_font(text, picture.height * size, picture.width)
    ImageDraw.Draw(picture).text((x, y), text, colour, font, anchor="mm")


def write_shaded(picture: Image.Image, words: Sequence[Word]) -> None:
    """Write words from the top down, as many in a line as fit."""
    draw, font = ImageDraw.Draw(picture), _font(max(picture.height * WORD_SIZE, 1))
    gap, pitch = font.getlength(" "), picture.height * LINE_PITCH
    x, y = gap / 2, pitch / 2
    for word in words:
        length = font.getlength(word.text)
        if x > gap and x + length > picture.width:
            x, y = gap / 2, y + pitch
        draw.rectangle([x - gap / 2, y - pitch / 2, x + length + gap / 2, y + pitch / 2 - 1], word.shade)
        draw.text((x, y), word.text, INK, font, anchor="lm")
        x += length + gap


def fitting_font(text: str, size: float, width: float) -> Font:
    """The font of ``size`` pixels, or smaller where ``text`` would be more than ``width`` pixels wide."""
    return _font(max(min(size, size * width / max(_font(size).getlength(text), 1)), 1))


@cache
def _font(size: float) -> Font:
    return ImageFont.load_default(size)
