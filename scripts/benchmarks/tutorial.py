"""PyTorch's own spatial transformer tutorial, written from its description: network, data, loop.

Source: "Spatial Transformer Networks Tutorial", Ghassen Hamrouni, docs.pytorch.org.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import transforms

from benchmarks.measure import Job
from benchmarks.rivals import Loader, Samples
from stn_experiments.data.mnist import Digits
from stn_experiments.models.classifier import ClassifierOutput
from stn_experiments.models.consistency import Consistency

BATCH, LR = 64, 0.01
MEAN, DEVIATION = 0.1307, 0.3081
ANGLE = 90


class TutorialNet(nn.Module):
    """The tutorial's network, for images (B, 1, 28, 28) of mean 0: log-probabilities (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.localization = nn.Sequential(
            *(nn.Conv2d(1, 8, 7), nn.MaxPool2d(2, stride=2), nn.ReLU(True)),
            *(nn.Conv2d(8, 10, 5), nn.MaxPool2d(2, stride=2), nn.ReLU(True)),
        )
        self.fc_loc = nn.Sequential(nn.Linear(10 * 3 * 3, 32), nn.ReLU(True), nn.Linear(32, 6))
        last = cast(nn.Linear, self.fc_loc[2])
        nn.init.zeros_(last.weight)
        last.bias.data.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        theta = self.fc_loc(self.localization(images).flatten(1)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        x = F.grid_sample(images, grid, align_corners=False)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = F.dropout(F.relu(self.fc1(x.flatten(1))), training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class Wrapped(nn.Module):
    """The tutorial's network for our loop: from images in [0, 1] to a :class:`ClassifierOutput`."""

    consistency = Consistency()
    colocalisation = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, images: Tensor, *_: object) -> ClassifierOutput:
        """See the class. The softmax of log-probabilities is the probabilities."""
        return ClassifierOutput(self.network((images - MEAN) / DEVIATION), {})

    def localisation_parameters(self) -> list[nn.Parameter]:
        """None: the tutorial trains all parameters alike."""
        return []


def network() -> TutorialNet:
    """The network, always with the same initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TutorialNet()


def optimizer(model: nn.Module, fused: bool = False) -> torch.optim.Optimizer:
    """The tutorial's optimiser; ours is ``fused``."""
    return torch.optim.SGD(model.parameters(), lr=LR, fused=fused)


def batches(digits: Digits, workers: int) -> Loader:
    """The tutorial's DataLoader, with rotated digits."""
    chain = [
        transforms.RandomRotation(ANGLE, interpolation=transforms.InterpolationMode.BILINEAR),
        transforms.ToTensor(),
        transforms.Normalize((MEAN,), (DEVIATION,)),
    ]
    return Loader(Samples(digits, transforms.Compose(chain)), BATCH, workers)


def loop(network: nn.Module, loader: Loader, device: torch.device) -> Job:
    """Steps of the tutorial's loop."""
    sgd = optimizer(network)

    def steps(units: int) -> None:
        network.train()
        for images, labels in loader.passes(units):
            images, labels = images.to(device), labels.to(device)
            sgd.zero_grad()
            loss = F.nll_loss(network(images), labels)
            loss.backward()
            sgd.step()

    return steps
