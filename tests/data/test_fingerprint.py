"""The test set of every shipped data set is the one that it was: results stay comparable."""

import json
from pathlib import Path

import pytest
import torch

from stn_experiments.config.build import build
from stn_experiments.data.datasets import DataSet
from stn_experiments.data.fingerprint import fingerprint

ROOT = Path(__file__).parents[2]
OWN_FILES = ("folder", "npz", "rotated12k_files")
NAMES = sorted(path.stem for path in (ROOT / "configs/data").glob("*.yaml") if path.stem not in OWN_FILES)
QUICK = ("rotated", "rts", "projective", "elastic", "cluttered")
"""The paper's five; the others are drawn in the slow tests."""
SHIPPED = json.loads((Path(__file__).parent / "test_sets.json").read_text())


def load(compose, *overrides):
    config = compose(*overrides, "stn=none")
    return build(config["data"], "data", DataSet).load(torch.device("cpu"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_each_test_set_is_as_shipped(name, compose):
    assert fingerprint(load(compose, f"data={name}").test) == SHIPPED[name]


def test_other_images_labels_and_questions_are_another_set(compose, few_digits):
    small = "data.valid_size=80"
    test = load(compose, "data=question", small).test
    changed = {
        test._replace(images=test.images.roll(1, 0)),
        test._replace(labels=test.labels.roll(1)),
        test._replace(question=test.question.roll(1, 0)),
    }
    assert len({fingerprint(test), *map(fingerprint, changed)}) == 4
    assert fingerprint(load(compose, "data=question", "data.seed=1", small).test) != fingerprint(test)


def test_the_last_bits_of_the_images_do_not_count(compose, few_digits):
    test = load(compose, "data=rotated", *few_digits[:1]).test
    noise = 1e-6 * torch.randn(test.images.shape, generator=torch.Generator().manual_seed(0))
    assert fingerprint(test._replace(images=test.images + noise)) == fingerprint(test)
