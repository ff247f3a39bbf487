"""A backbone: named stages, with their strides."""

from torch import nn

from stn_experiments.models.backbones import Backbone, Stage, Width


class Strided(Backbone):
    """Two 3×3 convolutions of stride 2, each with ``width`` channels and ReLU."""

    width_setting = "width"  # what backbone.parameters scales

    def __init__(self, shape: tuple[int, int, int], classes: int, width: Width = 16) -> None:
        stages = {
            "conv1": Stage(nn.Sequential(nn.Conv2d(shape[0], width, 3, 2, 1), nn.ReLU()), stride=2),
            "conv2": Stage(nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()), stride=2),
        }
        super().__init__(stages, shape, classes)
