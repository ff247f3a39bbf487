"""Draw into a cell of a panel: images, outlines, attention maps, points and words."""

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
Word = tuple[str, Sequence[Colour]]
"""A word of a question and the colours of its background, as bands from the top."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER, FADED, INK, GREY = (255, 255, 255), (240, 241, 243), (32, 36, 42), (118, 124, 133)
OUTSIDE, EDGE, TRUTH = (52, 56, 63), (112, 118, 127), (235, 235, 235)
RIGHT, WRONG = (0, 128, 96), (204, 41, 54)
# After Okabe and Ito (2008), without colours that are dark on black or similar to RIGHT and WRONG.
COLOURS = ((86, 180, 233), (240, 165, 30), (230, 140, 195), (240, 228, 66), (60, 200, 165))

CHANNEL_COLOURS = {
    1: ((255, 255, 255),),
    2: ((255, 225, 110), (150, 130, 255)),  # white together, so that two overlapping digits are both visible
    3: ((255, 0, 0), (0, 255, 0), (0, 0, 255)),
}
"""The colours of an image's channels, by their number; an image with more is shown as the mean."""
MAX_IMAGE_CHANNELS = 4
"""Tensors with more channels are feature maps."""

OVERSAMPLE = 4
FARTHEST = 1e4  # in normalised units: far beyond any cell, and within Pillow's 32-bit pixels
WORD_SIZE, LINE_PITCH = 0.12, 0.14  # of a question, as fractions of a cell
HEAT_OPACITY = 0.6  # of an attention map at its maximum, so that the image stays visible


class Place(NamedTuple):
    """The rectangle of an image in a cell, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def pixels(self, points: Tensor) -> list[Point]:
        """Normalised points (N, 2) of the image as pixels of the cell."""
        halves = ((points.clamp(-FARTHEST, FARTHEST) + 1) / 2).tolist()
        return [(self.left + x * self.width, self.top + y * self.height) for x, y in halves]


def between(one: Colour, other: Colour, share: float) -> Colour:
    """Interpolate from ``one`` colour (share 0) to the ``other`` (share 1)."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def blank(cell: int, colour: Colour) -> Image.Image:
    """A cell in ``OVERSAMPLE`` times its size; ``reduce`` makes it smooth."""
    return Image.new("RGB", (cell * OVERSAMPLE, cell * OVERSAMPLE), colour)


def fit(image: Tensor, size: tuple[int, int], share: float) -> Place:
    """The place of an image (C, H, W), centred in an area of (width, height), of which it fills ``share``."""
    height, width = image.shape[-2:]
    factor = share * min(size[0] / width, size[1] / height)
    width, height = max(round(width * factor), 1), max(round(height * factor), 1)
    return Place((size[0] - width) // 2, (size[1] - height) // 2, width, height)


def paste_image(picture: Image.Image, image: Tensor, place: Place) -> None:
    """Paste an image (C, H, W): grey, two channels in two colours, RGB, or the mean of more channels.

    Feature maps, and three or more channels with values outside of [0, 1], are rescaled to [0, 1].
    """
    image = image.float().nan_to_num(0, 1, 0)
    channels = len(image)
    if channels not in CHANNEL_COLOURS:
        image = image.mean(0, keepdim=True)
    low, high = image.aminmax()
    if channels > MAX_IMAGE_CHANNELS or (channels > 2 and (low < 0 or high > 1)):
        image = (image - low) / (high - low).clamp(min=1e-12)
    colours = torch.tensor(CHANNEL_COLOURS[len(image)], dtype=torch.float)
    values = torch.einsum("chw,ck->hwk", image.clamp(0, 1), colours).round().clamp(max=255).byte().numpy()
    size = (place.width, place.height)
    picture.paste(Image.fromarray(values).resize(size, Image.Resampling.NEAREST), (place.left, place.top))


def draw_heat(picture: Image.Image, heat: Heat, place: Place, colour: Colour) -> None:
    """Tint an image by the weights (h, w) of an attention map: most at its maximum, not at all at 0."""
    weights = heat.weights.nan_to_num(0, 0, 0).flatten()
    peak = weights.max().clamp(min=torch.finfo(weights.dtype).tiny)
    tints = (255 * HEAT_OPACITY * weights / peak).round().int().tolist()
    corners = place.pixels(_cells(heat.places).nan_to_num(FARTHEST))
    layer = Image.new("L", picture.size)
    draw = ImageDraw.Draw(layer)
    for index in weights.argsort().tolist():  # the largest last, so that overlaps show it
        draw.polygon(corners[4 * index : 4 * index + 4], tints[index])
    picture.paste(colour, mask=layer)


def _cells(places: Tensor) -> Tensor:
    """The corners (h * w * 4, 2) of a map's cells, whose centres are ``places`` (h, w, 2).

    A corner is the mean of four centres. At the edge of the map, centres are extrapolated.
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
    """Draw an outline (K, 2) with a dot at its first point, or a ``fine`` one: thin, without a dot.

    Returns:
        Why nothing of it is visible, or an empty text.
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
    """Draw points (M, 2) as dots, which are smaller if ``fine``."""
    draw = ImageDraw.Draw(picture)
    radius = picture.height // (120 if fine else 60)
    for x, y in place.pixels(points.nan_to_num(FARTHEST)):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], colour)


def draw_number(picture: Image.Image, number: int, at: Point, colour: Colour) -> None:
    """Write a small number, centred at a point, with a border that keeps it readable on any background."""
    font = _font(picture.height / 12)
    style: dict[str, Any] = {"anchor": "mm", "stroke_width": picture.height // 96, "stroke_fill": INK}
    ImageDraw.Draw(picture).text(at, str(number), colour, font, **style)


def draw_dashed(picture: Image.Image, corners: list[Point]) -> None:
    """Draw a closed thin dashed line; each of its sides begins and ends with a dash."""
    draw = ImageDraw.Draw(picture)
    width = picture.height // 120
    for (x, y), (next_x, next_y) in zip(corners, corners[1:] + corners[:1], strict=True):
        steps = 2 * max(round(math.dist((x, y), (next_x, next_y)) / (7 * width)), 1) + 1
        for step in range(0, steps, 2):
            at = [(x + (next_x - x) * i / steps, y + (next_y - y) * i / steps) for i in (step, step + 1)]
            draw.line(at, TRUTH, width)


def write(picture: Image.Image, text: str, colour: Colour, at: Point, size: float) -> None:
    """Write centred at the point ``at``; point and font size are fractions of the picture's height."""
    x, y = (picture.height * share for share in at)
    font = fitting_font(text, picture.height * size, picture.width)
    ImageDraw.Draw(picture).text((x, y), text, colour, font, anchor="mm")


def write_shaded(picture: Image.Image, words: Sequence[Word]) -> None:
    """Write words in lines, from the top of the picture."""
    draw, font = ImageDraw.Draw(picture), _font(max(picture.height * WORD_SIZE, 1))
    gap, pitch = font.getlength(" "), picture.height * LINE_PITCH
    x, y = gap / 2, pitch / 2
    for text, shades in words:
        length = font.getlength(text)
        if x > gap and x + length > picture.width:
            x, y = gap / 2, y + pitch
        top, bottom = y - pitch / 2, y + pitch / 2 - 1
        for band, shade in enumerate(shades):
            edge = min(top + pitch * band / len(shades), bottom)
            draw.rectangle([x - gap / 2, edge, x + length + gap / 2, bottom], shade)
        draw.text((x, y), text, INK, font, anchor="lm")
        x += length + gap


def fitting_font(text: str, size: float, width: float) -> Font:
    """The font of ``size`` pixels, or smaller where ``text`` would be more than ``width`` pixels wide."""
    return _font(max(min(size, size * width / max(_font(size).getlength(text), 1)), 1))


@cache
def _font(size: float) -> Font:
    return ImageFont.load_default(size)
