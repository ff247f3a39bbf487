"""Distorted digits look as their settings say, and their poses say where they are."""

import itertools
import math

import kornia
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.config.build import build
from stn_experiments.data.canvas import Clutter, add_clutter, blur, ink_boxes, render
from stn_experiments.data.distortions import Addition, Distortion, FixedDistortion, Mixed
from stn_experiments.data.mnist import Digits
from stn_experiments.data.warp import Warp

EVERYTHING = Distortion(
    canvas=(50, 70), angle=60, scale=(0.6, 1.3), place="anywhere", clutter=3, noise=0.1, clutter_size=7
)
ALL = torch.arange(40)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def repeat(digits, times):
    return Digits(digits.images.repeat(times, 1, 1), digits.labels.repeat(times))


def grey(count, value, margin=0):
    """Digits that are squares of one grey level, ``margin`` pixels from the edge."""
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    images[:, margin : 28 - margin, margin : 28 - margin] = value
    return Digits(images, torch.zeros(count, dtype=torch.long))


def bounds(image, threshold=0.01):
    """The left, top, right and bottom edge of the ink in an image (H, W), in pixels."""
    rows, columns = ((image > threshold).any(dim).nonzero() for dim in (1, 0))
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def assert_boxes_fit(images, boxes, tolerance, threshold=0.01):
    """The boxes (B, 4, 2) of poses are around the ink of images (B, H, W), up to ``tolerance`` pixels."""
    corners = (boxes + 1) / 2 * torch.tensor(images.shape[:0:-1])
    inks = torch.stack([bounds(image, threshold) for image in images])
    assert (inks - torch.cat([corners.amin(1), corners.amax(1)], 1)).abs().max() <= tolerance


def rendered(originals, matrix, size):
    """Digits on canvases of ``size``, placed by matrices in pixels."""
    warp = Warp(geometry.normalised(matrix, (28, 28), size), None)
    return render(originals, warp.to_digit(geometry.pixel_centres(*size)), size)


# Warps


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


# Where digits are placed


@pytest.mark.parametrize("canvas", [28, 42, (50, 70), (31, 28)])
def test_without_distortion_the_digit_is_in_the_middle_as_it_is(digits, generator, canvas):
    images, originals = Distortion(canvas=canvas).draw(digits, ALL, generator).images, digits.images / 255
    height, width = images.shape[-2:]
    top, left = (height - 28) // 2, (width - 28) // 2
    bottom, right = height - 28 - top, width - 28 - left
    up, down = (F.pad(originals, edges) for edges in ((left, right, top, bottom), (right, left, bottom, top)))
    torch.testing.assert_close(images[:, 0], (up + down) / 2, atol=1e-5, rtol=0)  # may be half a pixel off


def test_whole_pixel_places_keep_an_unscaled_digit_crisp(digits, generator):
    batch = Distortion(canvas=(45, 61), place="anywhere").draw(digits, ALL, generator)
    torch.testing.assert_close(batch.images * 255, (batch.images * 255).round(), atol=2e-2, rtol=0)
    assert len(batch.pose.matrix[:, 0, :2, 2].unique(dim=0)) > 30
    assert_boxes_fit(batch.images[:, 0], batch.pose.box[:, 0], 1e-3, threshold=0)


def test_inside_keeps_all_ink_on_the_canvas_and_uses_all_of_it(digits, generator):
    distortion = Distortion(canvas=(40, 44), angle=20, shear=0.2, place="inside")
    batch = distortion.draw(repeat(digits, 10), torch.arange(400), generator)
    assert batch.pose.box.abs().max() <= 1 + 1e-5
    assert batch.pose.box.amax((0, 1, 2)).min() > 0.98
    assert batch.pose.box.amin((0, 1, 2)).max() < -0.98
    assert batch.images.sum((1, 2, 3)).min() > 0.9 * digits.images.float().sum((1, 2)).min() / 255


def test_settings_reach_the_ends_of_their_ranges(generator):
    distortion = Distortion(canvas=(40, 60), angle=45, scale=(0.7, 1.2), place="anywhere")
    matrix = distortion.draw(grey(4000, 255, 4), torch.arange(4000), generator).pose.matrix[:, 0]
    to_pixels = geometry.normalised(matrix, (2 / 28 * 2, 2 / 28 * 2), (4 / 40, 4 / 60))  # undo normalised()
    angle = torch.atan2(to_pixels[:, 0, 1], to_pixels[:, 0, 0]).rad2deg()
    scale = to_pixels[:, :2, :2].det().sqrt()
    for value, low, high in ((angle, -45, 45), (scale, 0.7, 1.2)):
        margin = (high - low) / 100
        assert low - 1e-3 <= value.min() < low + margin
        assert high - margin < value.max() <= high + 1e-3
        assert abs(value.mean() - (low + high) / 2) < 2 * margin
    shift = to_pixels[scale < 0.75, :2, 2].abs().amax(0)
    assert shift[0] > (60 - 28 * 0.75) / 2 - 2
    assert shift[1] > (40 - 28 * 0.75) / 2 - 2
    frame = geometry.transform(matrix, geometry.boundary_points(1))
    assert frame[angle.abs() < 1].abs().max() < 1.06  # the digit's frame lies on the canvas


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


# Poses


def test_the_ink_box_is_tight():
    image = torch.zeros(1, 28, 28)
    image[0, 4:20, 9:12] = 1
    left, right, top, bottom = 9 / 14 - 1, 12 / 14 - 1, 4 / 14 - 1, 20 / 14 - 1
    expected = torch.tensor([[[left, top], [right, top], [right, bottom], [left, bottom]]])
    torch.testing.assert_close(ink_boxes(image), expected)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"canvas": 28, "scale": (0.6, 0.9)}, 1.01),  # the ink is known to the pixel
        ({"canvas": (70, 40), "scale": (0.6, 0.9)}, 1.01),
        ({"canvas": (50, 70), "scale": (0.6, 0.9), "place": "anywhere"}, 1.01),
        ({"canvas": (60, 70), "angle": 20, "bend": 1.5}, 2.6),  # a bent side is no straight line
        ({"canvas": (60, 70), "angle": 20, "corners": 4.0}, 2.6),
        ({"canvas": (60, 70), "angle": 20, "shear": 0.4}, 2.6),
    ],
)
def test_boxes_of_poses_are_where_the_ink_is(digits, generator, settings, tolerance):
    batch = Distortion(**settings).draw(digits, ALL, generator)
    assert_boxes_fit(batch.images[:, 0], batch.pose.box[:, 0], tolerance, threshold=0.02)


@given(
    angle=st.floats(0, 180), scale=st.floats(0.5, 1.5), height=st.integers(45, 80), width=st.integers(45, 80)
)
@settings(max_examples=40, deadline=None)
def test_sampling_by_the_pose_gives_the_upright_digit_back(angle, scale, height, width):
    blob = F.interpolate(torch.rand(4, 1, 3, 3, generator=seeded(3)), (16, 16), mode="bicubic")
    images = F.pad(blob.clamp(0, 1)[:, 0], (6, 6, 6, 6))
    digits = Digits((images * 255).byte(), torch.zeros(4, dtype=torch.long))
    distortion = Distortion(canvas=(height, width), angle=angle, scale=(scale, scale), place="anywhere")
    batch = distortion.draw(digits, torch.arange(4), seeded(3))
    grid = geometry.transform(batch.pose.matrix[:, 0], geometry.pixel_centres(28, 28)).view(-1, 28, 28, 2)
    back = F.grid_sample(batch.images, grid, align_corners=False)[:, 0]
    inner = (slice(None), slice(9, 19), slice(9, 19))  # away from the blob's edge, which any resampling blurs
    assert (back[inner] - digits.images[inner] / 255).abs().mean() < 0.06


def test_the_ink_of_the_pose_is_the_digit_without_clutter_and_noise(digits):
    ink = EVERYTHING.draw(digits, ALL, seeded()).pose.ink[:, 0].sum((1, 2)) * 50 * 70 / (24 * 24)
    plain = Distortion(canvas=(50, 70), angle=60, scale=(0.6, 1.3), place="anywhere")
    assert (ink / plain.draw(digits, ALL, seeded()).images.sum((1, 2, 3)) - 1).abs().max() < 0.2


# What is done to canvases


def test_noise_has_its_deviation_after_the_contrast_and_is_clipped(generator):
    def draw(**settings):
        return Distortion(**settings).draw(grey(200, 255), torch.arange(200), generator).images

    faded = draw(contrast=0.5, noise=0.1)
    assert abs(faded.mean() - 0.5) < 1e-3
    assert abs(faded.std() - 0.1) < 1e-3
    assert draw(noise=5).aminmax() == (0, 1)


def test_clutter_is_crops_of_other_digits(generator):
    """Each digit of the pool has its own grey level, which shows where its crops are."""
    greys = torch.arange(1, 31, dtype=torch.uint8) * 8
    pool = greys[:, None, None].expand(30, 28, 28).contiguous()
    images = torch.zeros(30, 1, 300, 400)
    add_clutter(images, pool, torch.arange(30), Clutter(4, 5), generator)
    levels = (images * 255).round().int()
    assert len(levels.unique()) > 15
    assert len(levels[0].unique()) > 2  # of several digits
    for image, own in zip(levels, greys, strict=True):
        assert own not in image
        assert 2 * 5 * 5 < (image > 0).sum() <= 4 * 5 * 5


def test_clutter_lands_everywhere_and_is_clipped(generator):
    images = torch.zeros(10, 1, 40, 60)
    add_clutter(images, grey(10, 255).images, torch.arange(10), Clutter(200, 6), generator)
    assert images.max() == 1
    assert bounds(images.amax((0, 1))).tolist() == [0, 0, 60, 40]


def test_blur_is_a_line_of_its_length_and_angle(digits):
    image = torch.zeros(1, 1, 21, 21)
    image[0, 0, 10, 10] = 1
    across = blur(image, 5, 0)[0, 0]
    torch.testing.assert_close(across[10, 8:13], torch.full((5,), 0.2))
    assert across.sum() == pytest.approx(1)
    torch.testing.assert_close(blur(image, 5, 90)[0, 0], across.T, atol=1e-6, rtol=0)
    slanted = blur(image, 9, 45)[0, 0]
    assert slanted[8, 12] > 0.05  # counter-clockwise: up on the right
    assert slanted[12, 12] == slanted[6, 14] == 0
    plain, blurred = (Distortion(**settings).draw(digits, ALL, seeded()) for settings in ({}, {"blur": 5}))
    assert blurred.images.equal(blur(plain.images, 5, 15))


# Tasks of several distortions


def test_mixed_holds_equally_many_of_each_kind_in_random_order(digits, generator):
    kinds = {
        "clean": Distortion(canvas=40),
        "rotated": Distortion(canvas=40, angle=90),
        "noisy": Distortion(canvas=40, noise=0.3),
        "placed": Distortion(canvas=40, place="anywhere"),
    }
    orders = []
    for _ in range(2):
        batch = Mixed(canvas=40, kinds=kinds).draw(digits, ALL, generator)
        assert batch.labels.equal(digits.labels)
        turned = batch.pose.matrix[:, 0, 0, 1] != 0
        noisy = (batch.images > 0).float().mean((1, 2, 3)) > 0.4
        placed = batch.pose.matrix[:, 0, 0, 2].abs() > 0
        assert turned.sum() == noisy.sum() == 10
        assert 5 <= placed.sum() <= 10
        assert_boxes_fit(batch.images[placed, 0], batch.pose.box[placed, 0], 1)
        orders.append(turned)
    assert not orders[0].equal(orders[1])


def test_addition_is_two_digits_and_their_sum(digits, generator):
    each = Distortion(canvas=42, angle=45, scale=(0.7, 1.2), place="anywhere")
    addition = Addition(canvas=42, each=each)
    batch = addition.draw(digits, ALL, generator)
    assert (addition.channels, addition.classes, addition.size) == (2, 19, (42, 42))
    assert batch.images.shape == (40, 2, 42, 42)
    second = batch.labels - digits.labels
    assert set(second.tolist()) <= set(range(10))
    assert len(second.unique()) > 5
    assert_boxes_fit(batch.images.flatten(0, 1), batch.pose.box.flatten(0, 1), 5)


# All tasks

TASKS = [
    EVERYTHING,
    Distortion(canvas=(40, 50), corners=5.0, bend=1.0, clutter=3, noise=0.1),
    Distortion(canvas=(40, 44), shear=0.2, place="inside"),
    Mixed(28, {"turned": Distortion(angle=90), "noisy": Distortion(noise=0.3)}),
    Addition(40, Distortion(canvas=40, place="anywhere")),
]


@pytest.mark.parametrize("task", TASKS)
def test_the_generator_decides_everything_and_poses_change_nothing(digits, task):
    index = ALL.flip(0)
    one, same, other = (task.draw(digits, index, seeded(seed)) for seed in (1, 1, 2))
    unposed = task.draw(digits, index, seeded(1), posed=False)
    assert one.images.shape == (40, task.channels, *task.size)
    assert 0 <= one.images.min() < one.images.max() <= 1
    if task.channels == 1:
        assert one.labels.equal(digits.labels[index])
    for left, right in zip((*one[:2], *one.pose), (*same[:2], *same.pose), strict=True):
        assert left.equal(right)
    assert not one.images.equal(other.images)
    assert not one.pose.matrix.equal(other.pose.matrix)
    assert one.images.equal(unposed.images)
    assert one.labels.equal(unposed.labels)
    cells = [min(side // 2, 24) for side in task.size]
    shapes = [list(field.shape[1:]) for field in one.pose]
    assert shapes == [[task.channels, *axes] for axes in ([3, 3], [4, 2], cells)]
    assert [field.shape[:2] for field in unposed.pose] == [(40, 0)] * 3


CORNERS_OF_NO_FRAME = {"_target_": "stn_experiments.data.distortions.Distortion", "corner_frame": "ink"}
CROPS_OF_29_PIXELS = {"_target_": "stn_experiments.data.distortions.Distortion", "clutter_size": 29}


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: Distortion(canvas=20), "canvas must be at least the digit's own 28 pixels, got 20"),
        (lambda: Distortion(canvas=(28, 27)), "canvas must be at least"),
        (lambda: Distortion(scale=(1.2, 0.7)), "scale must be given as smallest, largest"),
        (lambda: build(CORNERS_OF_NO_FRAME, "data"), "data.corner_frame must be one of scaled, whole"),
        (lambda: build(CROPS_OF_29_PIXELS, "data"), "data.clutter_size must be an integer from 1 to 28"),
        (lambda: Mixed(canvas=40, kinds={}), "kinds must name at least one distortion"),
        (lambda: Mixed(40, {"a": Distortion(canvas=30)}), "kinds.a.canvas must be the same"),
        (lambda: Addition(50, Distortion(canvas=42)), "each.canvas must be the same as canvas, 50, got 42"),
    ],
)
def test_invalid_settings_are_refused(mistake, words):
    with pytest.raises(UserError, match=words):
        mistake()


def test_a_fixed_pose_is_that_of_its_settings(digits, generator):
    """Shear first, then scale and rotation, then the offset."""
    fixed = FixedDistortion((50, 70), angle=-30, scale=(1.2, 1.2), shear=-0.4, offset=(6.5, -3))
    pose = fixed.draw(digits, ALL, generator).pose
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    clockwise = torch.tensor([[cos, -sin], [sin, cos]])  # y is down
    linear = 1.2 * clockwise @ torch.tensor([[1, -0.4], [0, 1.0]])
    corners = geometry.transform(pose.matrix[:, 0], torch.tensor([[-1.0, -1], [1, -1], [1, 1]]))
    expected = torch.tensor([[-14.0, -14], [14, -14], [14, 14]]) @ linear.T + torch.tensor([6.5, -3])
    torch.testing.assert_close(corners * torch.tensor([35, 25]), expected.expand(40, -1, -1))


@pytest.mark.parametrize(
    "setting", [{"angle": -40}, {"scale": (0.7, 0.7)}, {"offset": (2, -1)}, {"shear": -0.3}, {"noise": 0.1}]
)
def test_a_digit_is_drawn_at_its_fixed_pose(digits, setting):
    fixed = FixedDistortion(40, **setting).draw(digits, ALL, seeded())
    warp = Warp(fixed.pose.matrix[:, 0], None)
    images = render(digits.images / 255, warp.to_digit(geometry.pixel_centres(40, 40)), (40, 40))
    if "noise" in setting:
        images = (images + 0.1 * torch.randn(images.shape, generator=seeded())).clamp(0, 1)
    torch.testing.assert_close(fixed.images, images)
    assert not torch.equal(fixed.images, Distortion(40).draw(digits, ALL, seeded()).images)


def test_a_mixture_draws_fewer_images_than_it_has_kinds(digits):
    kinds = {name: Distortion(28, angle=angle) for name, angle in {"one": 90.0, "two": 45.0}.items()}
    batch = Mixed(28, kinds).draw(digits, ALL[:1], seeded())
    assert batch.images.shape == (1, 1, 28, 28)
