"""Panels: what a network makes of a few digits, as in figure 1 of Jaderberg et al. 2015."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from stn_experiments.common import geometry
from stn_experiments.data.batch import Batch
from stn_experiments.data.questions import decode_question
from stn_experiments.models.prediction import Prediction
from stn_experiments.models.view import View
from stn_experiments.tracking import drawing
from stn_experiments.tracking.drawing import COLOURS, INK, OUTSIDE, OVERSAMPLE, PAPER, RIGHT, WRONG, Colour

HEADS = ("a  input", "b  attends to", "c  sees", "d  prediction")
BORDER, GAP = 14, 8
HEAD_SIZE, CAPTION_SIZE, NOTE_SIZE = 20, 22, 18  # legible in TensorBoard, which shows panels 330 pixels wide
SMALL_TEXT = 0.17  # of a cell
NAME_SIZE, LONGEST_NAME = 0.18, 18  # of a class in words, as a fraction of a cell and in characters
IMAGE_SHARE = 14 / 15
CANVAS_SHARE = 0.7  # leaves room for a box as large as a square canvas, however it is turned

ColouredViews = list[tuple[View, Colour]]
"""What views hold of one image, each with the colour in which it is drawn."""


def draw_panel(
    batch: Batch,
    prediction: Prediction,
    caption: str = "",
    cell: int = 120,
    class_names: Sequence[str] | None = None,
) -> Image.Image:
    """A row for each image: the input, where the attention looks, the attention's output, the class.

    The dot of an outline is the top left of V. An attention map is a tint. Dashed boxes are the true boxes of
    the digits. Attention over channels alone shows their weights. Views are numbered if there are more than
    colours. A question is above the class; the background of each word shows its weight, of several layers in
    bands from the top. The classes of a sequence are side by side.

    Args:
        batch: images (B, C, H, W) in [0, 1] with labels and poses; three channels are RGB.
        prediction: of these images. Without views, columns b and c say so. Tensors may be on any device.
        caption: one line above; its font shrinks until it fits.
        cell: side of a cell in pixels.
        class_names: by label; None: the labels themselves.

    Returns:
        An RGB picture, whose size depends on B, ``cell`` and whether there is a caption.
    """
    pitch, top = cell + GAP, BORDER + (HEAD_SIZE + GAP) + (CAPTION_SIZE + GAP if caption else 0)
    size = (2 * BORDER + 4 * pitch - GAP, top + len(batch.images) * pitch - GAP + BORDER)
    panel = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(panel)
    if caption:
        font = drawing.fitting_font(caption, CAPTION_SIZE, size[0] - 2 * BORDER)
        draw.text((BORDER, BORDER), caption, INK, font)
    for column, head in enumerate(HEADS):
        x = BORDER + column * pitch + cell / 2
        font = drawing.fitting_font(head, HEAD_SIZE, cell)
        draw.text((x, top - GAP), head, drawing.GREY, font, anchor="ms")
    for index in range(len(batch.images)):
        for column, picture in enumerate(_row(batch, prediction, index, cell, class_names)):
            panel.paste(picture, (BORDER + column * pitch, top + index * pitch))
    return panel


def write_notes(panel: Image.Image, notes: Sequence[str]) -> Image.Image:
    """A panel with one line under each of its rows; a line's font shrinks until it fits."""
    width, cell = panel.width - 2 * BORDER, (panel.width - 2 * BORDER - 3 * GAP) // 4
    top, pitch = panel.height - BORDER - len(notes) * (cell + GAP) + GAP, cell + GAP + NOTE_SIZE + GAP
    noted = Image.new("RGB", (panel.width, panel.height + len(notes) * (NOTE_SIZE + GAP)), PAPER)
    noted.paste(panel.crop((0, 0, panel.width, top)))
    draw = ImageDraw.Draw(noted)
    for index, line in enumerate(notes):
        row = top + index * (cell + GAP)
        noted.paste(panel.crop((0, row, panel.width, row + cell)), (0, top + index * pitch))
        middle = top + index * pitch + cell + GAP / 2 + NOTE_SIZE / 2
        draw.text((BORDER, middle), line, INK, drawing.fitting_font(line, NOTE_SIZE, width), anchor="lm")
    return noted


def _row(
    batch: Batch, prediction: Prediction, index: int, cell: int, class_names: Sequence[str] | None
) -> list[Image.Image]:
    image, boxes = batch.images[index].detach().cpu(), batch.pose.box[index].detach().cpu()
    colours = _colours(len(prediction.views), index)
    views = [(_of_one(view, index), colour) for view, colour in zip(prediction.views, colours, strict=True)]
    asked = [] if batch.question is None else _asked(batch.question[index].cpu(), views)
    logits, labels = prediction.logits[index].detach().cpu(), batch.labels[index].cpu()
    names = [str(name) for name in class_names or range(max(len(logits), int(labels.max()) + 1))]
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]
    return [
        _image_cell(image, cell),
        _place_cell(image, views, boxes, cell),
        _output_cell(views, cell),
        _sequence_cell(logits, labels, cell)
        if labels.ndim
        else _prediction_cell(logits, names, int(labels), asked, cell),
    ]


def _colours(count: int, row: int) -> list[Colour]:
    """A colour for each of several views; more than there are colours run from the first to the fourth.

    A single view has the colour of its row.
    """
    if count == 1:
        return [COLOURS[row % len(COLOURS)]]
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    stops = torch.tensor([COLOURS[0], COLOURS[2], COLOURS[1], COLOURS[3]], dtype=torch.float)
    ramp = F.interpolate(stops.T[None], count, mode="linear", align_corners=True)[0]
    return [(round(red), round(green), round(blue)) for red, green, blue in ramp.T.tolist()]


def _of_one(view: View, index: int) -> View:
    """The part of a view that belongs to one image."""

    def one(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part[index].detach().cpu()
        return None if part is None else type(part)(*map(one, part))

    return one(view)


def _image_cell(image: Tensor, cell: int) -> Image.Image:
    picture = drawing.blank(cell, PAPER)
    drawing.paste_image(picture, image, drawing.fit(image, picture.size, IMAGE_SHARE))
    return picture.reduce(OVERSAMPLE)


def _place_cell(image: Tensor, views: ColouredViews, boxes: Tensor, cell: int) -> Image.Image:
    """Where the views look, on the image: their heat, outlines and marks, and the digits' true boxes."""
    if all(view.outline is None for view, _ in views):
        gates = [view.gates for view, _ in views if view.gates is not None]
        return _gates_cell(torch.cat(gates), views[0][1], cell) if gates else _empty_cell(cell)
    picture = drawing.blank(cell, OUTSIDE)
    place = drawing.fit(image, picture.size, CANVAS_SHARE)
    drawing.paste_image(picture, image, place)
    for view, colour in views:
        if view.heat is not None:
            drawing.draw_heat(picture, view.heat, place, colour)
    ImageDraw.Draw(picture).polygon(
        place.pixels(geometry.boundary_points(1)), outline=drawing.EDGE, width=OVERSAMPLE
    )
    many = len(views) > len(COLOURS)
    notes = {
        drawing.draw_outline(picture, view.outline, place, colour, many)
        for view, colour in views
        if view.outline is not None
    }
    for view, colour in views:
        if view.marks is not None:
            drawing.draw_marks(picture, view.marks, place, colour, many)
    # After the outlines, which are thicker and would hide it where they fit well.
    for box in boxes:
        drawing.draw_dashed(picture, place.pixels(box))
    for number, (view, colour) in enumerate(views, 1):
        if many and view.outline is not None:
            (start,) = place.pixels(view.outline[:1].nan_to_num(drawing.FARTHEST))
            drawing.draw_number(picture, number, start, colour)
    picture = picture.reduce(OVERSAMPLE)
    drawing.write(picture, " ".join(sorted(notes - {""})), views[0][1], (0.5, 0.92), SMALL_TEXT)
    return picture


def _gates_cell(gates: Tensor, colour: Colour, cell: int) -> Image.Image:
    """The weights (G,) of channels as bars from 0 to 1."""
    picture = drawing.blank(cell, drawing.FADED)
    draw = ImageDraw.Draw(picture)
    left, right, top, bottom = (round(picture.width * share) for share in (0.08, 0.92, 0.24, 0.92))
    draw.rectangle([left, top, right, bottom], OUTSIDE)
    step = (right - left) / len(gates)
    for number, value in enumerate(gates.nan_to_num(0).clamp(0, 1).tolist()):
        x, height = left + number * step, value * (bottom - top)
        draw.rectangle([x, bottom - height, x + max(step - 1, 1), bottom], colour)
    picture = picture.reduce(OVERSAMPLE)
    drawing.write(picture, "channel weights", INK, (0.5, 0.12), SMALL_TEXT)
    return picture


def _output_cell(views: ColouredViews, cell: int) -> Image.Image:
    """The outputs of all views, in rows and columns."""
    if not views:
        return _empty_cell(cell)
    picture = drawing.blank(cell, PAPER)
    columns = math.ceil(math.sqrt(len(views)))
    rows = math.ceil(len(views) / columns)
    width, height = picture.width // columns, picture.height // rows
    many = len(views) > len(COLOURS)
    for number, (view, colour) in enumerate(views):
        row, column = divmod(number, columns)
        place = drawing.fit(view.output, (width, height), IMAGE_SHARE)
        place = place._replace(left=place.left + column * width, top=place.top + row * height)
        drawing.paste_image(picture, view.output, place)
        drawing.draw_outline(picture, geometry.boundary_points(1), place, colour, many)
        if many:
            at = (place.left + width * 0.17, place.top + height * 0.17)
            drawing.draw_number(picture, number + 1, at, colour)
    return picture.reduce(OVERSAMPLE)


def _prediction_cell(
    logits: Tensor, names: list[str], label: int, asked: list[drawing.Word], cell: int
) -> Image.Image:
    """The predicted class, below the question, if there is one."""
    picture = Image.new("RGB", (cell, cell), PAPER)
    probability, predicted = logits.float().softmax(0).max(0)
    right = int(predicted) == label and bool(probability.isfinite())
    colour = RIGHT if right else WRONG
    drawing.write_shaded(picture, asked)
    places, size = ((0.56, 0.78, 0.92), 0.28) if asked else ((0.34, 0.69, 0.88), 0.5)
    name = names[int(predicted)]
    size, edge = (size, "") if name.isdecimal() else (NAME_SIZE, " ")
    drawing.write(picture, f"{edge}{name}{edge}", colour, (0.5, places[0]), size)
    drawing.write(picture, f"{100 * float(probability):.1f} %", colour, (0.5, places[1]), SMALL_TEXT)
    if not right:
        drawing.write(picture, f"{edge}true {names[label]}{edge}", INK, (0.5, places[2]), SMALL_TEXT)
    return picture


def _sequence_cell(logits: Tensor, labels: Tensor, cell: int) -> Image.Image:
    """The predicted classes of logits (classes, T), side by side, and the probability of all together."""
    picture = Image.new("RGB", (cell, cell), PAPER)
    probability, predicted = logits.float().softmax(0).max(0)
    right = (predicted == labels) & probability.isfinite()
    for place, (name, is_right) in enumerate(zip(predicted.tolist(), right.tolist(), strict=True)):
        middle = (place + 0.5) / len(labels)
        drawing.write(picture, str(name), RIGHT if is_right else WRONG, (middle, 0.34), 1 / len(labels))
    together = f"{100 * float(probability.prod()):.1f} %"
    drawing.write(picture, together, RIGHT if right.all() else WRONG, (0.5, 0.69), SMALL_TEXT)
    if not right.all():
        drawing.write(picture, "true " + " ".join(map(str, labels.tolist())), INK, (0.5, 0.88), SMALL_TEXT)
    return picture


def _asked(question: Tensor, views: ColouredViews) -> list[drawing.Word]:
    """The words of a question (T,), each shaded by its weight in each view that weighs them."""
    words = decode_question(question)
    shades = []
    for view, colour in views:
        if view.words is not None:
            weights = view.words[question != 0].nan_to_num(0)
            shares = weights / weights.max().clamp(min=torch.finfo(weights.dtype).tiny)
            shades.append([drawing.between(PAPER, colour, share) for share in shares.tolist()])
    return list(zip(words, zip(*shades, strict=True) if shades else [[PAPER]] * len(words), strict=True))


def _empty_cell(cell: int) -> Image.Image:
    picture = Image.new("RGB", (cell, cell), drawing.FADED)
    drawing.write(picture, "no attention", drawing.GREY, (0.5, 0.5), SMALL_TEXT)
    return picture
