"""What the README tells people to type works."""

import itertools
import re
import shlex

import pytest
import torch

from stn_experiments.runs.experiment import build_experiment
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def commands():
    """The arguments of each command of scripts/train.py, and of each line of the table of features."""
    typed = re.findall(r"python scripts/train\.py ([^`\n#…]+)", README)
    table = README.partition("`python scripts/train.py …` |")[2].partition("\n\n")[0]
    cells = [line.rsplit("|", 2)[1] for line in table.splitlines()[2:]]
    return sorted(
        {text.strip() for text in [*typed, *(c for cell in cells for c in re.findall("`([^`]+)`", cell))]}
    )


def runs(arguments):
    """The overrides of each run of a command, as a sweep makes them."""
    choices = []
    for override in shlex.split(arguments):
        if "=" in override:
            key, _, value = override.partition("=")
            values = [value] if "[" in value else value.split(",")
            choices.append([f"{key}={one}" for one in values])
    return list(itertools.product(*choices))


def test_the_readme_has_commands():
    assert len(commands()) > 20


@pytest.mark.parametrize("arguments", commands())
def test_each_command_makes_a_network_that_runs(compose, tmp_path, arguments):
    for overrides in runs(arguments):
        if any(override.startswith(("data.file=FILE", "data.root=FOLDER")) for override in overrides):
            continue
        config = compose(*overrides, "trainer.device=cpu", f"run.root={tmp_path}")
        experiment = build_experiment(config)
        question = torch.ones(1, 5, dtype=torch.long) if experiment.data.vocab_size else None
        logits = experiment.model.eval()(torch.rand(1, *experiment.data.shape), question).logits
        assert logits.shape == (1, experiment.data.classes)


def test_every_file_that_the_readme_shows_is_there():
    for name in re.findall(r'(?:src="|\]\()((?!https?:)[^")#]+)', README):
        assert (ROOT / name).exists(), name
