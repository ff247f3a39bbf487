"""REINFORCE (Williams 1992), the loss of an attention that samples where to look (Mnih et al. 2014, 3.1)."""

import torch.nn.functional as F
from torch import Tensor

from stn_experiments.models.prediction import Prediction


def policy_loss(prediction: Prediction, labels: Tensor) -> Tensor | float:
    """The loss () of a prediction's policy, to be added to the cross-entropy; 0 without a policy.

    It is the mean over the batch of -Σ log π (R - b), with the baseline b detached, plus the mean squared
    error of b to the reward R. R is 1 where the predicted class is right and 0 elsewhere.
    """
    if prediction.policy is None:
        return 0.0
    log_probability, baseline = prediction.policy
    reward = (prediction.logits.argmax(1) == labels).to(baseline.dtype)[:, None].expand_as(baseline)
    advantage = (reward - baseline).detach()
    return F.mse_loss(baseline, reward) - (log_probability * advantage).sum(1).mean()
