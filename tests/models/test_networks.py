import pytest
import torch

from stn_experiments.errors import UserError
from stn_experiments.models.backbones import CNN, FCN, Compact
from stn_experiments.models.classifier import Classifier
from stn_experiments.models.spatial_transformer import spatial_transformer

BACKBONES = [FCN, CNN, Compact]


def classifier(shape=(1, 42, 50), backbone=Compact):
    torch.manual_seed(0)
    transformer = spatial_transformer(shape, backbone.localisation, "affine", 28)
    return Classifier(backbone((shape[0], 28, 28), 10), transformer)


@pytest.mark.parametrize("size", [(28, 28), (42, 42), (31, 77), (100, 100)])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones_read_any_canvas(backbone, size):
    assert backbone((2, *size), 7)(torch.rand(3, 2, *size)).shape == (3, 7)


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
    assert view.source is images
    torch.testing.assert_close(prediction.logits, model.backbone(view.output))


def test_without_a_transformer_there_is_no_view():
    model = Classifier(Compact((1, 28, 28), 10))
    assert model(torch.rand(2, 1, 28, 28)).views == []
    assert model.localisation_parameters() == []
    assert len(model.parameter_groups()) == 1


def test_the_localisation_network_is_a_parameter_group_of_its_own():
    model = classifier()
    network, localisation = ({id(p) for p in group["params"]} for group in model.parameter_groups())
    assert localisation == {id(p) for p in model.transformer.localisation.parameters()}
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
