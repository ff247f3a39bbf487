"""Co-attention: an image and a question about it, each weighted depending on the other (Lu et al. 2016).

"Hierarchical question-image co-attention for visual question answering". Vectors are rows here and columns in
the paper: V (B, N, d) are the places of a map, Q (B, T, d) the words of a question.
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
from stn_experiments.models.prediction import AttentionHead, AttentionHeadConfig, Prediction
from stn_experiments.models.view import Heat, View

PADDING = 0
"""The word number that fills up short questions."""
PHRASE_LENGTHS = (1, 2, 3)


class Attended(NamedTuple):
    """Weighted sums (B, d) of an image's places and a question's words, and the weights (B, N) and (B, T)."""

    image: Tensor
    question: Tensor
    place_weights: Tensor
    word_weights: Tensor


@dataclass(frozen=True)
class CoAttentionConfig(AttentionHeadConfig):
    """The settings of a :class:`CoAttentionHead`.

    Args:
        mode: ``parallel``: image and question attend to each other at once; ``alternating``: first the
            question by itself, then the image given the question, then the question given the image.
        width: d, the size of all vectors.
        layers: co-attentions one after another, each of which reads what the one before attended to.
        blind: the input that is hidden, to measure what the other one achieves alone: either all maps become
            0, or all questions become the same single word.
    """

    mode: Literal["parallel", "alternating"] = "parallel"
    width: Annotated[int, Range(1, 4096)] = 128
    blind: Literal["image", "question"] | None = None
    layers: Annotated[int, Range(1, 16)] = 1

    def build(self, shape: tuple[int, ...], classes: int, vocab_size: int) -> AttentionHead:
        if not vocab_size:
            raise UserError("name must not be coattention for data without questions; data=question has some")
        if len(shape) != 3:
            raise UserError("name must not be coattention after a backbone whose output is not a map")
        return CoAttentionHead((shape[0], shape[1], shape[2]), classes, vocab_size, self)


class CoAttentionHead(AttentionHead):
    """Answers questions (B, T) about maps (B, C, h, w).

    As in the paper, a question is read on three levels (section 3.2): words, phrases, and the question up to
    each word. Each level has its own attentions, and the answer is encoded from the words upwards (equation
    7). Unlike in the paper, each place of the map has a learned position vector added; without it, a set of
    places could not express "left of". Padding words get no weight.

    The view of each layer shows the mean weights of the three levels. Training makes no views. ``vocab_size``
    counts the padding word.
    """

    places: Tensor

    def __init__(
        self, shape: tuple[int, int, int], classes: int, vocab_size: int, settings: CoAttentionConfig
    ) -> None:
        super().__init__()
        channels, height, wide = shape
        width = settings.width
        self.blind = settings.blind
        self.project = nn.Linear(channels, width)
        self.position = nn.Parameter(torch.randn(height * wide, width) / width**0.5)
        self.levels = QuestionLevels(vocab_size, width)
        attention = {"parallel": Parallel, "alternating": Alternating}[settings.mode]
        self.attentions = nn.ModuleList(attention(width) for _ in range(3 * settings.layers))
        self.fusions = nn.ModuleList(Fusion(width) for _ in range(3 * (settings.layers - 1)))
        self.encoders = nn.ModuleList(nn.Linear(n * width, width) for n in (1, 2, 2))
        self.answer = nn.Linear(width, classes)
        places = geometry.pixel_centres(height, wide).view(height, wide, 2)
        self.register_buffer("places", places, persistent=False)

    def forward(
        self, features: Tensor, question: Tensor | None = None, generator: Generator | None = None
    ) -> Prediction:
        assert question is not None, "co-attention needs a question about each image"
        if self.blind == "image":
            features = torch.zeros_like(features)
        if self.blind == "question":
            question = F.one_hot(torch.zeros_like(question[:, 0]), question.shape[1])
        image = self.project(features.flatten(2).mT) + self.position
        is_word = question != PADDING
        levels = [
            self._attend(image, words, is_word, level) for level, words in enumerate(self.levels(question))
        ]
        encoded = image[:, 0, :0]
        for layers, encode in zip(levels, self.encoders, strict=True):
            encoded = encode(torch.cat([layers[-1].question + layers[-1].image, encoded], 1)).tanh()
        views = [] if self.training else [self._view(features, layer) for layer in zip(*levels, strict=True)]
        return Prediction(self.answer(encoded), views)

    def _attend(self, image: Tensor, question: Tensor, is_word: Tensor, level: int) -> list[Attended]:
        """What each layer of one level attends to."""
        first, *deeper = self.attentions[level::3]
        layers = [first(image, question, is_word)]
        for fuse, attend in zip(self.fusions[level::3], deeper, strict=True):
            image, question = fuse(image, question, layers[-1])
            layers.append(attend(image, question * is_word[..., None], is_word))
        return layers

    def _view(self, features: Tensor, levels: Sequence[Attended]) -> View:
        weights = torch.stack([to_float32(level.place_weights) for level in levels]).mean(0)
        weights = weights.unflatten(1, features.shape[2:])
        words = torch.stack([to_float32(level.word_weights) for level in levels]).mean(0)
        # Scaled such that the place of the highest weight keeps its brightness.
        weighted = to_float32(features) * (weights / weights.amax((1, 2), keepdim=True))[:, None]
        return View(weighted, heat=Heat(weights, self.places.expand(*weights.shape, 2)), words=words)


class QuestionLevels(nn.Module):
    """Words, phrases and the question so far, as one vector for each word (B, T, d); 0 for padding.

    A word is its embedding. A phrase is the elementwise maximum of convolutions over 1, 2 and 3 words with
    tanh (equations 1 and 2 of the paper). The question so far is the hidden state of an LSTM over phrases.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width, padding_idx=PADDING)
        self.phrases = nn.ModuleList(nn.Conv1d(width, width, n) for n in PHRASE_LENGTHS)
        self.read = nn.LSTM(width, width, batch_first=True)

    def forward(self, question: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three levels of questions (B, T)."""
        is_word = (question != PADDING)[..., None]
        words = self.embed(question)
        padded = [F.pad(words.mT, ((n - 1) // 2, n // 2)) for n in PHRASE_LENGTHS]
        phrases = torch.stack([phrase(x).tanh() for phrase, x in zip(self.phrases, padded, strict=True)])
        phrases = phrases.amax(0).mT
        sentence, _ = self.read(phrases)
        return words, phrases * is_word, sentence * is_word


class Parallel(nn.Module):
    """Parallel co-attention, equations 3 to 5 of the paper, with an affinity C of each word and place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affinity = nn.Linear(width, width, bias=False)  # W_b
        self.image = nn.Linear(width, width, bias=False)  # W_v
        self.question = nn.Linear(width, width, bias=False)  # W_q
        self.score_image = nn.Linear(width, 1, bias=False)  # w_hv
        self.score_question = nn.Linear(width, 1, bias=False)  # w_hq

    def forward(self, image: Tensor, question: Tensor, is_word: Tensor) -> Attended:
        """Attend to an image (B, N, d) and a question (B, T, d), which is 0 where not ``is_word`` (B, T)."""
        affinity = (question @ self.affinity(image).mT).tanh()
        places, words = self.image(image), self.question(question)
        hidden_image = (places + affinity.mT @ words).tanh()
        hidden_question = (words + affinity @ places).tanh()
        place_weights = self.score_image(hidden_image)[..., 0].softmax(1)
        word_weights = softmax_weights(self.score_question(hidden_question)[..., 0], is_word)
        return Attended(
            weighted_sum(image, place_weights),
            weighted_sum(question, word_weights),
            place_weights,
            word_weights,
        )


class Alternating(nn.Module):
    """Alternating co-attention, equation 6 of the paper; each of the three steps has its own weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.summarise, self.look, self.reread = (Scores(width, guided) for guided in (False, True, True))

    def forward(self, image: Tensor, question: Tensor, is_word: Tensor) -> Attended:
        summary = weighted_sum(question, softmax_weights(self.summarise(question), is_word))
        place_weights = self.look(image, summary).softmax(1)
        attended_image = weighted_sum(image, place_weights)
        word_weights = softmax_weights(self.reread(question, attended_image), is_word)
        return Attended(attended_image, weighted_sum(question, word_weights), place_weights, word_weights)


class Fusion(nn.Module):
    """What a layer passes on: each place x becomes x + ReLU(W [x; s] + b), s the question it attended to.

    Likewise each word, with the attended image as s. So stack Nguyen and Okatani (2018, "Improved fusion of
    visual and language representations by dense symmetric co-attention") stack layers. Their s differs from
    place to place; here it is the one vector of Lu et al.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image, self.question = nn.Linear(2 * width, width), nn.Linear(2 * width, width)

    def forward(self, image: Tensor, question: Tensor, attended: Attended) -> tuple[Tensor, Tensor]:
        """The image (B, N, d) and question (B, T, d) that the next layer reads."""

        def fused(vectors: Tensor, other: Tensor, linear: nn.Module) -> Tensor:
            return vectors + linear(torch.cat([vectors, other[:, None].expand_as(vectors)], 2)).relu()

        return fused(image, attended.question, self.image), fused(question, attended.image, self.question)


class Scores(nn.Module):
    """Scores w_h tanh(W_x X + W_g g) of vectors X (B, N, d) given a guide g (B, d), or without a guide."""

    def __init__(self, width: int, guided: bool) -> None:
        super().__init__()
        self.vectors = nn.Linear(width, width, bias=False)  # W_x
        self.guide = nn.Linear(width, width, bias=False) if guided else None  # W_g
        self.score = nn.Linear(width, 1, bias=False)  # w_h

    def forward(self, vectors: Tensor, guide: Tensor | None = None) -> Tensor:
        """Scores (B, N)."""
        hidden = self.vectors(vectors)
        if self.guide is not None:
            hidden = hidden + self.guide(guide)[:, None]
        return self.score(hidden.tanh())[..., 0]


def softmax_weights(scores: Tensor, is_word: Tensor) -> Tensor:
    """The softmax of scores (B, T) over words; padding gets 0."""
    return scores.masked_fill(~is_word, -torch.inf).softmax(1)


def weighted_sum(vectors: Tensor, weights: Tensor) -> Tensor:
    """Sums (B, d) of vectors (B, N, d), weighted by (B, N)."""
    return (weights[:, None] @ vectors)[:, 0]
