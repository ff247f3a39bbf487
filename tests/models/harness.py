"""Stand-ins for parts of networks."""

import torch


class Given(torch.nn.Module):
    """A localisation network that gives one theta after the other, and then the last again and again."""

    def __init__(self, *thetas):
        super().__init__()
        self.thetas = list(thetas)

    def forward(self, images):
        return self.thetas.pop(0) if len(self.thetas) > 1 else self.thetas[0]
