import pytest
import torch

from stn_experiments.models.grids import FAMILIES, Affine
from stn_experiments.models.recurrent import RecurrentLocalisation


def test_each_step_of_a_recurrent_one_reads_where_its_memory_asks():
    torch.manual_seed(0)
    start = torch.tensor([0.4, 0, 0, 0, 0.4, 0])
    network = RecurrentLocalisation((1, 20, 30), 8, Affine(), start, 3).eval()
    torch.nn.init.normal_(network.theta.weight)
    torch.nn.init.normal_(network.query.weight, std=3)
    image = torch.rand(2, 1, 20, 30)
    thetas, maps = network(image), network.features(image)
    memory = torch.nn.GRUCell(network.memory.input_size, network.memory.hidden_size)
    memory.load_state_dict(network.memory.state_dict())
    for number, of_image in enumerate(maps):
        y, x = torch.meshgrid(  # cells of 4 pixels, eight of which are wider than the image
            (2 * torch.arange(5) - 4) * 4 / 20, (2 * torch.arange(8) - 7) * 4 / 30, indexing="ij"
        )
        key = network.key(torch.cat([torch.stack([x, y, x**2, y**2]), of_image])[None])[0]
        hidden = network.initial[None]
        for step in range(3):
            weights = torch.einsum("k,khw->hw", network.query(hidden)[0], key).flatten().softmax(0)
            read = [(weights.view_as(x) * one).sum() for one in (x, y, *of_image)]
            hidden = memory(torch.stack(read)[None], hidden)
            theta = network.theta(torch.cat([torch.stack(read[:2])[None], hidden], 1))[0]
            torch.testing.assert_close(thetas[number, step], theta)
    assert not torch.allclose(thetas[:, 1], thetas[:, 2], atol=1e-3)


@pytest.mark.parametrize("family", ["translation", "similarity", "affine", "projective"])
def test_the_window_of_a_recurrent_one_starts_centred_on_what_its_query_asks_for(family):
    family = FAMILIES[family]()
    network = RecurrentLocalisation((1, 40, 60), 8, family, torch.tensor(family.identity), 1).eval()
    with torch.no_grad():
        network.query.weight.zero_()
        network.query.bias.copy_(torch.eye(8)[0])
        network.key.weight.zero_()
        # 200 - 200 ((x - 0.5)² + (y + 0.3)²), but for what is the same everywhere
        network.key.weight[0, :4, 0, 0] = 200 * torch.tensor([2 * 0.5, -2 * 0.3, -1, -1])
    theta = network(torch.rand(2, 1, 40, 60))[:, 0]
    centre = family.transform(theta, torch.zeros(1, 2))
    torch.testing.assert_close(centre, torch.tensor([0.5, -0.3]).expand(2, 1, 2), atol=0.02, rtol=0)
