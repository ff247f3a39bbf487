import pytest

from stn_experiments.runs.experiment import build_experiment


@pytest.fixture
def build(compose, few_digits):
    """The model of a config, by default for 28×28 pixels."""
    return lambda *settings: build_experiment(compose("data=rotated", *few_digits, *settings)).model
