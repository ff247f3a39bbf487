"""Batches are put together field by field."""

import torch

from stn_experiments.data.batch import collect, concat_batches, index_batch
from stn_experiments.data.questions import Questions


def test_collected_batches_are_those_that_are_concatenated(digits, generator):
    batch = Questions(canvas=60).draw(digits, torch.arange(40), generator)
    parts = [index_batch(batch, slice(*ends)) for ends in ((0, 15), (15, 16), (16, 40))]
    for whole in (concat_batches(parts), collect(iter(parts), 40)):
        fields = zip(
            (*whole.pose, *whole[:2], whole.question), (*batch.pose, *batch[:2], batch.question), strict=True
        )
        assert all(one.equal(other) for one, other in fields)
