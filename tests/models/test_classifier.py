import re

import pytest
import torch
from torch import nn

from stn_experiments.common.errors import UserError
from stn_experiments.models import SpatialTransformer
from stn_experiments.models.backbones import CNN, FCN, Compact, ResNet18
from stn_experiments.models.classifier import Classifier, TransformerConfig
from stn_experiments.models.consistency import Consistency, consistency_loss
from stn_experiments.models.grids import FAMILIES, Affine
from stn_experiments.models.localisation import Positions
from stn_experiments.models.rotation_backbones import GCNN, Polar, TIPooling


def classifier(shape=(1, 42, 50), backbone=Compact):
    torch.manual_seed(0)
    transformer = SpatialTransformer(shape, 28, localisation=backbone.localisation)
    return Classifier(backbone((shape[0], 28, 28), 10), {"input": [transformer]})


def classifier_with_inner(kind, at, shape=(1, 28, 28), **settings):
    torch.manual_seed(0)
    config, backbone = TransformerConfig(Affine(), 28, at=at, **settings), kind(shape, 10)
    return Classifier(
        backbone, {"input": config.build_at_input(shape, "keypoints"), **config.build_inside(backbone)}
    )


@pytest.mark.parametrize(
    ("backbone", "at"), [(ResNet18, "layer2"), (Compact, ["input", "layer1"]), (CNN, "conv2")]
)
def test_transformers_precede_any_stage_and_start_as_the_identity(backbone, at, generator):
    model = classifier_with_inner(backbone, at).eval()
    images = torch.rand(2, 1, 28, 28, generator=generator)
    output = model(images)
    places = at if isinstance(at, list) else [at]
    assert [place for place, stage in output.stages.items() if stage.views] == places
    torch.testing.assert_close(output.logits, model.backbone(images), atol=1e-4, rtol=1e-4)
    (view,) = output.stages[places[-1]].views
    assert view.output.shape[1:] == model.backbone.input_shapes[places[-1]]
    assert view.output.shape[1] > 1
    assert {group["part"] for group in model.parameter_groups()} == {"network", "localisation"}


def sharing(kind=Compact, at="layer2", shape=(1, 42, 50), **settings):
    """A classifier of V 28×28 whose transformer shares the backbone's layers before a stage."""
    torch.manual_seed(0)
    config, backbone = TransformerConfig(Affine(), 28, at=at, share=True, **settings), kind((1, 28, 28), 10)
    (transformer,) = config.build_at_input(shape, "keypoints")
    config.share_layers(transformer, backbone, shape, "keypoints")
    nn.init.normal_(transformer.localisation.theta.weight, std=0.01)
    return Classifier(backbone, {"input": [transformer]})


@pytest.mark.parametrize(
    ("backbone", "at", "shared"),
    [(Compact, "layer2", ["stem", "layer1"]), (ResNet18, "layer1", ["stem"]), (CNN, "conv2", ["conv1"])],
)
def test_a_transformer_may_warp_the_input_by_theta_from_layers_that_it_shares(
    backbone, at, shared, generator
):
    model, images = sharing(backbone, at), torch.rand(2, 1, 42, 50, generator=generator)
    (transformer,) = model.transformers["input"]
    tied = transformer.localisation.features[0]
    assert [name for name, _ in tied.named_children()] == shared
    for name, weights in tied.named_parameters():
        assert weights is model.backbone.stages.get_parameter(name)
    model.eval()
    output = model(images)
    assert [place for place, stage in output.stages.items() if stage.views] == ["input"]
    (view,) = output.stages["input"].views
    source = model.backbone.stages[: len(shared)](images)
    features = nn.Sequential(*list(transformer.localisation.features)[1:])(source)
    torch.testing.assert_close(view.transform.theta, transformer.localisation.theta(features))
    torch.testing.assert_close(view.output, transformer.sampler(images, view.transform.grid))
    torch.testing.assert_close(output.logits, model.backbone(view.output))


def test_shared_layers_may_place_a_window():
    config, backbone = TransformerConfig(Affine(), 28, at="layer1", share=True), Compact((1, 28, 28), 10)
    shape = (1, 60, 60)
    (transformer,) = config.build_at_input(shape, "window")
    config.share_layers(transformer, backbone, shape, "window")
    assert transformer.localisation.theta.bias[0].item() == pytest.approx(28 / 60)
    images = torch.rand(2, *shape)
    centres = transformer.eval()(images).transform.theta[:, [2, 5]]
    torch.testing.assert_close(centres, transformer.localisation.features(images)[:, :2])


def test_keypoints_in_the_map_of_an_unpadded_convolution_are_where_they_are_on_the_input():
    config, backbone = TransformerConfig(Affine(), 28, at="conv2", share=True), CNN((1, 28, 28), 10)
    (transformer,) = config.build_at_input((1, 60, 60), "keypoints")
    config.share_layers(transformer, backbone, (1, 60, 60), "keypoints")
    positions = next(layer for layer in transformer.localisation.features if isinstance(layer, Positions))
    maps = torch.zeros(1, 32, 7, 7)
    maps[0, 0, 3, 5] = 1000  # two cells to the right of the middle; a cell is 8 pixels wide
    nn.init.zeros_(positions.heat.weight)
    nn.init.ones_(positions.heat.weight[0, 0])
    x, y = (positions(maps)[0, :2] * 30).tolist()
    assert (x, y) == pytest.approx((16, 0), abs=1e-3)


def test_a_transformer_with_shared_layers_starts_as_it_is_told():
    start = [0.5, 0.0, 0.25, 0.0, 0.5, 0.0]
    (transformer,) = sharing(start=start).transformers["input"]
    assert transformer.localisation.theta.bias.tolist() == start


def test_shared_layers_learn_from_both_images_at_the_rate_of_the_network(generator):
    model, images = sharing(), torch.rand(4, 1, 42, 50, generator=generator)
    (transformer,) = model.transformers["input"]
    first = model.backbone.stages.stem[0].weight
    theta = transformer.regress(images)
    behind = model.backbone(transformer.warp(images, theta.detach()).output)
    matrix = Consistency(weight=1, angle=90).draw(images, generator)
    consistency = consistency_loss([transformer], [transformer.warp(images, theta.detach())], images, matrix)
    for loss in (theta.sum(), behind.square().sum(), consistency):
        (gradient,) = torch.autograd.grad(loss, first)
        assert gradient.abs().max() > 0
    network, localisation = (
        {id(p) for group in model.parameter_groups() if group["part"] == part for p in group["params"]}
        for part in ("network", "localisation")
    )
    assert network == {id(p) for p in model.backbone.parameters()}
    assert localisation == {id(p) for p in model.localisation_parameters()}
    assert len(network) + len(localisation) == len(list(model.parameters()))


def test_batch_statistics_of_the_two_images_are_apart(generator):
    model = sharing(at="layer1")
    model(torch.rand(4, 1, 42, 50, generator=generator))
    normalisation = model.backbone.stages.stem[1]
    tied = model.transformers["input"][0].localisation.features[0].stem[1]
    assert tied.weight is normalisation.weight
    assert not tied.running_mean.equal(normalisation.running_mean)
    assert tied.num_batches_tracked == normalisation.num_batches_tracked == 1


def test_a_list_of_one_stage_shares_its_layers_too():
    theta = [
        sharing(at=at).transformers["input"][0].localisation.theta.weight.shape
        for at in ("layer2", ["layer2"])
    ]
    assert theta[0] == theta[1]


@pytest.mark.parametrize(
    ("backbone", "at", "known"),
    [
        (Compact, "input", "layer1, layer2, layer3"),
        (Compact, "stem", "layer1, layer2, layer3"),
        (CNN, ["conv2", "input"], "conv2"),
        (FCN, "hidden1", "this backbone has none"),
    ],
)
def test_sharing_needs_layers_to_share(backbone, at, known):
    line = f"at must be a stage that reads a map of another stage ({known}) to share, got {at}"
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        sharing(backbone, at, (1, 28, 28))


def test_parallel_transformers_stack_their_outputs():
    shape = (2, 42, 42)
    config = TransformerConfig(Affine(), 28, count=2)
    both = config.build_at_input(shape, "keypoints")
    model = Classifier(Compact((4, 28, 28), 19), {"input": both}).eval()
    one, other = model(torch.rand(3, *shape)).stages["input"].views
    assert one.output.shape == other.output.shape == (3, 2, 28, 28)
    assert both[0].localisation is not both[1].localisation


def test_the_backbone_classifies_each_view_of_a_recurrent_transformer_alone():
    shape = (1, 50, 60)
    (transformer,) = TransformerConfig(Affine(), 28, recurrent=True).build_at_input(shape, "keypoints", 3)
    model = Classifier(Compact((1, 28, 28), 10), {"input": [transformer]}).eval()
    torch.nn.init.normal_(transformer.localisation.theta.weight, std=0.1)
    output = model(torch.rand(4, *shape))
    views = output.stages["input"].views
    assert output.logits.shape == (4, 10, 3)
    assert len(views) == 3
    for step, view in enumerate(views):
        assert view.output.shape == (4, 1, 28, 28)
        torch.testing.assert_close(output.logits[..., step], model.backbone(view.output))
    assert not torch.allclose(views[0].outline, views[1].outline, atol=1e-3)
    assert transformer.localisation.theta.bias[0].item() == pytest.approx(1.5 * 28 / 60)
    assert transformer.localisation.theta.bias[4].item() == pytest.approx(1.5 * 28 / 50)


def test_auto_is_the_default_localisation_network_of_the_backbone():
    def layers(default, **settings):
        (one,) = TransformerConfig(Affine(), 28, **settings).build_at_input((1, 28, 28), default)
        return [type(layer).__name__ for layer in one.localisation.modules()]

    assert "PositionsAndMeans" in layers("keypoints")
    assert "Conv2d" not in layers("fully_connected")
    assert "Conv2d" not in layers("keypoints", localisation="fully_connected")
    assert "PositionsAndMeans" not in layers("keypoints", localisation="convolutional")


@pytest.mark.parametrize(
    ("family", "steps", "side"), [("affine", 1, 28 / 60), ("affine", 2, 1), ("tps", 1, 1), ("rotation", 1, 1)]
)
def test_the_default_is_a_window_where_the_transforms_can_move_one(family, steps, side):
    config = TransformerConfig(FAMILIES[family](), 28, steps=steps)
    (transformer,) = config.build_at_input((1, 60, 60), "window")
    outline = transformer(torch.zeros(1, 1, 60, 60)).outline[0]
    assert (outline.amax(0) - outline.amin(0)).tolist() == pytest.approx([2 * side, 2 * side])


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        (FCN, {"at": "hidden2"}, "at must name places among input, hidden1, got hidden2"),
        (Compact, {"at": []}, "at must name different places, at least one"),
        (Compact, {"at": ["input", "input"]}, "at must name different places"),
        (Compact, {"at": ["input", "layer1"], "count": 2}, "count must be 1 unless at is only input, got 2"),
        (Compact, {"at": "input", "count": 2, "recurrent": True}, "recurrent must be false unless at is"),
        (Compact, {"at": "input", "recurrent": True}, "recurrent must be false for images of one label"),
        (Compact, {"at": "input", "recurrent": True, "localisation": "peak"}, ".* localisation is auto"),
    ],
)
def test_impossible_places_are_refused(backbone, settings, message):
    with pytest.raises(UserError, match=f"^{message}"):
        classifier_with_inner(backbone, **settings)


@pytest.mark.parametrize("family", ["rotation", "tps"])
def test_a_recurrent_transformer_must_translate(family):
    with pytest.raises(UserError, match=r"^recurrent must be false unless .* translation"):
        TransformerConfig(FAMILIES[family](), recurrent=True)


def test_without_a_transformer_there_is_no_view():
    model = Classifier(Compact((1, 28, 28), 10))
    stages = model(torch.rand(2, 1, 28, 28)).stages
    assert list(stages) == ["input", "stem", "layer1", "layer2", "layer3", "head"]
    assert not any(stage.views or stage.gate for stage in stages.values())
    assert model.localisation_parameters() == []
    assert {group["part"] for group in model.parameter_groups()} == {"network"}


def test_biases_and_batch_normalisation_have_no_weight_decay():
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameter_groups(), weight_decay=0.1)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    weights = {id(layer.weight) for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    assert {number for number, decay in decays.items() if decay} == weights
    assert len(decays) == len(list(model.parameters()))
    assert decays[id(model.transformers["input"][0].localisation.theta.bias)] == 0


@pytest.mark.parametrize("backbone", [FCN, CNN, Compact, GCNN, TIPooling, Polar])
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
    unchanged = [name for name, parameter in model.named_parameters() if parameter.equal(before[name])]
    assert unchanged == []
