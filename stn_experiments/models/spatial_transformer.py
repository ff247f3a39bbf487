"""The spatial transformer: localisation network, grid generator and sampler (Jaderberg et al. 2015, 3)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Count, Range, height_width
from stn_experiments.config.build import check_arguments
from stn_experiments.models.grids import (
    FAMILIES,
    Family,
    FamilyName,
    GridGenerator,
    MatrixFamily,
    Translation,
)
from stn_experiments.models.localisation import FEATURES, Localisation, LocalisationKind, Shape, tied
from stn_experiments.models.precision import autocast_disabled, to_float32
from stn_experiments.models.sampler import Interpolation, Padding, Sampler
from stn_experiments.models.view import Transform, View

MAX_ENLARGEMENT = 4
Start = Annotated[float, Range(0, 10)] | Sequence[Annotated[float, Range(-100, 100)]] | None
"""Theta before training, the standard deviation of its noise, or the identity."""


class SpatialTransformer(nn.Module):
    """Warps a feature map by a transform that it regresses from that map.

    Args:
        shape: (C, H, W) of U.
        output_size: side or (height, width) of V in pixels; default: that of U.
        family: the family of transforms, or its name.
        localisation: the kind of localisation network, see ``localisation``. With ``window``, V starts as a
            window of its own size in pixels, centred on the first keypoint, and not as all of U. A family
            that scales both axes alike starts with the larger factor, and one that does not scale with its
            own size.
        width: units of its hidden layers.
        interpolation: interpolation between the pixels of U.
        padding: the value outside U.
        antialias: where V is smaller than U, each pixel of V is the mean of as many samples along each side
            as the identity transform has pixels of U there, rounded.
        steps: refinement steps. Each step after the first regresses a further transform from U as warped so
            far; U itself is resampled each time (Lin and Lucey 2017, "Inverse compositional spatial
            transformer networks").
        start: theta of each step before training; default: that of the identity, or of the window. A number
            is the standard deviation of normal noise on it, drawn from torch's generator as all initial
            weights are. With ``window``, the position of the keypoint is added to the translation.

    Raises:
        UserError: an argument has a wrong type or is out of range, V is more than four times as large as U,
            ``start`` does not fit the family, or there are several steps for a family whose transforms do
            not compose.
    """

    window = 1.0
    """Side of a window before training, relative to V's own size in pixels."""

    def __init__(  # noqa: PLR0913 -- settings of a public module
        self,
        shape: tuple[Count, Count, Count],
        output_size: Count | tuple[Count, Count] | None = None,
        family: Family | FamilyName = "affine",
        localisation: LocalisationKind = "keypoints",
        width: Count = 32,
        interpolation: Interpolation = "bilinear",
        padding: Padding = "zeros",
        antialias: bool = True,
        steps: Count = 1,
        start: Start = None,
    ) -> None:
        check_arguments(SpatialTransformer, locals())
        super().__init__()
        input_size = shape[1:]
        family = (family if isinstance(family, Family) else FAMILIES[family]()).on(input_size)
        size = input_size if output_size is None else height_width(output_size)
        if any(after > MAX_ENLARGEMENT * before for after, before in zip(size, input_size, strict=True)):
            raise UserError(
                f"output_size must be at most {MAX_ENLARGEMENT} times the input's "
                f"{input_size[0]}×{input_size[1]}, got {size[0]}×{size[1]}"
            )
        if steps > 1 and not isinstance(family, MatrixFamily):
            name = type(family).__name__
            raise UserError(f"steps must be 1 for {name}, whose transforms do not compose, got {steps}")
        is_window = localisation == "window"
        if is_window and not can_be_window(family, steps):
            raise UserError(
                "localisation must not be window unless steps is 1 and the family has a translation, "
                f"got steps {steps} and {type(family).__name__}"
            )
        if localisation == "peak" and not (isinstance(family, Translation) and start is None):
            raise UserError("localisation must not be peak unless family is a translation and start is null")
        shrinkage = [before / after for after, before in zip(size, input_size, strict=True)]
        scale = [min(1.0, self.window / factor) if is_window else 1.0 for factor in shrinkage]
        down, across = (max(1, round(factor)) if antialias else 1 for factor in shrinkage)
        self.family = family
        self.output_size = size
        self.localisation = self._build_localisation(shape, localisation, width, start, scale)
        self.grid_generator = GridGenerator(family, (size[0] * down, size[1] * across))
        self.sampler = Sampler(interpolation, padding, (down, across))
        self.steps = steps
        self.tie_refinements()
        self.refinement_grid = GridGenerator(family, input_size) if steps > 1 else None
        self.refinement_sampler = Sampler(interpolation, padding)

    def _build_localisation(
        self, shape: Shape, kind: LocalisationKind, width: int, start: Start, scale: Sequence[float]
    ) -> Localisation:
        """The localisation network; ``start`` and ``scale`` are those of :func:`theta_at`."""
        localisation = Localisation(FEATURES[kind](shape, width), theta_at(start, self.family, scale))
        if kind == "window":
            localisation.centre_on_first_features(self.family)
        if kind == "peak":
            localisation.use_features_as_theta()
        return localisation

    def tie_refinements(self) -> None:
        """Give each step after the first the localisation network's weights, and batch statistics of its own.

        The steps read images that are ever less distorted.
        """
        self.refinements = nn.ModuleList(tied(self.localisation) for _ in range(self.steps - 1))

    def forward(self, source: Tensor) -> View:
        """Warp U (B, C, H, W). The view's output is V; its points lie on U.

        Theta, the grid and the sampler use single precision even within ``torch.autocast``: with the eight
        bits of bfloat16 a point on a canvas of 60 pixels would be off by up to a tenth of a pixel.
        """
        theta = self.regress(source)
        with autocast_disabled(source):
            source = to_float32(source)
            return self.warp(source, theta)

    def views(self, source: Tensor) -> list[View]:
        """The view of each step of a :class:`RecurrentTransformer`; of others, the only one."""
        return [self(source)]

    def regress(self, source: Tensor) -> Tensor:
        """Theta (B, P) for U (B, C, H, W), of all steps together."""
        theta = self.localisation(source)
        if self.refinement_grid is None:  # torch.export cannot load an empty region without autocast
            return theta
        with autocast_disabled(source):
            source = to_float32(source)
            for refinement in self.refinements:
                warped = self.refinement_sampler(source, self.refinement_grid(theta))
                theta = self.family.compose(theta, refinement(warped))
            return theta

    def warp(self, source: Tensor, theta: Tensor) -> View:
        """Warp U (B, C, H, W) by a given theta (B, P)."""
        matrix = None
        if isinstance(self.family, MatrixFamily):
            matrix = self.family.matrix(theta)[:, : 2 if self.family.is_affine else 3]
        grid = self.grid_generator(theta)
        return View(
            self.sampler(source, grid),
            outline=self.grid_generator.outline(theta),
            marks=self.family.marks(theta),
            transform=Transform(theta, grid, matrix),
        )


def can_be_window(family: Family, steps: int) -> bool:
    """Whether boxes can start as windows that are centred on a keypoint."""
    return family.translates and steps == 1


def theta_at(start: Start, family: Family, scale: Sequence[float] = (1.0, 1.0)) -> Tensor:
    """Theta (P,) of a family before training: ``start``, or the identity with a ``scale`` along (y, x).

    If one parameter scales both axes, it gets the larger factor.

    Raises:
        UserError: ``start`` has another number of parameters.
    """
    identity = torch.tensor(family.identity, dtype=torch.float)
    factors = {(0, 0): scale[1], (1, 1): scale[0]}
    if (1, 1) not in family.entries:
        factors = {(0, 0): max(scale)}
    for index, entry in enumerate(family.entries):
        identity[index] *= factors.get(entry, 1.0)
    if start is None:
        return identity
    if isinstance(start, float | int):
        return identity + start * torch.randn_like(identity)
    if len(start) != len(identity):
        raise UserError(
            f"start must be null, a standard deviation or the {len(identity)} numbers of theta of "
            f"{type(family).__name__}, got {list(start)}"
        )
    return torch.tensor(start, dtype=torch.float)
