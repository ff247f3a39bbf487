"""A spatial transformer with a memory, which looks several times (after Sønderby et al. 2015)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stn_experiments.models.grids import Family
from stn_experiments.models.localisation import (
    CHANNELS,
    Features,
    Localisation,
    LocalisationKind,
    Shape,
    cell_centres,
    map_layers,
)
from stn_experiments.models.precision import autocast_disabled, to_float32
from stn_experiments.models.spatial_transformer import SpatialTransformer, Start, theta_at
from stn_experiments.models.view import View


class RecurrentTransformer(SpatialTransformer):
    """Looks at a map ``length`` times, one after another, by a ``RecurrentLocalisation``.

    The other arguments are those of :class:`SpatialTransformer`. Each V starts as a window, which is larger
    than others because several digits must come into view.
    """

    window = 1.5

    def __init__(self, length: int, shape: Shape, **settings: Any) -> None:
        self.length = length  # before the localisation network is built
        super().__init__(shape, localisation="window", **settings)

    def _build_localisation(
        self, shape: Shape, kind: LocalisationKind, width: int, start: Start, scale: Sequence[float]
    ) -> Localisation:
        theta = theta_at(start, self.family, scale)
        return RecurrentLocalisation(shape, width, self.family, theta, self.length)

    def forward(self, source: Tensor) -> View:
        """Not for this transformer, which has several views: see :meth:`views`."""
        raise NotImplementedError("a recurrent transformer has several views: call views(source)")

    def views(self, source: Tensor) -> list[View]:
        """The views of U (B, C, H, W), in order."""
        thetas = self.localisation(source)
        with autocast_disabled(source):
            source = to_float32(source)
            return [self.warp(source, theta) for theta in thetas.unbind(1)]


def is_recurrent(transformers: Sequence[SpatialTransformer]) -> bool:
    """Whether the transformers of a place are a recurrent one."""
    return any(isinstance(transformer, RecurrentTransformer) for transformer in transformers)


class RecurrentLocalisation(Localisation):
    """A localisation network with a memory, which gives one theta a step (after Sønderby et al. 2015).

    "Recurrent spatial transformer networks" reads the same features at each step. Here the state of the gated
    recurrent unit decides where to read (attention as in Bahdanau et al. 2015, section 3.1), so the steps
    differ even before training. A softmax over the map gives the expected position and the mean features,
    which the unit reads. The window starts centred on that position.

    Args:
        shape: (C, H, W) of U.
        width: units of the queries, and half of those of the memory.
        family: the family of transforms, which must translate.
        start: theta (P,) before training where that position is the middle of U.
        steps: the number of thetas.
    """

    points: Tensor

    def __init__(self, shape: Shape, width: int, family: Family, start: Tensor, steps: int) -> None:
        super().__init__(Features(2 + 2 * width, *map_layers(shape)), start)
        self.register_buffer("points", cell_centres(shape[1:]), persistent=False)
        self.steps = steps
        self.key = nn.Conv2d(4 + CHANNELS, width, 1)
        self.query = nn.Linear(2 * width, width)
        self.memory = nn.GRUCell(2 + CHANNELS, 2 * width)
        self.initial = nn.Parameter(torch.randn(2 * width))
        self.centre_on_first_features(family)

    def forward(self, source: Tensor) -> Tensor:
        """Thetas (B, steps, P) for U (B, C, H, W)."""
        maps = self.features(source)
        with autocast_disabled(source):
            keys, values = self._keys_and_values(to_float32(maps))
            hidden, thetas = self.initial.expand(maps.shape[0], -1), []
            for _ in range(self.steps):
                weights = (self.query(hidden)[:, None] @ keys).softmax(2)
                read = (weights @ values.mT)[:, 0]  # (x, y) and the means of the maps
                hidden = self.memory(read, hidden)
                thetas.append(self.theta(torch.cat([read[:, :2], hidden], 1)))
        return torch.stack(thetas, 1)

    def _keys_and_values(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """What queries are compared with, and what is read: (B, N, H * W) each, of maps (B, C, H, W).

        A key has x² and y², so that a query can prefer places about any point.
        """
        places = torch.cat([self.points, self.points**2], 1).T.unflatten(1, maps.shape[2:])
        places = places.expand(maps.shape[0], -1, -1, -1)  # torch.export takes len(maps) as a constant
        keys = self.key(torch.cat([places, maps], 1))
        return keys.flatten(2), torch.cat([places[:, :2], maps], 1).flatten(2)
