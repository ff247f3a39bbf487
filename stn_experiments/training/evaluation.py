"""Evaluation of a model on a fixed set."""

import torch
import torch.nn.functional as F

from stn_experiments.data.datasets import take
from stn_experiments.data.distortions import Batch
from stn_experiments.models.classifier import Classifier, Prediction
from stn_experiments.training.metrics import outside_share, theta_spread

CHUNK = 500


@torch.no_grad()
def predict(model: Classifier, batch: Batch) -> Prediction:
    """The prediction for a batch in evaluation mode; the model's own mode is kept."""
    training = model.training
    model.eval()
    prediction = model(batch.images)
    model.train(training)
    return prediction


def evaluate(model: Classifier, batch: Batch) -> dict[str, float]:
    """Cross-entropy ``loss`` and ``error`` in percent over a whole set, on whose device the model is.

    With a transformer also ``theta_spread`` and ``outside_share``, see ``metrics``.
    """
    losses, wrong, thetas, outside = [], [], [], []
    for start in range(0, len(batch.labels), CHUNK):
        part = take(batch, slice(start, start + CHUNK))
        logits, views = predict(model, part)
        losses.append(F.cross_entropy(logits, part.labels, reduction="sum"))
        wrong.append((logits.argmax(1) != part.labels).sum())
        thetas += [torch.cat([view.theta for view in views], 1)] if views else []
        outside += [outside_share(view.grid) for view in views]
    count = len(batch.labels)
    # The host waits for the device here, once.
    result = {
        "loss": torch.stack(losses).sum().item() / count,
        "error": 100 * torch.stack(wrong).sum().item() / count,
    }
    if thetas:
        result["theta_spread"] = theta_spread(torch.cat(thetas)).item()
        result["outside_share"] = torch.cat(outside).mean().item()
    return result
