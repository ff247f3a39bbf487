"""The spatial transformer: localisation network, grid generator, sampler (Jaderberg et al. 2015, 3)."""

from torch import Tensor, nn

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Size, height_width
from stn_experiments.models.grids import Affine, Family, GridGenerator, MatrixFamily
from stn_experiments.models.localisation import FEATURES, Localisation, LocalisationKind
from stn_experiments.models.precision import autocast_disabled, to_float32
from stn_experiments.models.sampler import Interpolation, Padding, Sampler
from stn_experiments.models.view import Transform, View

MOST_ENLARGED = 4


class SpatialTransformer(nn.Module):
    """Warps a feature map by a transform that it regresses from that map.

    Args:
        shape: (C, H, W) of U.
        output_size: side, or (height, width), of V in pixels; by default that of U.
        family: the family of transforms; by default affine.
        localisation: the kind of localisation network, see ``localisation``.
        width: units of its hidden layers.
        interpolation: between the pixels of U.
        padding: what is read outside U.
        antialias: average over as many samples along a side of a pixel of V as the identity puts pixels of U
            into it, rounded; this does nothing where V is as large as U.
        steps: how often the localisation network looks: after the first time at U as warped so far, to refine
            the transform; U itself is resampled each time (Lin and Lucey 2017, "Inverse compositional spatial
            transformer networks").

    Raises:
        UserError: V is more than four times as large as U, where it would only repeat pixels; or there are
            several steps of a family whose transforms do not compose.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        output_size: Size | None = None,
        family: Family | None = None,
        localisation: LocalisationKind = "keypoints",
        width: int = 32,
        interpolation: Interpolation = "bilinear",
        padding: Padding = "zeros",
        antialias: bool = True,
        steps: int = 1,
    ) -> None:
        super().__init__()
        family = family or Affine()
        height, wide = shape[1:]
        size = (height, wide) if output_size is None else height_width(output_size)
        if size[0] > MOST_ENLARGED * height or size[1] > MOST_ENLARGED * wide:
            raise UserError(
                f"output_size must be at most {MOST_ENLARGED} times the input's {height}×{wide}, "
                f"got {size[0]}×{size[1]}"
            )
        if steps > 1 and not isinstance(family, MatrixFamily):
            name = type(family).__name__
            raise UserError(f"steps must be 1 for {name}, whose transforms do not compose, got {steps}")
        oversample = max(1, round(max(height / size[0], wide / size[1]))) if antialias else 1
        self.family = family
        self.output_size = size
        self.localisation = Localisation(FEATURES[localisation](shape, width), family.identity)
        self.grid_generator = GridGenerator(family, (size[0] * oversample, size[1] * oversample))
        self.sampler = Sampler(interpolation, padding, oversample)
        self.glances = nn.ModuleList(GridGenerator(family, (height, wide)) for _ in range(steps - 1))
        self.glance_sampler = Sampler(interpolation, padding)

    def forward(self, source: Tensor) -> View:
        """What the transformer does to U (B, C, H, W): V is the view's output, its points are on U.

        Within ``torch.autocast`` its convolutions are as short as that says, theta and the grid never are:
        with the eight bits of bfloat16 a point of a canvas of 60 pixels would be off by up to a tenth of one.
        """
        theta = self.localisation(source)
        with autocast_disabled(source):
            source = to_float32(source)
            for grid_generator in self.glances:
                seen = self.glance_sampler(source, grid_generator(theta))
                theta = self.family.compose(theta, self.localisation(seen))
            grid = self.grid_generator(theta)
            return View(
                self.sampler(source, grid),
                outline=self.grid_generator.outline(theta),
                marks=self.family.marks(theta),
                transform=Transform(theta, grid),
            )
