"""How an attention that decides at random learns: REINFORCE (Williams 1992), as in Mnih et al. 2014, 3.1."""

import torch.nn.functional as F
from torch import Tensor

from stn_experiments.models.prediction import Prediction


def policy_loss(prediction: Prediction, labels: Tensor) -> Tensor | float:
    """What is added to the cross-entropy for a prediction's policy; without one, nothing.

    The mean over the batch of -Σ log π (R - b), b the baseline, which is detached there, plus that of the
    squared error of b to R. The reward R is 1 where the class is right and 0 elsewhere.
    """
    if prediction.policy is None:
        return 0.0
    log_probability, baseline = prediction.policy
    reward = (prediction.logits.argmax(1) == labels).to(baseline.dtype)[:, None].expand_as(baseline)
    advantage = (reward - baseline).detach()
    return F.mse_loss(baseline, reward) - (log_probability * advantage).sum(1).mean()
