"""Poses in V against known poses, and their spread against arithmetic and a search by NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stn_experiments.common import geometry
from stn_experiments.evaluation.pose_scores import (
    Residual,
    median_directions,
    pair_rotation,
    pose_scores,
    residual_pose,
    spread,
    wrapped,
)
from tests.evaluation.harness import CANVAS, SIZES, outline, similarities, turned

ONE_CLASS = torch.ones(1, 1, dtype=torch.bool)

seeds = st.integers(0, 2**32 - 1)
property_test = settings(derandomize=True, deadline=None, max_examples=25)


@pytest.mark.parametrize("size", SIZES)
@property_test
@given(seed=seeds)
def test_the_residual_pose_is_the_identity_if_v_is_the_digits_frame(size, seed):
    pose = similarities(seed, size)
    rotation, scale, translation, _ = residual_pose(outline(pose), pose, size)
    torch.testing.assert_close(rotation, torch.zeros(20), atol=1e-3, rtol=0)
    torch.testing.assert_close(scale, torch.ones(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(translation, torch.zeros(20, 2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_residual_pose_is_the_pose_of_the_digit_in_v(size):
    degrees = [-150.0, -30.0, 0.0, 30.0, 90.0, 179.0]
    rotation, scale, translation, _ = residual_pose(
        CANVAS.expand(6, -1, -1), turned(degrees, size, 0.7, (3.0, -5.0)), size
    )
    assert rotation.tolist() == pytest.approx(degrees, abs=1e-3)
    assert scale.tolist() == pytest.approx([0.7 * 28 / math.sqrt(size[0] * size[1])] * 6)
    torch.testing.assert_close(translation, torch.tensor([[3.0, -5.0]] * 6), atol=1e-4, rtol=0)
    digit, view = turned([50.0], size, 0.5, (4.0, 1.0)), turned([20.0], size, 1.0, (1.0, 2.0))
    rotation, scale, translation, _ = residual_pose(outline(view), digit, size)
    assert rotation.item() == pytest.approx(30, abs=1e-3)
    assert scale.item() == pytest.approx(0.5)
    assert translation.tolist()[0] == pytest.approx([3, -1], abs=1e-4)


def test_angles_wrap_to_180_inclusive():
    views, poses = outline(turned([170.0, -100.0])), turned([-170.0, 100.0])
    assert residual_pose(views, poses, (28, 28)).rotation.tolist() == pytest.approx([20, -160], abs=1e-3)
    exact = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))[None]
    for hair in (-1e-12, 0, 1e-12):  # within rounding error of half a turn
        exact[0, 0, 1] = hair
        assert residual_pose(CANVAS, exact, (28, 28)).rotation == 180
    assert residual_pose(outline(exact), torch.eye(3)[None], (28, 28)).rotation == 180


def test_a_projective_pose_is_measured_by_the_middles_of_its_sides():
    pose = torch.tensor([[[0.8, 0.1, 0.1], [-0.1, 0.8, 0], [0.2, -0.1, 1]]])
    corners = geometry.transform(pose, geometry.boundary_points(1))
    rotation, scale, translation, _ = residual_pose(corners, pose, (40, 60))
    assert rotation.item() == pytest.approx(0, abs=1e-4)
    assert scale.item() == pytest.approx(1)
    assert translation.abs().max() < 1e-4


def test_a_mirrored_view_has_a_pose_and_a_collapsed_one_is_finite():
    mirrored = CANVAS * torch.tensor([-0.5, 1.0])
    stretched = torch.diag(torch.tensor([0.5, 1.0, 1.0]))[None]
    rotation, scale, _, is_mirrored = residual_pose(mirrored, turned([30.0]), (28, 28))
    assert rotation.item() == pytest.approx(-150)  # V shows diag(-2, 1) R(30°), to which that is nearest
    assert is_mirrored.item() == 1
    assert scale.item() == pytest.approx(math.sqrt(2))
    assert residual_pose(mirrored, stretched, (28, 28)).scale.item() == pytest.approx(1)
    for value in (0, math.nan, math.inf):
        residual = residual_pose(torch.full((1, 32, 2), value), torch.eye(3)[None], (28, 28))
        assert all(part.isfinite().all() for part in (*residual, *spread(residual, ONE_CLASS[:1]).values()))
    assert residual_pose(CANVAS * 1e3, turned([30.0]), (28, 28)).mirrored.item() == 0
    assert all(part.isfinite().all() for part in residual_pose(CANVAS * 1e30, turned([30.0]), (28, 28)))


def residuals(rotation, scale=1.0, translation=(0.0, 0.0)):
    rotation = torch.as_tensor(rotation, dtype=torch.float)
    ones = torch.ones_like(rotation)
    scale, translation = torch.as_tensor(scale), torch.as_tensor(translation)
    return Residual(rotation, ones * scale, ones[:, None] * translation, 0 * ones)


def test_rotation_spread_of_a_uniform_distribution():
    for middle in (0, 75, 180):
        angle = middle + torch.linspace(-90, 90, 10001)
        scores = spread(residuals(wrapped(angle)), ONE_CLASS.expand(10001, 1))
        for name in ("rotation_deg", "rotation_within_class_deg"):
            assert scores[name].item() == pytest.approx(90 / math.sqrt(3), abs=0.05)


@pytest.mark.parametrize(
    ("residual", "expected"),
    [
        (residuals([180.0] * 4, 0.3, (7.0, -2.0)), (0, 0, 0, 0)),
        (residuals([179.0, -179.0]), (1, 1, 0, 0)),  # across the seam
        (residuals([0.0] * 2, [0.5, 2.0], [[3.0, 4.0], [-3.0, -4.0]]), (0, 0, math.log(2), 5)),
    ],
)
def test_spread_of_known_poses(residual, expected):
    scores = spread(residual, ONE_CLASS.expand(len(residual.scale), 1))
    assert [value.item() for value in scores.values()] == pytest.approx(expected, abs=1e-3)


# Median directions, and what depends on the class or the digit alone


def median_by_search(angles):
    """The median direction among all of the angles, and the mean absolute deviation from it, by NumPy."""
    deviation = np.abs((angles[:, None] - angles + 180) % 360 - 180).mean(0)
    return angles[deviation.argmin()], deviation.min()


@pytest.mark.parametrize("width", [20, 90, 180])
def test_median_directions_agree_with_a_search_among_all_angles(width):
    """On the whole circle there may be several; theirs are the same mean deviations."""
    random = np.random.default_rng(width)
    angles = random.uniform(-width, width, 301) + random.choice([0, 180], 301, p=[0.8, 0.2])
    labels = np.arange(301) % 3
    angles = (angles + 50 * labels + 180) % 360 - 180
    members = torch.tensor(labels[:, None] == np.arange(4))  # no item is of the last class
    found = median_directions(torch.tensor(angles, dtype=torch.float), members)
    for label in range(3):
        own = angles[labels == label]
        median, least = median_by_search(own)
        deviation = np.abs((own - found[label].item() + 180) % 360 - 180).mean()
        assert deviation == pytest.approx(least, rel=0.01)
        if width < 100:
            assert found[label].item() == pytest.approx(median, abs=2)
    assert found[3].isnan()


def test_a_rotation_of_each_class_is_left_but_not_within_the_classes():
    """For any directions, also opposite ones, which have no circular mean."""
    labels = torch.arange(400) % 4
    for upright in ([0.0, 10.0, 170.0, -60.0], [0.0, 90.0, 180.0, -90.0]):
        generator = torch.Generator().manual_seed(0)
        noise = 4 * torch.randn(400, generator=generator)
        for around in (torch.zeros(400), noise):
            rotation = wrapped(torch.tensor(upright)[labels] + around)
            scores = spread(residuals(rotation), torch.nn.functional.one_hot(labels).bool())
            within = scores["rotation_within_class_deg"].item()
            assert within == pytest.approx(around.square().mean().sqrt().item(), abs=0.1)
            assert scores["rotation_deg"] > 50


@pytest.mark.parametrize("size", SIZES)
def test_a_perfect_transformer_leaves_nothing_of_a_pair(size):
    """Nor does one that leaves an angle of its own on each class, though it leaves that on single digits."""
    labels, slant = torch.arange(60) % 10, 20 * torch.randn(60, generator=torch.Generator().manual_seed(0))
    draws = [similarities(seed, size, 60) for seed in (1, 2)]  # full circles
    members = torch.nn.functional.one_hot(labels).bool()
    for left in (torch.zeros(60), labels * 36.0 - 160, slant):
        views = [pose @ torch.linalg.inv(turned(left.tolist())) for pose in draws]
        rotations = [
            residual_pose(outline(view), pose, size).rotation for view, pose in zip(views, draws, strict=True)
        ]
        assert pair_rotation(*rotations).item() == pytest.approx(0, abs=0.01)
        scores = pose_scores(outline(views[0]), draws[0], members, size)
        spread_left = (left - left.mean()).square().mean().sqrt().item()
        assert scores["residual_rotation_deg"].item() == pytest.approx(spread_left, abs=15)
        assert scores["mirrored_share"] == 0
        if left is not slant:
            assert scores["residual_rotation_within_class_deg"].item() == pytest.approx(0, abs=0.01)


def test_pairs_without_a_transformer_have_the_rotation_of_the_input():
    generator = torch.Generator().manual_seed(0)
    for width, expected in ((45, 45 / math.sqrt(3)), (90, 90 / math.sqrt(3)), (180, 180 / math.sqrt(6))):
        first, second = wrapped(width * (2 * torch.rand(2, 20_000, generator=generator) - 1))
        assert pair_rotation(first, second).item() == pytest.approx(expected, rel=0.02)


def test_the_mirrored_share_counts_views_of_the_other_orientation():
    views = torch.cat([outline(turned([40.0])), outline(turned([-100.0])) * torch.tensor([-1.0, 1.0])])
    scores = pose_scores(views, turned([10.0, 20.0]), ONE_CLASS.expand(2, 1), (28, 28))
    assert scores["mirrored_share"].item() == 0.5


def test_the_host_never_waits_for_the_device():
    """Tensors without values raise an error where the host would read them."""
    line, pose = torch.empty(5, 32, 2, device="meta"), torch.empty(5, 3, 3, device="meta")
    residual = residual_pose(line, pose, (28, 28))
    assert [part.shape for part in residual] == [(5,), (5,), (5, 2), (5,)]
    members = torch.empty(5, 2, dtype=torch.bool, device="meta")
    assert all(value.shape == () for value in pose_scores(line, pose, members, (28, 28)).values())
    assert pair_rotation(residual.rotation, residual.rotation).shape == ()
