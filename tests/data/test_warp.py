"""Warps against kornia and scipy: affine maps, homographies of moved corners, and bends."""

import itertools
import math

import kornia
import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from stn_experiments.common import geometry
from stn_experiments.data.canvas import render
from stn_experiments.data.distortions import Distortion
from stn_experiments.data.warp import Warp
from tests.data.harness import repeat, seeded


def rendered(originals, matrix, size):
    """Digits on canvases of ``size``, placed by matrices in pixels."""
    warp = Warp(geometry.normalised(matrix, (28, 28), size), None)
    return render(originals, warp.to_digit(geometry.pixel_centres(*size)), size)


@pytest.mark.parametrize("size", [(28, 28), (50, 70), (61, 33)])
def test_render_agrees_with_kornia(digits, generator, size):
    angle = (torch.rand(40, generator=generator) * 2 - 1) * math.pi
    scale = 0.6 + torch.rand(40, generator=generator)
    shift = (torch.rand(40, 2, generator=generator) - 0.5) * 20
    originals = digits.images.float() / 255
    ours = rendered(originals, geometry.similarity(angle, scale, shift), size)
    # kornia works on pixel indices: rotate and scale about the digit's centre 13.5, then move it.
    to_canvas = torch.tensor([(size[1] - 28) / 2, (size[0] - 28) / 2])
    matrix = kornia.geometry.get_affine_matrix2d(
        shift + to_canvas, torch.full((40, 2), 13.5), scale[:, None].expand(40, 2), -angle.rad2deg()
    )[:, :2]
    theirs = kornia.geometry.warp_affine(originals[:, None], matrix, dsize=size, align_corners=False)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_bend_agrees_with_scipys_spline_and_is_inverted(generator):
    size = (34, 46)
    distortion = Distortion(canvas=size, angle=30, scale=(0.7, 1.1))
    matrix = distortion._draw_matrices(torch.zeros(3, 28, 28), generator)
    bend = torch.randn(3, 16, 2, generator=generator) * 0.2
    warp, control = Warp(matrix, bend), geometry.control_points(4)
    points = geometry.pixel_centres(*size)
    moved_control = Warp(matrix, None).to_digit(control) + bend
    for ours, moved in zip(warp.to_digit(points), moved_control, strict=True):
        spline = RBFInterpolator(control.double(), moved.double(), kernel="thin_plate_spline", degree=1)
        assert np.abs(ours.numpy() - spline(points.double())).max() < 1e-4
    edge = geometry.boundary_points(4).expand(3, -1, -1)
    for single, there, back in zip(warp.split(1), warp.to_canvas(edge), edge, strict=True):
        torch.testing.assert_close(single.to_digit(there)[0], back, atol=1e-4, rtol=0)


def test_corners_move_by_their_deviation_and_never_fold(digits, generator):
    corners = geometry.boundary_points(1)
    for scale in (1.0, 0.75):
        distortion = Distortion(canvas=(40, 50), corners=5.0, scale=(scale, scale))
        batch = distortion.draw(repeat(digits, 50), torch.arange(2000), generator)
        frame = geometry.transform(batch.pose.matrix[:, 0], corners) * torch.tensor([25.0, 20.0])
        assert abs((frame - scale * 14 * corners).std() - 5) < 0.5  # some had to be halved
        assert geometry.is_convex(frame).all()


CANVAS = torch.tensor([90, 60])
"""The (width, height) of a canvas that is not square."""


def moved_corners(digits, count=1, scale=0.75, **settings):
    """A batch of distorted digits, and where the corners of a frame were and are, in pixels from the centre.

    With ``corner_frame="whole"``, the frame is the one of 28×28 pixels in which the digits are scaled.
    """
    distortion = Distortion(canvas=(60, 90), scale=(scale, scale), **settings)
    batch = distortion.draw(repeat(digits, count), torch.arange(40 * count), seeded())
    whole = settings.get("corner_frame") == "whole"
    own = geometry.boundary_points(1) * 14 / (scale if whole else 1)  # in pixels of the digit
    return batch, own * scale, geometry.transform(batch.pose.matrix[:, 0], own / 14) * CANVAS / 2


FRAMES_AND_MOVES = list(itertools.product(["scaled", "whole"], ["axes", "direction", "diagonal"]))


@pytest.mark.parametrize(("frame", "kind"), FRAMES_AND_MOVES)
def test_digits_with_moved_corners_agree_with_kornias_homography(digits, frame, kind):
    settings = {"corners": 3.0, "corner_frame": frame, "corner_moves": kind}
    batch, before, after = moved_corners(digits, **settings)
    # kornia works on pixel indices: the centre of the digit is 13.5, that of the canvas (44.5, 29.5).
    source = (before / 0.75 + 13.5).expand(40, -1, -1)
    matrix = kornia.geometry.get_perspective_transform(source, after + (CANVAS - 1) / 2)
    originals = digits.images[:, None].float() / 255
    theirs = kornia.geometry.warp_perspective(originals, matrix, (60, 90), align_corners=True)
    torch.testing.assert_close(batch.images, theirs, atol=2e-3, rtol=0)
    assert (after - before).abs().amax() > 3


@pytest.mark.parametrize(("frame", "kind"), FRAMES_AND_MOVES)
def test_corners_move_as_their_setting_says(digits, frame, kind):
    settings = {"corners": 1.5, "corner_frame": frame, "corner_moves": kind}
    _, before, after = moved_corners(digits, 50, **settings)
    moves = after - before
    per_axis = 1.5 if kind == "axes" else 1.5 / math.sqrt(2)
    torch.testing.assert_close(moves.std((0, 1)), torch.full((2,), per_axis), atol=0.04, rtol=0)
    assert moves.mean((0, 1)).abs().max() < 0.06
    across = (moves[..., 0] * before[:, 1] - moves[..., 1] * before[:, 0]).abs() / before.norm(dim=1)
    assert (across.max() < 1e-3) == (kind == "diagonal")
    x, y = moves.unbind(-1)
    if kind != "diagonal":
        assert abs((x * y).mean()) < 0.05 * per_axis**2
    # A length from a normal distribution is often near 0; that of two independent moves is not.
    share = (moves.norm(dim=-1) < 0.15).float().mean()
    assert share == pytest.approx(0.005 if kind == "axes" else 0.08, abs=0.01)


def test_the_corners_of_a_canvas_move_over_the_digit(digits):
    distortion = Distortion(canvas=(60, 90), corners=3.0, corner_frame="canvas")
    matrix = distortion.draw(repeat(digits, 50), torch.arange(2000), seeded()).pose.matrix[:, 0]
    corners = geometry.boundary_points(1)
    moves = geometry.transform(matrix.inverse(), corners) * 14 - corners * CANVAS / 2
    torch.testing.assert_close(moves.std(0), torch.full((4, 2), 3.0), atol=0.2, rtol=0)
    assert moves.mean((0, 1)).abs().max() < 0.1


@pytest.mark.parametrize("frame", ["scaled", "whole"])
def test_a_place_moves_all_corners_alike(digits, frame):
    places = ("centre", "anywhere")
    centre, elsewhere = (
        moved_corners(digits, corners=4.0, corner_frame=frame, place=place)[2] for place in places
    )
    shift = elsewhere - centre
    torch.testing.assert_close(shift, shift[:, :1].expand(-1, 4, -1), atol=1e-3, rtol=0)
    assert shift.abs().amax((0, 1)).gt(10).all()


def test_shear_moves_x_by_y_and_bends_have_their_deviation(generator):
    matrix = Distortion(shear=0.5)._draw_matrices(torch.zeros(500, 28, 28), generator)
    assert matrix[:, 0, 1].abs().max() <= 0.5
    assert matrix[:, 0, 1].std() == pytest.approx(0.5 / 3**0.5, rel=0.1)
    torch.testing.assert_close(matrix[:, 1], torch.tensor([[0.0, 1, 0]]).expand(500, -1))
    bends = Distortion(bend=1.5)._draw_bends(2000, generator)
    assert bends.std() * 14 == pytest.approx(1.5, abs=0.02)  # in pixels of the digit
