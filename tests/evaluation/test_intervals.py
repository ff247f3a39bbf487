import numpy as np
import pytest

from stn_experiments.evaluation.intervals import difference_interval, error_interval

TRIALS = 1000


def draw(generator, seeds, rate, difficulty, spread_of_seeds):
    """Wrong predictions (S, N): images of unlike difficulty, runs of unlike quality."""
    quality = 1 + spread_of_seeds * generator.standard_normal((seeds, 1))
    probability = (rate * quality * difficulty).clip(0, 1)
    return generator.random(probability.shape) < probability


def difficulties(generator, count, spread):
    return np.exp(spread * generator.standard_normal(count) - spread**2 / 2)


CASES = [(0.006, 2.0, 0.15), (0.03, 1.0, 0.1), (0.2, 0.5, 0.05)]
"""Error, spread of the images' difficulty, spread of the seeds' errors as a share of the error."""


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize(("rate", "spread", "spread_of_seeds"), CASES)
def test_95_percent_of_the_intervals_hold_the_true_error(seeds, rate, spread, spread_of_seeds):
    generator = np.random.default_rng(0)
    true = 100 * (rate * difficulties(generator, 4_000_000, spread)).clip(0, 1).mean()
    held = 0
    for _ in range(TRIALS):
        difficulty = difficulties(generator, 2000, spread)
        interval = error_interval(draw(generator, seeds, rate, difficulty, spread_of_seeds))
        held += interval.low <= true <= interval.high
    assert 0.93 <= held / TRIALS <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(3, 3), (5, 2)])
def test_95_percent_of_the_intervals_hold_the_true_difference(first, second):
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(TRIALS):
        difficulty = difficulties(generator, 1000, 1.0)
        runs = [draw(generator, seeds, 0.05, difficulty, 0.1) for seeds in (first, second)]
        held += difference_interval(*runs).holds_zero
    assert 0.93 <= held / TRIALS <= 0.97


@pytest.mark.slow
def test_intervals_hold_when_a_digit_has_several_images_that_count_as_one():
    generator = np.random.default_rng(0)
    true = 100 * (0.03 * difficulties(generator, 4_000_000, 1.5)).clip(0, 1).mean()
    held = {"by digit": 0, "by image": 0}
    for _ in range(TRIALS):
        wrong = draw(generator, 1, 0.03, np.tile(difficulties(generator, 2000, 1.5), 5), 0.0)
        parts = {"by digit": wrong.reshape(1, 5, 2000).mean(1), "by image": wrong}
        for name, part in parts.items():
            interval = error_interval(part)
            held[name] += interval.low <= true <= interval.high
    assert 0.93 <= held["by digit"] / TRIALS <= 0.97
    assert held["by image"] / TRIALS < 0.9


def test_a_difference_on_the_same_images_is_surer_than_two_errors():
    generator = np.random.default_rng(0)
    difficulty = difficulties(generator, 5000, 2.0)
    better, worse = (draw(generator, 5, rate, difficulty, 0.0) for rate in (0.03, 0.035))
    difference = difference_interval(better, worse)
    assert difference.high < 0
    assert difference.mean == pytest.approx(100 * (better.mean() - worse.mean()))
    assert error_interval(better).high > error_interval(worse).low


def test_one_seed_counts_the_images_alone():
    wrong = np.zeros((1, 10_000), bool)
    wrong[:, :100] = True
    interval = error_interval(wrong)
    assert interval.mean == pytest.approx(1)
    normal = 196 * np.sqrt(0.01 * 0.99 / 10_000)
    assert interval.high - 1 == pytest.approx(normal, rel=0.03)
    assert error_interval(np.zeros((1, 50), bool)) == (0, 0, 0)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_test_image_says_nothing_about_others(seeds):
    wrong = np.arange(seeds)[:, None] == 1
    assert error_interval(wrong) == (100 * wrong.mean(), 0, 100)
    assert difference_interval(wrong, wrong).holds_zero
