import pytest
import torch

from stn_experiments.common import geometry
from stn_experiments.models.backbones import CNN, Compact
from stn_experiments.models.classifier import TransformerConfig
from stn_experiments.models.grids import Translation
from stn_experiments.models.localisation import FEATURES, Localisation, cell_centres, expected_positions
from stn_experiments.models.polar import RingConv2d, polar_points


@pytest.mark.parametrize("kind", FEATURES)
def test_localisation_networks_read_any_size(kind):
    for size in ((8, 8), (29, 43), (100, 60)):
        network = Localisation(FEATURES[kind]((3, *size), 16), torch.zeros(6))
        assert network(torch.rand(2, 3, *size)).shape == (2, 6)


def test_expected_positions_are_means_under_the_softmax():
    heat = torch.zeros(1, 2, 5, 9)
    heat[0, 0, 1, 7] = 50
    right_of_middle_above = [(2 * 7 + 1) / 9 - 1, (2 * 1 + 1) / 5 - 1]
    expected = torch.tensor([[right_of_middle_above, [0.0, 0.0]]])
    torch.testing.assert_close(expected_positions(heat, geometry.pixel_centres(5, 9)), expected)


@pytest.mark.parametrize(("at", "backbone"), [("input", Compact), ("layer2", Compact), ("conv2", CNN)])
@pytest.mark.parametrize("size", [(200, 240), (202, 241), (199, 243)])
def test_a_window_moves_exactly_as_far_as_what_it_follows(size, at, backbone, generator):
    torch.manual_seed(0)
    shape = (1, *size)
    config = TransformerConfig(Translation(), 28, at=at, share=at != "input", localisation="peak")
    (transformer,) = config.build_at_input(shape, "peak")
    if config.share:
        config.share_layers(transformer, backbone((1, 28, 28), 10), shape, "peak")
    with torch.no_grad():
        for layer in transformer.localisation.modules():
            if getattr(layer, "bias", None) is not None:
                layer.bias.zero_()  # so maps are 0 where the image is, and more nowhere but at the blob
        transformer.localisation.features[-1].heat.weight.abs_().mul_(1e6)  # nearly all weight is on one cell
    blob = torch.rand(6, 6, generator=generator)
    images = torch.zeros(2, *shape)
    for image, (y, x) in zip(images, ((80, 80), (96, 112)), strict=True):  # by whole cells of all networks
        image[0, y : y + 6, x : x + 6] = blob
    near, far = transformer.eval()(images).box_pixels(size).mean(1)
    torch.testing.assert_close(far - near, torch.tensor([32.0, 16.0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", [4, 7, 28, 42, 61])
def test_the_cells_that_keypoints_are_in_lie_about_the_middle(side):
    rows = (cell_centres((side, 12)).view(-1, 3, 2)[:, 0, 1] + 1) * side / 2  # in pixels from the top
    torch.testing.assert_close(rows.diff(), torch.full_like(rows[1:], 4.0))
    assert rows.mean().item() == pytest.approx(side / 2)


def test_polar_keypoints_turn_with_a_quarter_turn_of_the_image():
    torch.manual_seed(0)
    image = torch.rand(4, 1, 28, 28)
    layers = list(FEATURES["polar"]((1, 28, 28), 16))[:-1]
    torch.nn.init.normal_(layers[-1].heat.weight, std=10)  # by default all places have nearly the same weight
    positions_and_means = torch.nn.Sequential(*layers).eval()
    before, after = (positions_and_means(maps) for maps in (image, image.rot90(1, (2, 3))))
    points, turned = (features[:, :32].unflatten(1, (16, 2)) for features in (before, after))
    assert points.norm(dim=2).max() > 0.01
    # Counter-clockwise on the screen, where y points down.
    torch.testing.assert_close(turned, torch.stack([points[..., 1], -points[..., 0]], -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(after[:, 32:], before[:, 32:], atol=1e-5, rtol=0)  # the means do not change


def test_polar_points_lie_on_circles_in_pixels():
    height, width = 20, 40
    points = polar_points(4, 16, (height, width)).view(4, 16, 2)
    x, y = (points * torch.tensor([width / 2, height / 2])).unbind(2)
    radius = torch.hypot(x, y)
    torch.testing.assert_close(radius, torch.tensor([1.25, 3.75, 6.25, 8.75])[:, None].expand(4, 16))
    direction = torch.atan2(y, x).rad2deg() % 360
    torch.testing.assert_close(
        direction, (11.25 + 22.5 * torch.arange(16.0)).expand(4, 16), atol=1e-3, rtol=0
    )


def test_a_convolution_on_rings_wraps_around():
    torch.manual_seed(0)
    convolution, maps = RingConv2d(2, 3, 5), torch.rand(1, 2, 8, 32)
    shifted = convolution(maps.roll(7, 3))
    torch.testing.assert_close(shifted, convolution(maps).roll(7, 3))
    assert shifted.shape == (1, 3, 8, 32)


def test_weights_of_keypoints_do_not_fit_a_polar_network():
    keypoints, polar = (FEATURES[kind]((1, 28, 28), 16) for kind in ("keypoints", "polar"))
    with pytest.raises(RuntimeError, match="points"):
        polar.load_state_dict(keypoints.state_dict())
