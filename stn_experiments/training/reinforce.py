"""REINFORCE (Williams 1992), the loss of an attention that samples where to look (Mnih et al. 2014, 3.1)."""

import torch.nn.functional as F
from torch import Tensor

from stn_experiments.models.classifier import ClassifierOutput


def policy_loss(output: ClassifierOutput, labels: Tensor) -> Tensor | float:
    """The loss () of an output's policy, to be added to the cross-entropy; 0 without a policy.

    It is the mean over the batch of -Σ log π (R - b), with the baseline b detached, plus the mean squared
    error of b to the reward R. R is 1 where the predicted class is right and 0 elsewhere.
    """
    if output.policy is None:
        return 0.0
    log_probability, baseline = output.policy
    reward = (output.logits.argmax(1) == labels).to(baseline.dtype)[:, None].expand_as(baseline)
    advantage = (reward - baseline).detach()
    return F.mse_loss(baseline, reward) - (log_probability * advantage).sum(1).mean()
