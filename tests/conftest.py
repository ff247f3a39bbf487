"""Synthetic digits, configs composed as on the command line, and scripts in processes of their own."""

import copy
import functools
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra._internal.core_plugins.file_config_source import FileConfigSource

from stn_experiments.config.compose import compose as compose_config
from stn_experiments.data import datasets
from stn_experiments.data.mnist import Digits, Mnist
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.storage import checkpoints
from stn_experiments.storage.run_folder import RunFolder

ROOT = Path(__file__).parent.parent

# pytest-xdist runs a worker on each core; more threads than that, here or in the scripts started from here,
# would only wait for one another.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def variation(*values):
    """Parameters that vary the others of a test so little that they are for the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


parse_yaml, PARSED = FileConfigSource.load_config, {}


def parse_once(source, config_path):
    """Parse each file of configs/ once: Hydra parses twenty for a config, and tests compose a thousand."""
    if Path(source.path) != ROOT / "configs":
        return parse_yaml(source, config_path)
    if config_path not in PARSED:
        PARSED[config_path] = parse_yaml(source, config_path)
    return copy.deepcopy(PARSED[config_path])


FileConfigSource.load_config = parse_once


def pytest_addoption(parser):
    parser.addoption("--runslow", action="store_true", help="run the tests that are marked as slow, too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--runslow"):
        skip = pytest.mark.skip(reason="slow; --runslow runs it")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def denormals():
    """Training flushes them for its whole process, which in a test is that of the other tests too."""
    yield
    torch.set_flush_denormal(False)


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


@pytest.fixture(scope="session")
def run_script():
    """Run a script of the repository in a process of its own: its exit code, stdout and stderr."""

    def run(name, *arguments, **environment):
        command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
        env = {**os.environ, **environment}
        return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, env=env)

    return run


@functools.cache
def compose_shipped(*overrides):
    return compose_config(ROOT / "configs", overrides)


@pytest.fixture
def compose():
    """The config that a command line of scripts/train.py makes, as plain values."""

    def compose(*overrides):
        return copy.deepcopy(compose_shipped(*overrides))

    return compose


@pytest.fixture
def few_digits(monkeypatch, digits):
    """Stands for MNIST: few digits, of which 40 are for validation."""
    train = Digits(digits.images.repeat(4, 1, 1), digits.labels.repeat(4))
    monkeypatch.setattr(datasets, "load_mnist", lambda root: Mnist(train, digits))
    monkeypatch.setattr(datasets, "TRAIN_DIGITS", len(train.labels))
    return ("data.valid_size=40", "trainer.batch_size=20", "backbone.width=4", "backbone.pool=2")


@pytest.fixture
def command(monkeypatch, tmp_path, capfd):
    """Run a script in this process, in a folder of its own: its exit code, stdout and stderr."""

    def run(script, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        except SystemExit as left:
            code = left.code
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def refused(command):
    """What a script says in its one line, without doing anything else."""

    def run(script, *words, code=2):
        found, out, err = command(script, *words)
        assert (found, out, err.count("\n")) == (code, "", 1), words
        assert err.startswith("error: ")
        return err.removeprefix("error: ").removesuffix("\n")

    return run


@pytest.fixture
def untrained(compose, tmp_path):
    """Write the folder of a run of some settings, with the weights from before training."""

    def write(name, *settings):
        run, config = RunFolder(tmp_path / name), compose(*settings)
        run.create(config)
        checkpoints.save({"model": build_experiment(config).model.state_dict()}, run.model)
        return run.folder

    return write


@pytest.fixture
def chrome(tmp_path):
    """Chromium without a window, which logs requests; without it the test is skipped."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no chromium and chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                 "disable-background-networking", "disable-component-update",
                 f"user-data-dir={tmp_path / 'chrome'}", "window-size=1400,1800"):  # fmt: skip
        options.add_argument(f"--{flag}")
    with webdriver.Chrome(options, Service(driver)) as chrome:
        yield chrome
