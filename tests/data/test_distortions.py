"""Distorted digits look as their settings say, and their poses say where they are."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.config.build import build
from stn_experiments.data.canvas import render
from stn_experiments.data.distortions import Addition, Distortion, FixedDistortion, Mixed
from stn_experiments.data.mnist import Digits
from stn_experiments.data.warp import Warp
from tests.data.harness import ALL, assert_boxes_fit, grey, repeat, seeded

EVERYTHING = Distortion(
    canvas=(50, 70), angle=60, scale=(0.6, 1.3), place="anywhere", clutter=3, noise=0.1, clutter_size=7
)
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


# Poses


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
