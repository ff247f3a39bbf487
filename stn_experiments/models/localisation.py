"""Localisation networks: from U to theta (Jaderberg et al. 2015, section 3.1)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

LocalisationKind = Literal["convolutional", "fully_connected"]


class Localisation(nn.Module):
    """Any network whose last linear layer regresses theta, starting at the exact identity.

    That layer has zero weights and the identity as its bias, and nothing that saturates stands behind it: the
    start is exact for every input, and its gradient is not zero.

    Args:
        features: maps U (B, C, H, W) to (B, ``width``).
        width: number of features.
        identity: the P parameters of the identity transform.
    """

    def __init__(self, features: nn.Module, width: int, identity: Sequence[float]) -> None:
        super().__init__()
        self.features = features
        self.theta = nn.Linear(width, len(identity))
        nn.init.zeros_(self.theta.weight)
        with torch.no_grad():
            self.theta.bias.copy_(torch.tensor(identity, dtype=torch.float))

    def forward(self, source: Tensor) -> Tensor:
        """Theta (B, P) for U (B, C, H, W)."""
        return self.theta(self.features(source))


def fully_connected(shape: tuple[int, int, int], width: int = 32) -> nn.Module:
    """The paper's features for ST-FCN: three hidden layers, for U of ``shape`` (C, H, W)."""
    channels, height, wide = shape
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (channels * height * wide, width, width):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
    return nn.Sequential(*layers)


def convolutional(shape: tuple[int, int, int], width: int = 32, filters: int = 20) -> nn.Module:
    """Features of the paper's ST-CNN kind for U of ``shape`` (C, H, W): two 5×5 convolutions at half size.

    Other than in the paper, the convolutions are padded, so that any size of U works.
    """
    channels, height, wide = shape

    def halved_thrice(side: int) -> int:
        return -(-side // 8)

    return nn.Sequential(
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(channels, filters, 5, padding=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(filters, filters, 5, padding=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(filters * halved_thrice(height) * halved_thrice(wide), width),
        nn.ReLU(),
    )


FEATURES: dict[LocalisationKind, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "convolutional": convolutional,
    "fully_connected": fully_connected,
}
