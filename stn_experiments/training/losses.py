"""The losses of a batch."""

import torch.nn.functional as F
from torch import Generator, Tensor

from stn_experiments.models.classifier import INPUT, Classifier, ClassifierOutput
from stn_experiments.models.colocalisation import colocalisation_loss
from stn_experiments.models.consistency import consistency_loss, tilt_loss


def main_loss(
    model: Classifier, output: ClassifierOutput, images: Tensor, labels: Tensor, generator: Generator
) -> Tensor:
    """The cross-entropy (), or where the model learns without labels the loss of co-localisation."""
    if model.colocalisation:
        return colocalisation_loss(model, output.stages[INPUT].views[0], images, generator)
    return F.cross_entropy(output.logits.float(), labels)


def policy_loss(output: ClassifierOutput, labels: Tensor) -> Tensor | float:
    """The loss () of an attention that samples where to look; 0 without a policy.

    It is that of REINFORCE (Williams 1992), as in Mnih et al. 2014, section 3.1: the mean over the batch of
    -Σ log π (R - b), with the baseline b detached, plus the mean squared error of b to the reward R. R is 1
    where the predicted class is right and 0 elsewhere.
    """
    if output.policy is None:
        return 0.0
    log_probability, baseline = output.policy
    reward = (output.logits.argmax(1) == labels).to(baseline.dtype)[:, None].expand_as(baseline)
    advantage = (reward - baseline).detach()
    return F.mse_loss(baseline, reward) - (log_probability * advantage).sum(1).mean()


def batch_consistency(
    model: Classifier, output: ClassifierOutput, images: Tensor, generator: Generator
) -> Tensor:
    """The consistency loss () of the transformers at the input; where it turns images, with the tilt loss."""
    matrix = model.consistency.draw(images, generator)
    views = output.stages[INPUT].views
    loss = consistency_loss(model.transformers_at(INPUT), views, images, matrix)
    return loss + tilt_loss(views, images) if model.consistency.angle else loss
