"""Hard attention: a recurrent network that looks at one place after another (Mnih et al. 2014).

"Recurrent models of visual attention": it never sees the whole map, but G small glimpses of it, and decides
after each where to look next. As that decision is random, it learns by REINFORCE, see ``training.reinforce``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.distributions import Normal

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Pixels, Range
from stn_experiments.models.precision import autocast_disabled, to_float32
from stn_experiments.models.prediction import AttentionHead, Policy, Prediction
from stn_experiments.models.retina import Retina
from stn_experiments.models.view import View

EVALUATION_SEED = 0
WAY_POINTS = 4


@dataclass(frozen=True)
class GlimpseConfig:
    """The settings of a :class:`GlimpseReader`.

    Args:
        glimpses: how often it looks, the first time at the centre.
        size: side of the finest patch, in pixels of the map.
        scales: patches about each place, each twice as wide as the one before and as coarse.
        std: standard deviation of the next place, where the map reaches from -1 to 1.
        copies: paths in each evaluation, over which the classes' probabilities are averaged.
        width: units of the hidden state.
    """

    glimpses: Annotated[int, Range(2, 64)] = 8
    size: Pixels = 12
    scales: Annotated[int, Range(1, 6)] = 3
    std: Annotated[float, Range(1e-3, 1)] = 0.2
    copies: Annotated[int, Range(1, 100)] = 4
    width: Annotated[int, Range(2, 4096)] = 256

    def reader(self, shape: tuple[int, ...], classes: int, vocab_size: int) -> AttentionHead:
        """See :meth:`ReaderKind.reader`."""
        if vocab_size:
            raise UserError("name must be coattention, which reads the questions of this data")
        if len(shape) != 3:
            raise UserError(
                "glimpses need a map, which this backbone does not end in: backbone=none gives the pixels"
            )
        if self.size > min(shape[1:]):
            raise UserError(
                f"size must be at most that of the map that is read, {shape[1]}×{shape[2]}, got {self.size}"
            )
        return GlimpseHead((shape[0], shape[1], shape[2]), classes, self)


class GlimpseNetwork(nn.Module):
    """g = ReLU(Linear(ReLU(Linear(patches))) + Linear(ReLU(Linear(place)))), section 3 of the paper.

    Args:
        inputs: values in the patches of one place.
        width: units of g; the hidden layers have half as many.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        hidden = width // 2
        self.what = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.where = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, patches: Tensor, place: Tensor) -> Tensor:
        """Patches (B, ...) about places (B, 2) to g (B, width)."""
        return F.relu(self.what(patches.flatten(1)) + self.where(place))


class Walk(NamedTuple):
    """What G glimpses came to: class scores ``logits`` (B, classes), and of each glimpse the ``places``
    (B, 2) and the finest ``patches`` (B, C, p, p); of each but the first also what a :class:`Policy` holds.
    """

    logits: Tensor
    places: list[Tensor]
    patches: list[Tensor]
    policy: Policy


class GlimpseHead(AttentionHead):
    """Retina, glimpse network, recurrent core, locator, baseline and classifier of section 3 of the paper.

    Places and hidden states reach the locator and the baseline detached: the locator learns by REINFORCE
    alone, and nothing but the classifier's loss says what to remember.

    With a generator a path is drawn for each image. Without one there are ``copies`` paths, whose noise was
    drawn once and is the same for every image. So what is said of an image depends on no other image, nor on
    how many are evaluated at a time. The views are those of the first path.

    Args:
        shape: (C, H, W) of the map.
        classes: number of classes.
        settings: the others.
    """

    noise: Tensor

    def __init__(self, shape: tuple[int, int, int], classes: int, settings: GlimpseConfig) -> None:
        super().__init__()
        width = settings.width
        self.settings = settings
        self.retina = Retina(shape, settings.size, settings.scales)
        self.glimpse = GlimpseNetwork(shape[0] * settings.scales * settings.size**2, width)
        self.remember = nn.Linear(width, width)
        self.perceive = nn.Linear(width, width)
        # It starts by remembering all that it saw (Le et al. 2015), and so learns much sooner what to see.
        nn.init.eye_(self.remember.weight)
        nn.init.zeros_(self.remember.bias)
        # It starts at the centre. Without the norm a state that grows from glimpse to glimpse would drive the
        # places into a corner, where the tanh is flat.
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
        """See :class:`Reader`."""
        if generator is None:
            return self.evaluate(features)
        shape = (len(features), self.settings.glimpses - 1, 2)
        noise = torch.randn(shape, generator=generator, device=features.device)
        walk = self.walk(self.retina.blurred(to_float32(features)), noise)
        return Prediction(walk.logits, self.views(walk), walk.policy)

    def evaluate(self, features: Tensor) -> Prediction:
        """The mean of several paths."""
        blurred = self.retina.blurred(to_float32(features))
        walks = [self.walk(blurred, noise.expand(len(features), -1, -1)) for noise in self.noise]
        each = torch.stack([to_float32(walk.logits).log_softmax(1) for walk in walks])
        return Prediction(each.logsumexp(0) - math.log(len(walks)), self.views(walks[0]))

    def walk(self, blurred: Sequence[Tensor], noise: Tensor) -> Walk:
        """G glimpses of what :meth:`Retina.blurred` gives, with standard normal noise (B, G - 1, 2)."""
        place = noise.new_zeros(len(noise), 2)
        hidden = noise.new_zeros(len(noise), self.settings.width)
        places, patches, decisions = [], [], []
        for glimpse in range(self.settings.glimpses):
            with autocast_disabled(noise):
                if glimpse:
                    place, *decision = self.decide(to_float32(hidden).detach(), noise[:, glimpse - 1])
                    decisions.append(decision)
                seen = self.retina(blurred, place)
            hidden = F.relu(self.remember(hidden) + self.perceive(self.glimpse(seen, place)))
            places.append(place)
            patches.append(seen[:, 0])
        log_probability, baseline = (torch.stack(part, 1) for part in zip(*decisions, strict=True))
        return Walk(self.classify(hidden), places, patches, Policy(log_probability, baseline))

    def decide(self, hidden: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next place (B, 2), its log probability (B,) and the reward expected (B,), of a hidden state.

        A place off the map is moved to its edge after its probability is taken.
        """
        mean = self.localisation(hidden)
        # With checks, or of a plain number, it would wait for the device.
        policy = Normal(mean, torch.full_like(mean, self.settings.std), validate_args=False)
        place = (policy.mean + policy.stddev * noise).detach()
        return place.clamp(-1, 1), policy.log_prob(place).sum(1), self.baseline(hidden)[:, 0]

    def views(self, walk: Walk) -> list[View]:
        """A view for each glimpse."""
        share = torch.arange(1, WAY_POINTS, device=walk.logits.device)[:, None] / WAY_POINTS
        views: list[View] = []
        for place, before, patch in zip(walk.places, [None, *walk.places], walk.patches, strict=False):
            way = None if before is None else torch.lerp(before[:, None], place[:, None], share)
            views.append(View(patch, self.retina.outline(place), way))
        return views
