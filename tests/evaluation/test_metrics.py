import pytest
import torch

from stn_experiments.evaluation.metrics import outside_share, theta_spread


def test_theta_spread_is_zero_for_constant_theta():
    assert theta_spread(torch.ones(9, 6)) == 0
    theta = torch.stack([torch.zeros(6), torch.full((6,), 2.0)])
    assert theta_spread(theta) == 1


def test_outside_share_counts_points_beyond_the_edge_in_either_direction():
    grid = torch.zeros(2, 2, 3, 2)
    grid[0, 0, :, 0] = 1.1
    grid[0, 1, 0, 1] = -2
    assert outside_share(grid).tolist() == pytest.approx([4 / 6, 0])
