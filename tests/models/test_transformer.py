"""The transformer and its parts against independent oracles, on images that are not square."""

import contextlib

import kornia
import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch.autograd import gradcheck

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.models import SpatialTransformer
from stn_experiments.models.classifier import TransformerConfig
from stn_experiments.models.grids import (
    Affine,
    Attention,
    GridGenerator,
    Projective,
    Similarity,
    ThinPlateSpline,
    Translation,
)
from stn_experiments.models.localisation import FEATURES, Localisation, expected_positions
from stn_experiments.models.sampler import Sampler

KINDS = list(FEATURES)
SIZES = [(28, 28), (60, 60), (30, 45)]
MATRICES = [Translation, Attention, Similarity, Affine, Projective]
FAMILIES = [*MATRICES, ThinPlateSpline]


def transformer(shape=(1, 28, 45), output_size=(20, 34), **settings):
    torch.manual_seed(0)
    return SpatialTransformer(shape, output_size, **settings)


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
    """The matrix that the docstring of a family promises, entry by entry."""
    t = theta.tolist()
    rows = {
        Translation: lambda: [[1, 0, t[0]], [0, 1, t[1]], [0, 0, 1]],
        Attention: lambda: [[t[0], 0, t[1]], [0, t[0], t[2]], [0, 0, 1]],
        Similarity: lambda: [[t[0], t[1], t[2]], [-t[1], t[0], t[3]], [0, 0, 1]],
        Affine: lambda: [t[:3], t[3:], [0, 0, 1]],
        Projective: lambda: [t[:3], t[3:6], [*t[6:], 1]],
    }[family]()
    return torch.tensor(rows, dtype=theta.dtype)


PRECISIONS = [(torch.float, 1e-4), (torch.double, 1e-10)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("size", [(28, 28), (20, 34)])
@pytest.mark.parametrize("family", MATRICES)
def test_the_grids_of_matrices_agree_with_kornia(generator, dtype, tolerance, size, family):
    with default_dtype(dtype):
        theta = thetas(family, 5, generator, 0.1)
        grid = GridGenerator(family(), size)(theta)
        matrices = torch.stack([by_hand(family, one) for one in theta])
        expected = kornia.geometry.transform_points(matrices, geometry.pixel_centres(*size).expand(5, -1, -1))
    assert grid.dtype == dtype
    assert (grid - expected.view(5, *size, 2)).abs().max() < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("control_points", [3, 4, 6])
def test_the_spline_agrees_with_scipy(generator, dtype, tolerance, control_points):
    with default_dtype(dtype):
        family = ThinPlateSpline(control_points)
        theta = thetas(family, 3, generator)
        grid = GridGenerator(family, (20, 34))(theta)
        points = geometry.pixel_centres(20, 34).double().numpy()
    control = np.stack(np.meshgrid(*[np.linspace(-1, 1, control_points)] * 2), -1).reshape(-1, 2)
    for ours, moved in zip(grid, theta, strict=True):
        spline = RBFInterpolator(
            control, moved.view(-1, 2).double().numpy(), kernel="thin_plate_spline", degree=1
        )
        assert np.abs(ours.reshape(-1, 2).double().numpy() - spline(points)).max() < tolerance


def test_a_window_is_a_crop_pixel_for_pixel_and_moves(generator):
    """Also when it takes two steps to its place."""
    images = torch.rand(2, 1, 60, 60, generator=generator)
    family = Translation(window=28 / 60)
    grids = GridGenerator(family, (28, 28))
    right, down = torch.tensor([[5.0, 0]] * 2), torch.tensor([[0, 7.0]] * 2)  # in pixels of V, and of U too
    first, second = right * 2 / 60, down * 2 / 28
    for theta, (x, y) in [(first, (5, 0)), (family.compose(first, second), (5, 7))]:
        output = Sampler()(images, grids(theta))
        torch.testing.assert_close(output, images[:, :, 16 + y : 44 + y, 16 + x : 44 + x], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", MATRICES)
def test_theta_and_matrix_are_one_and_compose(family, generator):
    family = family()
    one, other = thetas(family, 4, generator), thetas(family, 4, generator)
    torch.testing.assert_close(family.theta(family.matrix(one)), one)
    points = geometry.boundary_points(3) * 0.5
    twice = family.transform(one, family.transform(other, points))
    torch.testing.assert_close(
        family.transform(family.compose(one, other), points), twice, atol=1e-5, rtol=1e-4
    )


def test_a_horizon_in_the_image_leaves_the_grid_finite():
    theta = torch.tensor([[1.0, 0, 0, 0, 1, 0, 3, 0], [1, 0, 0, 0, 1, 0, -1, 0]], requires_grad=True)
    grid = GridGenerator(Projective(), (7, 9))(theta)
    assert grid.abs().max() < 11
    grid.sum().backward()
    assert theta.grad.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_identity_reads_every_pixel_where_it_is(family, generator):
    source = torch.rand(2, 3, 20, 34, generator=generator)
    grids = GridGenerator(family(), (20, 34))
    theta = torch.tensor(grids.family.identity).expand(2, -1)
    torch.testing.assert_close(Sampler()(source, grids(theta)), source, atol=1e-5, rtol=0)


def test_a_known_translation_moves_the_image(generator):
    """On 20×40, tx = 0.1 is 2 pixels and ty = 0.1 is 1; theta says where V reads: ink moves the other way."""
    source = torch.rand(1, 1, 20, 40, generator=generator)
    theta = torch.tensor([[1, 0, 0.1, 0, 1, 0.1]])
    output = Sampler()(source, GridGenerator(Affine(), (20, 40))(theta))
    torch.testing.assert_close(output[..., :-1, :-2], source[..., 1:, 2:], atol=1e-5, rtol=0)
    assert output[..., -1, :].abs().max() < 1e-5  # what is outside is background


def test_there_and_back_again():
    row = torch.linspace(0, 1, 40).expand(1, 1, 30, 40)
    source = torch.cat([row, row.flip(-1) * torch.linspace(0, 1, 30)[:, None]], 1)
    there = torch.tensor([[1.1, 0.3, 0.05, -0.2, 0.9, 0.1]])
    matrix = torch.cat([there.view(2, 3), torch.tensor([[0.0, 0, 1]])])
    back = matrix.inverse()[:2].reshape(1, 6)
    grids, sampler = GridGenerator(Affine(), (30, 40)), Sampler(padding="border")
    twice = sampler(sampler(source, grids(there)), grids(back))
    inner = (..., slice(10, 20), slice(14, 26))
    torch.testing.assert_close(twice[inner], source[inner], atol=2e-3, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_grid_and_sampler(family, interpolation, generator):
    with default_dtype(torch.double):
        theta = (thetas(family(), 2, generator) * 0.8).requires_grad_()
        source = torch.rand(2, 2, 5, 7, generator=generator, requires_grad=True)
        grids, sampler = GridGenerator(family(), (4, 3)), Sampler(interpolation)
        assert gradcheck(lambda u, t: sampler(u, grids(t)), (source, theta))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_outline_is_the_edge_of_the_grid(family, generator):
    fine = GridGenerator(family(), (200, 300))
    theta = thetas(fine.family, 3, generator)
    grid, outline = fine(theta), fine.outline(theta)
    corners = grid[:, [0, 0, -1, -1], [0, -1, -1, 0]]
    assert (outline[:, :: outline.shape[1] // 4] - corners).abs().max() < 0.04


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_padding_is_what_is_read_outside(padding):
    source = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    outside = torch.tensor([[[[-4 / 3, 0.0]]]])  # one pixel left of the first
    expected = {"zeros": 0.0, "border": 1.0, "reflection": 1.0}[padding]
    assert Sampler(padding=padding)(source, outside).item() == pytest.approx(expected, abs=1e-5)
    assert transformer(padding=padding).sampler.padding == padding


def test_nearest_and_bicubic_are_what_they_say():
    source = torch.tensor([[[[0.0, 0.0, 1.0, 0.0, 0.0]]]])
    third = torch.tensor([[[[0.1, 0.0]]]])  # a quarter of a pixel right of the third
    values = {name: Sampler(name)(source, third).item() for name in ("nearest", "bilinear", "bicubic")}
    assert values["nearest"] == 1
    assert values["bilinear"] == pytest.approx(0.75)
    keys = 1.25 * 0.25**3 - 2.25 * 0.25**2 + 1  # the cubic kernel with a = -0.75
    assert values["bicubic"] == pytest.approx(keys, abs=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_starts_as_the_exact_identity(family, kind, size, generator):
    model = transformer((2, *size), size, family=family(), localisation=kind)
    source = torch.rand(4, 2, *size, generator=generator)
    view = model(source)
    assert view.transform.theta.equal(torch.tensor(model.family.identity).expand(4, -1))
    torch.testing.assert_close(view.output, source, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", MATRICES)
def test_each_step_refines_the_last_and_reads_the_original(family, generator):
    model = transformer(family=family(), steps=3).eval()
    torch.nn.init.normal_(model.localisation.theta.weight, std=0.05, generator=generator)
    source = torch.rand(3, 1, 28, 45, generator=generator)
    theta = model.localisation(source)
    for _ in range(2):
        seen = Sampler()(source, GridGenerator(family(), (28, 45))(theta))
        theta = model.family.compose(theta, model.localisation(seen))
    view = model(source)
    torch.testing.assert_close(view.transform.theta, theta)
    torch.testing.assert_close(view.output, Sampler()(source, GridGenerator(family(), (20, 34))(theta)))


def test_splines_do_not_compose():
    with pytest.raises(
        UserError, match="steps must be 1 for ThinPlateSpline, whose transforms do not compose"
    ):
        transformer(family=ThinPlateSpline(), steps=2)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_with_a_gradient_and_moves_by_its_input(kind, generator):
    model = transformer((1, 28, 28), (28, 28), localisation=kind)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    source = torch.rand(8, 1, 28, 28, generator=generator)
    for step in range(2):
        optimizer.zero_grad()
        (model(source).output * source.flip(0)).mean().backward()
        gradients = {
            name: parameter.grad.abs().max() for name, parameter in model.localisation.named_parameters()
        }
        assert gradients["theta.weight"] > 1e-6
        assert gradients["theta.bias"] > 1e-6
        if step == 1:  # once the last layer has moved, those before it learn as well
            assert all(gradient > 0 for gradient in gradients.values())
        optimizer.step()
    assert model(source).transform.theta.std(0).max() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (29, 43), (100, 60)])
def test_localisation_reads_any_size(kind, size):
    features = FEATURES[kind]((3, *size), 16)
    theta = Localisation(features, [1.0, 0, 0, 0, 1, 0])(torch.rand(2, 3, *size))
    assert theta.shape == (2, 6)


def test_the_view_says_what_was_done(generator):
    source = torch.rand(3, 1, 28, 45, generator=generator)
    model = transformer()
    torch.nn.init.normal_(model.localisation.theta.weight, std=0.1, generator=generator)
    view = model(source)
    assert view.transform.grid.shape == (3, 20, 34, 2)
    assert view.output.shape == (3, 1, 20, 34)
    expected = torch.nn.functional.grid_sample(source, view.transform.grid, align_corners=False)
    torch.testing.assert_close(view.output, expected)
    torch.testing.assert_close(view.outline, model.grid_generator.outline(view.transform.theta))


def test_expected_positions_follow_what_is_seen():
    heat = torch.zeros(1, 2, 5, 9)
    heat[0, 0, 1, 7] = 50
    right_of_middle_above = [(2 * 7 + 1) / 9 - 1, (2 * 1 + 1) / 5 - 1]
    expected = torch.tensor([[right_of_middle_above, [0.0, 0.0]]])
    torch.testing.assert_close(expected_positions(heat), expected)


def test_antialiasing_averages_what_a_small_output_would_skip(generator):
    source = torch.rand(1, 1, 60, 84, generator=generator)
    model = transformer((1, 60, 84), (20, 28))
    assert model.sampler.oversample == 3
    expected = torch.nn.functional.avg_pool2d(source, 3)
    torch.testing.assert_close(model(source).output, expected, atol=1e-5, rtol=0)
    plain = transformer((1, 60, 84), (20, 28), antialias=False)(source)
    assert plain.transform.grid.shape == (1, 20, 28, 2)
    torch.testing.assert_close(plain.output, source[..., 1::3, 1::3], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("canvas", "oversample"), [(28, 1), (20, 1), (42, 2), (60, 2), (100, 4)])
def test_oversampling_is_what_the_identity_needs(canvas, oversample):
    model = transformer((1, canvas, canvas), (28, 28))
    assert model.sampler.oversample == oversample
    assert model.output_size == (28, 28)
    assert model(torch.rand(1, 1, canvas, canvas)).output.shape == (1, 1, 28, 28)


def test_auto_is_the_localisation_network_that_fits():
    def layers(fitting, **settings):
        (one,) = TransformerConfig(Affine(), 28, **settings).at_input((1, 28, 28), fitting)
        return [type(layer).__name__ for layer in one.localisation.modules()]

    assert "PositionsAndMeans" in layers("keypoints")
    assert "Conv2d" not in layers("fully_connected")
    assert "Conv2d" not in layers("keypoints", localisation="fully_connected")
    assert "PositionsAndMeans" not in layers("keypoints", localisation="convolutional")


def test_it_works_in_anybodys_network(generator):
    """As the README shows it: inside a network, on many channels, compiled or exported."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), transformer((8, 30, 40), (15, 20)))
    images = torch.rand(2, 3, 30, 40, generator=generator)
    view = network.eval()(images)
    assert view.output.shape == (2, 8, 15, 20)
    exported = torch.export.export(network, (images,)).module()
    torch.testing.assert_close(exported(images).output, view.output)


@pytest.mark.parametrize("settings", [{}, {"family": ThinPlateSpline()}, {"steps": 2}], ids=str)
def test_it_compiles_into_one_graph_with_the_same_output_and_gradient(generator, settings):
    model = transformer((3, 20, 30), (10, 15), **settings).eval()
    torch.nn.init.normal_(model.localisation.theta.weight, std=0.1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")  # which needs no C++ compiler
    images = torch.rand(4, 3, 20, 30, generator=generator)
    seen = []
    for run in (model, compiled):
        source = images.clone().requires_grad_()
        view = run(source)
        view.output.square().sum().backward()
        seen.append((view.output, source.grad))
    torch.testing.assert_close(seen[0], seen[1])


def test_an_output_that_only_repeats_pixels_is_refused():
    with pytest.raises(UserError, match="output_size must be at most 4 times the input's 28×28, got 28×113"):
        transformer((1, 28, 28), (28, 113))
