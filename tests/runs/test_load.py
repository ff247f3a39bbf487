"""A trained run's network in Python."""

import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.config.build import build
from stn_experiments.data.datasets import DataSet
from stn_experiments.evaluation.evaluate import evaluate
from stn_experiments.runs import load_run

CPU = torch.device("cpu")


def test_the_network_of_a_run_has_the_weights_that_were_tested(finished):
    model, config = load_run(str(finished.folder))
    assert not model.training
    assert config == finished.config()
    result = finished.result()
    test = evaluate(model, build(config["data"], "data", DataSet).load(CPU).test)
    assert test["error"] == pytest.approx(result["test_error"])
    assert test["loss"] == pytest.approx(result["test_loss"])


def test_a_folder_of_runs_is_no_run(finished):
    folder = finished.folder.parent
    with pytest.raises(UserError, match=rf"{folder} is not a run: it contains 1: name .*{finished.folder}$"):
        load_run(folder)
