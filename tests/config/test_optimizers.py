"""Settings of torch's optimisers have ranges."""

import inspect
import math

import pytest
import torch
import yaml

from stn_experiments.common.errors import UserError
from stn_experiments.config.build import build
from stn_experiments.config.optimizers import HINTS
from tests.conftest import ROOT

FILES = (ROOT / "configs" / "optimizer").glob("*.yaml")
SHIPPED = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}


def make(name, **settings):
    node = {"_target_": f"torch.optim.{name}", **settings}
    return build(node, "optimizer", torch.optim.Optimizer, params=[torch.nn.Parameter(torch.zeros(2, 2))])


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("lr", -1, "a number from 0 to 1e+30"),
        ("lr", math.inf, "a number from 0 to 1e+30"),
        ("lr", math.nan, "a number from 0 to 1e+30"),
        ("lr", None, "a number from 0 to 1e+30"),
        ("weight_decay", -0.1, "a number from 0 to 1000"),
        ("momentum", 1.5, "a number from 0 to 1"),
        ("dampening", -1, "a number from 0 to 1"),
        ("betas", [0.9, 1.5], "a list of 2, each a number from 0 to 0.999999"),
        ("betas", 0.9, "a list of 2, each a number from 0 to 0.999999"),
        ("eps", -1e-8, "a number from 0 to 1"),
        ("differentiable", True, "false"),
    ],
)
def test_a_setting_out_of_range_is_named_with_what_it_takes_and_what_it_got(name, value, takes):
    kind = "SGD" if name in ("momentum", "dampening") else "AdamW"
    with pytest.raises(UserError) as caught:
        make(kind, **{name: value})
    assert str(caught.value) == f"optimizer.{name} must be {takes}, got {value!r}"


def test_the_bounds_of_each_range_are_in_it():
    make("AdamW", lr=0, weight_decay=0, betas=[0, 0.999999], eps=0, differentiable=False)
    make("SGD", lr=1000, weight_decay=1000, momentum=1, dampening=1)


def test_every_number_of_a_shipped_optimiser_has_a_range():
    for settings in SHIPPED.values():
        numbers = {key for key, value in settings.items() if isinstance(value, float | list)}
        assert numbers <= HINTS.keys()


@pytest.mark.parametrize("name", ["Adamax", "RMSprop", "NAdam", "RAdam", "Adagrad", "Adafactor"])
def test_other_optimisers_of_torch_take_their_own_defaults(name):
    parameters = inspect.signature(getattr(torch.optim, name)).parameters
    defaults = {key: one.default for key, one in parameters.items() if key in HINTS}
    make(name, **{key: list(one) if isinstance(one, tuple) else one for key, one in defaults.items()})
