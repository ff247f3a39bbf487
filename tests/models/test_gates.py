"""Gates against timm's and by hand, alone and in a network."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SqueezeExcite
from timm.layers.cbam import CbamModule

from stn_experiments.common.errors import UserError
from stn_experiments.models import SpatialTransformer
from stn_experiments.models.backbones import CNN, FCN, Compact, ResNet18
from stn_experiments.models.classifier import Classifier
from stn_experiments.models.gates import CBAM, SE, CBAMConfig, Mask, MaskConfig, SEConfig


def classifier(config, backbone=Compact):
    torch.manual_seed(0)
    network = backbone((1, 28, 28), 10)
    return Classifier(network, gates=config.build(network)).eval()


def fill(module, generator):
    """Weights large enough for weights of places and channels that are not all about a half."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)


def copy_bottleneck(ours, theirs):
    """Copy linear layers to timm's 1×1 convolutions."""
    for mine, other in ((ours[0], theirs.fc1), (ours[2], theirs.fc2)):
        other.weight.data = mine.weight.data[:, :, None, None].clone()
        if mine.bias is not None:
            other.bias.data = mine.bias.data.clone()


def test_se_agrees_with_timm(generator):
    ours = SE(24, reduction=4)
    fill(ours, generator)
    theirs = SqueezeExcite(24, rd_channels=6)
    copy_bottleneck(ours.excite, theirs)
    maps = torch.randn(3, 24, 9, 7, generator=generator)
    gated = ours(maps)
    torch.testing.assert_close(gated.output, theirs(maps), atol=1e-5, rtol=0)
    torch.testing.assert_close(gated.output, maps * gated.channels[:, :, None, None])
    assert gated.mask is None


@pytest.mark.parametrize("kernel", [3, 7])
def test_cbam_agrees_with_timm(generator, kernel):
    ours = CBAM(24, reduction=4, kernel=kernel)
    fill(ours, generator)
    theirs = CbamModule(24, rd_channels=6, spatial_kernel_size=kernel).eval()
    copy_bottleneck(ours.excite, theirs.channel)
    theirs.spatial.conv.conv.weight.data = ours.spatial.weight.data.clone()
    theirs.spatial.conv.bn.eps = 0.0  # makes its batch normalisation the identity
    maps = torch.randn(3, 24, 9, 7, generator=generator)
    gated = ours(maps)
    torch.testing.assert_close(gated.output, theirs(maps), atol=1e-5, rtol=0)
    both = gated.channels[:, :, None, None] * gated.mask[:, None]
    torch.testing.assert_close(gated.output, maps * both)


def test_a_mask_by_hand():
    gate = Mask(2, kernel=3)
    with torch.no_grad():
        gate.spatial.weight.zero_()
        gate.spatial.weight[0, 1, 1, 2] = 1.0  # the second channel of the place to the right
        gate.spatial.bias.fill_(-1.0)
    maps = torch.arange(2 * 2 * 3.0).view(1, 2, 2, 3)
    mask = torch.tensor([[[7.0, 8, 0], [10, 11, 0]]]).sub(1).sigmoid()
    gated = gate(maps)
    torch.testing.assert_close(gated.mask, mask)
    torch.testing.assert_close(gated.output, maps * mask[:, None])
    assert gated.channels is None


@pytest.mark.parametrize("kind", [SE, CBAM, Mask])
def test_gates_keep_the_memory_format_and_half_precision(kind, generator):
    gate = kind(32).to(memory_format=torch.channels_last)
    maps = torch.rand(2, 32, 6, 5, generator=generator).contiguous(memory_format=torch.channels_last)
    whole = gate(maps)
    assert whole.output.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        half = gate(maps.bfloat16())
    assert half.output.dtype == torch.bfloat16
    torch.testing.assert_close(half.output.float(), whole.output, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("config", "backbone"), [(SEConfig, Compact), (CBAMConfig, ResNet18), (MaskConfig, CNN)]
)
def test_gates_follow_every_stage_and_every_parameter_learns(config, backbone, generator):
    model = classifier(config(), backbone).train()
    assert list(model.gates) == list(model.backbone.input_shapes)
    output = model(torch.rand(4, 1, 28, 28, generator=generator))
    F.cross_entropy(output.logits, torch.arange(4)).backward()
    unchanged = [name for name, weights in model.gates.named_parameters() if not weights.grad.abs().sum() > 0]
    assert unchanged == []


def test_a_gate_weights_the_input_of_the_next_stage(generator):
    model = classifier(CBAMConfig(at=["stem", "layer2"]))
    images = torch.rand(2, 1, 28, 28, generator=generator)
    features = images
    for name, stage in model.backbone.stages.named_children():
        features = stage(features)
        if name in ("stem", "layer2"):
            features = model.gates[name](features).output
    output = model(images)
    assert [name for name, stage in output.stages.items() if stage.gate] == ["stem", "layer2"]
    torch.testing.assert_close(output.logits, model.backbone.classify(features))


@pytest.mark.parametrize("config", [SEConfig, CBAMConfig, MaskConfig])
def test_gates_start_half_open(config, generator):
    gated = classifier(config(at="stem"))(torch.rand(4, 1, 28, 28, generator=generator)).stages["stem"].gate
    weights = [some for some in (gated.channels, gated.mask) if some is not None]
    assert len(weights) == 1 + (config is CBAMConfig)
    assert all(some.min() > 0.1 and some.max() < 0.9 for some in weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "train"), [(SEConfig, True), pytest.param(CBAMConfig, False, marks=pytest.mark.slow)]
)
def test_a_gated_network_compiles_into_one_graph(config, train, generator):
    torch.manual_seed(0)
    transformer, backbone = SpatialTransformer((1, 28, 28), 20), Compact((1, 20, 20), 10)
    model = Classifier(backbone, {"input": [transformer]}, config().build(backbone)).train(train)
    images = torch.rand(2, 1, 28, 28, generator=generator)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize(
    ("backbone", "at", "message"),
    [
        (Compact, "layer9", "at must name different stages among stem, .*, got layer9"),
        (Compact, [], r"at must name different stages among stem, .*, got \[\]"),
        (Compact, ["stem", "stem"], r"at must name different stages among stem, .*, got \['stem', 'stem'\]"),
        (FCN, "hidden1", "name must not be cbam for a backbone without a stage whose output is a map"),
    ],
)
def test_impossible_places_are_refused(backbone, at, message):
    with pytest.raises(UserError, match=f"^{message}"):
        classifier(CBAMConfig(at=at), backbone)


def test_an_even_kernel_is_refused():
    for config in (CBAMConfig, MaskConfig):
        with pytest.raises(UserError, match=r"^kernel must be odd, got 4"):
            classifier(config(kernel=4))
