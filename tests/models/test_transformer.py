import kornia
import pytest
import torch
from torch.autograd import gradcheck

from stn_experiments import geometry
from stn_experiments.errors import UserError
from stn_experiments.models.grids import FAMILIES
from stn_experiments.models.localisation import FEATURES, Localisation, expected_positions
from stn_experiments.models.sampler import Sampler
from stn_experiments.models.spatial_transformer import spatial_transformer

KINDS = list(FEATURES)
SIZES = [(28, 28), (60, 60), (30, 45)]


def transformer(shape=(1, 28, 45), output_size=(20, 34), family="affine", **settings):
    torch.manual_seed(0)
    return spatial_transformer(shape, "keypoints", family, output_size, **settings)


def thetas(family, count, generator, dtype=torch.float):
    identity = torch.tensor(FAMILIES[family].identity, dtype=dtype)
    return identity + 0.2 * torch.randn(count, len(identity), generator=generator, dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float, 1e-4), (torch.double, 1e-10)])
@pytest.mark.parametrize("output_size", [(28, 28), (20, 34)])
def test_the_affine_grid_agrees_with_kornia(generator, dtype, tolerance, output_size):
    theta = thetas("affine", 5, generator, dtype)
    grids = FAMILIES["affine"](output_size).to(dtype)
    centres = geometry.pixel_centres(*output_size).to(dtype)
    grids.target.copy_(centres) if dtype == torch.float else setattr(
        grids, "target", exact_centres(output_size)
    )
    bottom = torch.tensor([0.0, 0, 1], dtype=dtype).expand(5, 1, 3)
    points = exact_centres(output_size).to(dtype).expand(5, -1, -1)
    expected = kornia.geometry.transform_points(torch.cat([theta.view(-1, 2, 3), bottom], 1), points)
    assert (grids(theta) - expected.view(5, *output_size, 2)).abs().max() < tolerance


def exact_centres(size):
    height, width = size
    x = torch.tensor([(2 * column + 1) / width - 1 for column in range(width)], dtype=torch.double)
    y = torch.tensor([(2 * row + 1) / height - 1 for row in range(height)], dtype=torch.double)
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_identity_reads_every_pixel_where_it_is(family, generator):
    source = torch.rand(2, 3, 20, 34, generator=generator)
    grids = FAMILIES[family]((20, 34))
    theta = torch.tensor(grids.identity, dtype=torch.float).expand(2, -1)
    torch.testing.assert_close(Sampler()(source, grids(theta)), source, atol=1e-5, rtol=0)


def test_a_known_translation_moves_the_image(generator):
    """On 20×40, tx = 0.1 is 2 pixels and ty = 0.1 is 1; theta says where V reads: ink moves the other way."""
    source = torch.rand(1, 1, 20, 40, generator=generator)
    theta = torch.tensor([[1, 0, 0.1, 0, 1, 0.1]])
    output = Sampler()(source, FAMILIES["affine"]((20, 40))(theta))
    torch.testing.assert_close(output[..., :-1, :-2], source[..., 1:, 2:], atol=1e-5, rtol=0)
    assert output[..., -1, :].abs().max() < 1e-5  # what is outside is background


def test_there_and_back_again():
    row = torch.linspace(0, 1, 40).expand(1, 1, 30, 40)
    source = torch.cat([row, row.flip(-1) * torch.linspace(0, 1, 30)[:, None]], 1)
    there = torch.tensor([[1.1, 0.3, 0.05, -0.2, 0.9, 0.1]])
    matrix = torch.cat([there.view(2, 3), torch.tensor([[0.0, 0, 1]])])
    back = matrix.inverse()[:2].reshape(1, 6)
    grids, sampler = FAMILIES["affine"]((30, 40)), Sampler("border")
    twice = sampler(sampler(source, grids(there)), grids(back))
    inner = (..., slice(10, 20), slice(14, 26))
    torch.testing.assert_close(twice[inner], source[inner], atol=2e-3, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_grid_and_sampler(family, generator):
    theta = (thetas(family, 2, generator, torch.double) * 0.7).requires_grad_()
    source = torch.rand(2, 2, 5, 7, generator=generator, dtype=torch.double, requires_grad=True)
    grids = FAMILIES[family]((4, 3)).double()
    assert gradcheck(lambda u, t: Sampler()(u, grids(t)), (source, theta))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_outline_is_the_edge_of_the_grid(family, generator):
    theta = thetas(family, 3, generator)
    fine = FAMILIES[family]((200, 300))
    grid, outline = fine(theta), fine.outline(theta)
    corners = grid[:, [0, 0, -1, -1], [0, -1, -1, 0]]
    assert (outline[:, :: outline.shape[1] // 4] - corners).abs().max() < 0.03


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_padding_is_what_is_read_outside(padding):
    source = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    outside = torch.tensor([[[[-4 / 3, 0.0]]]])  # one pixel left of the first
    expected = {"zeros": 0.0, "border": 1.0, "reflection": 1.0}[padding]
    assert Sampler(padding)(source, outside).item() == pytest.approx(expected, abs=1e-5)
    assert transformer(padding=padding).sampler.padding == padding


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_starts_as_the_exact_identity(family, kind, size, generator):
    model = transformer((2, *size), size, family, localisation=kind)
    source = torch.rand(4, 2, *size, generator=generator)
    view = model(source)
    assert view.theta.equal(torch.tensor(FAMILIES[family].identity, dtype=torch.float).expand(4, -1))
    torch.testing.assert_close(view.output, source, atol=1e-5, rtol=0)


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
    assert model(source).theta.std(0).max() > 0


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
    assert view.source is source
    assert view.grid.shape == (3, 20, 34, 2)
    assert view.output.shape == (3, 1, 20, 34)
    expected = torch.nn.functional.grid_sample(source, view.grid, align_corners=False)
    torch.testing.assert_close(view.output, expected)
    torch.testing.assert_close(view.outline, model.grid_generator.outline(view.theta))


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
    assert plain.grid.shape == (1, 20, 28, 2)
    torch.testing.assert_close(plain.output, source[..., 1::3, 1::3], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("canvas", "oversample"), [(28, 1), (20, 1), (42, 2), (60, 2), (100, 4)])
def test_oversampling_is_what_the_identity_needs(canvas, oversample):
    model = transformer((1, canvas, canvas), (28, 28))
    assert model.sampler.oversample == oversample
    assert model.output_size == (28, 28)
    assert model(torch.rand(1, 1, canvas, canvas)).output.shape == (1, 1, 28, 28)


def test_auto_is_the_localisation_network_that_fits(generator):
    def kind(**settings):
        return [type(layer).__name__ for layer in spatial_transformer(**settings).localisation.modules()]

    common = {"shape": (1, 28, 28), "family": "affine", "output_size": 28}
    assert "PositionsAndMeans" in kind(fitting="keypoints", **common)
    assert "Conv2d" not in kind(fitting="fully_connected", **common)
    assert "Conv2d" not in kind(fitting="keypoints", localisation="fully_connected", **common)
    assert "MaxPool2d" in (layers := kind(fitting="keypoints", localisation="convolutional", **common))
    assert "PositionsAndMeans" not in layers


def test_an_output_that_only_repeats_pixels_is_refused():
    with pytest.raises(UserError, match="output_size must be at most 4 times the input's 28×28, got 28×113"):
        transformer((1, 28, 28), (28, 113))
