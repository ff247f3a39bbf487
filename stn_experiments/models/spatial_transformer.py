"""The spatial transformer: localisation network, grid generator, sampler (Jaderberg et al. 2015, 3)."""

from typing import Annotated, Literal, NamedTuple

from torch import Tensor, nn

from stn_experiments.errors import UserError
from stn_experiments.models.grids import FAMILIES, Family, GridGenerator
from stn_experiments.models.localisation import FEATURES, Localisation, LocalisationKind
from stn_experiments.models.sampler import Padding, Sampler
from stn_experiments.ranges import Range, Size, height_width

MOST_ENLARGED = 4


class View(NamedTuple):
    """What one transformer did to one batch; metrics and panels are made from it.

    ``theta`` (B, P); ``grid`` (B, s H', s W', 2), where the s × s samples of each pixel of V read U;
    ``outline`` (B, K, 2), the edge of V on U as a closed line; ``source`` U (B, C, H, W); ``output`` V
    (B, C, H', W'). Points are normalised (x, y).
    """

    theta: Tensor
    grid: Tensor
    outline: Tensor
    source: Tensor
    output: Tensor


class SpatialTransformer(nn.Module):
    """Warps a feature map by a transform that it regresses from that map."""

    def __init__(self, localisation: Localisation, grid_generator: GridGenerator, sampler: Sampler) -> None:
        super().__init__()
        self.localisation = localisation
        self.grid_generator = grid_generator
        self.sampler = sampler

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of V in pixels."""
        height, width = self.grid_generator.size
        return height // self.sampler.oversample, width // self.sampler.oversample

    def forward(self, source: Tensor) -> View:
        """What the transformer does to U (B, C, H, W)."""
        theta = self.localisation(source)
        grid = self.grid_generator(theta)
        outline = self.grid_generator.outline(theta)
        return View(theta, grid, outline, source, self.sampler(source, grid))


def spatial_transformer(
    shape: tuple[int, int, int],
    fitting: LocalisationKind,
    family: Family,
    output_size: Size,
    padding: Padding = "zeros",
    antialias: bool = True,
    localisation: Literal["auto"] | LocalisationKind = "auto",
    width: Annotated[int, Range(1, 4096)] = 32,
) -> SpatialTransformer:
    """Put a transformer together from its three parts.

    Args:
        shape: (C, H, W) of U.
        fitting: the localisation network that fits the backbone behind, for ``localisation="auto"``.
        family: the family of transforms.
        output_size: side, or (height, width), of V in pixels.
        padding: what the sampler reads outside U.
        antialias: average over as many samples along a side of a pixel of V as the identity puts pixels of U
            into it, rounded; this does nothing where V is as large as U.
        localisation: the kind of localisation network.
        width: units of its hidden layers.

    Raises:
        UserError: V is more than four times as large as U, where it would only repeat pixels.
    """
    size = height_width(output_size)
    if size[0] > MOST_ENLARGED * shape[1] or size[1] > MOST_ENLARGED * shape[2]:
        raise UserError(
            f"output_size must be at most {MOST_ENLARGED} times the input's {shape[1]}×{shape[2]}, "
            f"got {size[0]}×{size[1]}"
        )
    oversample = max(1, round(max(shape[1] / size[0], shape[2] / size[1]))) if antialias else 1
    grid_generator = FAMILIES[family]((size[0] * oversample, size[1] * oversample))
    features = FEATURES[fitting if localisation == "auto" else localisation](shape, width)
    return SpatialTransformer(
        Localisation(features, grid_generator.identity), grid_generator, Sampler(padding, oversample)
    )
