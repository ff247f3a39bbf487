"""Several digits on a canvas and a question about them in words, as visual question answering asks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range, Size
from stn_experiments.data.batch import Batch, Task
from stn_experiments.data.canvas import (
    SIDE,
    Clutter,
    CropSide,
    add_clutter,
    draw_crops,
)
from stn_experiments.data.mnist import Digits

CLASSES = 10
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "which digit is just left of zero",
    "which digit is just right of zero",
    "which digit is just above zero",
    "which digit is just below zero",
    "how many digits are greater than zero",
    "how many digits are less than zero",
    "which digit is the greatest",
    "which digit is the least",
)
"""One question of each kind; "zero" stands for any number."""
TWO_STEP_TEMPLATES = tuple(
    f"which is just {where} the {extreme}"
    for extreme in ("greatest", "least")
    for where in ("left of", "right of", "above", "below")
)
"""One question of each kind that needs two steps: find the greatest digit, and then its neighbour."""
NEIGHBOUR_STEPS = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""The first four kinds ask for a neighbour: it is so many rows down and columns to the right.

So do the kinds in two steps, four times two.
"""
NEIGHBOURS = len(NEIGHBOUR_STEPS)
GREATER, LESS, GREATEST, LEAST = range(NEIGHBOURS, len(TEMPLATES))
PADDING = ""
WORDS = tuple(dict.fromkeys([PADDING, *NUMBERS, *" ".join(TEMPLATES).split()]))
"""The vocabulary. A word's index in it stands for the word in a question."""
LENGTH = max(len(template.split()) for template in TEMPLATES)


class Scene(NamedTuple):
    """A ``question`` (B, T), its ``answer`` (B,), and the digits' ``values`` (B, D) and ``cells`` (B, D)."""

    question: Tensor
    answer: Tensor
    values: Tensor
    cells: Tensor


@dataclass(frozen=True)
class Questions(Task):
    """Several digits on one canvas, and a question about them whose answer is a number from 0 to 9.

    The canvas is a grid of cells: as many rows and columns as digits of ``side`` pixels fit. Each digit lies
    in its own cell, at most an eighth of the cell's side from the middle, so rows and columns are clearly
    visible. The kinds of questions are equally likely:

    - *which digit is just left of three*: the digit in the next cell of the same row. All digits of the image
      are different, so there is one three. Likewise *right of*, and *above* and *below* in its column.
    - *how many digits are greater than five*: their number, 0 to all of them. Likewise *less than*.
    - *which digit is the greatest*: its value, which several digits may have. Likewise *the least*.

    With ``two_steps`` there are other kinds: *which is just left of the greatest*, the digit beside the one
    that is greater than all others. Likewise *right of*, *above* and *below*, and *the least*.

    Answers are drawn first and the digits to fit, so a question says little about its answer: each count,
    each greatest and least digit and each neighbour that a digit can have is equally likely.

    Args:
        canvas: side, or (height, width), of the canvas in pixels.
        digits: number of digits in each image.
        side: side of a digit's own 28×28 frame on the canvas, in pixels.
        clutter: number of square crops of other digits added at random places.
        clutter_size: side of each crop in pixels.
        two_steps: ask for neighbours of the greatest and the least digit, instead of the other kinds.
    """

    canvas: Size = 60
    digits: Annotated[int, Range(2, 9)] = 4
    side: Annotated[int, Range(7, SIDE)] = 20
    clutter: Annotated[int, Range(0, 1000)] = 0
    clutter_size: CropSide = 6
    two_steps: bool = False

    vocab_size = len(WORDS)

    def __post_init__(self) -> None:
        rows, columns = self.grid
        if min(rows, columns) < 2 or rows * columns < self.digits:
            raise UserError(
                f"canvas must have room for {self.digits} digits of {self.side} pixels in two rows and two "
                f"columns or more, got {self.canvas}"
            )
        side = min(self.size)
        if self.clutter and self.clutter_size > side:
            raise UserError(f"clutter_size must be at most the canvas's {side}, got {self.clutter_size}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        height, width = self.size
        return height // self.side, width // self.side

    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """See :meth:`Task.draw`; only the length of ``index`` matters, for digits are drawn by their class.

        Raises:
            UserError: a class has no digits.
        """
        scene = self._draw_scene(len(index), generator)
        chosen = draw_of_classes(digits.labels, scene.values, generator)
        corner = self._draw_corners(scene.cells, generator)
        originals = digits.images[chosen].float().div_(255)
        size = (self.side, self.side)
        small = F.interpolate(originals, size=size, mode="bilinear", antialias=True, align_corners=False)
        images, pose = draw_crops(originals, small, corner, self.size, posed)
        if self.clutter:
            clutter = Clutter(self.clutter, self.clutter_size)
            add_clutter(images, digits.images, chosen[:, 0], clutter, generator)
        return Batch(images, scene.answer, pose, scene.question)

    def _draw_scene(self, count: int, generator: Generator) -> Scene:
        device = generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator, device=device)

        def below(bound: Tensor | int, *shape: int) -> Tensor:
            """Uniform in 0, 1, ... bound - 1."""
            return (uniform(*shape) * bound).long()

        if self.two_steps:
            kind, answer = below(len(TWO_STEP_TEMPLATES)), below(CLASSES - 1)
            extreme = answer + 1 + below(CLASSES - 1 - answer)
            values = torch.cat(
                [extreme[:, None], answer[:, None], below(extreme[:, None], self.digits - 2)], 1
            )
            values = torch.where((kind < NEIGHBOURS)[:, None], values, CLASSES - 1 - values)
            cells = self._draw_cells(kind % NEIGHBOURS, uniform)
            return Scene(encode_question(len(TEMPLATES) + kind, kind), values[:, 1], values, cells)
        kind = below(len(TEMPLATES))
        is_neighbour = kind < NEIGHBOURS
        # Digits are compared with the limit; the extreme is the greatest or least digit.
        limit, extreme, counted = 1 + below(8), below(CLASSES), below(self.digits + 1)
        slot = torch.arange(self.digits, device=device)
        low, high = _value_ranges(kind, limit, extreme, slot < counted[:, None])
        different = uniform(CLASSES).argsort(1)[:, : self.digits]
        values = torch.where(is_neighbour[:, None], different, low + below(high - low + 1, self.digits))
        # The second digit is the neighbour of the first.
        number = torch.where(is_neighbour, values[:, 0], limit)
        answer = torch.where(is_neighbour, values[:, 1], extreme)
        answer = torch.where((kind == GREATER) | (kind == LESS), counted, answer)
        return Scene(encode_question(kind, number), answer, values, self._draw_cells(kind, uniform))

    def _draw_cells(self, kind: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
        """Different cells (B, D), numbered row by row; if the kind asks for a neighbour, the second is it."""
        grid, (_, steps) = geometry.constant(self.grid, kind), _tables(kind.device)
        step = steps[kind.clamp(max=NEIGHBOURS - 1)]
        # Only rows and columns from which the step does not leave the grid.
        row, column = ((uniform(2) * (grid - step.abs())).long() + (-step).clamp(min=0)).unbind(1)
        first = row * grid[1] + column
        second = first + step[:, 0] * grid[1] + step[:, 1]
        order = uniform(int(self.grid[0] * self.grid[1]))
        pair = torch.stack([first, second], 1)
        front = geometry.constant((-2, -1), order)
        front = torch.where((kind < NEIGHBOURS)[:, None], front, order.gather(1, pair))
        return order.scatter(1, pair, front).argsort(1)[:, : self.digits]

    def _draw_corners(self, cells: Tensor, generator: Generator) -> Tensor:
        """The top left corners (B, D, 2) of digits in their cells, as whole (y, x)."""
        grid, size = (geometry.constant(pair, cells) for pair in (self.grid, self.size))
        cell_size = size / grid
        cell = torch.stack([cells // grid[1], cells % grid[1]], 2)
        shift = (torch.rand(cell.shape, generator=generator, device=cells.device) - 0.5) / 4
        corner = ((cell + 0.5 + shift) * cell_size - self.side / 2).round().long()
        return corner.clamp(min=torch.zeros_like(size), max=size - self.side)


def encode_question(kind: Tensor, number: Tensor) -> Tensor:
    """Questions (B, LENGTH), as indices of words, of kinds (B,) about numbers (B,)."""
    question = _tables(kind.device)[0][kind]
    return question + (question == WORDS.index("zero")) * number[:, None]


def decode_question(question: Tensor) -> list[str]:
    """The words of a question (T,), without the padding."""
    return [WORDS[index] for index in question.tolist() if WORDS[index] != PADDING]


def draw_of_classes(labels: Tensor, classes: Tensor, generator: Generator) -> Tensor:
    """Indices (B, D) of digits, drawn among ``labels`` (N,), that have the labels ``classes`` (B, D).

    Raises:
        UserError: a class has no digits.
    """
    order, first, count = _sort_by_class(labels)
    place = torch.rand(classes.shape, generator=generator, device=labels.device) * count[classes]
    return order[first[classes] + place.long().clamp(max=count[classes] - 1)]


def _value_ranges(kind: Tensor, limit: Tensor, extreme: Tensor, is_counted: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and largest value (B, D) that each digit may have, if no neighbour is asked for.

    The answer counts the digits in ``is_counted`` (B, D). The first digit is the greatest or least one.
    """
    kind, limit, extreme = kind[:, None], limit[:, None], extreme[:, None]
    zero, nine = torch.zeros_like(limit), torch.full_like(limit, CLASSES - 1)
    is_first = torch.arange(is_counted.shape[1], device=kind.device) == 0
    low = torch.where(is_first | (kind == LEAST), extreme, zero)
    high = torch.where(is_first | (kind == GREATEST), extreme, nine)
    for comparison, counted, others in (
        (GREATER, (limit + 1, nine), (zero, limit)),
        (LESS, (zero, limit - 1), (limit, nine)),
    ):
        low = torch.where(kind == comparison, torch.where(is_counted, counted[0], others[0]), low)
        high = torch.where(kind == comparison, torch.where(is_counted, counted[1], others[1]), high)
    return low, high


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The words of each kind of question, and the step to each kind of neighbour."""
    lines = [template.split() for template in TEMPLATES + TWO_STEP_TEMPLATES]
    words = [[WORDS.index(word) for word in line + [PADDING] * (LENGTH - len(line))] for line in lines]
    return torch.tensor(words, device=device), torch.tensor(NEIGHBOUR_STEPS, device=device)


@lru_cache(maxsize=4)  # by the identity of the tensor: each split has one, and it never changes
def _sort_by_class(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All indices sorted by label, and each class's first place and number of digits."""
    count = labels.bincount(minlength=CLASSES)
    if not count.all():
        missing = count.argmin()
        raise UserError(
            f"questions need digits of all classes to draw from, and here is no {missing}: "
            "data.valid_size may be too small or too large"
        )
    return labels.argsort(stable=True), count.cumsum(0) - count, count
