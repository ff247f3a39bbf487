"""The whole network: a backbone, and the attentions in front of it, between its stages and at its end."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from torch import Generator, Tensor, nn

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range, Size
from stn_experiments.models.backbones import Backbone
from stn_experiments.models.gates import Gated, Scale2d, seen_through
from stn_experiments.models.grids import Family
from stn_experiments.models.localisation import LocalisationKind
from stn_experiments.models.prediction import AttentionHead, Prediction
from stn_experiments.models.sampler import Interpolation, Padding
from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.models.view import View

INPUT = "input"


@dataclass(frozen=True)
class TransformerConfig:
    """Which transformers stand where in a network; see ``SpatialTransformer`` for the settings of each.

    Args:
        family: the family of their transforms.
        output_size: of V at the input; null is that of U. Inside the network V is always as large as U.
        at: ``input``, or the stage of the backbone in front of which one stands, or a list of such places.
        count: transformers side by side at the input, their V stacked as channels.
        localisation: ``auto`` is the kind that fits the backbone.
    """

    family: Family
    output_size: Size | None = None
    at: str | Sequence[str] = INPUT
    count: Annotated[int, Range(1, 16)] = 1
    steps: Annotated[int, Range(1, 16)] = 1
    interpolation: Interpolation = "bilinear"
    padding: Padding = "zeros"
    antialias: bool = True
    localisation: Literal["auto"] | LocalisationKind = "auto"
    width: Annotated[int, Range(1, 4096)] = 32

    def __post_init__(self) -> None:
        if not self.places or len(set(self.places)) < len(self.places):
            raise UserError(f"at must name different places, at least one, got {self.at}")
        if self.count > 1 and self.places != [INPUT]:
            raise UserError(
                f"count must be 1 unless the transformers stand at the input alone, got {self.count}"
            )

    @property
    def places(self) -> list[str]:
        """Where they stand."""
        return [self.at] if isinstance(self.at, str) else list(self.at)

    def at_input(self, shape: tuple[int, int, int], fitting: LocalisationKind) -> list[SpatialTransformer]:
        """Those for an input of ``shape`` (C, H, W); ``fitting`` is the kind that fits the backbone."""
        count = self.count if INPUT in self.places else 0
        return [self._one(shape, fitting, self.output_size) for _ in range(count)]

    def inside(self, backbone: Backbone) -> dict[str, list[SpatialTransformer]]:
        """Those in front of a backbone's stages.

        Raises:
            UserError: it has no such stage, or there is no map in front of it.
        """
        maps = {name: shape for name, shape in backbone.shapes.items() if len(shape) == 3}
        inside = {}
        for place in self.places:
            if place == INPUT:
                continue
            if place not in maps:
                raise UserError(f"at must name places among {', '.join([INPUT, *maps])}, got {place}")
            channels, height, width = maps[place]
            inside[place] = [self._one((channels, height, width), backbone.localisation, None)]
        return inside

    def _one(
        self, shape: tuple[int, int, int], fitting: LocalisationKind, output_size: Size | None
    ) -> SpatialTransformer:
        return SpatialTransformer(
            shape,
            output_size,
            self.family,
            fitting if self.localisation == "auto" else self.localisation,
            self.width,
            self.interpolation,
            self.padding,
            self.antialias,
            self.steps,
        )


class Classifier(nn.Module):
    """Images in [0, 1] on black to class scores.

    The images reach the transformer as they are: normalising them first would make its zero padding a grey
    border, which it learns to flee from.

    Args:
        backbone: for what the transformers at the input give.
        transformers: those in front of each place, ``input`` or a stage of the backbone.
        gates: those behind stages of the backbone.
        reader: answers from the backbone's last map, in place of the backbone's own linear classifier.
    """

    def __init__(
        self,
        backbone: Backbone,
        transformers: Mapping[str, Sequence[SpatialTransformer]] | None = None,
        gates: Mapping[str, nn.Module] | None = None,
        reader: AttentionHead | None = None,
    ) -> None:
        super().__init__()
        self.transformers = nn.ModuleDict(
            {place: nn.ModuleList(some) for place, some in (transformers or {}).items() if some}
        )
        self.backbone = backbone
        self.gates = nn.ModuleDict(gates or {})
        self.reader = reader
        if reader is not None:
            backbone.head = None
        # oneDNN convolves small maps a quarter faster this way on a CPU, and tensor cores want it too.
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: Tensor, question: Tensor | None = None, generator: Generator | None = None
    ) -> Prediction:
        """The prediction for images (B, C, H, W), with their questions (B, T) if it is about those.

        ``generator`` decides what an attention draws at random. While training there are no views of gates,
        which cost time and which no step asks for.
        """
        path = Path()
        features = self._attend(INPUT, images, path)
        for name, stage in self.backbone.stages.named_children():
            features = stage(self._attend(name, features, path))
            path.narrow(self.backbone.receptive_scale[name])
            if name in self.gates:
                gated = self.gates[name](features)
                features = gated.output
                if not self.training:
                    path.remember(gated)
        path.settle()
        if self.reader is None:
            return Prediction(self.backbone.classify(features), path.views)
        prediction = self.reader(features, question, generator)
        for view in prediction.views:
            path.add(view)
        return prediction._replace(views=path.views)

    def _attend(self, place: str, features: Tensor, path: "Path") -> Tensor:
        if place not in self.transformers:
            return features
        side_by_side = cast(Iterable[SpatialTransformer], self.transformers[place].children())
        return path.follow(list(side_by_side), features)

    def localisation_parameters(self) -> list[nn.Parameter]:
        """The parameters of the networks that say where to look: none where nothing moves."""
        networks = [module.localisation for module in self.modules() if hasattr(module, "localisation")]
        modules = [network for network in networks if isinstance(network, nn.Module)]
        return [parameter for module in modules for parameter in module.parameters()]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """An optimiser's parameter groups: the network, then its localisation networks if it has any."""
        localisation = self.localisation_parameters()
        ids = {id(parameter) for parameter in localisation}
        groups = [[p for p in self.parameters() if id(p) not in ids], localisation]
        return [{"params": group} for group in groups if group]


class Path:
    """The views on the way through a network, and how points of the map in hand lie on the input."""

    def __init__(self) -> None:
        self.views: list[View] = []
        self._back: list[Callable[[Tensor], Tensor]] = []
        self._gated: list[tuple[Gated, Scale2d]] = []
        self._reach: Scale2d = (1.0, 1.0)
        """Of the map in hand on that to which the last step back leads."""

    def follow(self, side_by_side: Sequence[SpatialTransformer], features: Tensor) -> Tensor:
        """Send features through transformers side by side; from there the first leads back."""
        self.settle()
        views = [transformer(features) for transformer in side_by_side]
        for view in views:
            self.add(view)
        family, theta = side_by_side[0].family, views[0].transform.theta
        self._back.append(lambda points: family.transform(theta, points))
        return torch.cat([view.output for view in views], 1)

    def narrow(self, receptive_scale: Sequence[float]) -> None:
        """Go through a stage whose map reaches so far, in x and in y, on the one it reads, if it is a map."""
        if receptive_scale:
            self._reach = (self._reach[0] * receptive_scale[0], self._reach[1] * receptive_scale[1])

    def remember(self, gated: Gated) -> None:
        """Go through a gate, which makes one view with those before it, unless a transformer is between."""
        self._gated.append((gated, self._reach))

    def settle(self) -> None:
        """Add the view of the gates passed so far, and from now on lead back points of the map in hand."""
        if self._gated:
            self.add(seen_through(self._gated))
            self._gated = []
        receptive_scale = self._reach
        if receptive_scale != (1.0, 1.0):
            self._back.append(lambda points: points * geometry.constant(receptive_scale, points))
            self._reach = (1.0, 1.0)

    def add(self, view: View) -> None:
        """Add a view of the map in hand, whose points are led back to the input."""
        outline, marks, heat = view.outline, view.marks, view.heat
        self.views.append(
            view._replace(
                outline=None if outline is None else self._lead_back(outline),
                marks=None if marks is None else self._lead_back(marks),
                heat=None if heat is None else heat._replace(places=self._lead_back(heat.places)),
            )
        )

    def _lead_back(self, points: Tensor) -> Tensor:
        flat = points.flatten(1, -2)
        for step in reversed(self._back):
            flat = step(flat)
        return flat.view_as(points)
