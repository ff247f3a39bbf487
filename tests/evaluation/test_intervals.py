import numpy as np
import pytest
import torch

from stn_experiments.evaluation.intervals import (
    difference_interval,
    error_interval,
    pack_wrong,
    unpack_wrong,
)

TRIALS = 400


def draw(generator, seeds, rate, difficulty, spread_of_seeds):
    """Wrong predictions (S, N): images of unlike difficulty, runs of unlike quality."""
    quality = 1 + spread_of_seeds * torch.randn(seeds, 1, generator=generator)
    probability = (rate * quality * difficulty).clamp(0, 1)
    return torch.rand(probability.shape, generator=generator) < probability


def difficulties(generator, count, spread):
    return (spread * torch.randn(count, generator=generator) - spread**2 / 2).exp()


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(("rate", "spread", "spread_of_seeds"), [(0.03, 1.0, 0.1), (0.2, 0.5, 0.05)])
def test_95_percent_of_the_intervals_hold_the_true_error(seeds, rate, spread, spread_of_seeds):
    generator = torch.Generator().manual_seed(0)
    true = 100 * (rate * difficulties(generator, 1_000_000, spread)).clamp(0, 1).mean()
    held = 0
    for _ in range(TRIALS):
        difficulty = difficulties(generator, 2000, spread)
        interval = error_interval(draw(generator, seeds, rate, difficulty, spread_of_seeds))
        held += interval.low <= true <= interval.high
    assert 0.93 <= held / TRIALS <= 0.98


@pytest.mark.parametrize(("first", "second"), [(3, 3), (5, 2)])
def test_95_percent_of_the_intervals_hold_the_true_difference(first, second):
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(TRIALS):
        difficulty = difficulties(generator, 2000, 1.0)
        runs = [draw(generator, seeds, 0.05, difficulty, 0.1) for seeds in (first, second)]
        held += difference_interval(*runs).holds_zero
    assert 0.93 <= held / TRIALS <= 0.98


def test_a_difference_on_the_same_images_is_surer_than_two_errors():
    generator = torch.Generator().manual_seed(0)
    difficulty = difficulties(generator, 5000, 2.0)
    better, worse = (draw(generator, 5, rate, difficulty, 0.0) for rate in (0.03, 0.035))
    difference = difference_interval(better, worse)
    assert difference.high < 0
    assert difference.mean == pytest.approx(100 * (better.double().mean() - worse.double().mean()).item())
    assert error_interval(better).high > error_interval(worse).low


def test_one_seed_counts_the_images_alone():
    wrong = torch.zeros(1, 10_000, dtype=torch.bool)
    wrong[:, :100] = True
    interval = error_interval(wrong)
    assert interval.mean == pytest.approx(1)
    normal = 196 * np.sqrt(0.01 * 0.99 / 10_000)
    assert interval.high - 1 == pytest.approx(normal, rel=0.03)
    assert error_interval(torch.zeros(1, 50, dtype=torch.bool)) == (0, 0, 0)


def test_unequal_test_sets_are_not_compared():
    with pytest.raises(ValueError, match="3 and 4 images are not the same test set"):
        difference_interval(torch.zeros(1, 3), torch.zeros(1, 4))


@pytest.mark.parametrize("count", [1, 8, 10_003])
def test_wrong_images_are_kept_as_text(count):
    wrong = torch.rand(count, generator=torch.Generator().manual_seed(count)) < 0.01
    text = pack_wrong(wrong)
    assert unpack_wrong(text, count).equal(wrong)
    assert len(text) < 400


@pytest.mark.parametrize("text", ["?", "AAAA", pack_wrong(torch.zeros(9, dtype=torch.bool))])
def test_damaged_text_is_an_error(text):
    with pytest.raises(ValueError, match=r"."):
        unpack_wrong(text, 100)
