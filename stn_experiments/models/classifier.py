"""The whole network: a transformer in front of a backbone, or the backbone alone."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stn_experiments.models.backbones import Backbone
from stn_experiments.models.spatial_transformer import SpatialTransformer, View


class Prediction(NamedTuple):
    """Class scores ``logits`` (B, classes), and a view for each transformer on the way."""

    logits: Tensor
    views: list[View]


class Classifier(nn.Module):
    """Images in [0, 1] on black to class scores.

    The images reach the transformer as they are: normalising them first would make its zero padding a grey
    border, which it learns to flee from.
    """

    def __init__(self, backbone: Backbone, transformer: SpatialTransformer | None = None) -> None:
        super().__init__()
        self.transformer = transformer
        self.backbone = backbone
        # oneDNN convolves small maps a quarter faster this way on a CPU, and tensor cores want it too.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Prediction:
        """The prediction for images (B, C, H, W)."""
        if self.transformer is None:
            return Prediction(self.backbone(images), [])
        view = self.transformer(images)
        return Prediction(self.backbone(view.output), [view])

    def localisation_parameters(self) -> list[nn.Parameter]:
        """The parameters of the localisation network: none without a transformer."""
        return list(self.transformer.localisation.parameters()) if self.transformer else []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """An optimiser's parameter groups: the network, then its localisation network if it has one."""
        localisation = self.localisation_parameters()
        ids = {id(parameter) for parameter in localisation}
        groups = [[p for p in self.parameters() if id(p) not in ids], localisation]
        return [{"params": group} for group in groups if group]
