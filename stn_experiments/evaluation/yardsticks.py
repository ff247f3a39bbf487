"""Yardsticks for the scores of attention: what boxes get that need no attention, and what a perfect one gets.

All have the same scores as a model's views, by the same function, on the same images.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from stn_experiments.common import geometry
from stn_experiments.data.batch import Pose
from stn_experiments.evaluation.localisation_scores import digit_frames, overlap, score
from stn_experiments.evaluation.pose_scores import whole_canvas

SCORES = ("iou_mean", "iou_above_half", "found", "ink_inside", "off_target", "hit_rate")
"""The scores that have yardsticks."""
CENTRE_BOX, EXACT_FRAME = "centre_box", "exact_frame"
YARDSTICKS = ("canvas", CENTRE_BOX, "random_views", EXACT_FRAME)
"""Their names, see :func:`yardsticks`."""
SIDES = 20
"""How many sides of the centre box are tried."""
SEARCH_IMAGES = 1000
"""Images on which they are tried."""
CHUNK = 250
SEED = 0


def yardsticks(pose: Pose, size: tuple[int, int], areas: Tensor) -> dict[str, float]:
    """The mean scores of four yardsticks over N images, as ``iou_mean_of_canvas`` and so on.

    ``canvas`` is the whole canvas; ``centre_box`` is the :func:`centre_box`; ``random_views`` are the
    :func:`random_views`, as many and as large as a model's own; ``exact_frame`` is the own frame of each of
    the digits, with a view for each.

    Args:
        pose: the digits of the images.
        size: (height, width) of the canvases.
        areas: the areas (N, V) of the model's views, of which the canvas has 4.
    """
    views = {
        "canvas": [whole_canvas(pose.box)],
        CENTRE_BOX: [centre_box(pose, size)],
        "random_views": random_views(areas, size),
        EXACT_FRAME: list(digit_frames(pose).unbind(1)),
    }
    return {
        named(score_name, yardstick): value
        for yardstick in YARDSTICKS
        for score_name, value in mean_scores(views[yardstick], pose).items()
    }


def named(score_name: str, yardstick: str) -> str:
    """The name of a score of a yardstick."""
    return f"{score_name}_of_{yardstick}"


def mean_scores(outlines: Sequence[Tensor], pose: Pose) -> dict[str, float]:
    """The means of ``SCORES`` of V outlines (N, K, 2) over N images."""
    chunks = []
    for start in range(0, len(pose.box), CHUNK):
        part = slice(start, start + CHUNK)
        chunks.append(score([line[part] for line in outlines], Pose(*(field[part] for field in pose))))
    means = torch.stack([torch.cat([chunk[name] for chunk in chunks]).mean() for name in SCORES])
    return dict(zip(SCORES, means.tolist(), strict=True))


def centre_box(pose: Pose, size: tuple[int, int]) -> Tensor:
    """The best box that never moves: a square in the middle of the canvas, for each of N images (N, 4, 2).

    ``SIDES`` sides up to the canvas's shorter one are tried. The one with the highest mean IoU with the
    digits' ink boxes is kept, on up to ``SEARCH_IMAGES`` images spread over the set.
    """
    boxes = pose.box[:: -(-len(pose.box) // SEARCH_IMAGES)].flatten(0, 1)
    sides = torch.arange(1, SIDES + 1, device=boxes.device) * (min(size) / SIDES)
    squares = square_corners(sides, size)
    pairs = squares.repeat_interleave(len(boxes), 0), boxes.repeat(SIDES, 1, 1)
    best = overlap(*pairs)[0].view(SIDES, -1).mean(1).argmax()
    return squares.index_select(0, best[None]).expand(len(pose.box), -1, -1)


def random_views(areas: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """For each of a model's V views a square (N, 4, 2) whose centre is uniform on the canvas.

    Its area is the median of that view's ``areas`` (N, V). The centres are the same wherever they are drawn.
    """
    height, width = size
    generator = Generator().manual_seed(SEED)
    centres = torch.rand(*areas.T.shape, 1, 2, generator=generator).mul(2).sub(1).to(areas.device)
    sides = (areas.quantile(0.5, 0) * (height * width / 4)).sqrt()  # the canvas has the area 4
    return list(centres + square_corners(sides, size)[:, None])


def square_corners(sides: Tensor, size: tuple[int, int]) -> Tensor:
    """The corners (B, 4, 2) of squares in the middle of the canvas, with sides (B,) in pixels."""
    halves = sides[:, None] / geometry.constant(size[::-1], sides)
    return geometry.boundary_points(1, sides.device) * halves[:, None]
