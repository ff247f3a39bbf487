"""Co-attention: an image and a question about it, each weighed in the light of the other (Lu et al. 2016).

"Hierarchical question-image co-attention for visual question answering". Vectors are rows here, where the
paper has columns: V (B, N, d) are the places of a map, Q (B, T, d) the words of a question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range
from stn_experiments.models.precision import to_float32
from stn_experiments.models.prediction import AttentionHead, Prediction
from stn_experiments.models.view import Heat, View, densest_region

PADDING = 0
"""The number of the word that fills a question up."""
PHRASES = (1, 2, 3)
"""How many words the phrases of the second level have."""


class Attended(NamedTuple):
    """Sums of an image's places and of a question's words, each (B, d), and the weights (B, N) and (B, T)."""

    image: Tensor
    question: Tensor
    places: Tensor
    words: Tensor


@dataclass(frozen=True)
class CoAttentionConfig:
    """The settings of a co-attention.

    Args:
        mode: ``parallel``: image and question weigh each other at once; ``alternating``: the question by
            itself, the image in its light, and the question in the light of that.
        width: d, of all vectors.
        blind: what is kept from it, to tell how far the other gets alone: all maps are 0 to it then, or all
            questions the same single word.
    """

    mode: Literal["parallel", "alternating"] = "parallel"
    width: Annotated[int, Range(1, 4096)] = 128
    blind: Literal["image", "question"] | None = None

    def reader(self, shape: tuple[int, ...], classes: int, vocab_size: int) -> AttentionHead:
        """See :meth:`ReaderKind.reader`."""
        if not vocab_size:
            raise UserError(
                "name must not be coattention for data that ask no questions, as data=question does"
            )
        if len(shape) != 3:
            raise UserError("name must not be coattention behind a backbone that gives no map")
        return CoAttentionHead(shape, classes, vocab_size, self.mode, self.width, self.blind)


class CoAttentionHead(AttentionHead):
    """Answers questions (B, T) about the images of maps (B, C, h, w); see :class:`CoAttentionConfig`.

    As in the paper, questions are read on three levels (section 3.2): words, phrases, and the question up to
    each word. Each attends by itself, and the answer is encoded from the words on up (equation 7). Unlike
    there, each place of the map has a vector of its own added, which is learned: in a set of places nothing
    is left of anything. Word 0 is padding; it has no weight.

    The view has the means of the three levels' weights: training decides which of them does the looking.
    """

    places: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        vocab_size: int,
        mode: Literal["parallel", "alternating"],
        width: int,
        blind: Literal["image", "question"] | None,
    ) -> None:
        super().__init__()
        channels, height, wide = shape
        self.blind = blind
        self.project = nn.Linear(channels, width)
        self.position = nn.Parameter(torch.randn(height * wide, width) / width**0.5)
        self.levels = QuestionLevels(vocab_size, width)
        kind = {"parallel": Parallel, "alternating": Alternating}[mode]
        self.attentions = nn.ModuleList(kind(width) for _ in range(3))
        self.encoders = nn.ModuleList(nn.Linear(n * width, width) for n in (1, 2, 2))
        self.answer = nn.Linear(width, classes)
        self.register_buffer(
            "places", geometry.pixel_centres(height, wide).view(height, wide, 2), persistent=False
        )

    def forward(self, features: Tensor, question: Tensor | None, generator: Generator | None) -> Prediction:
        """See the class; nothing is random. There is no view while training, where no step asks for it."""
        if question is None:
            raise TypeError("co-attention reads a question about each image, got none")
        if self.blind == "image":
            features = torch.zeros_like(features)
        if self.blind == "question":
            question = F.one_hot(torch.zeros_like(question[:, 0]), question.shape[1])
        image = self.project(features.flatten(2).mT) + self.position
        is_word = question != PADDING
        levels = [
            attend(image, level, is_word)
            for level, attend in zip(self.levels(question), self.attentions, strict=True)
        ]
        encoded = image[:, 0, :0]
        for attended, encode in zip(levels, self.encoders, strict=True):
            encoded = encode(torch.cat([attended.question + attended.image, encoded], 1)).tanh()
        return Prediction(self.answer(encoded), [] if self.training else [self._view(features, levels)])

    def _view(self, features: Tensor, levels: Sequence[Attended]) -> View:
        weights = torch.stack([to_float32(level.places) for level in levels]).mean(0)
        weights = weights.unflatten(1, features.shape[2:])
        words = torch.stack([to_float32(level.words) for level in levels]).mean(0)
        places = self.places.expand(*weights.shape, 2)
        # As bright as it was where the weight is highest.
        shown = to_float32(features) * (weights / weights.amax((1, 2), keepdim=True))[:, None]
        return View(shown, densest_region(weights), heat=Heat(weights, places), words=words)


class QuestionLevels(nn.Module):
    """Words, phrases and the question so far, as vectors (B, T, d) for each word; those of padding are 0.

    A word is its embedding. Its phrase is the largest, unit by unit, of convolutions of 1, 2 and 3 words with
    tanh (equations 1 and 2 of the paper). The question so far is an LSTM's hidden state, which reads phrases.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width, padding_idx=PADDING)
        self.phrases = nn.ModuleList(nn.Conv1d(width, width, n) for n in PHRASES)
        self.read = nn.LSTM(width, width, batch_first=True)

    def forward(self, question: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three levels of questions (B, T)."""
        is_word = (question != PADDING)[..., None]
        words = self.embed(question)
        around = [F.pad(words.mT, ((n - 1) // 2, n // 2)) for n in PHRASES]
        phrases = torch.stack([phrase(x).tanh() for phrase, x in zip(self.phrases, around, strict=True)])
        phrases = phrases.amax(0).mT
        sentence, _ = self.read(phrases)
        return words, phrases * is_word, sentence * is_word


class Parallel(nn.Module):
    """Parallel co-attention, equations 3 to 5 of the paper: C is how well each word and each place agree."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affinity = nn.Linear(width, width, bias=False)  # W_b
        self.image = nn.Linear(width, width, bias=False)  # W_v
        self.question = nn.Linear(width, width, bias=False)  # W_q
        self.weigh_image = nn.Linear(width, 1, bias=False)  # w_hv
        self.weigh_question = nn.Linear(width, 1, bias=False)  # w_hq

    def forward(self, image: Tensor, question: Tensor, is_word: Tensor) -> Attended:
        """Of an image (B, N, d) and a question (B, T, d), 0 where it ``is_word`` (B, T) no more."""
        affinity = (question @ self.affinity(image).mT).tanh()
        places, words = self.image(image), self.question(question)
        seen = (places + affinity.mT @ words).tanh()
        read = (words + affinity @ places).tanh()
        at = self.weigh_image(seen)[..., 0].softmax(1)
        of = softmax_weights(self.weigh_question(read)[..., 0], is_word)
        return Attended(summed(image, at), summed(question, of), at, of)


class Alternating(nn.Module):
    """Alternating co-attention, equation 6 of the paper; each of the three steps has its own weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.summarise, self.look, self.reread = (Guided(width, guided) for guided in (False, True, True))

    def forward(self, image: Tensor, question: Tensor, is_word: Tensor) -> Attended:
        """See :meth:`Parallel.forward`."""
        summary = summed(question, softmax_weights(self.summarise(question), is_word))
        at = self.look(image, summary).softmax(1)
        seen = summed(image, at)
        of = softmax_weights(self.reread(question, seen), is_word)
        return Attended(seen, summed(question, of), at, of)


class Guided(nn.Module):
    """The scores w_h tanh(W_x X + W_g g) of vectors X (B, N, d) under a guide g (B, d), which may be 0."""

    def __init__(self, width: int, guided: bool) -> None:
        super().__init__()
        self.vectors = nn.Linear(width, width, bias=False)  # W_x
        self.guide = nn.Linear(width, width, bias=False) if guided else None  # W_g
        self.weigh = nn.Linear(width, 1, bias=False)  # w_h

    def forward(self, vectors: Tensor, guide: Tensor | None = None) -> Tensor:
        """Scores (B, N)."""
        hidden = self.vectors(vectors)
        if self.guide is not None:
            hidden = hidden + self.guide(guide)[:, None]
        return self.weigh(hidden.tanh())[..., 0]


def softmax_weights(scores: Tensor, is_word: Tensor) -> Tensor:
    """The softmax of scores (B, T) over the words alone; the rest gets none."""
    return scores.masked_fill(~is_word, -torch.inf).softmax(1)


def summed(vectors: Tensor, weights: Tensor) -> Tensor:
    """The sums (B, d) of vectors (B, N, d) by weights (B, N)."""
    return (weights[:, None] @ vectors)[:, 0]
