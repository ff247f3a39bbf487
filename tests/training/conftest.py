"""A small network, a trainer of it, and forty digits."""

from functools import partial

import pytest
import torch

from stn_experiments.data.distortions import Distortion
from stn_experiments.data.splits import Splits, TrainingSet
from stn_experiments.evaluation.evaluate import evaluate
from stn_experiments.models.backbones import Compact
from stn_experiments.models.classifier import Classifier
from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.training.config import TrainerConfig
from stn_experiments.training.loop import Trainer
from stn_experiments.training.schedules import onecycle


@pytest.fixture
def splits(digits):
    distortion = Distortion(angle=30)
    fixed = distortion.draw(digits, torch.arange(40), torch.Generator().manual_seed(5))
    return Splits(TrainingSet(40, partial(distortion.draw, digits, posed=False)), fixed, fixed)


@pytest.fixture
def make_trainer(splits):
    """A trainer at its start; always the same one for the same arguments."""

    def make(
        stn=True, lr=1e-2, train_set=splits.train, optimizer=torch.optim.AdamW, consistency=None, **settings
    ):
        config = TrainerConfig(**{"epochs": 3, "batch_size": 10, **settings})
        torch.manual_seed(0)
        transformers = {"input": [SpatialTransformer((1, 28, 28))]} if stn else {}
        model = Classifier(Compact((1, 28, 28), 10, width=4, pool=2), transformers, consistency=consistency)
        optimizer = optimizer(model.parameter_groups(), lr=lr)
        for group in optimizer.param_groups[1:]:
            group["lr"] *= config.localisation_lr
        steps, schedule = config.epochs * config.steps_per_epoch(train_set.size), onecycle()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / steps))
        return Trainer(model, scheduler, train_set, config, seed=1)

    return make


@pytest.fixture
def fit(splits):
    """Train to the end; returns the metrics of each epoch."""

    def run(trainer):
        history = []
        while trainer.epoch <= trainer.config.epochs:
            assert trainer.run_epoch()
            valid = {f"val_{name}": value for name, value in evaluate(trainer.model, splits.valid).items()}
            history.append({"epoch": trainer.epoch, **trainer.epoch_metrics(), **valid})
            trainer.next_epoch()
        return history

    return run
