"""What a config describes."""

import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.runs.experiment import RunConfig, build_experiment, find_device


@pytest.mark.parametrize(
    ("panels", "epochs", "expected"),
    [(100, 3, [1, 2, 3]), (2, 5, [3, 5]), (3, 10, [4, 7, 10]), (1, 750, [750])],
)
def test_panels_are_spread_over_the_epochs(panels, epochs, expected):
    assert RunConfig(panels=panels).panel_epochs(epochs) == expected


def test_a_config_must_be_complete(compose):
    settings = compose()
    del settings["optimizer"]
    with pytest.raises(UserError, match="optimizer is missing from the config"):
        build_experiment(settings)


def test_the_learning_rate_of_the_localisation_network_has_a_factor(compose):
    experiment = build_experiment(compose("trainer.localisation_lr=0.5", "optimizer.lr=0.01"))
    rates = {(group["part"], group["lr"]) for group in experiment.optimizer.param_groups}
    assert rates == {("network", 0.01), ("localisation", 0.005)}


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device("auto").type == "cpu"
    with pytest.raises(UserError, match="this machine, which has no cuda"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto").type == "cuda"
    assert find_device("cpu").type == "cpu"
