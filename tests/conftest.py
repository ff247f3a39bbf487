"""Synthetic digits, and models small enough for unit tests."""

import sys
from pathlib import Path

import pytest
import torch

from stn_experiments.data.distortions import Digits

ROOT = Path(__file__).parent.parent


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def digits():
    """Forty smooth blobs inside the 20×20 box of a digit, none symmetric, a shape a class, 0 to 9 in turn."""
    generator = torch.Generator().manual_seed(1)
    shapes = torch.rand(10, 1, 5, 5, generator=generator).repeat(4, 1, 1, 1)
    coarse = (shapes + 0.1 * torch.rand(40, 1, 5, 5, generator=generator)) / 1.1
    ink = torch.nn.functional.interpolate(coarse, size=(20, 20), mode="bilinear", align_corners=False)
    images = torch.nn.functional.pad(ink[:, 0], (4, 4, 4, 4))
    return Digits((images * 255).byte(), torch.arange(40) % 10)


@pytest.fixture
def run_script():
    """Run a script of the repository in a process of its own: its exit code, stdout and stderr."""
    import subprocess

    def run(name, *arguments, **environment):
        import os

        command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
        env = {**os.environ, **environment}
        return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, env=env)

    return run
