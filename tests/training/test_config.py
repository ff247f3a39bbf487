import pytest

from stn_experiments.common.errors import UserError
from stn_experiments.training.config import TrainerConfig


def test_steps_per_epoch():
    assert TrainerConfig(epochs=1, batch_size=128).steps_per_epoch(55_000) == 429
    assert TrainerConfig(epochs=1, batch_size=128, images_per_epoch=1280).steps_per_epoch(55_000) == 10
    too_few = TrainerConfig(epochs=1, batch_size=128, images_per_epoch=100)
    with pytest.raises(UserError, match=r"batch_size must be at most the 100 training images .*, got 128"):
        too_few.steps_per_epoch(55_000)
