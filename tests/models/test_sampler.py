import pytest
import torch
import torch.nn.functional as F

from stn_experiments.models import SpatialTransformer


@pytest.mark.parametrize(
    ("interpolation", "padding"), [("nearest", "reflection"), ("bilinear", "zeros"), ("bicubic", "border")]
)
def test_a_transformers_sampler_has_its_interpolation_and_padding(interpolation, padding, generator):
    sampler = SpatialTransformer((1, 28, 45), interpolation=interpolation, padding=padding).sampler
    source, grid = torch.rand(2, 3, 5, 7, generator=generator), torch.rand(2, 4, 6, 2, generator=generator)
    expected = F.grid_sample(source, 4 * grid - 2, interpolation, padding, align_corners=False)
    assert sampler(source, 4 * grid - 2).equal(expected)


def test_centres_of_pixels_are_half_a_pixel_from_the_edge():
    """A quarter of a pixel right of the third of five, and one pixel left of the first."""
    sampler = SpatialTransformer((1, 1, 5)).sampler
    source = torch.tensor([[[[2.0, 0.0, 1.0, 0.0, 0.0]]]])
    samples = sampler(source, torch.tensor([[[[0.1, 0.0], [-1.2, 0.0]]]]))
    assert samples.flatten().tolist() == pytest.approx([0.75, 0])
