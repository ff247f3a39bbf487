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


@pytest.mark.parametrize(
    ("data", "side"),
    [
        ("cluttered", 28 / 60),
        ("rts", 28 / 42),
        ("affnist", 28 / 40),
        ("rotated", 1),
        ("addition", 1),
        ("mixed", 1),
    ],
)
def test_boxes_start_as_windows_where_a_digit_may_lie_anywhere(compose, data, side):
    model = build_experiment(compose(f"data={data}", "stn=affine")).model
    theta = model.transformers["input"][0].localisation.theta.bias
    assert theta[[0, 4]].tolist() == pytest.approx([side, side])


@pytest.mark.parametrize(("data", "angle"), [("rotated12k", 180), ("rotated12k_files", 180), ("rotated", 90)])
def test_images_that_are_rotated_have_the_consistency_loss(compose, data, angle):
    consistency = build_experiment(compose(f"data={data}")).model.consistency
    assert (consistency.is_on, consistency.angle) == (True, angle)


def test_an_encoder_is_trained_on_images_as_large_as_the_windows(compose):
    with pytest.raises(
        UserError, match=r"^stn.output_size must be .* data.encoder.canvas, 28×28, got 20×20$"
    ):
        build_experiment(compose("experiment=colocalisation", "stn.output_size=20"))


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device("auto").type == "cpu"
    with pytest.raises(UserError, match="this machine, which has no cuda"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto").type == "cuda"
    assert find_device("cpu").type == "cpu"
