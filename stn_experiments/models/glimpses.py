"""Hard attention: a recurrent network that looks at one place after another (Mnih et al. 2014).

"Recurrent models of visual attention": the network never sees the whole map, only G small glimpses of it, and
chooses each place from what it has seen before. The choice is random, so it is trained by REINFORCE, see
``training.losses``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.distributions import Normal

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Pixels, Range
from stn_experiments.models.precision import autocast_disabled, to_float32
from stn_experiments.models.prediction import AttentionHead, AttentionHeadConfig, Policy, Prediction
from stn_experiments.models.retina import Retina
from stn_experiments.models.view import View

EVALUATION_SEED = 0
PATH_SEGMENTS = 4
"""The path to a glimpse is drawn as dots between so many segments."""


@dataclass(frozen=True)
class GlimpseConfig(AttentionHeadConfig):
    """The settings of a :class:`GlimpseHead`.

    Args:
        glimpses: number of glimpses; the first is at the centre.
        size: side of the finest patch, in pixels of the map.
        scales: patches at each place, each twice as wide and as coarse as the one before.
        std: standard deviation of the next place; the map reaches from -1 to 1.
        copies: paths in evaluation, over which class probabilities are averaged, so the network sees so many
            times ``glimpses``.
        width: units of the hidden state.
    """

    glimpses: Annotated[int, Range(2, 64)] = 8
    size: Pixels = 12
    scales: Annotated[int, Range(1, 6)] = 3
    std: Annotated[float, Range(1e-3, 1)] = 0.2
    copies: Annotated[int, Range(1, 100)] = 4
    width: Annotated[int, Range(2, 4096)] = 256

    def build(self, shape: tuple[int, ...], classes: int, vocab_size: int) -> AttentionHead:
        if vocab_size:
            raise UserError("name must be coattention, which reads the questions of this data, got ram")
        if len(shape) != 3:
            raise UserError(
                "name must not be ram after a backbone whose output is not a map (backbone=none has one)"
            )
        if self.size > min(shape[1:]):
            raise UserError(
                f"size must be at most that of the map that is read, {shape[1]}×{shape[2]}, got {self.size}"
            )
        return GlimpseHead((shape[0], shape[1], shape[2]), classes, self)


class GlimpseNetwork(nn.Module):
    """g = ReLU(Linear(ReLU(Linear(patches))) + Linear(ReLU(Linear(place)))), section 3 of the paper.

    The patches of one place have ``inputs`` values; g has ``width`` units, the hidden layers half as many.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        hidden = width // 2
        self.what = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.where = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, patches: Tensor, place: Tensor) -> Tensor:
        """Patches (B, ...) at places (B, 2) to g (B, width)."""
        return F.relu(self.what(patches.flatten(1)) + self.where(place))


class Rollout(NamedTuple):
    """G glimpses: class scores ``logits`` (B, classes), the ``places`` (B, 2) and finest ``patches``
    (B, C, p, p) of each, and the policy of the G - 1 choices.
    """

    logits: Tensor
    places: list[Tensor]
    patches: list[Tensor]
    policy: Policy


class GlimpseHead(AttentionHead):
    """Retina, glimpse network, recurrent core, locator, baseline and classifier of section 3 of the paper.

    The locator (``localisation``) and the baseline read detached hidden states, and places are detached. So
    the locator learns by REINFORCE alone, and the classification loss alone trains the rest.

    With a generator, each image gets a random path. Without one there are ``copies`` paths whose noise is
    fixed and the same for every image, so a prediction does not depend on the other images of the batch. The
    views are those of the first path.
    """

    noise: Tensor

    def __init__(self, shape: tuple[int, int, int], classes: int, settings: GlimpseConfig) -> None:
        super().__init__()
        width = settings.width
        self.settings = settings
        self.glimpses_seen = settings.copies * settings.glimpses
        self.retina = Retina(shape, settings.size, settings.scales)
        self.glimpse = GlimpseNetwork(shape[0] * settings.scales * settings.size**2, width)
        self.hidden_to_hidden = nn.Linear(width, width)
        self.glimpse_to_hidden = nn.Linear(width, width)
        # The identity keeps all that was seen so far, which speeds up learning (Le et al. 2015).
        nn.init.eye_(self.hidden_to_hidden.weight)
        nn.init.zeros_(self.hidden_to_hidden.bias)
        # At the start all places are at the centre. Without the norm, a state that grows from glimpse to
        # glimpse would push places into a corner, where tanh saturates.
        to_place = nn.Linear(width // 2, 2)
        nn.init.zeros_(to_place.weight)
        nn.init.zeros_(to_place.bias)
        self.localisation = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width // 2), nn.ReLU(), to_place, nn.Tanh()
        )
        self.baseline = nn.Linear(width, 1)
        self.classify = nn.Linear(width, classes)
        generator = Generator().manual_seed(EVALUATION_SEED)
        noise = torch.randn(settings.copies, settings.glimpses - 1, 2, generator=generator, device="cpu")
        self.register_buffer("noise", noise, persistent=False)

    def forward(
        self, features: Tensor, question: Tensor | None = None, generator: Generator | None = None
    ) -> Prediction:
        blurred = self.retina.blur(to_float32(features))
        batch = features.shape[0]
        if generator is not None:
            shape = (batch, self.settings.glimpses - 1, 2)
            noise = torch.randn(shape, generator=generator, device=features.device)
            rollout = self.rollout(blurred, noise)
            return Prediction(rollout.logits, self._views(rollout), rollout.policy)
        rollouts = [self.rollout(blurred, noise.expand(batch, -1, -1)) for noise in self.noise]
        each = torch.stack([to_float32(rollout.logits).log_softmax(1) for rollout in rollouts])
        return Prediction(each.logsumexp(0) - math.log(len(rollouts)), self._views(rollouts[0]))

    def rollout(self, blurred: Sequence[Tensor], noise: Tensor) -> Rollout:
        """G glimpses of a map from :meth:`Retina.blur`, with standard normal noise (B, G - 1, 2)."""
        place = noise.new_zeros(noise.shape[0], 2)
        hidden = noise.new_zeros(noise.shape[0], self.settings.width)
        places, all_patches, decisions = [], [], []
        for glimpse in range(self.settings.glimpses):
            with autocast_disabled(noise):
                if glimpse:
                    place, *decision = self._choose(to_float32(hidden).detach(), noise[:, glimpse - 1])
                    decisions.append(decision)
                patches = self.retina(blurred, place)
            hidden = F.relu(
                self.hidden_to_hidden(hidden) + self.glimpse_to_hidden(self.glimpse(patches, place))
            )
            places.append(place)
            all_patches.append(patches[:, 0])
        log_probability, baseline = (torch.stack(part, 1) for part in zip(*decisions, strict=True))
        return Rollout(self.classify(hidden), places, all_patches, Policy(log_probability, baseline))

    def _choose(self, hidden: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next place (B, 2), its log probability (B,) and the expected reward (B,).

        The probability is that of the place before it is clamped to the map.
        """
        mean = self.localisation(hidden)
        # Validation, or a plain number as std, would make the host wait for the device.
        policy = Normal(mean, torch.full_like(mean, self.settings.std), validate_args=False)
        place = (policy.mean + policy.stddev * noise).detach()
        return place.clamp(-1, 1), policy.log_prob(place).sum(1), self.baseline(hidden)[:, 0]

    def _views(self, rollout: Rollout) -> list[View]:
        """One view for each glimpse; the marks of all but the first lie between it and the one before."""
        steps = torch.arange(1, PATH_SEGMENTS, device=rollout.logits.device)[:, None] / PATH_SEGMENTS
        paths = [torch.lerp(a[:, None], b[:, None], steps) for a, b in pairwise(rollout.places)]
        return [
            View(patch, self.retina.outline(place), path)
            for place, patch, path in zip(rollout.places, rollout.patches, [None, *paths], strict=True)
        ]
