"""Grid generators against kornia, scipy and arithmetic, on images that are not square."""

import contextlib
from functools import partial

import kornia
import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch.autograd import gradcheck

from stn_experiments.common import geometry
from stn_experiments.models.grids import (
    HORIZON,
    Affine,
    GridGenerator,
    Projective,
    ScaleTranslation,
    Similarity,
    ThinPlateSpline,
    Translation,
)
from stn_experiments.models.sampler import Sampler
from stn_experiments.models.spatial_transformer import SpatialTransformer

PARTS = [  # of a similarity, each but all and none of them
    {"rotation": bool(n & 1), "scale": bool(n & 2), "translation": bool(n & 4)} for n in range(1, 7)
]
MATRICES = [Translation, ScaleTranslation, Similarity, Affine, Projective]
FAMILIES = [*MATRICES, ThinPlateSpline, partial(Similarity, scale=False, translation=False)]
PRECISIONS = [(torch.float, 1e-4), (torch.double, 1e-10)]


def thetas(family, count, generator, spread=0.15):
    identity = torch.tensor(family.identity, dtype=torch.get_default_dtype())
    return identity + spread * torch.randn(count, len(identity), generator=generator)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def by_hand(family, theta):
    """The matrix of a family as its docstring states it, entry by entry."""
    t = theta.tolist()
    rows = {
        Translation: lambda: [[1, 0, t[0]], [0, 1, t[1]], [0, 0, 1]],
        ScaleTranslation: lambda: [[t[0], 0, t[1]], [0, t[0], t[2]], [0, 0, 1]],
        Similarity: lambda: [[t[0], t[1], t[2]], [-t[1], t[0], t[3]], [0, 0, 1]],
        Affine: lambda: [t[:3], t[3:], [0, 0, 1]],
        Projective: lambda: [t[:3], t[3:6], [*t[6:], 1]],
    }[family]()
    return torch.tensor(rows, dtype=theta.dtype)


@pytest.mark.parametrize("family", MATRICES)
def test_matrix_grids_agree_with_kornia(generator, family):
    for dtype, tolerance in PRECISIONS:
        with default_dtype(dtype):
            theta = thetas(family(), 5, generator, 0.1)
            grid = GridGenerator(family(), (20, 34))(theta)
            matrices = torch.stack([by_hand(family, one) for one in theta])
            points = geometry.pixel_centres(20, 34).expand(5, -1, -1)
        assert grid.dtype == dtype
        expected = kornia.geometry.transform_points(matrices, points)
        torch.testing.assert_close(grid, expected.view(5, 20, 34, 2), atol=tolerance, rtol=0)


@pytest.mark.parametrize("control_points", [3, 4, 6])
def test_spline_grids_agree_with_scipy(generator, control_points):
    control = np.stack(np.meshgrid(*[np.linspace(-1, 1, control_points)] * 2), -1).reshape(-1, 2)
    for dtype, tolerance in PRECISIONS:
        with default_dtype(dtype):
            family = ThinPlateSpline(control_points)
            theta = thetas(family, 3, generator)
            grid = GridGenerator(family, (20, 34))(theta)
            points = geometry.pixel_centres(20, 34).double().numpy()
        for ours, moved in zip(grid, theta, strict=True):
            targets = moved.view(-1, 2).double().numpy()
            expected = RBFInterpolator(control, targets, kernel="thin_plate_spline", degree=1)(points)
            assert np.abs(ours.reshape(-1, 2).double().numpy() - expected).max() < tolerance


def test_a_translation_window_crops_exact_pixels(generator):
    """Also for a composition of two translations."""
    images = torch.rand(2, 1, 60, 60, generator=generator)
    family = Translation(window=28 / 60)
    grids = GridGenerator(family, (28, 28))
    right, down = torch.tensor([[5.0, 0]] * 2), torch.tensor([[0, 7.0]] * 2)  # in pixels of V, and of U too
    first, second = right * 2 / 60, down * 2 / 28
    for theta, (x, y) in [(first, (5, 0)), (family.compose(first, second), (5, 7))]:
        output = Sampler()(images, grids(theta))
        torch.testing.assert_close(output, images[:, :, 16 + y : 44 + y, 16 + x : 44 + x], atol=1e-4, rtol=0)


def test_a_similarity_without_some_parts_agrees_with_arithmetic(generator):
    points = geometry.pixel_centres(20, 34)
    for parts in PARTS:
        family = Similarity(**parts)
        theta = thetas(family, 5, generator)
        for one, found in zip(theta.numpy(), family.transform(theta, points).numpy(), strict=True):
            values = list(one)
            a, s = (values.pop(0) if parts["rotation"] or parts["scale"] else 1), 1
            b = values.pop(0) if parts["rotation"] else 0
            if parts["rotation"]:
                a, b, s = np.cos(np.arctan2(b, a)), np.sin(np.arctan2(b, a)), np.hypot(a, b)
            s = s if parts["scale"] else 1
            shift = values if parts["translation"] else [0, 0]
            x, y = points.numpy().T
            expected = np.stack([s * (a * x + b * y) + shift[0], s * (a * y - b * x) + shift[1]], 1)
            assert np.abs(found - expected).max() < 1e-6
            assert len(values) == (2 if parts["translation"] else 0)


def test_a_similarity_rotates_and_scales_in_the_pixels_of_a_map_that_is_not_square(generator):
    height, width = 20, 34
    family = Similarity().on((height, width))
    theta = thetas(family, 5, generator)
    points = geometry.pixel_centres(height, width)
    half = np.array([width / 2, height / 2])
    found = family.transform(theta, points).numpy() * half
    x, y = (points.numpy() * half).T
    for (a, b, right, down), places in zip(theta.numpy(), found, strict=True):
        turned = (x - 1j * y) * (a + 1j * b)  # the screen's y points down: counter-clockwise by a positive b
        expected = np.stack([turned.real, -turned.imag], 1) + np.array([right, down]) * half
        assert np.abs(places - expected).max() < 1e-4


def test_a_rotation_by_45_degrees_of_a_wide_image_has_right_angles():
    transformer = SpatialTransformer((1, 28, 56), family="rotation")
    theta = torch.tensor([[1.0, 1.0]])
    pixels = transformer.warp(torch.rand(1, 1, 28, 56), theta).matrix_pixels((28, 56))[0, :, :2]
    torch.testing.assert_close(pixels.T @ pixels, torch.eye(2))


@pytest.mark.parametrize(
    "family",
    [*MATRICES, *(partial(Similarity, **parts) for parts in PARTS), lambda: Similarity().on((20, 34))],
)
def test_theta_and_matrix_are_inverse_and_transforms_compose(family, generator):
    family = family()
    one, other = thetas(family, 4, generator), thetas(family, 4, generator)
    matrix = family.matrix(one)
    torch.testing.assert_close(family.matrix(family.theta(matrix)), matrix)
    points = geometry.boundary_points(3) * 0.5
    twice = family.transform(one, family.transform(other, points))
    torch.testing.assert_close(
        family.transform(family.compose(one, other), points), twice, atol=1e-5, rtol=1e-4
    )


def test_a_horizon_inside_the_image_gives_a_finite_grid():
    theta = torch.tensor([[1.0, 0, 0, 0, 1, 0, 3, 0], [1, 0, 0, 0, 1, 0, -1, 0]], requires_grad=True)
    grid = GridGenerator(Projective(), (7, 9))(theta)
    points = geometry.pixel_centres(7, 9).view(7, 9, 2)
    depth = torch.stack([3 * points[..., :1] + 1, -points[..., :1] + 1]).clamp(min=HORIZON)
    torch.testing.assert_close(grid, points / depth)
    grid.sum().backward()
    assert theta.grad.isfinite().all()


def test_a_step_beyond_the_horizon_composes_to_a_finite_theta():
    far = torch.tensor([[1.0, 0, 1, 0, 1, 0, -1, 0]], requires_grad=True)
    theta = Projective().compose(far, far)
    theta.sum().backward()
    assert theta.isfinite().all()
    assert far.grad.isfinite().all()


def test_a_known_translation_moves_the_image(generator):
    """On 20×40, tx = 0.1 is 2 pixels and ty = 0.1 is 1. Theta maps V to U, so ink moves the other way."""
    source = torch.rand(1, 1, 20, 40, generator=generator)
    theta = torch.tensor([[1, 0, 0.1, 0, 1, 0.1]])
    output = Sampler()(source, GridGenerator(Affine(), (20, 40))(theta))
    torch.testing.assert_close(output[..., :-1, :-2], source[..., 1:, 2:], atol=1e-5, rtol=0)
    assert output[..., -1, :].abs().max() < 1e-5  # what is outside is background


def test_a_transform_and_its_inverse_restore_the_image():
    row = torch.linspace(0, 1, 40).expand(1, 1, 30, 40)
    source = torch.cat([row, row.flip(-1) * torch.linspace(0, 1, 30)[:, None]], 1)
    there = torch.tensor([[1.1, 0.3, 0.05, -0.2, 0.9, 0.1]])
    matrix = torch.cat([there.view(2, 3), torch.tensor([[0.0, 0, 1]])])
    back = matrix.inverse()[:2].reshape(1, 6)
    grids, sampler = GridGenerator(Affine(), (30, 40)), Sampler(padding="border")
    twice = sampler(sampler(source, grids(there)), grids(back))
    inner = (..., slice(10, 20), slice(14, 26))
    torch.testing.assert_close(twice[inner], source[inner], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("family", "interpolation"), [(family, "bilinear") for family in FAMILIES] + [(Affine, "bicubic")]
)
def test_gradients_of_grid_and_sampler(family, interpolation, generator):
    with default_dtype(torch.double):
        theta = (thetas(family(), 2, generator) * 0.8).requires_grad_()
        source = torch.rand(2, 2, 5, 7, generator=generator, requires_grad=True)
        grids, sampler = GridGenerator(family(), (4, 3)), Sampler(interpolation)
        assert gradcheck(lambda u, t: sampler(u, grids(t)), (source, theta))


@pytest.mark.parametrize("family", [Affine, Projective, ThinPlateSpline])
def test_the_outline_follows_the_edge_of_the_grid(family, generator):
    fine = GridGenerator(family(), (200, 320))
    theta = thetas(fine.family, 3, generator)
    grid, outline = fine(theta), fine.outline(theta)
    per_side = outline.shape[1] // 4
    assert per_side == (8 if family is ThinPlateSpline else 1)
    top, right, bottom, left = outline.split(per_side, 1)
    column, row = 320 // per_side, 200 // per_side
    for side, edge in [
        (top, grid[:, 0, ::column]),
        (right, grid[:, ::row, -1]),
        (bottom, grid[:, -1].flip(1)[:, ::column]),
        (left, grid[:, :, 0].flip(1)[:, ::row]),
    ]:
        assert (side - edge).abs().max() < 0.04
