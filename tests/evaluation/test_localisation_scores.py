"""Scores against the algorithm of Sutherland and Hodgman, winding numbers and arithmetic."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stn_experiments.common import geometry
from stn_experiments.data.batch import Pose
from stn_experiments.data.canvas import render
from stn_experiments.data.distortions import Distortion
from stn_experiments.evaluation.localisation_scores import (
    area,
    bounded,
    digit_frames,
    ink_inside,
    intersection_area,
    overlap,
    score,
)
from tests.evaluation.harness import CANVAS, SIZES, outline, similarities

SQUARE = [(0, 0), (1, 0), (1, 1), (0, 1)]
DIAMOND = [(0.5, -0.25), (1.25, 0.5), (0.5, 1.25), (-0.25, 0.5)]  # sticks out of the square by four corners
ARROW = [(0, 0), (2, 0.5), (0, 1), (1, 0.5)]  # bent inwards from the left
COMB = [(-1, -1), (2, -1), (2, 2), (0.75, 2), (0.75, 0.5), (0.25, 0.5), (0.25, 2), (-1, 2)]
BOX = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
LEFT = [(-1, -1), (0, -1), (0, 1), (-1, 1)]  # half of the canvas

seeds = st.integers(0, 2**32 - 1)
property_test = settings(derandomize=True, deadline=None, max_examples=25)


def polygon(*points):
    return torch.tensor([points], dtype=torch.float)


def around(generator, count, points, least):
    """Simple polygons of random orientation at random places, concave unless ``least`` is 1."""
    angle = torch.arange(points) + 0.9 * torch.rand(count, points, generator=generator)
    angle = angle / points * 2 * math.pi
    radius = least + (1 - least) * torch.rand(count, points, generator=generator)
    place = torch.rand(count, 1, 2, generator=generator) - 0.5
    radius = radius * torch.rand(count, 1, generator=generator)
    lines = place + radius[..., None] * torch.stack([angle.cos(), angle.sin()], 2)
    flip = torch.rand(count, 1, 1, generator=generator) < 0.5
    return torch.where(flip, lines.flip(1), lines)


def clipped_area(subject, clip):
    """The textbook algorithm of Sutherland and Hodgman, in double precision."""

    def cross(p, q):
        return p[0] * q[1] - p[1] * q[0]

    def shoelace(line):
        return sum(cross(p, q) for p, q in zip(line, line[1:] + line[:1], strict=True)) / 2

    subject, clip = subject.tolist(), clip.tolist()
    if shoelace(clip) < 0:
        clip = clip[::-1]
    for (ax, ay), (bx, by) in zip(clip, clip[1:] + clip[:1], strict=True):
        heights = [cross((bx - ax, by - ay), (x - ax, y - ay)) for x, y in subject]
        kept = []
        for i, ((px, py), h) in enumerate(zip(subject, heights, strict=True)):
            (qx, qy), g = subject[i - 1], heights[i - 1]
            if (h >= 0) != (g >= 0):
                kept.append((px + (qx - px) * h / (h - g), py + (qy - py) * h / (h - g)))
            if h >= 0:
                kept.append((px, py))
        subject = kept
    return abs(shoelace(subject)) if subject else 0.0


def winding(line, points):
    """Winding numbers of a closed line (N, 2) around points (P, 2), from the angles of its edges."""
    spokes = torch.view_as_complex(line.double()[:, None] - points.double())
    return ((spokes.roll(-1, 0) / spokes).angle().sum(0) / (2 * math.pi)).round()


# Areas


@pytest.mark.parametrize(
    ("line", "whole", "expected"),
    [
        (SQUARE, 1, 1),
        ([(0.5, 0), (1.5, 0), (1.5, 1), (0.5, 1)], 1, 0.5),  # half, along common sides
        ([(0.25, 0.25), (0.75, 0.25), (0.75, 0.5), (0.25, 0.5)], 0.125, 0.125),  # within
        ([(-1, -1), (2, -1), (2, 2), (-1, 2)], 9, 1),  # around
        ([(1, 0), (2, 0), (2, 1), (1, 1)], 1, 0),  # touching
        ([(3, 3), (4, 3), (4, 4), (3, 4)], 1, 0),  # apart
        (DIAMOND, 1.125, 0.875),  # the corners of the square stick out of the diamond: 4 · 0.25² / 2
        (ARROW, 0.5, 0.25),  # its two barbs, of which the square keeps what is left of x = 1
        (COMB, 8.25, 0.75),  # around all of the square but for a slot, in two parts below
    ],
)
def test_area_and_intersection_with_a_square_in_either_orientation(line, whole, expected):
    line, square = polygon(*line), polygon(*SQUARE)
    lines, squares = torch.cat([line, line.flip(1)] * 2), torch.cat([square] * 2 + [square.flip(1)] * 2)
    assert area(lines).tolist() == pytest.approx([whole] * 4)
    assert intersection_area(lines, squares).tolist() == pytest.approx([expected] * 4, abs=1e-6)


@pytest.mark.parametrize(("points", "least"), [(4, 1.0), (32, 0.1)])
@property_test
@given(seed=seeds)
def test_intersection_agrees_with_sutherland_hodgman(points, least, seed):
    generator = torch.Generator().manual_seed(seed)
    lines, quads = around(generator, 4, points, least), around(generator, 4, 4, 1.0)
    expected = [clipped_area(*pair) for pair in zip(lines, quads, strict=True)]
    assert intersection_area(lines, quads).tolist() == pytest.approx(expected, abs=2e-6)
    torch.testing.assert_close(intersection_area(quads, quads), area(quads), atol=1e-6, rtol=1e-5)


def test_repeated_corners_and_places_far_out_keep_the_area():
    square, triangle = polygon(*SQUARE), polygon((0, 0), (0, 0), (1, 0), (1, 1))
    assert intersection_area(square, triangle).item() == pytest.approx(0.5)
    assert intersection_area(triangle, square).item() == pytest.approx(0.5)
    small = square * 0.01 + 100
    assert area(small).item() == pytest.approx(1e-4, rel=0.01)
    assert intersection_area(small, small + 0.005).item() == pytest.approx(1e-4 / 4, rel=0.01)


# Overlap and ink


def test_overlap_of_known_rectangles():
    half = polygon((0, -0.5), (1, -0.5), (1, 0.5), (0, 0.5))
    large = polygon((-1, -1), (1, -1), (1, 1), (-1, 1))
    far = polygon((0.6, 0.6), (1, 0.6), (1, 1), (0.6, 1))
    iou, off_target = overlap(torch.cat([half, large, far, polygon(*BOX)]), polygon(*BOX).expand(4, -1, -1))
    assert iou.tolist() == pytest.approx([0.5 / 1.5, 0.25, 0, 1])
    assert off_target.tolist() == pytest.approx([0.5, 0.75, 1, 0])


WITHOUT_AREA = {
    "a point": [(0.1, 0.1)] * 4,
    "a slanted line": [(0.1 * i, 0.07 * i + 0.013) for i in (-3, -1, 2, 4, 1, -2)],
    "not a number": [(0, 0), (1, 0), (math.nan, 1), (0, 1)],
    "infinite": [(0, 0), (math.inf, 0), (1, -math.inf), (0, 1)],
}


@pytest.mark.parametrize("line", WITHOUT_AREA.values(), ids=WITHOUT_AREA)
def test_an_outline_without_area_has_no_overlap(line):
    line, box = bounded(polygon(*line)), polygon(*BOX)
    iou, off_target = overlap(line, box)
    assert off_target == 1
    for nothing in (iou, area(line), intersection_area(line, box), intersection_area(box, line)):
        assert nothing.item() == pytest.approx(0, abs=1e-7)
    assert ink_inside(line, torch.ones(1, 5, 5)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("far", [1e3, 1e30])
def test_a_huge_outline_holds_all_ink_and_has_a_small_iou(far):
    line, box = bounded(CANVAS * far), polygon(*BOX)
    assert intersection_area(line, box).item() == pytest.approx(1, rel=1e-3)
    iou, off_target = overlap(line, box)
    assert 0 < iou < 1e-6
    assert 1 - 1e-6 < off_target <= 1
    assert ink_inside(line, torch.ones(1, 2, 2)) == 1


def test_an_outline_that_crosses_itself_has_scores_in_range():
    bow = polygon((-0.5, -0.5), (0.4, 0.5), (0.4, -0.5), (-0.5, 0.7))
    for value in (*overlap(bow, polygon(*BOX)), ink_inside(bow, torch.ones(1, 4, 6))):
        assert 0 <= value <= 1


@pytest.mark.parametrize(
    ("line", "ink", "expected"),
    [
        (LEFT, [[3, 1], [0, 4]], 3 / 8),
        ([(9 * x, 9 * y) for x, y in LEFT], [[3, 1], [0, 4]], 3 / 8),  # beyond the canvas
        (LEFT, [[0, 0], [0, 0]], 0),  # no ink
        ([(x + 0.25, y) for x, y in LEFT], [[2, 4]], (0.75 * 2 + 0.25 * 4) / 6),  # parts of cells
        ([(x - 1, y - 0.5) for x, y in ARROW], [[3, 1, 0, 0]], 0),  # its notch, from x = -1 to 0
        # Its corners are level with three rows of cells; each row counts once.
        ([(0, -2 / 3), (2 / 3, 0), (0, 2 / 3), (-2 / 3, 0)], [[1, 2, 4]] * 3, (0.5 * 1 + 2 + 0.5 * 4) / 21),
    ],
)
def test_ink_inside_is_a_fraction_of_the_ink(line, ink, expected):
    both = torch.cat([polygon(*line), polygon(*line).flip(1)])
    ink = torch.tensor([ink] * 2, dtype=torch.float)
    assert ink_inside(both, ink).tolist() == pytest.approx([expected] * 2, abs=1e-6)


@property_test
@given(seed=seeds)
def test_ink_inside_agrees_with_winding_numbers(seed):
    generator = torch.Generator().manual_seed(seed)
    lines, ink = around(generator, 3, 16, 0.1), torch.rand(3, 7, 9, generator=generator)
    # A row of cells is sampled along its middle line, at 500 points in each cell.
    inside = torch.stack([winding(line, geometry.pixel_centres(7, 4500)) != 0 for line in lines])
    expected = (inside.view(3, 7, 9, 500).double().mean(3) * ink).sum((1, 2)) / ink.sum((1, 2))
    torch.testing.assert_close(ink_inside(lines, ink).double(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_an_outline_on_the_digit_holds_its_ink(digits, size):
    pose = similarities(0, size, 40)
    places = geometry.transform(torch.linalg.inv(pose), geometry.pixel_centres(*size))
    ink = render(digits.images.float() / 255, places, size)[:, 0]
    box = geometry.transform(pose, geometry.boundary_points(1) * 20 / 28)  # of the fixture's ink
    assert ink_inside(box, ink).min() > 0.93  # interpolation blurs the ink
    assert ink_inside(outline(pose), ink).min() > 0.999
    iou, off_target = overlap(outline(pose), box)
    torch.testing.assert_close(iou, torch.full((40,), (20 / 28) ** 2))
    torch.testing.assert_close(off_target, 1 - iou, atol=1e-5, rtol=0)


# Scores of several views and digits


def pose_of(boxes, ink):
    """A pose with boxes (B, D, 4, 2) and ink (B, D, h, w), whose frames are whole canvases."""
    return Pose(torch.eye(3).expand(*boxes.shape[:2], 3, 3), boxes, ink)


@pytest.mark.parametrize("canvas", [60, (61, 45)])
def test_the_frame_and_the_ink_box_are_found_and_the_whole_canvas_is_not(digits, canvas):
    """Boxes are so small that they have an IoU below a half with their frames."""
    distortion, generator = Distortion(canvas=canvas, place="anywhere"), torch.Generator().manual_seed(0)
    pose = distortion.draw(digits, torch.arange(40), generator).pose
    pose = pose._replace(box=pose.box.mean(2, keepdim=True).lerp(pose.box, 0.8))
    whole = geometry.boundary_points(8).expand(40, -1, -1)
    assert score([digit_frames(pose)[:, 0]], pose)["found"].eq(1).all()
    assert score([pose.box[:, 0]], pose)["found"].eq(1).all()
    assert score([whole], pose)["found"].eq(0).all()
    # The share of the digits: one of two is found.
    two = Pose(*(torch.cat([part, part.roll(1, 0)], 1) for part in pose))
    assert score([digit_frames(pose)[:, 0]], two)["found"].mean().item() == pytest.approx(0.5, abs=0.2)
    assert score([digit_frames(two)[:, 0], digit_frames(two)[:, 1]], two)["found"].eq(1).all()


def test_score_takes_the_best_view_of_each_digit_and_then_the_mean():
    """The two views have outlines of different numbers of points."""
    generator = torch.Generator().manual_seed(0)
    boxes, ink = around(generator, 30, 4, 1.0).view(10, 3, 4, 2), torch.rand(10, 3, 5, 6, generator=generator)
    outlines = [around(generator, 10, 4, 0.5), around(generator, 10, 32, 0.5)]
    scores = score(outlines, pose_of(boxes, ink))
    assert set(scores) == {
        *("iou_mean", "iou_above_half", "frame_iou_mean", "found", "ink_inside", "off_target", "hit_rate")
    }
    for item in range(10):
        expected = torch.zeros(3)
        for digit in range(3):
            box = boxes[item, digit, None]
            line = max((view[item, None] for view in outlines), key=lambda view: overlap(view, box)[0].item())
            iou, off_target = overlap(line, box)
            expected += torch.cat([iou, ink_inside(line, ink[item, digit, None]), off_target]) / 3
        ours = [scores[name][item].item() for name in ("iou_mean", "ink_inside", "off_target")]
        assert ours == pytest.approx(expected.tolist(), abs=1e-5)
        frames = [overlap(view[item, None], geometry.boundary_points(1)[None])[0].item() for view in outlines]
        assert scores["frame_iou_mean"][item].item() == pytest.approx(max(frames), abs=1e-5)
    assert scores["iou_above_half"].equal((scores["iou_mean"] > 0.5).float())


def test_hit_rate_is_the_fraction_of_views_with_ink_of_any_digit():
    left, right = polygon(*LEFT), polygon(*LEFT) + torch.tensor([1.0, 0.0])
    ink = torch.tensor([[[[4.0, 0.0]], [[0.0, 0.0]]]])
    boxes = torch.cat([left, right])[None]
    for views, expected in [((left, right), 0.5), ((left, left), 1), ((right,), 0)]:
        assert score(views, pose_of(boxes, ink))["hit_rate"].item() == expected
    assert score([left], pose_of(left[:, None], ink[:, :1]))["iou_above_half"].item() == 1


def test_the_host_never_waits_for_the_device():
    """Tensors without values raise an error where the host would read them."""
    line, shapes = torch.empty(5, 32, 2, device="meta"), [(3, 3), (4, 2), (3, 3)]
    pose = Pose(*(torch.empty(5, 1, *shape, device="meta") for shape in shapes))
    assert {value.shape for value in score([line, line], pose).values()} == {(5,)}
