"""The recurrent attention model: its retina against loops, its randomness, and who learns from what."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stn_experiments.common.errors import UserError
from stn_experiments.models.backbones import FCN, Bare, Compact
from stn_experiments.models.classifier import Classifier
from stn_experiments.models.glimpses import GlimpseConfig
from stn_experiments.models.retina import Retina
from stn_experiments.training.reinforce import policy_loss

SHAPE = (1, 24, 31)
SMALL = GlimpseConfig(glimpses=4, size=6, scales=2, std=0.2, copies=3, width=16)


def model(settings=SMALL, shape=SHAPE):
    torch.manual_seed(0)
    network = Classifier(Bare(shape, 5), reader=settings.reader(shape, 5, 0))
    torch.nn.init.normal_(network.reader.localisation[3].weight, std=0.1)  # it starts at the centre otherwise
    return network


def images(count=6, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def drawn(network, batch, seed=0):
    return network(batch, None, torch.Generator().manual_seed(seed))


def bilinear(image, x, y):
    """An image (H, W) at a point in pixels, whose centres are at 0.5, 1.5 and so on; black outside."""
    total, left, top = 0.0, math.floor(x - 0.5), math.floor(y - 0.5)
    for column in (left, left + 1):
        for row in (top, top + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += image[row, column] * (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
    return total


def rendered(image, place, size, scale):
    """One patch, pixel by pixel: each the mean of as many samples as it is pixels large."""
    height, width = image.shape
    step = 2**scale
    patch = np.zeros((size, size))
    for row, column in np.ndindex(size, size):
        left = (place[0] + 1) / 2 * width + (column - size / 2) * step
        top = (place[1] + 1) / 2 * height + (row - size / 2) * step
        samples = [bilinear(image, left + i + 0.5, top + j + 0.5) for i, j in np.ndindex(step, step)]
        patch[row, column] = np.mean(samples)
    return patch


def test_the_retina_is_what_loops_render():
    features = images(3, (2, 24, 31)).double()
    places = torch.tensor([[0.0, 0.0], [0.33, -0.71], [-1.0, 1.0]], dtype=torch.double)
    retina = Retina((2, 24, 31), 5, 3).double()
    patches = retina(retina.blurred(features), places)
    assert patches.shape == (3, 3, 2, 5, 5)
    for image, scale, channel in np.ndindex(3, 3, 2):
        expected = rendered(features[image, channel].numpy(), places[image].tolist(), 5, scale)
        np.testing.assert_allclose(patches[image, scale, channel].numpy(), expected, atol=1e-6)


def test_the_outline_is_the_edge_of_the_finest_patch():
    corners = Retina((1, 20, 40), 10, 2).outline(torch.tensor([[0.5, -0.2]]))
    assert corners[0].flatten().tolist() == pytest.approx([0.25, -0.7, 0.75, -0.7, 0.75, 0.3, 0.25, 0.3])


def test_a_view_for_each_glimpse_with_the_way_to_it():
    prediction = model().eval()(images())
    assert prediction.logits.shape == (6, 5)
    assert prediction.policy is None
    assert len(prediction.views) == 4
    assert all(
        view.output.shape == (6, 1, 6, 6) and view.outline.shape == (6, 4, 2) for view in prediction.views
    )
    first, second = prediction.views[:2]
    assert first.marks is None
    ends = [view.outline.mean(1) for view in (first, second)]
    middle = second.marks[:, 1]
    torch.testing.assert_close(middle, (ends[0] + ends[1]) / 2)
    retina = model().reader.retina
    torch.testing.assert_close(retina(retina.blurred(images()), ends[1])[:, 0], second.output)


def test_it_reads_the_map_of_a_backbone_too():
    torch.manual_seed(0)
    backbone = Compact((1, 40, 52), 5, width=8, pool=8)
    network = Classifier(backbone, reader=SMALL.reader(backbone.output, 5, 0)).eval()
    prediction = network(images(2, (1, 40, 52)))
    assert prediction.logits.shape == (2, 5)
    assert prediction.views[0].output.shape == (2, 16, 6, 6)


def test_evaluation_is_the_same_however_many_images_there_are_at_a_time():
    network = model().eval()
    whole, again = network(images()), network(images())
    assert whole.logits.equal(again.logits)
    torch.testing.assert_close(network(images()[4:]).logits, whole.logits[4:])
    torch.testing.assert_close(network(images()[4:]).views[3].outline, whole.views[3].outline[4:])


def test_evaluation_is_the_mean_of_the_copies():
    network = model().eval()
    reader, batch = network.reader, images()
    each = [
        reader.walk(reader.retina.blurred(batch), noise.expand(len(batch), -1, -1)).logits.softmax(1)
        for noise in reader.noise
    ]
    assert len(each) == 3
    assert not torch.allclose(each[0], each[1])
    probabilities = network(batch).logits.exp()
    torch.testing.assert_close(probabilities, torch.stack(each).mean(0))


def test_the_generator_decides_where_it_looks():
    network = model()
    one, same, other = (drawn(network, images(), seed) for seed in (3, 3, 4))
    assert one.logits.equal(same.logits)
    assert one.policy.log_probability.equal(same.policy.log_probability)
    assert not one.views[1].outline.equal(other.views[1].outline)


def test_a_training_step_is_done_again_to_the_bit():
    weights = []
    for _ in range(2):
        network = model()
        optimizer = torch.optim.AdamW(network.parameters(), 0.01)
        for seed in range(3):
            prediction, labels = drawn(network, images(), seed), torch.arange(6) % 5
            optimizer.zero_grad()
            (F.cross_entropy(prediction.logits, labels) + policy_loss(prediction, labels)).backward()
            optimizer.step()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
    assert weights[0].equal(weights[1])


def test_the_locator_learns_by_reinforce_alone_and_moves_nothing_else():
    network, labels = model(), torch.arange(6) % 5
    locator = {id(parameter) for parameter in network.localisation_parameters()}
    baseline = {id(parameter) for parameter in network.reader.baseline.parameters()}
    assert len(locator) == 6
    assert not locator & baseline
    prediction = drawn(network, images())
    F.cross_entropy(prediction.logits, labels).backward(retain_graph=True)
    moved = {id(p) for p in network.parameters() if p.grad is not None and p.grad.any()}
    assert moved == {id(p) for p in network.parameters()} - locator - baseline
    network.zero_grad()
    policy_loss(prediction, labels).backward()
    moved = {id(p) for p in network.parameters() if p.grad is not None and p.grad.any()}
    assert moved == locator | baseline


def test_the_probability_is_that_of_the_places_chosen():
    network = model()
    prediction = drawn(network, images(200))
    policy = prediction.policy
    assert policy.log_probability.shape == policy.baseline.shape == (200, 3)
    places = torch.stack([view.outline.mean(1) for view in prediction.views], 1)
    assert places.abs().max() <= 1 + 1e-6
    inside = (places[:, 1].abs() < 0.99).all(1)
    with torch.no_grad():
        reader, first = network.reader, places[:, 0]
        hidden = torch.zeros(200, 16)
        glimpse = reader.glimpse(reader.retina(reader.retina.blurred(images(200)), first), first)
        mean = reader.localisation(F.relu(reader.remember(hidden) + reader.perceive(glimpse)))
    squares = ((places[:, 1] - mean) / 0.2).square().sum(1)
    expected = -squares / 2 - math.log(2 * math.pi * 0.2**2)
    torch.testing.assert_close(policy.log_probability[inside, 0], expected[inside], atol=1e-4, rtol=1e-4)


def test_half_precision_leaves_places_whole():
    network = model()
    with torch.autocast("cpu", torch.bfloat16):
        prediction = drawn(network, images())
    parts = [*prediction.policy, *(view.outline for view in prediction.views)]
    assert all(part.dtype == torch.float32 for part in parts)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 26}, "size must be at most that of the map that is read, 24×31, got 26"),
    ],
)
def test_patches_that_cannot_be_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        model(GlimpseConfig(**settings))


def test_it_needs_a_map_and_no_questions():
    with pytest.raises(UserError, match="which this backbone does not end in"):
        SMALL.reader(FCN(SHAPE, 10).output, 10, 0)
    with pytest.raises(UserError, match="name must be coattention"):
        SMALL.reader(SHAPE, 10, 4)
