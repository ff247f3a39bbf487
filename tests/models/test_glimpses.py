"""The recurrent attention model: its randomness, and which loss trains which part."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from stn_experiments.common.errors import UserError
from stn_experiments.models.backbones import FCN, NoBackbone
from stn_experiments.models.classifier import Classifier
from stn_experiments.models.glimpses import GlimpseConfig
from stn_experiments.training.losses import policy_loss

SHAPE = (1, 24, 31)
SMALL = GlimpseConfig(glimpses=4, size=6, scales=2, std=0.2, copies=3, width=16)


def model(settings=SMALL, shape=SHAPE):
    torch.manual_seed(0)
    network = Classifier(NoBackbone(shape, 5), attention_head=settings.build(shape, 5, 0))
    to_place = network.attention_head.localisation[3]
    torch.nn.init.normal_(to_place.weight, std=0.1)  # otherwise all glimpses are at the centre
    return network


def images(count=6, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def head_views(output):
    return output.stages["head"].views


def random_path(network, batch, seed=0):
    return network(batch, None, torch.Generator().manual_seed(seed))


def test_each_glimpse_has_a_view_with_the_path_to_it():
    output = model().eval()(images())
    views = head_views(output)
    assert output.logits.shape == (6, 5)
    assert output.policy is None
    assert len(views) == 4
    assert all(view.output.shape == (6, 1, 6, 6) and view.outline.shape == (6, 4, 2) for view in views)
    first, second = views[:2]
    assert first.marks is None
    ends = [view.outline.mean(1) for view in (first, second)]
    middle = second.marks[:, 1]
    torch.testing.assert_close(middle, (ends[0] + ends[1]) / 2)
    retina = model().attention_head.retina
    torch.testing.assert_close(retina(retina.blur(images()), ends[1])[:, 0], second.output)


def test_evaluation_does_not_depend_on_the_batch():
    network = model().eval()
    whole, again = network(images()), network(images())
    assert whole.logits.equal(again.logits)
    torch.testing.assert_close(network(images()[4:]).logits, whole.logits[4:])
    torch.testing.assert_close(head_views(network(images()[4:]))[3].outline, head_views(whole)[3].outline[4:])


def test_evaluation_averages_the_paths():
    network = model().eval()
    head, batch = network.attention_head, images()
    each = [
        head.rollout(head.retina.blur(batch), noise.expand(len(batch), -1, -1)).logits.softmax(1)
        for noise in head.noise
    ]
    assert len(each) == 3
    assert not torch.allclose(each[0], each[1])
    probabilities = network(batch).logits.exp()
    torch.testing.assert_close(probabilities, torch.stack(each).mean(0))


def test_the_generator_decides_the_places():
    network = model()
    one, same, other = (random_path(network, images(), seed) for seed in (3, 3, 4))
    assert one.logits.equal(same.logits)
    assert one.policy.log_probability.equal(same.policy.log_probability)
    assert not head_views(one)[1].outline.equal(head_views(other)[1].outline)


def test_reinforce_trains_the_locator_and_the_baseline_alone():
    network, labels = model(), torch.arange(6) % 5
    locator = {id(parameter) for parameter in network.localisation_parameters()}
    baseline = {id(parameter) for parameter in network.attention_head.baseline.parameters()}
    assert len(locator) == 6
    assert not locator & baseline
    output = random_path(network, images())
    F.cross_entropy(output.logits, labels).backward(retain_graph=True)
    moved = {id(p) for p in network.parameters() if p.grad is not None and p.grad.any()}
    assert moved == {id(p) for p in network.parameters()} - locator - baseline
    network.zero_grad()
    policy_loss(output, labels).backward()
    moved = {id(p) for p in network.parameters() if p.grad is not None and p.grad.any()}
    assert moved == locator | baseline


def test_the_policy_has_the_probabilities_of_the_places():
    network = model(dataclasses.replace(SMALL, std=0.6))
    output = random_path(network, images(200))
    policy = output.policy
    assert policy.log_probability.shape == policy.baseline.shape == (200, 3)
    places = torch.stack([view.outline.mean(1) for view in head_views(output)], 1)
    assert places.abs().max().item() == pytest.approx(1)
    inside = (places[:, 1].abs() < 0.99).all(1)
    with torch.no_grad():
        head, first = network.attention_head, places[:, 0]
        hidden = torch.zeros(200, 16)
        glimpse = head.glimpse(head.retina(head.retina.blur(images(200)), first), first)
        mean = head.localisation(F.relu(head.hidden_to_hidden(hidden) + head.glimpse_to_hidden(glimpse)))
    squares = ((places[:, 1] - mean) / 0.6).square().sum(1)
    expected = -squares / 2 - math.log(2 * math.pi * 0.6**2)
    torch.testing.assert_close(policy.log_probability[inside, 0], expected[inside], atol=1e-4, rtol=1e-4)


def test_places_keep_single_precision_under_autocast():
    network = model()
    with torch.autocast("cpu", torch.bfloat16):
        output = random_path(network, images())
    parts = [*output.policy, *(view.outline for view in head_views(output))]
    assert all(part.dtype == torch.float32 for part in parts)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match=r"^size must be at most that of the map that is read, 24×31, got 26"):
        model(GlimpseConfig(size=26))
    with pytest.raises(UserError, match=r"^name must not be ram after a backbone whose output is not a map"):
        SMALL.build(FCN(SHAPE, 10).output_shape, 10, 0)
    with pytest.raises(UserError, match=r"^name must be coattention, .* got ram"):
        SMALL.build(SHAPE, 10, 4)
