"""The commands and snippets of README.md and docs/ work."""

import itertools
import re
import shlex

import pytest
import torch

from stn_experiments.data import npz
from stn_experiments.evaluation.evaluate import predict
from stn_experiments.runs.experiment import build_experiment
from tests.config.test_shipped_configs import CHOICES
from tests.conftest import ROOT
from tests.data.signs import write_signs

PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
BLOCKS = {name: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for name, text in PAGES.items()}
SHIPPED = {f"{group}={choice}" for group, choice in CHOICES}
PLACEHOLDERS = ("data.file=FILE", "data.file=mine.npz", "data.root=FOLDER", "run.root=FOLDER")


def commands():
    """The arguments of each command of scripts/train.py, and of each line of a table of commands."""
    found = set()
    for text in PAGES.values():
        found |= set(re.findall(r"python scripts/train\.py ([^`\n#…|]+)", text))
        for table in text.split("`python scripts/train.py …` |")[1:]:
            cells = [line.rsplit("|", 2)[1] for line in table.partition("\n\n")[0].splitlines()[2:]]
            found |= {command for cell in cells for command in re.findall("`([^`]+)`", cell)}
    return sorted(map(str.strip, found))


def runs(arguments):
    """The overrides of each run of a command, as a sweep makes them, with the first seed alone.

    Runs of one shipped choice are left out: ``test_shipped_configs`` builds them.
    """
    choices = []
    for override in shlex.split(arguments):
        if "=" in override:
            key, _, value = override.partition("=")
            values = [value] if "[" in value else value.split(",")
            choices.append([f"{key}={one}" for one in (values[:1] if key == "seed" else values)])
    return [run for run in itertools.product(*choices) if len(run) != 1 or run[0] not in SHIPPED]


def test_the_pages_have_commands():
    assert len(commands()) > 50


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("arguments", [line for line in commands() if runs(line)])
def test_each_command_describes_a_network_that_runs(compose, monkeypatch, tmp_path, arguments):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    folders = re.findall(r"--config-dir (\S+)", arguments)
    search = [f"hydra.searchpath=[file://{ROOT / folder}]" for folder in folders]
    for overrides in runs(arguments):
        if any(override in PLACEHOLDERS for override in overrides):
            continue
        if "data.folder=FOLDER" in overrides:
            signs = write_signs(tmp_path / f"signs{len(list(tmp_path.iterdir()))}", 4, classes=3)
            overrides = [*(word.replace("FOLDER", str(signs)) for word in overrides), "trainer.batch_size=2"]
        config = compose(*search, *overrides, "trainer.device=cpu")
        experiment = build_experiment(config)
        question = torch.ones(1, 5, dtype=torch.long) if experiment.data.vocab_size else None
        logits = experiment.model.eval()(torch.rand(1, *experiment.data.shape), question).logits
        assert logits.shape[:2] == (1, experiment.data.classes)


@pytest.mark.parametrize("page", [name for name, blocks in BLOCKS.items() if blocks])
def test_each_snippet_runs(page, tmp_path, monkeypatch, untrained, few_digits):
    """The snippets of a page share their names."""
    untrained("outputs/RUN", *few_digits, "data=cluttered")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in BLOCKS[page]:
        exec(block, names)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_exists(page):
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for name in re.findall(r'(?:src="|\]\()((?!https?:)[^")#]+)', PAGES[page]):
        assert (folder / name).exists(), name


def test_the_example_of_own_images_can_be_trained_on(compose, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(BLOCKS["features.md"][0], {})
    assert len(BLOCKS["features.md"][0].splitlines()) <= 6
    config = compose("data=npz", "data.file=mine.npz", "trainer.batch_size=20", "trainer.device=cpu")
    experiment = build_experiment(config)
    valid = experiment.data.load(experiment.device).valid
    assert predict(experiment.model, valid).logits.shape == (len(valid.labels), 5)


def test_the_page_on_own_images_names_the_words_of_every_key():
    for word in itertools.chain(*npz.SPLITS.values(), *npz.KINDS.values()):
        assert f"`{word}`" in PAGES["features.md"], word
