"""Panels: what a network makes of a few digits, as in figure 1 of Jaderberg et al. 2015."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stn_experiments import geometry
from stn_experiments.data.distortions import Batch
from stn_experiments.data.questions import in_words
from stn_experiments.models.prediction import Prediction
from stn_experiments.models.view import Heat, View

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

HEADS = ("a  input", "b  attends to", "c  sees", "d  prediction")
MOST_CHANNELS = 4  # of an image; what has more is a feature map

BORDER, GAP = 14, 8
HEAD_SIZE, CAPTION_SIZE = 13, 15
OVERSAMPLE = 4
IMAGE_SHARE = 14 / 15
CANVAS_SHARE = 0.7  # leaves room for a box as large as a square canvas, however it is turned
FARTHEST = 1e4  # in normalised units: far beyond any cell, and within Pillow's 32-bit pixels
WORD_SIZE, LINE_PITCH = 0.1, 0.13  # of a question, as shares of a cell
HEAT_SHARE = 0.6  # of its colour in the tint at its peak, that the image still shows
LAST_SECONDS = 2.0


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


def draw_panel(batch: Batch, prediction: Prediction, caption: str = "", cell: int = 120) -> Image.Image:
    """A row for each image: the input, what is attended to on it, what the attention gives on, the class.

    An attention's outline has a dot at V's top left, its heat is a tint; the dashed boxes are the digits'
    true ones. One that has no place in space shows the weights of its channels. More views than there are
    colours are numbered. Where something is asked, the question stands above the class, each word shaded by
    how much it counts.

    Args:
        batch: images (B, C, H, W) in [0, 1], shown as their mean over C, with labels and poses.
        prediction: of these images. Without views, columns b and c say so. Tensors may be on any device.
        caption: one line above, in as small a print as its length needs.
        cell: side of a cell in pixels.

    Returns:
        An RGB picture. Its size depends on B, ``cell`` and whether there is a caption, not on the images'.
    """
    pitch, top = cell + GAP, BORDER + (HEAD_SIZE + GAP) + (CAPTION_SIZE + GAP if caption else 0)
    size = (2 * BORDER + 4 * pitch - GAP, top + len(batch.images) * pitch - GAP + BORDER)
    panel = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(panel)
    if caption:
        font = _fitting_font(caption, CAPTION_SIZE, size[0] - 2 * BORDER)
        draw.text((BORDER, BORDER), caption, INK, font)
    for column, head in enumerate(HEADS):
        x = BORDER + column * pitch + cell / 2
        draw.text((x, top - GAP), head, GREY, _fitting_font(head, HEAD_SIZE, cell), anchor="ms")
    for index in range(len(batch.images)):
        for column, picture in enumerate(_row(batch, prediction, index, cell)):
            panel.paste(picture, (BORDER + column * pitch, top + index * pitch))
    return panel


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


def _row(batch: Batch, prediction: Prediction, index: int, cell: int) -> list[Image.Image]:
    image, boxes = batch.images[index].detach().cpu(), batch.pose.box[index].detach().cpu()
    views = [_of_one(view, index) for view in prediction.views]
    # Where there are several views each keeps its colour.
    colours = _colours(len(views)) if len(views) > 1 else [COLOURS[index % len(COLOURS)]]
    return [
        _image_cell(image, cell),
        _place_cell(image, views, colours, boxes, cell) if views else _empty_cell(cell),
        _output_cell(views, colours, cell) if views else _empty_cell(cell),
        _prediction_cell(
            prediction.logits[index].detach().cpu(),
            int(batch.labels[index]),
            [] if batch.question is None else _asked(batch.question[index].cpu(), views, colours),
            cell,
        ),
    ]


def _colours(count: int) -> list[Colour]:
    """A colour for each of several views; more than there are colours run from the first to the fourth."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    stops = torch.tensor([COLOURS[0], COLOURS[2], COLOURS[1], COLOURS[3]], dtype=torch.float)
    ramp = F.interpolate(stops.T[None], count, mode="linear", align_corners=True)[0]
    return [(round(red), round(green), round(blue)) for red, green, blue in ramp.T.tolist()]


def _of_one(view: View, index: int) -> View:
    """What a view holds of one image."""

    def one(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part[index].detach().cpu()
        return None if part is None else type(part)(*map(one, part))

    return one(view)


def _image_cell(image: Tensor, cell: int) -> Image.Image:
    picture = _blank(cell, PAPER)
    _paste_image(picture, image, _fit(image, picture.size, IMAGE_SHARE))
    return picture.reduce(OVERSAMPLE)


def _place_cell(
    image: Tensor, views: list[View], colours: list[Colour], boxes: Tensor, cell: int
) -> Image.Image:
    """Where the views look, on the image: their heat, outlines and marks, and the digits' true boxes."""
    in_space = [view for view in views if view.outline is not None]
    gates = [view.gates for view in views if view.gates is not None]
    if not in_space:
        return _gates_cell(torch.cat(gates), colours[0], cell) if gates else _empty_cell(cell)
    picture = _blank(cell, OUTSIDE)
    place = _fit(image, picture.size, CANVAS_SHARE)
    _paste_image(picture, image, place)
    for view, colour in zip(views, colours, strict=True):
        if view.heat is not None:
            _lay_heat(picture, view.heat, place, colour)
    ImageDraw.Draw(picture).polygon(place.pixels(geometry.frame(1)), outline=EDGE, width=OVERSAMPLE)
    many = len(views) > len(COLOURS)
    notes = [
        _draw_outline(picture, view.outline, place, colour, many)
        for view, colour in zip(views, colours, strict=True)
        if view.outline is not None
    ]
    for view, colour in zip(views, colours, strict=True):
        if view.marks is not None:
            _draw_marks(picture, view.marks, place, colour, many)
    # After the outlines, which are thicker and would hide it where they fit well.
    for box in boxes:
        _draw_dashed(picture, place.pixels(box))
    for number, (view, colour) in enumerate(zip(views, colours, strict=True), 1):
        if many and view.outline is not None:
            _draw_number(picture, number, place.pixels(view.outline[:1].nan_to_num(FARTHEST))[0], colour)
    picture = picture.reduce(OVERSAMPLE)
    _write(picture, " ".join(sorted({note for note in notes if note})), colours[0], (0.5, 0.93), 0.1)
    return picture


def _gates_cell(gates: Tensor, colour: Colour, cell: int) -> Image.Image:
    """The weights (G,) of channels as bars from 0 to 1."""
    picture = _blank(cell, FADED)
    draw = ImageDraw.Draw(picture)
    left, right, top, bottom = (round(picture.width * share) for share in (0.08, 0.92, 0.3, 0.9))
    draw.rectangle([left, top, right, bottom], OUTSIDE)
    step = (right - left) / len(gates)
    for number, value in enumerate(gates.nan_to_num(0).clamp(0, 1).tolist()):
        x, height = left + number * step, value * (bottom - top)
        draw.rectangle([x, bottom - height, x + max(step - 1, 1), bottom], colour)
    picture = picture.reduce(OVERSAMPLE)
    _write(picture, "no place in space:", GREY, (0.5, 0.1), 0.1)
    _write(picture, "weights of channels", GREY, (0.5, 0.22), 0.1)
    return picture


def _output_cell(views: list[View], colours: list[Colour], cell: int) -> Image.Image:
    """What each view gives on, side by side, and in rows where they are many."""
    picture = _blank(cell, PAPER)
    columns = math.ceil(math.sqrt(len(views)))
    rows = math.ceil(len(views) / columns)
    width, height = picture.width // columns, picture.height // rows
    for number, (view, colour) in enumerate(zip(views, colours, strict=True)):
        row, column = divmod(number, columns)
        place = _fit(view.output, (width, height), IMAGE_SHARE)
        place = place._replace(left=place.left + column * width, top=place.top + row * height)
        _paste_image(picture, view.output, place)
        many = len(views) > len(COLOURS)
        _draw_outline(picture, geometry.frame(1), place, colour, many)
        if many:
            _draw_number(picture, number + 1, (place.left + width * 0.17, place.top + height * 0.17), colour)
    return picture.reduce(OVERSAMPLE)


def _prediction_cell(logits: Tensor, label: int, asked: list[Word], cell: int) -> Image.Image:
    """The class, below what was asked, if anything was."""
    picture = Image.new("RGB", (cell, cell), PAPER)
    probability, predicted = logits.float().softmax(0).max(0)
    right = int(predicted) == label and bool(probability.isfinite())
    colour = RIGHT if right else WRONG
    _write_shaded(picture, asked)
    places, size = ((0.5, 0.76, 0.91), 0.36) if asked else ((0.36, 0.7, 0.88), 0.5)
    _write(picture, str(int(predicted)), colour, (0.5, places[0]), size)
    _write(picture, f"{100 * float(probability):.1f} %", colour, (0.5, places[1]), 0.14)
    if not right:
        _write(picture, f"true {label}", INK, (0.5, places[2]), 0.14)
    return picture


def _asked(question: Tensor, views: list[View], colours: list[Colour]) -> list[Word]:
    """The words of a question (T,), each shaded by its weight in the last view that weighs them."""
    words = in_words(question)
    shades = [PAPER] * len(words)
    for view, colour in zip(views, colours, strict=True):
        if view.words is not None:
            weights = view.words[question != 0].nan_to_num(0)
            shares = weights / weights.max().clamp(min=torch.finfo(weights.dtype).tiny)
            shades = [_between(PAPER, colour, share) for share in shares.tolist()]
    return list(map(Word, words, shades))


def _empty_cell(cell: int) -> Image.Image:
    picture = Image.new("RGB", (cell, cell), FADED)
    _write(picture, "no attention", GREY, (0.5, 0.5), 0.11)
    return picture


def _between(one: Colour, other: Colour, share: float) -> Colour:
    """The colour on the way from one to another."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _blank(cell: int, colour: Colour) -> Image.Image:
    """A cell in which to draw large, for ``reduce`` to smooth."""
    return Image.new("RGB", (cell * OVERSAMPLE, cell * OVERSAMPLE), colour)


def _fit(image: Tensor, size: tuple[int, int], share: float) -> Place:
    """The place of an image (C, H, W) amid a space of (width, height), of which it fills ``share``."""
    height, width = image.shape[-2:]
    factor = share * min(size[0] / width, size[1] / height)
    width, height = max(round(width * factor), 1), max(round(height * factor), 1)
    return Place((size[0] - width) // 2, (size[1] - height) // 2, width, height)


def _paste_image(picture: Image.Image, image: Tensor, place: Place) -> None:
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


def _lay_heat(picture: Image.Image, heat: Heat, place: Place, colour: Colour) -> None:
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


def _draw_outline(
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


def _draw_marks(
    picture: Image.Image, points: Tensor, place: Place, colour: Colour, fine: bool = False
) -> None:
    """Draw points (M, 2) as small dots, or ``fine`` ones."""
    draw = ImageDraw.Draw(picture)
    radius = picture.height // (120 if fine else 60)
    for x, y in place.pixels(points.nan_to_num(FARTHEST)):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], colour)


def _draw_number(picture: Image.Image, number: int, at: Point, colour: Colour) -> None:
    """Write a small number about a point of a picture, readable on any ground."""
    font = _font(picture.height / 12)
    style: dict[str, Any] = {"anchor": "mm", "stroke_width": picture.height // 96, "stroke_fill": INK}
    ImageDraw.Draw(picture).text(at, str(number), colour, font, **style)


def _draw_dashed(picture: Image.Image, corners: list[Point]) -> None:
    """Draw a closed line thin and dashed, each side of it beginning and ending with a dash."""
    draw = ImageDraw.Draw(picture)
    width = picture.height // 120
    for (x, y), (next_x, next_y) in zip(corners, corners[1:] + corners[:1], strict=True):
        steps = 2 * max(round(math.dist((x, y), (next_x, next_y)) / (7 * width)), 1) + 1
        for step in range(0, steps, 2):
            at = [(x + (next_x - x) * i / steps, y + (next_y - y) * i / steps) for i in (step, step + 1)]
            draw.line(at, TRUTH, width)


def _write(picture: Image.Image, text: str, colour: Colour, at: Point, size: float) -> None:
    """Write about the point ``at``; that and the letters' size are shares of the picture's height."""
    x, y = (picture.height * share for share in at)
    font = _fitting_font(text, picture.height * size, picture.width)
    ImageDraw.Draw(picture).text((x, y), text, colour, font, anchor="mm")


def _write_shaded(picture: Image.Image, words: Sequence[Word]) -> None:
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


def _fitting_font(text: str, size: float, width: float) -> Font:
    """The font of ``size`` pixels, or smaller where ``text`` would be more than ``width`` pixels wide."""
    return _font(max(min(size, size * width / max(_font(size).getlength(text), 1)), 1))


@cache
def _font(size: float) -> Font:
    return ImageFont.load_default(size)


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
