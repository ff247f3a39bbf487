"""What a network predicts for a batch, and the interface of attention heads."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Generator, Tensor, nn

from stn_experiments.models.view import View


class Policy(NamedTuple):
    """The decisions of a stochastic attention: ``log_probability`` (B, G) of the G places that it chose, and
    ``baseline`` (B, G), the reward that it expected.
    """

    log_probability: Tensor
    baseline: Tensor


class Prediction(NamedTuple):
    """Class scores ``logits`` (B, classes), a view for each attention, and the policy of a stochastic one."""

    logits: Tensor
    views: list[View]
    policy: Policy | None = None


class AttentionHead(nn.Module, ABC):
    """An attention that classifies a map by itself, in place of a backbone's linear classifier.

    ``glimpses_seen`` is the number of glimpses that a prediction in evaluation is made from; ``None`` if it
    reads the whole map.
    """

    glimpses_seen: int | None = None

    @abstractmethod
    def forward(
        self, features: Tensor, question: Tensor | None = None, generator: Generator | None = None
    ) -> Prediction:
        """The prediction for a map (B, C, H, W); the points of its views lie on that map.

        Args:
            features: the map.
            question: word numbers (B, T) of a question about each image, if the data has questions.
            generator: source of random decisions; without it the prediction is deterministic.
        """


class AttentionHeadConfig(ABC):
    """The settings of an attention head."""

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int, vocab_size: int) -> AttentionHead:
        """A head for maps of ``shape`` (C, H, W) and questions of ``vocab_size`` words (0: no questions).

        Raises:
            UserError: the head cannot read such maps, or needs questions and the data has none.
        """
