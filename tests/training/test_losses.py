"""REINFORCE against gradients that are known."""

import math

import pytest
import torch
from torch.distributions import Normal

from stn_experiments.models.prediction import Policy, Prediction
from stn_experiments.training.losses import policy_loss

SAMPLES = 20_000
STD = 0.3


def toy(mean, baseline):
    """A policy of one step about ``mean`` (2,), each of many samples a batch of its own: gradients (N, 2).

    The class is right where the place is to the right of 0.
    """
    means = mean.expand(SAMPLES, 2).clone().requires_grad_()
    noise = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    place = (means + STD * noise).detach()
    right = (place[:, 0] > 0).double()
    policy = Policy(
        Normal(means, STD).log_prob(place).sum(1, keepdim=True),
        torch.full((SAMPLES, 1), baseline, dtype=torch.double),
    )
    prediction = Prediction(torch.stack([1 - right, right], 1), [], policy)
    policy_loss(prediction, torch.ones(SAMPLES, dtype=torch.long)).backward()
    return means.grad * SAMPLES


@pytest.mark.parametrize("baseline", [0.0, 0.7, -2.0])
def test_the_estimate_is_the_gradient_of_the_expected_reward_whatever_the_baseline(baseline):
    mean = torch.tensor([0.1, -0.4], dtype=torch.double)
    gradient = toy(mean, baseline)
    # The expected reward is the share of the Gaussian right of 0, whose slope is its density there.
    slope = math.exp(-((mean[0] / STD) ** 2) / 2) / (STD * math.sqrt(2 * math.pi))
    expected = torch.tensor([-slope, 0.0], dtype=torch.double)
    error = gradient.std(0) / math.sqrt(SAMPLES)
    assert ((gradient.mean(0) - expected).abs() < 3 * error).all()
    assert (error < 0.1 * slope).all()


def test_a_baseline_near_the_reward_makes_less_noise():
    mean = torch.tensor([0.1, -0.4], dtype=torch.double)
    assert toy(mean, 0.63).var() < toy(mean, 0.0).var() / 2


def test_steps_add_up_and_the_baseline_alone_learns_the_reward():
    log_probability = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]], requires_grad=True)
    baseline = torch.tensor([[0.25, 0.5], [0.5, 0.0]], requires_grad=True)
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    prediction = Prediction(logits, [], Policy(log_probability, baseline))
    loss = policy_loss(prediction, torch.tensor([1, 0]))  # right, and wrong
    loss.backward()
    policy = -(-1 * 0.75 - 2 * 0.5 - 3 * -0.5) / 2
    square = (0.75**2 + 0.5**2 + 0.5**2) / 4
    assert loss.item() == pytest.approx(policy + square)
    assert log_probability.grad.tolist() == [[-0.375, -0.25], [0.25, 0.0]]
    assert baseline.grad.tolist() == [[-0.375, -0.25], [0.25, 0.0]]
    assert logits.grad is None


def test_without_a_policy_nothing_is_added():
    assert policy_loss(Prediction(torch.zeros(2, 3), []), torch.zeros(2, dtype=torch.long)) == 0
