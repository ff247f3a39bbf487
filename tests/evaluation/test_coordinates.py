"""How views of inner maps and gates lie on the network's input."""

import pytest
import torch
import torch.nn.functional as F

from stn_experiments.common import geometry
from stn_experiments.evaluation.coordinates import combine_gates, to_input_frame
from stn_experiments.evaluation.regions import densest_region
from stn_experiments.models.backbones import CNN, Compact, Placement, ResNet18
from stn_experiments.models.classifier import Classifier, TransformerConfig
from stn_experiments.models.coattention import CoAttentionConfig
from stn_experiments.models.gates import CBAMConfig, Gated, MaskConfig, SEConfig
from stn_experiments.models.glimpses import GlimpseConfig
from stn_experiments.models.grids import Affine, ThinPlateSpline

FULL = Placement()


def build(gates=None, backbone=Compact, shape=(1, 28, 28), stn=None, head=None):
    torch.manual_seed(0)
    at_input = stn.build_at_input(shape, "keypoints") if stn else []
    size = at_input[0].output_size if at_input else shape[1:]
    network = backbone((shape[0] * max(len(at_input), 1), *size), 10)
    transformers = {"input": at_input, **(stn.build_inside(network) if stn else {})}
    head = head and head.build(network.output_shape, 10, 9 * isinstance(head, CoAttentionConfig))
    return Classifier(network, transformers, gates.build(network) if gates else {}, head).eval()


def views_of(model, images, question=None):
    return to_input_frame(model(images, question), model).views


def set_theta(transformer, theta):
    with torch.no_grad():
        transformer.localisation.theta.weight.zero_()
        transformer.localisation.theta.bias.copy_(torch.tensor(theta))


def light(model, name, square):
    """Make the gate after a stage pass a square (top, bottom, left, right) of the cells of its map."""
    top, bottom, left, right = square

    class Lit(torch.nn.Module):
        def forward(self, features):
            mask = torch.full((len(features), *features.shape[2:]), 0.1)
            mask[:, top:bottom, left:right] = 1.0
            return Gated(features * mask[:, None], None, mask)

    model.gates[name] = Lit()


def corners_of(square, height, width):
    """The corners (1, 4, 2) of a square of a map's cells, as normalised points of the map."""
    top, bottom, left, right = square
    x, y = torch.tensor([left, right]) * 2 / width - 1, torch.tensor([top, bottom]) * 2 / height - 1
    return torch.stack([x[[0, 1, 1, 0]], y[[0, 0, 1, 1]]], 1)[None]


def linear(module):
    """Replace the maxima of a module by means, and its ReLUs by the identity."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.MaxPool2d):
            setattr(module, name, torch.nn.AvgPool2d(child.kernel_size, child.stride))
        elif isinstance(child, torch.nn.ReLU):
            setattr(module, name, torch.nn.Identity())
        else:
            linear(child)


def source_of(values, images, axis):
    """The first and the last (exclusive) row or column of an image that values depend on."""
    (gradient,) = torch.autograd.grad(values.sum(), images, retain_graph=True)
    used = (gradient[0, 0].abs().sum(axis) > 0).nonzero()
    return used.min().item(), used.max().item() + 1


# Gates


def test_channel_attention_has_no_location(generator):
    (view,) = views_of(build(SEConfig()), torch.rand(2, 1, 28, 28, generator=generator))
    assert (view.outline, view.heat, view.transform) == (None, None, None)
    assert view.gates.shape == (2, 32 + 32 + 64 + 64)
    assert view.output.shape == (2, 64, 4, 4)


def test_a_mask_is_multiplied_by_the_next_one_where_that_lies():
    """The second map covers the middle half of the first."""
    first, second = torch.rand(1, 8, 8) + 0.5, torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    empty = torch.zeros(1, 1, 1, 1)
    middle_half = Placement((0.5, 0.5))
    view = combine_gates([(Gated(empty, None, first), FULL), (Gated(empty, None, second), middle_half)])
    assert view.heat.places[0, 1, 0].tolist() == [1 / 8 - 1, 3 / 8 - 1]
    factor = (view.heat.weights / first)[0]
    torch.testing.assert_close(factor[:3, :3], torch.full((3, 3), 0.1))
    torch.testing.assert_close(factor[5:, 5:], torch.full((3, 3), 0.4))
    middle = F.interpolate(second[None], size=(4, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(factor[2:6, 2:6], middle[0, 0])
    torch.testing.assert_close(view.outline, densest_region(view.heat.weights))


def test_a_mask_after_channel_attention_lies_on_its_own_map():
    """The second map covers a part of the first, whose gate has no mask."""
    part = Placement((0.5, 0.25), (0.1, -0.2))
    maps, mask = torch.zeros(1, 1, 2, 2), torch.tensor([[[0.1, 0.1], [0.1, 0.9]]])
    view = combine_gates([(Gated(maps, torch.ones(1, 1)), FULL), (Gated(maps, None, mask), part)])
    torch.testing.assert_close(view.heat.places[0, 1, 1], torch.tensor([0.35, -0.075]))
    expected = torch.tensor([[0.1, -0.2], [0.6, -0.2], [0.6, 0.05], [0.1, 0.05]])
    torch.testing.assert_close(view.outline[0], expected)


@pytest.mark.parametrize(
    ("backbone", "name", "pixel", "shape", "square"),
    [
        (Compact, "stem", 2, (1, 28, 29), (2, 5, 3, 6)),
        (Compact, "layer1", 4, (1, 45, 62), (1, 3, 3, 6)),
        (Compact, "layer1", 4, (1, 42, 60), (2, 4, 3, 6)),
        (CNN, "conv1", 2, (1, 28, 36), (1, 3, 3, 6)),
        (CNN, "conv2", 4, (1, 42, 45), (1, 3, 3, 6)),
        (ResNet18, "layer2", 4, (1, 96, 101), (11, 13, 12, 15)),
    ],
)
def test_a_mask_is_centred_on_the_pixels_that_its_cells_depend_on(
    backbone, name, pixel, shape, square, generator
):
    """By the gradient, once a maximum over pixels is a mean and no activation is 0."""
    model = build(MaskConfig(at=name), backbone, shape)
    light(model, name, square)
    images = torch.rand(1, *shape, generator=generator).requires_grad_()
    (view,) = views_of(model, images)
    linear(model.backbone)
    top, bottom, left, right = square
    features = images
    for stage, layers in model.backbone.stages.named_children():
        features = layers(features)
        if stage == name:
            break
    for axis, cells in ((0, right - left), (1, bottom - top)):
        first, end = source_of(features[..., top:bottom, left:right], images, axis)
        low, high = (
            (point + 1) / 2 * shape[2 - axis] for point in view.outline.detach()[0, :, axis].aminmax()
        )
        assert low + high == pytest.approx(first + end, abs=1e-3)
        assert high - low == pytest.approx(cells * pixel, rel=1e-4)


@pytest.mark.parametrize("output_size", [None, (20, 30)])
def test_a_mask_after_a_transformer_lies_where_the_transformer_read(output_size, generator):
    model = build(MaskConfig(at="stem"), shape=(1, 40, 60), stn=TransformerConfig(Affine(), output_size))
    theta = [0.5, 0.2, 0.1, -0.3, 0.4, -0.2]
    set_theta(model.transformers["input"][0], theta)
    height, width = (side // 2 for side in output_size or (40, 60))
    square = (2, 6, 3, 11)
    light(model, "stem", square)
    first, view = views_of(model, torch.rand(2, 1, 40, 60, generator=generator))
    matrix = torch.tensor([[theta[:3], theta[3:], [0, 0, 1]]])
    # A cell of the stem lies on the first of its two pixels along each axis, half a pixel from their middle.
    corners = corners_of(square, height, width) - 0.5 / torch.tensor([width, height])
    expected = geometry.transform(matrix, corners)
    torch.testing.assert_close(view.outline, expected.expand(2, -1, -1))
    places = view.heat.places[:, 2:6, 3:11].flatten(1, 2).mean(1)
    torch.testing.assert_close(places, expected.mean(1).expand(2, -1))
    grid = F.avg_pool2d(first.transform.grid.movedim(-1, 1), first.transform.grid.shape[1] // (2 * height))
    torch.testing.assert_close(view.heat.places, grid.movedim(1, -1)[:, ::2, ::2], atol=1e-5, rtol=0)


def test_a_mask_after_a_spline_lies_where_the_spline_read(generator):
    model = build(MaskConfig(at="stem"), stn=TransformerConfig(ThinPlateSpline(4)))
    (transformer,) = model.transformers["input"]
    torch.nn.init.normal_(transformer.localisation.theta.weight, std=0.2, generator=generator)
    first, view = views_of(model, torch.rand(2, 1, 28, 28, generator=generator))
    torch.testing.assert_close(view.heat.places, first.transform.grid[:, ::2, ::2])


def test_gates_before_and_after_an_inner_transformer_are_two_views(generator):
    model = build(CBAMConfig(), shape=(1, 30, 46), stn=TransformerConfig(Affine(), at="layer2"))
    set_theta(model.transformers["layer2"][0], [0.5, 0.0, 0.2, 0.0, 0.5, -0.1])
    for name, side in (("stem", 5), ("layer1", 2), ("layer2", 1), ("layer3", 1)):
        light(model, name, (0, side, 0, side))
    before, view, after = views_of(model, torch.rand(2, 1, 30, 46, generator=generator))
    assert view.transform is not None
    assert before.heat.weights.shape[1:] == model.backbone.input_shapes["layer1"][1:]
    assert after.heat.weights.shape[1:] == model.backbone.input_shapes["layer3"][1:]
    # The stem has 15×23 cells of two pixels each; layer1 has 7×11, which cover 14×22 of those.
    # Both begin at the top left, the stem half a pixel before it.
    torch.testing.assert_close(before.heat.places[0, 0, 0], torch.tensor([1 / 46 - 1, 1 / 30 - 1]))
    x = (1 / 11 - 1) * 0.5 + 0.2
    y = (1 / 7 - 1) * 0.5 - 0.1
    expected = torch.tensor([x * 22 / 23 - 1 / 23 - 1 / 46, y * 14 / 15 - 1 / 15 - 1 / 30])
    torch.testing.assert_close(after.heat.places[0, 0, 0], expected)
    assert before.gates is None, "the gates of this test have no channel weights"


# Transformers


def test_transformers_side_by_side_have_their_own_outlines():
    model = build(SEConfig(), stn=TransformerConfig(Affine(), count=2))
    thetas = torch.tensor([[0.5, 0.0, 0.2, 0.0, 0.5, -0.1], [0.4, 0.0, -0.3, 0.0, 0.4, 0.0]])
    for transformer, theta in zip(model.transformers["input"], thetas.tolist(), strict=True):
        set_theta(transformer, theta)
    *views, _ = views_of(model, torch.rand(1, 1, 28, 28))
    for view, theta in zip(views, thetas, strict=True):
        torch.testing.assert_close(view.outline[0, 0], theta[[2, 5]] - theta[[0, 4]])


def test_an_inner_outline_goes_back_through_the_transformer_at_the_input():
    model = build(None, shape=(1, 62, 45), stn=TransformerConfig(Affine(), None, at=["input", "layer2"]))
    set_theta(model.transformers["input"][0], [0.5, 0, 0.2, 0, 0.5, -0.1])
    set_theta(model.transformers["layer2"][0], [0.5, 0, 0.1, 0, 0.5, 0])
    _, view = views_of(model, torch.rand(1, 1, 62, 45))
    # layer2 reads 15×11 cells of four pixels each, of which the first begin 0 and 1/2 pixel before the image.
    x, y = 0.5 * 44 / 45, 0.5 * 60 / 62
    right, down = 0.5 * (44 / 45 - 1 - 1 / 45), 0.5 * (60 / 62 - 1 - 1 / 62)
    matrix = torch.tensor([[[0.5 * x, 0, 0.1 * x + 0.2 + right], [0, 0.5 * y, down - 0.1], [0, 0, 1]]])
    torch.testing.assert_close(view.outline, geometry.transform(matrix, geometry.boundary_points(1)))


# Attention heads


def test_views_of_an_attention_head_go_back_through_stages_and_transformers():
    """Co-attention has heat, whose densest region becomes its outline; glimpses have outlines and marks."""
    images, question = torch.rand(2, 1, 60, 60), torch.tensor([[3, 4], [5, 0]])
    for head in (CoAttentionConfig(width=8), GlimpseConfig(glimpses=2, size=3, scales=1, width=8)):
        model = build(backbone=CNN, shape=(1, 60, 60), stn=TransformerConfig(Affine()), head=head)
        set_theta(model.transformers["input"][0], [0.5, 0.0, 0.2, 0.0, 0.5, -0.1])
        asked = question if isinstance(head, CoAttentionConfig) else None
        raw = model(images, asked).stages["head"].views[0]
        transformed, view = views_of(model, images, asked)[:2]
        assert transformed.transform is not None
        # conv1 reads 60 pixels and covers 52; conv2 reads 26 and covers 20.
        scale, shift = 0.5 * (52 / 60) * (40 / 52), torch.tensor([0.2, -0.1])
        outline = densest_region(raw.heat.weights) if raw.heat else raw.outline
        torch.testing.assert_close(view.outline, outline * scale + shift)
        if raw.heat:
            torch.testing.assert_close(view.heat.places, raw.heat.places * scale + shift)
            assert view.words.equal(raw.words)
