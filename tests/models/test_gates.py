"""Gates against timm's and by hand, and how their views lie on the input."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SqueezeExcite
from timm.layers.cbam import CbamModule

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.models.backbones import CNN, FCN, Bare, Compact, ResNet18
from stn_experiments.models.classifier import Classifier, TransformerConfig
from stn_experiments.models.gates import CBAM, SE, GateConfig, Gated, Mask, seen_through
from stn_experiments.models.grids import Affine, ThinPlateSpline
from stn_experiments.models.view import densest_region

KINDS = [SE(), CBAM(), Mask()]


def gated(kind, backbone=Compact, shape=(1, 28, 28), at=None, stn=None):
    """A classifier with gates, and with the transformers of a plan if there is one."""
    torch.manual_seed(0)
    at_input = stn.at_input(shape, "keypoints") if stn else []
    size = at_input[0].output_size if at_input else shape[1:]
    body = backbone((shape[0] * max(len(at_input), 1), *size), 10)
    transformers = {"input": at_input, **(stn.inside(body) if stn else {})}
    return Classifier(body, transformers, GateConfig(kind, at).behind(body)).eval()


def fill(module, generator):
    """Weights large enough that a gate is not about a half everywhere."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)


def copy_bottleneck(ours, theirs):
    """Linear layers as timm's convolutions of 1×1."""
    for mine, other in ((ours[0], theirs.fc1), (ours[2], theirs.fc2)):
        other.weight.data = mine.weight.data[:, :, None, None].clone()
        if mine.bias is not None:
            other.bias.data = mine.bias.data.clone()


def test_se_is_timms(generator):
    ours = SE(reduction=4).gate(24)
    fill(ours, generator)
    theirs = SqueezeExcite(24, rd_channels=6)
    copy_bottleneck(ours.excite, theirs)
    maps = torch.randn(3, 24, 9, 7, generator=generator)
    seen = ours(maps)
    torch.testing.assert_close(seen.output, theirs(maps), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.output, maps * seen.channels[:, :, None, None])
    assert seen.mask is None


@pytest.mark.parametrize("kernel", [3, 7])
def test_cbam_is_timms(generator, kernel):
    ours = CBAM(reduction=4, kernel=kernel).gate(24)
    fill(ours, generator)
    theirs = CbamModule(24, rd_channels=6, spatial_kernel_size=kernel).eval()
    copy_bottleneck(ours.excite, theirs.channel)
    theirs.spatial.conv.conv.weight.data = ours.places.weight.data.clone()
    theirs.spatial.conv.bn.eps = 0.0  # without which its batch normalisation is not quite nothing
    maps = torch.randn(3, 24, 9, 7, generator=generator)
    seen = ours(maps)
    torch.testing.assert_close(seen.output, theirs(maps), atol=1e-5, rtol=0)
    both = seen.channels[:, :, None, None] * seen.mask[:, None]
    torch.testing.assert_close(seen.output, maps * both)


def test_a_mask_by_hand():
    gate = Mask(kernel=3).gate(2)
    with torch.no_grad():
        gate.places.weight.zero_()
        gate.places.weight[0, 1, 1, 2] = 1.0  # the second channel of the place to the right
        gate.places.bias.fill_(-1.0)
    maps = torch.arange(2 * 2 * 3.0).view(1, 2, 2, 3)
    mask = torch.tensor([[[7.0, 8, 0], [10, 11, 0]]]).sub(1).sigmoid()
    seen = gate(maps)
    torch.testing.assert_close(seen.mask, mask)
    torch.testing.assert_close(seen.output, maps * mask[:, None])
    assert seen.channels is None


@pytest.mark.parametrize("kind", KINDS)
def test_gates_keep_the_memory_format_and_half_precision(kind, generator):
    gate = kind.gate(32).to(memory_format=torch.channels_last)
    maps = torch.rand(2, 32, 6, 5, generator=generator).contiguous(memory_format=torch.channels_last)
    whole = gate(maps)
    assert whole.output.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        half = gate(maps.bfloat16())
    assert half.output.dtype == torch.bfloat16
    torch.testing.assert_close(half.output.float(), whole.output, atol=0.02, rtol=0)


# In a network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", [Compact, CNN, ResNet18])
def test_gates_stand_behind_every_stage_and_every_parameter_learns(kind, backbone, generator):
    model = gated(kind, backbone).train()
    assert list(model.gates) == list(model.backbone.shapes)
    prediction = model(torch.rand(4, 1, 28, 28, generator=generator))
    assert prediction.views == []  # while training
    F.cross_entropy(prediction.logits, torch.arange(4)).backward()
    still = [name for name, weights in model.gates.named_parameters() if not weights.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_weighs_what_the_next_stage_reads(kind, generator):
    model, images = gated(kind, at=["stem", "layer2"]), torch.rand(2, 1, 28, 28, generator=generator)
    features = images
    for name, stage in model.backbone.stages.named_children():
        features = stage(features)
        if name in ("stem", "layer2"):
            features = model.gates[name](features).output
    torch.testing.assert_close(model(images).logits, model.backbone.classify(features))


@pytest.mark.parametrize("kind", KINDS)
def test_gates_start_half_open(kind, generator):
    (view,) = gated(kind, at="stem")(torch.rand(4, 1, 28, 28, generator=generator)).views
    weights = [some for some in (view.gates, view.heat and view.heat.weights) if some is not None]
    assert len(weights) == 1 + (kind == CBAM())
    assert all(some.min() > 0.1 and some.max() < 0.9 for some in weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [True, False])
def test_a_gated_network_compiles_into_one_graph(kind, train, generator):
    model = gated(kind, stn=TransformerConfig(Affine(), 20)).train(train)
    images = torch.rand(2, 1, 28, 28, generator=generator)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ours, same = compiled(images), model(images)
    torch.testing.assert_close(ours.logits, same.logits)
    assert len(ours.views) == len(same.views) == (1 if train else 2)


@pytest.mark.parametrize(
    ("at", "got"), [("layer9", "layer9"), ([], r"\[\]"), (["stem", "stem"], r"\['stem', 'stem'\]")]
)
def test_places_that_cannot_be_are_refused(at, got):
    with pytest.raises(UserError, match=f"at must name different stages among stem, .*, got {got}"):
        gated(Mask(), at=at)


@pytest.mark.parametrize("at", [None, "hidden1"])
@pytest.mark.parametrize("backbone", [FCN, Bare])
def test_without_a_map_there_is_nothing_to_weigh(backbone, at):
    with pytest.raises(UserError, match=r"name must be none for a backbone none of whose .*, got cbam"):
        gated(CBAM(), backbone, at=at)


@pytest.mark.parametrize("kind", [CBAM, Mask])
def test_an_even_kernel_has_no_middle(kind):
    with pytest.raises(UserError, match="kernel must be odd, got 4"):
        kind(kernel=4)


# Views


def test_channels_alone_have_no_place_in_space(generator):
    (view,) = gated(SE())(torch.rand(2, 1, 28, 28, generator=generator)).views
    assert (view.outline, view.heat, view.transform) == (None, None, None)
    assert view.gates.shape == (2, 32 + 32 + 64 + 64)
    assert view.output.shape == (2, 64, 4, 4)


def test_masks_one_behind_the_other_are_multiplied():
    """Each cell of the first counts as far as the cell about it in the second lets it pass."""
    first, second = torch.rand(2, 4, 6), torch.tensor([[[0.5, 1.0], [0.25, 0.0]]] * 2)
    view = seen_through(
        [(Gated(torch.zeros(2, 3, 4, 6), None, first), (1.0, 1.0)),
         (Gated(torch.zeros(2, 3, 2, 2), None, second), (1.0, 1.0))]
    )  # fmt: skip
    x, y = view.heat.places[0].unbind(-1)
    torch.testing.assert_close(x[0], torch.tensor([-5, -3, -1, 1, 3, 5]) / 6)
    torch.testing.assert_close(y[:, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    for row, column, passed in [(0, 0, 0.5), (0, 5, 1.0), (3, 0, 0.25), (3, 5, 0.0)]:
        torch.testing.assert_close(view.heat.weights[:, row, column], first[:, row, column] * passed)
    torch.testing.assert_close(view.outline, densest_region(view.heat.weights))


def test_a_mask_of_a_smaller_map_is_multiplied_where_that_lies():
    """The second map covers the middle half of the first."""
    first = torch.ones(1, 8, 8)
    second = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    empty = torch.zeros(1, 1, 1, 1)
    view = seen_through([(Gated(empty, None, first), (1.0, 1.0)), (Gated(empty, None, second), (0.5, 0.5))])
    heat = view.heat.weights[0]
    assert heat[:3, :3].unique().tolist() == pytest.approx([0.1])
    assert heat[5:, 5:].unique().tolist() == pytest.approx([0.4])
    between = F.interpolate(second[None], size=(4, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(heat[2:6, 2:6], between[0, 0])


def light(model, name, square):
    """Make the gate behind a stage let through a square (top, bottom, left, right) of its map's cells."""
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


def test_a_mask_behind_a_gate_without_one_lies_on_its_own_map():
    """The first gate weighs channels alone; the second's map covers the middle half of the first's."""
    maps, mask = torch.zeros(1, 1, 2, 2), torch.tensor([[[0.1, 0.1], [0.1, 0.9]]])
    view = seen_through([(Gated(maps, torch.ones(1, 1)), (1.0, 1.0)), (Gated(maps, None, mask), (0.5, 0.25))])
    assert view.heat.places[0, 1, 1].tolist() == [0.25, 0.125]
    assert view.outline[0].tolist() == [[0, 0], [0.5, 0], [0.5, 0.25], [0, 0.25]]


@pytest.mark.parametrize(("backbone", "name"), [(Compact, "layer1"), (CNN, "conv1")])
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 45, 62)])
def test_a_mask_lies_on_the_input_where_its_map_was_made(backbone, name, shape, generator):
    """What the lit cells were made from, as the gradient tells, has its middle where the outline has its."""
    model = gated(Mask(), backbone, shape, at=name)
    light(model, name, (1, 3, 3, 6))
    images = torch.rand(1, *shape, generator=generator).requires_grad_()
    (view,) = model(images).views
    features = images
    for stage, layers in model.backbone.stages.named_children():
        features = layers(features)
        if stage == name:
            break
    (gradient,) = torch.autograd.grad(features[..., 1:3, 3:6].sum(), images)
    outline = view.outline.detach()[0]
    for axis, size in ((0, shape[2]), (1, shape[1])):
        seen = (gradient[0, 0].abs().sum(axis) > 0).nonzero()
        middle = (seen.min() + seen.max() + 1) / 2
        low, high = ((end + 1) / 2 * size for end in outline[:, axis].aminmax())
        assert abs((low + high) / 2 - middle) < 2
        assert high - low == pytest.approx({0: 3, 1: 2}[axis] * {"layer1": 4, "conv1": 2}[name], rel=1e-4)


@pytest.mark.parametrize("output_size", [None, (20, 30)])
def test_a_mask_behind_a_transformer_lies_where_it_read_them(output_size, generator):
    """On an image that is not square; V's own grid tells where its lit pixels were read."""
    model = gated(Mask(), shape=(1, 40, 60), at="stem", stn=TransformerConfig(Affine(), output_size))
    theta = [0.5, 0.2, 0.1, -0.3, 0.4, -0.2]
    (transformer,) = model.transformers["input"]
    with torch.no_grad():
        transformer.localisation.theta.weight.zero_()
        transformer.localisation.theta.bias.copy_(torch.tensor(theta))
    height, width = (side // 2 for side in output_size or (40, 60))
    square = (2, 6, 3, 11)
    light(model, "stem", square)
    first, view = model(torch.rand(2, 1, 40, 60, generator=generator)).views
    matrix = torch.tensor([[theta[:3], theta[3:], [0, 0, 1]]])
    expected = geometry.transform(matrix, corners_of(square, height, width))
    torch.testing.assert_close(view.outline, expected.expand(2, -1, -1))
    places = view.heat.places[:, 2:6, 3:11].flatten(1, 2).mean(1)
    torch.testing.assert_close(places, expected.mean(1).expand(2, -1))
    grid = F.avg_pool2d(first.transform.grid.movedim(-1, 1), first.transform.grid.shape[1] // height)
    torch.testing.assert_close(view.heat.places, grid.movedim(1, -1), atol=1e-5, rtol=0)


def test_a_mask_behind_a_spline_lies_where_it_read_them(generator):
    model = gated(Mask(), at="stem", stn=TransformerConfig(ThinPlateSpline(4)))
    (transformer,) = model.transformers["input"]
    torch.nn.init.normal_(transformer.localisation.theta.weight, std=0.2, generator=generator)
    first, view = model(torch.rand(2, 1, 28, 28, generator=generator)).views
    grid = F.avg_pool2d(first.transform.grid.movedim(-1, 1), 2).movedim(1, -1)
    torch.testing.assert_close(view.heat.places, grid, atol=0.02, rtol=0)  # a bend has no straight middle


def test_gates_before_and_behind_an_inner_transformer_are_two_views(generator):
    """The first lies on the input itself, the second where the transformer has read it."""
    model = gated(CBAM(), shape=(1, 30, 46), stn=TransformerConfig(Affine(), at="layer2"))
    (transformer,) = model.transformers["layer2"]
    theta = torch.tensor([0.5, 0.0, 0.2, 0.0, 0.5, -0.1])
    with torch.no_grad():
        transformer.localisation.theta.weight.zero_()
        transformer.localisation.theta.bias.copy_(theta)
    light(model, "stem", (0, 5, 0, 5))
    light(model, "layer1", (0, 2, 0, 2))
    light(model, "layer2", (0, 1, 0, 1))
    light(model, "layer3", (0, 1, 0, 1))
    before, view, behind = model(torch.rand(2, 1, 30, 46, generator=generator)).views
    assert view.transform is not None
    assert before.heat.weights.shape[1:] == model.backbone.shapes["layer1"][1:]
    assert behind.heat.weights.shape[1:] == model.backbone.shapes["layer3"][1:]
    # The stem's 15×23 cells are of two pixels each, layer1's 7×11 reach as far as 14×22 of those.
    torch.testing.assert_close(before.heat.places[0, 0, 0], torch.tensor([1 / 23 - 1, 1 / 15 - 1]))
    x = (1 / 11 - 1) * 0.5 + 0.2
    y = (1 / 7 - 1) * 0.5 - 0.1
    torch.testing.assert_close(behind.heat.places[0, 0, 0], torch.tensor([x * 22 / 23, y * 14 / 15]))
    assert before.gates is None, "the gates that were put in have none"


def test_transformers_side_by_side_have_each_its_own_box():
    model = gated(SE(), stn=TransformerConfig(Affine(), count=2))
    thetas = torch.tensor([[0.5, 0.0, 0.2, 0.0, 0.5, -0.1], [0.4, 0.0, -0.3, 0.0, 0.4, 0.0]])
    for transformer, theta in zip(model.transformers["input"], thetas, strict=True):
        torch.nn.init.zeros_(transformer.localisation.theta.weight)
        transformer.localisation.theta.bias.data = theta
    *views, _ = model(torch.rand(1, 1, 28, 28)).views
    for view, theta in zip(views, thetas, strict=True):
        torch.testing.assert_close(view.outline[0, 0], theta[[2, 5]] - theta[[0, 4]])
