"""What a network says of a batch, and what a reader, an attention that answers by itself, is."""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Generator, Tensor, nn

from stn_experiments.models.view import View


class Policy(NamedTuple):
    """What a stochastic attention decided in G steps: the log probability (B, G) of where it went, and the
    ``baseline`` (B, G), the reward that it expected.
    """

    log_probability: Tensor
    baseline: Tensor


class Prediction(NamedTuple):
    """Class scores ``logits`` (B, classes), a view for each attention, and what was left to chance."""

    logits: Tensor
    views: list[View]
    policy: Policy | None = None


class AttentionHead(nn.Module):
    """An attention that answers from a map by itself.

    Its ``forward`` takes a map (B, C, H, W), the questions (B, T) about the images or ``None``, and the
    generator that decides what is random or ``None``; it gives a :class:`Prediction` whose views have their
    points on that map.
    """

    def __call__(self, features: Tensor, question: Tensor | None, generator: Generator | None) -> Prediction:
        """See the class."""
        return super().__call__(features, question, generator)


@runtime_checkable
class AttentionHeadConfig(Protocol):
    """The settings of a reader."""

    def reader(self, shape: tuple[int, ...], classes: int, vocab_size: int) -> AttentionHead:
        """A reader of maps of ``shape`` (C, H, W), and of questions with so many words, 0 without questions.

        Raises:
            UserError: it cannot read such maps, or needs questions that are not there.
        """
