"""Localisation networks: from U to theta (Jaderberg et al. 2015, section 3.1)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stn_experiments import geometry

LocalisationKind = Literal["convolutional", "fully_connected"]


class Localisation(nn.Module):
    """Any network whose last linear layer regresses theta, starting at the exact identity.

    That layer has zero weights and the identity as its bias, and nothing that saturates stands behind it: the
    start is exact for every input, and its gradient is not zero.

    Args:
        features: maps U (B, C, H, W) to (B, ``features.width``).
        identity: the P parameters of the identity transform.
    """

    def __init__(self, features: "FullyConnected | Convolutional", identity: Sequence[float]) -> None:
        super().__init__()
        self.features = features
        self.theta = nn.Linear(features.width, len(identity))
        nn.init.zeros_(self.theta.weight)
        with torch.no_grad():
            self.theta.bias.copy_(torch.tensor(identity, dtype=torch.float))

    def forward(self, source: Tensor) -> Tensor:
        """Theta (B, P) for U (B, C, H, W)."""
        return self.theta(self.features(source))


class FullyConnected(nn.Sequential):
    """The paper's features for ST-FCN, for U of ``shape`` (C, H, W): three layers of ``width`` units."""

    def __init__(self, shape: tuple[int, int, int], width: int = 32) -> None:
        channels, height, wide = shape
        super().__init__(
            nn.Flatten(),
            *(nn.Linear(channels * height * wide, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU()),
        )
        self.width = width


class Convolutional(nn.Module):
    """Features for U of ``shape`` (C, H, W): where learned keypoints are, and how much of what there is.

    As the paper's for ST-CNN, two 5×5 convolutions at half size. The paper flattens their maps into a fully
    connected layer, which has to learn every place anew and hardly ever moves on a cluttered canvas. Here a
    softmax over the places of a map gives a keypoint's expected position (Levine et al. 2016, "End-to-end
    training of deep visuomotor policies", section 5.1), which moves along with the digit from the first step.

    Args:
        shape: (C, H, W) of U.
        width: units of a hidden layer over positions and means, which stands beside them.
        filters: of the two convolutions.
        keypoints: number of keypoints.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int = 32,
        filters: tuple[int, int] = (16, 32),
        keypoints: int = 16,
    ) -> None:
        super().__init__()
        first, second = filters
        self.maps = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True),
            *(nn.Conv2d(shape[0], first, 5, padding=2, bias=False), nn.BatchNorm2d(first), nn.ReLU()),
            nn.MaxPool2d(2, ceil_mode=True),
            *(nn.Conv2d(first, second, 5, padding=2, bias=False), nn.BatchNorm2d(second), nn.ReLU()),
        )
        self.heat = nn.Conv2d(second, keypoints, 1, bias=False)  # a softmax is blind to a bias
        self.hidden = nn.Sequential(nn.Linear(2 * keypoints + second, width), nn.Tanh())
        self.width = 2 * keypoints + second + width

    def forward(self, source: Tensor) -> Tensor:
        """Features (B, ``width``) of U (B, C, H, W)."""
        maps = self.maps(source)
        seen = torch.cat([expected_positions(self.heat(maps)).flatten(1), maps.mean((2, 3))], 1)
        return torch.cat([seen, self.hidden(seen)], 1)


def expected_positions(heat: Tensor) -> Tensor:
    """Mean position of each map of ``heat`` (B, K, H, W) under the softmax over its places: (B, K, 2).

    Positions are normalised (x, y).
    """
    places = geometry.pixel_centres(heat.shape[2], heat.shape[3]).to(heat)
    return heat.flatten(2).softmax(2) @ places


FEATURES: dict[LocalisationKind, Callable[[tuple[int, int, int], int], FullyConnected | Convolutional]] = {
    "convolutional": Convolutional,
    "fully_connected": FullyConnected,
}
