import pytest

from stn_experiments.training.health import diagnose, epoch_warning

SOUND = {"epoch": 1, "localisation_gradient": 1.0, "val_outside_share": 0.2, "val_theta_spread": 0.1}


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({}, None),
        ({"val_outside_share": 0.6}, "outside"),
        ({"val_theta_spread": 0.0}, "still"),
        ({"localisation_gradient": 0.0, "val_theta_spread": 0.0}, "no gradient"),
    ],
)
def test_known_failures_are_found(change, failure):
    assert diagnose({**SOUND, **change}) == failure
    assert diagnose({"train_loss": 1.0}) is None  # without a transformer


def test_a_failure_is_reported_once_with_its_remedy():
    outside = {**SOUND, "val_outside_share": 0.9}
    assert epoch_warning([SOUND]) is None
    assert "epoch 2: most of the sampling grid is outside" in epoch_warning([SOUND, {**outside, "epoch": 2}])
    assert "localisation_lr" in epoch_warning([outside])
    assert epoch_warning([outside, SOUND, outside]) is None
    lost = {**SOUND, "localisation_gradient": 0}
    assert epoch_warning([lost]) is None  # reported after step 1
    assert epoch_warning([lost, lost]) is None
    assert "epoch 2: the localisation network has no gradient" in epoch_warning([SOUND, {**lost, "epoch": 2}])
