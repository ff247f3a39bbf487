"""The whole network: a backbone with attention before it, between its stages and after it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from torch import Generator, Tensor, nn

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Range, Size
from stn_experiments.models.backbones import Backbone, as_list
from stn_experiments.models.consistency import Consistency
from stn_experiments.models.gates import Gated
from stn_experiments.models.grids import Family, Similarity, Translation
from stn_experiments.models.localisation import FEATURES, LocalisationKind, Shape, shared
from stn_experiments.models.prediction import AttentionHead, Policy, Prediction
from stn_experiments.models.recurrent import RecurrentTransformer, is_recurrent
from stn_experiments.models.sampler import Interpolation, Padding
from stn_experiments.models.spatial_transformer import SpatialTransformer, Start, can_be_window
from stn_experiments.models.view import View

INPUT, HEAD = "input", "head"
NETWORK, LOCALISATION = "network", "localisation"
"""The parts of a model, which may have different learning rates."""


@dataclass(frozen=True)
class TransformerConfig:
    """The transformers of a network; see ``SpatialTransformer`` for the settings of each.

    Args:
        output_size: size of V at the input; null: that of U. Inside the network V is as large as U.
        at: the place of a transformer, or a list of places: ``input`` or a stage of the backbone, whose input
            it transforms.
        share: warp the network's input instead, by a theta that is regressed from the map at the stage
            ``at``. The stages before it, without gates, are those that read V, with the same parameters.
        count: transformers side by side at the input; their outputs are stacked as channels.
        recurrent: one at the input looks once for each label of an image, by a localisation network with a
            memory; the backbone classifies each view alone.
        localisation: the kind of localisation network; ``auto``: the one that fits the backbone and the data.
        consistency: a loss that asks those at the input to follow it.
        colocalisation: margin of the loss by which one translation at the input learns, instead of by labels,
            before an encoder that is trained first and then fixed; 0: labels. See ``colocalisation``.
    """

    family: Family
    output_size: Size | None = None
    at: str | Sequence[str] = INPUT
    share: bool = False
    count: Annotated[int, Range(1, 16)] = 1
    steps: Annotated[int, Range(1, 16)] = 1
    interpolation: Interpolation = "bilinear"
    padding: Padding = "zeros"
    antialias: bool = True
    recurrent: bool = False
    localisation: Literal["auto"] | LocalisationKind = "auto"
    width: Annotated[int, Range(1, 4096)] = 32
    start: Start = None
    consistency: Consistency = field(default_factory=Consistency)
    colocalisation: Annotated[float, Range(0, 4)] = 0.0

    def __post_init__(self) -> None:
        if not self.places or len(set(self.places)) < len(self.places):
            raise UserError(f"at must name different places, at least one, got {self.at}")
        if self.count > 1 and self.places != [INPUT]:
            raise UserError(f"count must be 1 unless at is only {INPUT}, got {self.count}")
        plain = self.places == [INPUT] and self.count == self.steps == 1 and not self.consistency.is_on
        if self.recurrent and not (plain and self.localisation == "auto" and self.family.translates):
            raise UserError(
                f"recurrent must be false unless at is {INPUT}, count and steps are 1, consistency is off, "
                "localisation is auto, and the family has a translation"
            )

        single = self.places == [INPUT] and self.count == 1 and isinstance(self.family, Translation)
        if self.colocalisation and (not single or self.recurrent):
            raise UserError(
                "colocalisation must be 0 unless there is one translation, at input, not recurrent"
            )

    @property
    def places(self) -> list[str]:
        """The places of the transformers."""
        return as_list(self.at)

    def build_at_input(
        self, shape: tuple[int, int, int], default: LocalisationKind, length: int = 1
    ) -> list[SpatialTransformer]:
        """The transformers at an input of ``shape`` (C, H, W); ``default`` replaces ``auto``.

        Raises:
            UserError: they are recurrent, and ``length``, the number of labels of an image, is 1.
        """
        if self.recurrent:
            if length == 1:
                raise UserError("recurrent must be false for images of one label; data=sequence has several")
            return [RecurrentTransformer(length, shape, output_size=self.output_size, **self._settings)]
        count = self.count if INPUT in self.places or self.share else 0
        return [self._build(shape, default, self.output_size) for _ in range(count)]

    def build_inside(self, backbone: Backbone) -> dict[str, list[SpatialTransformer]]:
        """The transformers by the stage of the backbone whose input they transform.

        Raises:
            UserError: the backbone has no such stage, or the stage's input is not a map.
        """
        maps = {name: shape for name, shape in backbone.input_shapes.items() if len(shape) == 3}
        inside = {}
        for place in (place for place in self.places if place != INPUT):
            if place not in maps:
                raise UserError(f"at must name places among {', '.join([INPUT, *maps])}, got {place}")
            channels, height, width = maps[place]
            inside[place] = [self._build((channels, height, width), backbone.localisation, None)]
        return inside

    def share_layers(
        self, transformer: SpatialTransformer, backbone: Backbone, shape: Shape, default: LocalisationKind
    ) -> None:
        """Give a transformer at an input of ``shape`` the layers of ``backbone`` before the stage ``at``.

        Raises:
            UserError: there is no such stage, none before it, or its input is not a map.
        """
        stages = [name for name, shape in backbone.input_shapes.items() if len(shape) == 3]
        place, *others = self.places
        if others or place not in stages[1:]:
            known = ", ".join(stages[1:]) or "this backbone has none"
            raise UserError(
                f"at must be a stage that reads a map of another stage ({known}) to share, got {self.at}"
            )
        layers, (map_shape, placement) = backbone.layers_before(place, shape)
        build = FEATURES[self._kind(default)]
        features = shared(layers, placement.to_earlier, map_shape, build, self.width)
        transformer.localisation.features = features
        transformer.tie_refinements()

    def _kind(self, default: LocalisationKind) -> LocalisationKind:
        """The kind of localisation network; ``default`` replaces ``auto``, if it fits the transforms."""
        if self.localisation != "auto":
            return self.localisation
        if default == "window" and not can_be_window(self.family, self.steps):
            return "keypoints"
        return default

    @property
    def _settings(self) -> dict[str, Any]:
        """The settings that a recurrent transformer has, too."""
        names = ("family", "width", "interpolation", "padding", "antialias", "start")
        return {name: getattr(self, name) for name in names}

    def _build(self, shape: Shape, default: LocalisationKind, output_size: Size | None) -> SpatialTransformer:
        kind = self._kind(default)
        transformer = SpatialTransformer(
            shape, output_size, localisation=kind, steps=self.steps, **self._settings
        )
        is_rigid = isinstance(self.family, Similarity) and self.family.is_rigid
        has_no_direction = self.places == [INPUT] and self.consistency.has_no_direction
        if is_rigid and kind == "polar" and self.start is None and has_no_direction:
            # Near the identity the gradient of the loss is zero: no direction of turning is better.
            transformer.localisation.turn_with_keypoints(shape[2] / shape[1])
        return transformer


class StageOutput(NamedTuple):
    """The intermediate results at one stage: ``views`` of the transformers or of the attention head that read
    its input, with points on that map, and the result of the ``gate`` after it.
    """

    views: list[View]
    gate: Gated | None = None


class ClassifierOutput(NamedTuple):
    """Class scores and the intermediate results of a network's attention.

    Args:
        logits: class scores (B, classes), of sequences (B, classes, T).
        stages: the results at ``input``, at each stage of the backbone and at ``head``, in this order.
        policy: the decisions of a stochastic attention head.
    """

    logits: Tensor
    stages: dict[str, StageOutput]
    policy: Policy | None = None


class Classifier(nn.Module):
    """Maps images in [0, 1] with a black background to class scores.

    Images are not normalised before a transformer: its zero padding would become a grey border, and it
    would learn to avoid that.

    Args:
        backbone: the backbone for the output of the transformers at the input.
        transformers: the transformers of each place, ``input`` or a stage of the backbone, whose input they
            transform.
        gates: the gates after stages of the backbone, by stage.
        attention_head: classifies the backbone's last map in place of the backbone's linear classifier.
        consistency: a loss that training adds, if there are transformers at the input.
        colocalisation: see ``TransformerConfig``; unless it is 0, the backbone is an encoder that does not
            learn.
    """

    def __init__(  # noqa: PLR0913 -- the parts of a network
        self,
        backbone: Backbone,
        transformers: Mapping[str, Sequence[SpatialTransformer]] | None = None,
        gates: Mapping[str, nn.Module] | None = None,
        attention_head: AttentionHead | None = None,
        consistency: Consistency | None = None,
        colocalisation: float = 0.0,
    ) -> None:
        super().__init__()
        self.colocalisation = colocalisation
        self.consistency = consistency or Consistency()
        self.transformers = nn.ModuleDict(
            {place: nn.ModuleList(some) for place, some in (transformers or {}).items() if some}
        )
        self.backbone = backbone
        self.gates = nn.ModuleDict(gates or {})
        self.attention_head = attention_head
        if attention_head is not None:
            backbone.head = None
        if colocalisation:
            backbone.requires_grad_(False)
        # On a CPU oneDNN convolves small maps a quarter faster in this format; tensor cores prefer it, too.
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode; an encoder that does not learn is always in evaluation mode."""
        super().train(mode)
        if self.colocalisation:
            self.backbone.eval()
        return self

    def forward(
        self, images: Tensor, question: Tensor | None = None, generator: Generator | None = None
    ) -> ClassifierOutput:
        """Classify images (B, C, H, W), with questions (B, T) if the data has them.

        ``generator`` is the source of an attention head's random decisions.
        """
        features, views = self._transform(INPUT, images)
        stages = {INPUT: StageOutput(views)}
        for name, layers in self.backbone.stages.named_children():
            features, views = self._transform(name, features)
            features, gate = layers(features), None
            if name in self.gates:
                gate = self.gates[name](features)
                features = gate.output
            stages[name] = StageOutput(views, gate)
        if self.attention_head is None:
            prediction = Prediction(self.backbone.classify(features), [])
        else:
            prediction = self.attention_head(features, question, generator)
        stages[HEAD] = StageOutput(prediction.views)
        logits = prediction.logits
        if is_recurrent(self.transformers_at(INPUT)):
            logits = logits.unflatten(0, (len(stages[INPUT].views), -1)).permute(1, 2, 0)
        return ClassifierOutput(logits, stages, prediction.policy)

    def _transform(self, place: str, features: Tensor) -> tuple[Tensor, list[View]]:
        """The outputs and the views of the transformers of a place, if it has any.

        Outputs are stacked as channels; those of the steps of a recurrent transformer are a batch.
        """
        transformers = self.transformers_at(place)
        if not transformers:
            return features, []
        views = [view for transformer in transformers for view in transformer.views(features)]
        return torch.cat([view.output for view in views], 0 if is_recurrent(transformers) else 1), views

    def transformers_at(self, place: str) -> list[SpatialTransformer]:
        """The transformers of a place; none if it has none."""
        if place not in self.transformers:
            return []
        return list(cast(Iterable[SpatialTransformer], self.transformers[place].children()))

    def localisation_parameters(self) -> list[nn.Parameter]:
        """The parameters of all localisation networks, without those that they share with the backbone."""
        others = {id(weights) for weights in self.backbone.parameters()}
        return [
            weights
            for name, weights in self.named_parameters()
            if ".localisation." in name and id(weights) not in others
        ]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """An optimiser's parameter groups. ``part`` is ``"network"`` or ``"localisation"``.

        Vectors are in groups without weight decay: biases, the factors of batch normalisation, and the theta
        that a localisation network starts from, which decay would pull towards 0.
        """
        ids = {id(parameter) for parameter in self.localisation_parameters()}
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            key = (LOCALISATION if id(parameter) in ids else NETWORK, parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
        return [
            {"params": parameters, "part": part} | ({} if decays else {"weight_decay": 0.0})
            for (part, decays), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
        ]
