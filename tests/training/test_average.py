"""Averaged weights, and batch statistics that fit them."""

import pytest
import torch
from torch import nn

from stn_experiments.data.batch import Batch
from stn_experiments.evaluation.evaluate import evaluate
from stn_experiments.training import loop
from stn_experiments.training.average import WeightAverage, estimate_batch_statistics


@pytest.mark.parametrize("steps", [0, 0.5, 10])
def test_the_average_is_the_mean_with_weights_that_fall_exponentially(steps):
    torch.manual_seed(0)
    values = torch.randn(7, 3, 2)
    parameter = nn.Parameter(torch.full((3, 2), 1e3))  # the initial value has no weight
    average = WeightAverage([parameter], steps)
    for value in values:
        parameter.data = value.clone()
        average.update()
    other = nn.Parameter(torch.empty(3, 2))
    average.copy_to([other], 7)
    weights = torch.exp(-torch.arange(6.0, -1, -1) / steps) if steps else torch.tensor([0.0] * 6 + [1])
    expected = (weights[:, None, None] * values).sum(0) / weights.sum()
    torch.testing.assert_close(other.data, expected)


def test_a_state_of_other_parameters_is_refused():
    one, other = (WeightAverage([nn.Parameter(torch.zeros(size))], 3) for size in (2, 3))
    with pytest.raises(RuntimeError):
        one.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="zip"):
        one.load_state_dict({"sums": []})


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm2d(2, momentum=0.3), nn.Dropout(0.5))

    def forward(self, images, question, generator):
        return self.layers(images)


def test_batch_statistics_are_the_mean_over_batches():
    torch.manual_seed(0)
    images = torch.randn(3, 20, 2, 4, 5) * 3 + 7
    model, norm = (model := Norm()), model.layers[0]
    norm.running_mean.fill_(100)  # the old statistics do not count
    batches = [Batch(batch, torch.zeros(20).long(), None) for batch in images]
    estimate_batch_statistics(model, batches, torch.Generator())
    torch.testing.assert_close(norm.running_mean, images.mean((0, 1, 3, 4)))
    torch.testing.assert_close(norm.running_var, images.var((1, 3, 4)).mean(0))
    assert not any(module.training for module in model.modules())
    assert norm.momentum == 0.3


def test_what_is_evaluated_after_a_few_steps_has_no_cold_statistics(make_trainer, splits):
    """Running statistics with momentum 0.1 are still near 0 and 1 after two steps."""
    trainer = make_trainer(averaging=0.0, epochs=1)
    trainer.run_epoch(until_step=2)
    trained, averaged = trainer.model, trainer.averaged_model()
    assert all(map(torch.equal, trained.parameters(), averaged.parameters()))
    torch.manual_seed(0)
    trained.train()
    with torch.no_grad():
        in_training = trained(splits.valid.images).logits
        averaged.eval()
        evaluated = averaged(splits.valid.images).logits
        cold = trained.eval()(splits.valid.images).logits
    assert (evaluated - in_training).norm() < 0.3 * (cold - in_training).norm()


def test_each_image_counts_as_much_for_the_batch_statistics(make_trainer, monkeypatch):
    monkeypatch.setattr(loop, "IMAGES_PER_CHUNK", 16)
    trainer = make_trainer(epochs=1)
    trainer.run_epoch()
    sizes, draw = [], trainer.train_set.draw

    def counting(index, **settings):
        sizes.append(len(index))
        return draw(index, **settings)

    trainer.train_set = trainer.train_set._replace(draw=counting)
    trainer.averaged_model()
    assert len(sizes) > 1
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 16


def test_the_averaged_model_is_the_same_when_it_is_made_again(make_trainer, splits):
    trainer = make_trainer(averaging=0.2)
    trainer.run_epoch()
    before = trainer.state_dict()["model"]["backbone.head.weight"].clone()
    one, other = trainer.averaged_model(), trainer.averaged_model()
    assert evaluate(one, splits.valid) == evaluate(other, splits.valid)
    assert not one.backbone.head.weight.equal(trainer.model.backbone.head.weight)
    assert before.equal(trainer.model.backbone.head.weight)
