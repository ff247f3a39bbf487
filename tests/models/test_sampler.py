import pytest
import torch

from stn_experiments.models import SpatialTransformer
from stn_experiments.models.sampler import Sampler


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_padding_is_read_outside_the_image(padding):
    source = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    outside = torch.tensor([[[[-4 / 3, 0.0]]]])  # one pixel left of the first
    expected = {"zeros": 0.0, "border": 1.0, "reflection": 1.0}[padding]
    assert Sampler(padding=padding)(source, outside).item() == pytest.approx(expected, abs=1e-5)
    assert SpatialTransformer((1, 28, 45), padding=padding).sampler.padding == padding


def test_interpolation_kinds_have_their_known_values():
    source = torch.tensor([[[[0.0, 0.0, 1.0, 0.0, 0.0]]]])
    third = torch.tensor([[[[0.1, 0.0]]]])  # a quarter of a pixel right of the third
    values = {name: Sampler(name)(source, third).item() for name in ("nearest", "bilinear", "bicubic")}
    assert values["nearest"] == 1
    assert values["bilinear"] == pytest.approx(0.75)
    keys = 1.25 * 0.25**3 - 2.25 * 0.25**2 + 1  # the cubic kernel with a = -0.75
    assert values["bicubic"] == pytest.approx(keys, abs=1e-5)
