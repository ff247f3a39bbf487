import pytest
import torch

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.models import SpatialTransformer
from stn_experiments.models.backbones import CNN, FCN, Compact, ResNet18, Stem
from stn_experiments.models.classifier import Classifier, TransformerConfig
from stn_experiments.models.grids import Affine

BACKBONES = [FCN, CNN, Compact]


def classifier(shape=(1, 42, 50), backbone=Compact):
    torch.manual_seed(0)
    transformer = SpatialTransformer(shape, 28, localisation=backbone.localisation)
    return Classifier(backbone((shape[0], 28, 28), 10), {"input": [transformer]})


@pytest.mark.parametrize("size", [(28, 28), (42, 42), (31, 77), (100, 100)])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_read_any_canvas(backbone, size):
    assert backbone((2, *size), 7)(torch.rand(3, 2, *size)).shape == (3, 7)


def test_resnet18_is_torchvisions_with_a_small_stem():
    model = ResNet18((1, 28, 28), 10).eval()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(11.2e6, rel=0.01)
    assert [shape[1:] for shape in model.shapes.values()] == [(28, 28), (14, 14), (14, 14), (7, 7), (4, 4)]
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def inner(backbone, at, shape=(1, 28, 28), **settings):
    torch.manual_seed(0)
    plan, body = TransformerConfig(Affine(), 28, at=at, **settings), backbone(shape, 10)
    return Classifier(body, {"input": plan.at_input(shape, "keypoints"), **plan.inside(body)})


@pytest.mark.parametrize(
    ("backbone", "at"), [(ResNet18, "layer2"), (Compact, ["input", "layer1"]), (CNN, "conv2")]
)
def test_transformers_stand_in_front_of_any_stage_and_start_as_nothing(backbone, at, generator):
    model = inner(backbone, at).eval()
    images = torch.rand(2, 1, 28, 28, generator=generator)
    prediction = model(images)
    assert len(prediction.views) == (len(at) if isinstance(at, list) else 1)
    torch.testing.assert_close(prediction.logits, model.backbone(images), atol=1e-4, rtol=1e-4)
    view = prediction.views[-1]
    place = at if isinstance(at, str) else at[-1]
    assert view.output.shape[1:] == model.backbone.shapes[place]
    assert view.output.shape[1] > 1
    assert len(model.parameter_groups()) == 2


@pytest.mark.parametrize(("backbone", "at"), [(CNN, "conv2"), (Compact, "layer2"), (Compact, "layer3")])
def test_an_inner_box_lies_on_the_input_where_its_map_was_made(backbone, at):
    """What the middle of an inner map was made from, as the gradient tells, is where its outline lies."""
    model = inner(backbone, at, (1, 60, 60)).eval()
    half = torch.tensor([0.5, 0, 0, 0, 0.5, 0])
    with torch.no_grad():
        model.transformers[at][0].localisation.theta.bias.copy_(half)
    images = torch.rand(1, 1, 60, 60, requires_grad=True)
    sources = []
    model.transformers[at][0].register_forward_pre_hook(lambda _, given: sources.extend(given))
    (view,) = model(images).views
    (source,) = sources
    height, width = source.shape[2:]
    middle = source[..., height // 4 : height - height // 4, width // 4 : width - width // 4]
    (gradient,) = torch.autograd.grad(middle.sum(), images)
    columns = (gradient[0, 0].abs().sum(0) > 0).nonzero()
    centre = (columns.min() + columns.max() + 1) / 2
    assert abs(centre - 30) < 2
    x = view.outline.detach()[0, :, 0]
    seen = ((x.max() - x.min()) / 2 * 60).item()
    assert seen <= columns.max() - columns.min() + 1  # the field of view is wider than what it is centred on
    share = 60 * {"conv2": 26 * 2 / 60, "layer2": 1, "layer3": 1}[at] * 0.5
    assert seen == pytest.approx(share, rel=0.01)


def test_an_inner_box_is_led_back_through_the_transformer_before_it():
    model = inner(Compact, ["input", "layer2"], (1, 60, 60)).eval()
    first, second = model.transformers["input"][0], model.transformers["layer2"][0]
    with torch.no_grad():
        first.localisation.theta.bias.copy_(torch.tensor([0.5, 0, 0.2, 0, 0.5, -0.1]))
        second.localisation.theta.bias.copy_(torch.tensor([0.5, 0, 0.1, 0, 0.5, 0]))
    _, view = model(torch.rand(1, 1, 60, 60)).views
    matrix = torch.tensor([[[0.25, 0, 0.25], [0, 0.25, -0.1], [0, 0, 1]]])
    torch.testing.assert_close(view.outline, geometry.transform(matrix, geometry.boundary_points(1)))


def test_parallel_transformers_stack_their_outputs():
    shape = (2, 42, 42)
    plan = TransformerConfig(Affine(), 28, count=2)
    both = plan.at_input(shape, "keypoints")
    model = Classifier(Compact((4, 28, 28), 19), {"input": both}).eval()
    one, other = model(torch.rand(3, *shape)).views
    assert one.output.shape == other.output.shape == (3, 2, 28, 28)
    assert both[0].localisation is not both[1].localisation


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"at": "layer9"}, "at must name places among input, stem, layer1, layer2, layer3, got layer9"),
        ({"at": []}, "at must name different places, at least one"),
        ({"at": ["input", "input"]}, "at must name different places"),
        ({"at": ["input", "layer1"], "count": 2}, "count must be 1 unless"),
    ],
)
def test_places_that_cannot_be_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        inner(Compact, **settings) if "at" in settings else None


def test_there_is_no_map_inside_a_fully_connected_network():
    with pytest.raises(UserError, match="at must name places among input, hidden1, got hidden2"):
        inner(FCN, "hidden2")


def test_a_classifier_exports_to_onnx_with_the_same_logits(tmp_path, generator):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = classifier((1, 42, 42)).eval()
    torch.nn.init.normal_(
        model.transformers["input"][0].localisation.theta.weight, std=0.05, generator=generator
    )
    images = torch.rand(3, 1, 42, 42, generator=generator)
    expected = model(images).logits
    torch.onnx.export(
        Logits(model).eval(), (images,), str(tmp_path / "model.onnx"), dynamo=True, verbose=False
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=0)


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).logits


def test_the_papers_networks_have_the_papers_layers():
    cnn = CNN((1, 28, 28), 10)
    assert [tuple(p.shape) for p in cnn.parameters() if p.ndim == 4] == [(32, 1, 9, 9), (64, 32, 7, 7)]
    assert cnn.head.in_features == 64 * 2 * 2
    assert CNN((1, 60, 60), 10, filters=(3, 5)).head.in_features == 5 * 10 * 10
    fcn = FCN((1, 28, 28), 10, widths=(20, 30))
    assert [tuple(p.shape) for p in fcn.parameters() if p.ndim == 2] == [(20, 784), (30, 20), (10, 30)]


def test_compact_costs_the_same_parameters_on_every_canvas():
    counts = {sum(p.numel() for p in Compact((1, side, side), 10).parameters()) for side in (28, 60, 100)}
    assert len(counts) == 1
    assert counts.pop() < 100_000
    wide = Compact((1, 28, 28), 10, width=8, pool=2)
    assert wide.head.in_features == 16 * 4


def test_an_input_too_small_is_refused():
    with pytest.raises(UserError, match="CNN cannot read an input as small as 12×40"):
        CNN((1, 12, 40), 10)


def test_building_leaves_batch_normalisation_untouched():
    backbone = Compact((1, 28, 28), 10)
    assert backbone.training
    assert all(m.num_batches_tracked == 0 for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_a_prediction_carries_the_view_that_its_logits_come_from(generator):
    model, images = classifier().eval(), torch.rand(4, 1, 42, 50, generator=generator)
    prediction = model(images)
    (view,) = prediction.views
    torch.testing.assert_close(prediction.logits, model.backbone(view.output))


def test_without_a_transformer_there_is_no_view():
    model = Classifier(Compact((1, 28, 28), 10))
    assert model(torch.rand(2, 1, 28, 28)).views == []
    assert model.localisation_parameters() == []
    assert len(model.parameter_groups()) == 1


def test_the_localisation_network_is_a_parameter_group_of_its_own():
    model = classifier()
    network, localisation = ({id(p) for p in group["params"]} for group in model.parameter_groups())
    assert localisation == {id(p) for p in model.transformers["input"][0].localisation.parameters()}
    assert network == {id(p) for p in model.backbone.parameters()}
    assert not network & localisation


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_learns(backbone):
    model = classifier((1, 28, 28), backbone)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(16, 1, 28, 28, generator=generator), torch.arange(16) % 10
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images).logits, labels).backward()
        optimizer.step()
    still = [name for name, parameter in model.named_parameters() if parameter.equal(before[name])]
    assert still == []


@pytest.mark.parametrize("size", [(28, 28), (27, 40), (42, 33)])
def test_the_stem_is_a_strided_convolution(size):
    torch.manual_seed(0)
    stem = Stem(3, 8).double()
    plain = torch.nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False).double()
    plain.load_state_dict(stem.state_dict())
    images, same = (torch.rand(2, 3, *size).double() for _ in range(2))
    same.copy_(images)
    ours, theirs = stem(images.requires_grad_()), plain(same.requires_grad_())
    torch.testing.assert_close(ours, theirs)
    weight = torch.rand_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(images.grad, same.grad)
    torch.testing.assert_close(stem.weight.grad, plain.weight.grad)


def test_half_precision_leaves_theta_and_the_grid_whole():
    torch.manual_seed(0)
    transformer = SpatialTransformer((1, 40, 60), (20, 30))
    torch.nn.init.normal_(transformer.localisation.theta.weight, std=0.1)
    images = torch.rand(4, 1, 40, 60)
    whole = transformer.eval()(images)
    with torch.autocast("cpu", torch.bfloat16):
        half = transformer(images)
    assert all(part.dtype == torch.float32 for part in (half.output, half.outline, *half.transform))
    assert 0 < (whole.transform.theta - half.transform.theta).abs().max() < 0.05
    # The grid follows theta to the bit; 1/256 of the canvas would be a quarter of a pixel.
    assert torch.equal(transformer.grid_generator(half.transform.theta), half.transform.grid)
