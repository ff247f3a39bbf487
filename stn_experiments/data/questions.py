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
from stn_experiments.common.ranges import Pixels, Range, Size, height_width
from stn_experiments.data.batch import Batch, Pose, unknown_pose
from stn_experiments.data.canvas import SIDE, Clutter, add_clutter, add_crops, ink_boxes, require_crops
from stn_experiments.data.distortions import MOST_INK_CELLS
from stn_experiments.data.mnist import Digits

CLASSES = 10
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS = (
    "which digit is just left of zero",
    "which digit is just right of zero",
    "which digit is just above zero",
    "which digit is just below zero",
    "how many digits are greater than zero",
    "how many digits are less than zero",
    "which digit is the greatest",
    "which digit is the least",
)
"""The kinds of questions, "zero" standing for any number."""
NEIGHBOURS, GREATER, LESS, GREATEST, LEAST = 4, 4, 5, 6, 7
"""The first four kinds ask for a neighbour; the numbers of the others."""
STEPS = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""Where that neighbour is: (rows down, columns to the right)."""
PADDING = ""
WORDS = (PADDING, *NUMBERS, *dict.fromkeys(word for kind in KINDS for word in kind.split() if word != "zero"))
"""The vocabulary; a word's number is its place in it."""
LENGTH = max(len(kind.split()) for kind in KINDS)


class Scene(NamedTuple):
    """A ``question`` (B, T), its ``answer`` (B,), and the digits to draw: ``values``, in ``cells`` (B, D)."""

    question: Tensor
    answer: Tensor
    values: Tensor
    cells: Tensor


@dataclass(frozen=True)
class Questions:
    """A few digits on one canvas, and a question about them whose answer is a number from 0 to 9.

    The canvas is a grid of as many rows and columns of cells as digits of ``side`` pixels fit. Each digit
    lies in a cell of its own, at most an eighth of the cell's side off the middle of it, so that everybody
    sees which digits are in a row. The kinds of questions are equally likely:

    - *which digit is just left of three*: the nearest digit in its row, to its left, which is in the next
      cell. All digits of the image are different, so that there is one three. Likewise *right of* in its row,
      *above* and *below* in its column.
    - *how many digits are greater than five*, by their value: 0 to all of them. Likewise *less than*.
    - *which digit is the greatest*, by its value: that value, which several digits may have. Likewise *the
      least*.

    Answers are drawn first and the digits to fit, so that a question says little about its answer: each
    count, each greatest and least digit, and each neighbour that a digit can have is equally likely.

    Args:
        canvas: side, or (height, width), of the canvas in pixels.
        digits: how many there are in each image.
        side: of a digit's own 28×28 frame on the canvas, in pixels.
        clutter: number of square crops of other digits added at random places.
        clutter_size: side of each crop in pixels.
    """

    canvas: Size = 60
    digits: Annotated[int, Range(2, 9)] = 4
    side: Annotated[int, Range(7, SIDE)] = 20
    clutter: Annotated[int, Range(0, 1000)] = 0
    clutter_size: Pixels = 6

    classes = CLASSES
    channels = 1
    vocab_size = len(WORDS)

    def __post_init__(self) -> None:
        rows, columns = self.grid
        if min(rows, columns) < 2 or rows * columns < self.digits:
            raise UserError(
                f"canvas must have room for {self.digits} digits of {self.side} pixels in two rows and two "
                f"columns or more, got {self.canvas}"
            )
        require_crops(self.clutter, self.clutter_size)

    @property
    def size(self) -> tuple[int, int]:
        """The canvas's (height, width)."""
        return height_width(self.canvas)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        height, width = self.size
        return height // self.side, width // self.side

    def draw(self, digits: Digits, index: Tensor, generator: Generator, posed: bool = True) -> Batch:
        """See :meth:`Task.draw`; ``index`` says how many images, for the digits are drawn by their class.

        Raises:
            UserError: there are no digits of some class.
        """
        scene = self._scene(len(index), generator)
        chosen = of_classes(digits.labels, scene.values, generator)
        corner = self._corners(scene.cells, generator)
        originals = digits.images[chosen].float().div_(255)
        size = (self.side, self.side)
        small = F.interpolate(originals, size=size, mode="bilinear", antialias=True, align_corners=False)
        images = torch.zeros(len(index), 1, *self.size, device=originals.device)
        add_crops(images, small.transpose(0, 1), corner.transpose(0, 1))
        pose = self._pose(originals, small, corner) if posed else unknown_pose(len(index), images.device)
        if self.clutter:
            add_clutter(
                images, digits.images, chosen[:, 0], Clutter(self.clutter, self.clutter_size), generator
            )
        return Batch(images, scene.answer, pose, scene.question)

    def _scene(self, count: int, generator: Generator) -> Scene:
        device = generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator, device=device)

        def among(number: Tensor | int, *shape: int) -> Tensor:
            """Uniform in 0, 1, ... number - 1."""
            return (uniform(*shape) * number).long()

        kind = among(len(KINDS))
        is_neighbour = kind < NEIGHBOURS
        # What a count is of, and the greatest or least digit.
        border, extreme, counted = 1 + among(8), among(CLASSES), among(self.digits + 1)
        slot = torch.arange(self.digits, device=device)
        low, high = _ranges(kind, border, extreme, slot < counted[:, None], slot == 0)
        different = uniform(CLASSES).argsort(1)[:, : self.digits]
        values = torch.where(is_neighbour[:, None], different, low + among(high - low + 1, self.digits))
        # The first digit is the one whose neighbour, the second, is asked for.
        number = torch.where(is_neighbour, values[:, 0], border)
        answer = torch.where(is_neighbour, values[:, 1], extreme)
        answer = torch.where((kind == GREATER) | (kind == LESS), counted, answer)
        return Scene(asked(kind, number), answer, values, self._cells(kind, uniform))

    def _cells(self, kind: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
        """Different cells (B, D), numbered row by row; where a neighbour is asked for, the first two are."""
        grid, (_, steps) = geometry.constant(self.grid, kind), _tables(kind.device)
        step = steps[kind.clamp(max=NEIGHBOURS - 1)]
        # In such rows and columns that a step from there does not leave the grid.
        row, column = ((uniform(2) * (grid - step.abs())).long() + (-step).clamp(min=0)).unbind(1)
        first = row * grid[1] + column
        second = first + step[:, 0] * grid[1] + step[:, 1]
        order = uniform(int(self.grid[0] * self.grid[1]))
        pair = torch.stack([first, second], 1)
        ahead = torch.where(
            (kind < NEIGHBOURS)[:, None], geometry.constant((-2, -1), order), order.gather(1, pair)
        )
        return order.scatter(1, pair, ahead).argsort(1)[:, : self.digits]

    def _corners(self, cells: Tensor, generator: Generator) -> Tensor:
        """The top left corners (B, D, 2) of digits in their cells, as whole (y, x)."""
        grid, size = (geometry.constant(pair, cells) for pair in (self.grid, self.size))
        pitch = size / grid
        place = torch.stack([cells // grid[1], cells % grid[1]], 2)
        moved = (torch.rand(place.shape, generator=generator, device=cells.device) - 0.5) / 4
        corner = ((place + 0.5 + moved) * pitch - self.side / 2).round().long()
        return corner.clamp(min=torch.zeros_like(size), max=size - self.side)

    def _pose(self, originals: Tensor, small: Tensor, corner: Tensor) -> Pose:
        """Where digits (B, D, 28, 28) are that are shown as ``small`` (B, D, s, s) at (B, D, 2) corners."""
        (batch, digits), (height, width) = corner.shape[:2], self.size
        shift = corner.flatten(0, 1).flip(1) + self.side / 2 - geometry.constant((width, height), corner) / 2
        scale = torch.full_like(shift[:, 0], self.side / SIDE)
        matrix = geometry.similarity(torch.zeros_like(scale), scale, shift)
        matrix = geometry.normalised(matrix, (SIDE, SIDE), self.size)
        box = geometry.transform(matrix, ink_boxes(originals.flatten(0, 1)))
        alone = torch.zeros(batch * digits, 1, height, width, device=small.device)
        add_crops(alone, small.flatten(0, 1)[None], corner.flatten(0, 1)[None])
        cells = (min(height // 2, MOST_INK_CELLS), min(width // 2, MOST_INK_CELLS))
        ink = F.adaptive_avg_pool2d(alone, cells)[:, 0]
        return Pose(*(part.unflatten(0, (batch, digits)) for part in (matrix, box, ink)))


def _ranges(
    kind: Tensor, border: Tensor, extreme: Tensor, counted: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """The least and the largest value (B, D) that digits may have, where no neighbour is asked for.

    ``counted`` (B, D) are those that the answer is to count, ``first`` (D,) is the greatest or the least.
    """
    kind, border, extreme = kind[:, None], border[:, None], extreme[:, None]
    zero, nine = torch.zeros_like(border), torch.full_like(border, CLASSES - 1)
    low = torch.where(first | (kind == LEAST), extreme, zero)
    high = torch.where(first | (kind == GREATEST), extreme, nine)
    for which, inside, outside in (
        (GREATER, (border + 1, nine), (zero, border)),
        (LESS, (zero, border - 1), (border, nine)),
    ):
        low = torch.where(kind == which, torch.where(counted, inside[0], outside[0]), low)
        high = torch.where(kind == which, torch.where(counted, inside[1], outside[1]), high)
    return low, high


def asked(kind: Tensor, number: Tensor) -> Tensor:
    """Questions (B, LENGTH), as numbers of words, of kinds (B,) about numbers (B,)."""
    question = _tables(kind.device)[0][kind]
    return question + (question == WORDS.index("zero")) * number[:, None]


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The words of each kind of question, and the step to each kind of neighbour."""
    lines = [kind.split() for kind in KINDS]
    words = [[WORDS.index(word) for word in line + [PADDING] * (LENGTH - len(line))] for line in lines]
    return torch.tensor(words, device=device), torch.tensor(STEPS, device=device)


def in_words(question: Tensor) -> list[str]:
    """The words of a question (T,), without the padding."""
    return [WORDS[number] for number in question.tolist() if WORDS[number] != PADDING]


def of_classes(labels: Tensor, wanted: Tensor, generator: Generator) -> Tensor:
    """Indices, drawn at random among ``labels`` (N,), of digits of the labels ``wanted`` (B, D).

    Raises:
        UserError: there are no digits of some class.
    """
    order, first, count = _by_class(labels)
    place = torch.rand(wanted.shape, generator=generator, device=labels.device) * count[wanted]
    return order[first[wanted] + place.long().clamp(max=count[wanted] - 1)]


@lru_cache(maxsize=4)  # by the tensor itself: there is one for each split, and none ever changes
def _by_class(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All indices in order of their labels, and where each class's begin and how many they are."""
    count = labels.bincount(minlength=CLASSES)
    if not count.all():
        missing = count.argmin()
        raise UserError(
            f"questions need digits of all classes to draw from, and here is no {missing}: "
            "data.valid_size may be too small or too large"
        )
    return labels.argsort(stable=True), count.cumsum(0) - count, count
