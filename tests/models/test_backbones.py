import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.models.backbones import CNN, FCN, Compact, ResNet18, Standardise, Stem
from stn_experiments.models.rotation_backbones import GCNN, Polar, TIPooling


@pytest.mark.parametrize("backbone", [FCN, CNN, Compact, GCNN, TIPooling, Polar])
def test_backbones_read_any_canvas(backbone):
    for size in ((28, 28), (31, 77), (60, 42)):
        assert backbone((2, *size), 7)(torch.rand(3, 2, *size)).shape == (3, 7)


def test_resnet18_has_torchvisions_layers_and_a_small_stem():
    model = ResNet18((1, 28, 28), 10).eval()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(11.2e6, rel=0.01)
    assert [shape[1] for shape in model.input_shapes.values()] == [28, 14, 14, 7, 4]
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_the_papers_networks_have_the_papers_layers():
    cnn = CNN((1, 28, 28), 10)
    assert [tuple(p.shape) for p in cnn.parameters() if p.ndim == 4] == [(32, 1, 9, 9), (64, 32, 7, 7)]
    assert cnn.head.in_features == 64 * 2 * 2
    assert CNN((1, 60, 60), 10, filters=(3, 5)).head.in_features == 5 * 10 * 10
    fcn = FCN((1, 28, 28), 10, widths=(20, 30))
    assert [tuple(p.shape) for p in fcn.parameters() if p.ndim == 2] == [(20, 784), (30, 20), (10, 30)]


def test_compact_has_the_same_parameters_for_every_canvas():
    counts = {sum(p.numel() for p in Compact((1, side, side), 10).parameters()) for side in (28, 60, 100)}
    assert len(counts) == 1
    assert counts.pop() < 100_000
    wide = Compact((1, 28, 28), 10, width=8, pool=2)
    assert wide.head.in_features == 16 * 4


def test_an_input_too_small_is_refused():
    with pytest.raises(UserError, match=r"^name must be a network that can read 12×40 pixels, got cnn"):
        CNN((1, 12, 40), 10)


def test_building_leaves_batch_normalisation_untouched():
    backbone = Compact((1, 28, 28), 10)
    assert all(m.training for m in backbone.modules())
    assert all(m.num_batches_tracked == 0 for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("size", [(28, 28), (27, 41)])
def test_the_stem_is_a_strided_convolution(size):
    torch.manual_seed(0)
    stem = Stem(3, 8).double()
    plain = torch.nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False).double()
    plain.load_state_dict(stem.state_dict())
    images = torch.rand(2, 3, *size).double().requires_grad_()
    weight = torch.rand(plain(images).shape)
    results = []
    for layer in (stem, plain):
        output = layer(images)
        results.append((output, *torch.autograd.grad((output * weight).sum(), (images, layer.weight))))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("network", [Compact, ResNet18, GCNN, TIPooling, Polar])
def test_a_network_that_standardises_sees_no_brightness_and_no_contrast(network):
    images = torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    inputs = torch.cat([images, 0.5 * images, images + 0.1])
    torch.manual_seed(0)
    first, *others = network((3, 28, 28), 10, standardise=True).eval()(inputs).split(4)
    for other in others:
        torch.testing.assert_close(other, first, atol=1e-3, rtol=1e-3)
    first, *others = network((3, 28, 28), 10).eval()(inputs).split(4)
    assert not any(other.allclose(first, atol=1e-3, rtol=1e-3) for other in others)
    even = Standardise()(torch.full((1, 3, 4, 4), 0.7))
    torch.testing.assert_close(even, torch.zeros(1, 3, 4, 4), atol=1e-3, rtol=0)
