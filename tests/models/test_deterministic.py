import pytest
import torch
import torch.nn.functional as F

from stn_experiments.models import deterministic
from stn_experiments.models.deterministic import AveragePool, bilinear_sample
from stn_experiments.models.sampler import Sampler


@pytest.fixture
def required(monkeypatch):
    """Use the deterministic versions on a CPU."""
    monkeypatch.setattr(deterministic, "is_required", lambda tensor: True)


def test_deterministic_versions_are_not_used_on_a_cpu():
    tensor = torch.zeros(1)
    assert not deterministic.is_required(tensor)
    torch.use_deterministic_algorithms(True)
    try:
        assert not deterministic.is_required(tensor)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("reach", [1.3, 20.0])
def test_bilinear_sampling_by_indexing_agrees_with_grid_sample(generator, reach):
    source = torch.rand(3, 2, 7, 11, generator=generator, dtype=torch.double).requires_grad_()
    grid = (torch.rand(3, 6, 9, 2, generator=generator, dtype=torch.double) * 2 - 1) * reach
    grid.requires_grad_()
    weight = torch.rand(3, 2, 6, 9, generator=generator, dtype=torch.double)
    results = []
    for sample in (bilinear_sample, lambda *both: F.grid_sample(*both, align_corners=False)):
        output = sample(source, grid)
        results.append((output, *torch.autograd.grad((output * weight).sum(), (source, grid))))
    torch.testing.assert_close(*results)


def test_points_that_are_not_finite_read_black():
    grid = torch.full((1, 2, 2, 2), float("nan"))
    grid[0, 0] = float("inf")
    assert bilinear_sample(torch.ones(1, 1, 3, 3), grid).abs().max() == 0


def test_the_sampler_uses_it_for_bilinear_and_zeros(required, generator):
    source, grid = torch.rand(2, 3, 8, 6, generator=generator), torch.rand(2, 8, 8, 2, generator=generator)
    plain = F.avg_pool2d(F.grid_sample(source, grid, align_corners=False), 2)
    torch.testing.assert_close(Sampler(oversample=(2, 2))(source, grid), plain)
    bordered = F.grid_sample(source, grid * 2, "bicubic", "border", align_corners=False)
    assert Sampler("bicubic", "border")(source, grid * 2).equal(bordered)


@pytest.mark.parametrize(("size", "side"), [((15, 9), 4), ((4, 6), 1)])
def test_average_pooling_by_products_agrees_with_adaptive_pooling(required, generator, size, side):
    maps = torch.rand(2, 5, *size, generator=generator)
    torch.testing.assert_close(AveragePool(side)(maps), F.adaptive_avg_pool2d(maps, side))
