import pytest
import torch

from stn_experiments.models.localisation import FEATURES, Localisation, expected_positions


@pytest.mark.parametrize("kind", FEATURES)
def test_localisation_networks_read_any_size(kind):
    for size in ((8, 8), (29, 43), (100, 60)):
        network = Localisation(FEATURES[kind]((3, *size), 16), [1.0, 0, 0, 0, 1, 0])
        assert network(torch.rand(2, 3, *size)).shape == (2, 6)


def test_expected_positions_are_means_under_the_softmax():
    heat = torch.zeros(1, 2, 5, 9)
    heat[0, 0, 1, 7] = 50
    right_of_middle_above = [(2 * 7 + 1) / 9 - 1, (2 * 1 + 1) / 5 - 1]
    expected = torch.tensor([[right_of_middle_above, [0.0, 0.0]]])
    torch.testing.assert_close(expected_positions(heat), expected)
