"""Networks scaled to a number of parameters."""

import itertools

import pytest
import torch
import yaml

from stn_experiments.common.errors import UserError
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.model_size import scale_to
from tests.conftest import ROOT


def lists(sweep):
    """What a sweep varies, and its values."""
    config = yaml.safe_load((ROOT / "configs" / "sweep" / f"{sweep}.yaml").read_text())
    return {name: str(words).split(",") for name, words in config["hydra"]["sweeper"]["params"].items()}


LISTS, FULL, RIVALS = map(lists, ("table1", "table1_full", "rivals"))
CELLS = [
    pytest.param(cell, id="-".join(cell), marks=() if cell[0] == "cluttered" else pytest.mark.slow)
    for cell in itertools.product(LISTS["data"], LISTS["backbone"], LISTS["stn"])
]
TARGET = 400_000
FULL_CELLS = [
    pytest.param(data, recipe, id=f"{data}-{recipe}", marks=() if data == "rotated" else pytest.mark.slow)
    for data, recipe in itertools.product(FULL["data"], FULL["experiment"])
]

WIDTHS = [  # what each backbone's widths are called, and the layers that have them
    ("compact", "width", ["layer1.0"]),
    ("cnn", "filters", ["conv1.0", "conv2.0"]),
    ("fcn", "widths", ["hidden1.1", "hidden2.0"]),
    ("gcnn", "width", ["layer1.0"]),
    ("tipooling", "width", ["layer1.0.0.0"]),
    ("polar", "width", ["polar.1"]),
]


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_papers_table_is_120_runs():
    assert [len(LISTS[name]) for name in ("seed", "data", "backbone", "stn")] == [3, 5, 2, 4]
    assert len(set(itertools.product(*LISTS.values()))) == 120


@pytest.mark.parametrize("cell", CELLS)
def test_every_network_of_the_papers_table_has_one_size(compose, cell):
    data, backbone, stn = cell
    config = compose("sweep=table1", f"data={data}", f"backbone={backbone}", f"stn={stn}")
    assert config["backbone"]["parameters"] == TARGET
    model = build_experiment(config).model
    assert abs(size(model) - TARGET) <= 0.05 * TARGET
    assert [config[group]["name"] for group in ("data", "backbone", "stn")] == [data, backbone, stn]


def test_the_full_table_has_the_networks_and_data_of_the_table():
    assert FULL["data"] == LISTS["data"]
    stn = {"none": "", **{name: f"_{name}" for name in LISTS["stn"] if name != "none"}}
    expected = {
        f"paper/{'st_' if suffix else ''}{backbone}{suffix}"
        for backbone in LISTS["backbone"]
        for suffix in stn.values()
    }
    assert set(FULL["experiment"]) == expected
    assert len(FULL_CELLS) == 40


@pytest.mark.parametrize(("data", "recipe"), FULL_CELLS)
def test_every_run_of_the_full_table_is_as_the_papers(compose, data, recipe):
    config = compose("sweep=table1_full", f"data={data}", f"experiment={recipe}")
    experiment = build_experiment(config)
    assert abs(size(experiment.model) - TARGET) <= 0.05 * TARGET
    *_, backbone, stn = f"{recipe.rpartition('/')[2].removeprefix('st_')}_none".split("_")[:2]
    assert [config[group]["name"] for group in ("data", "backbone", "stn")] == [data, backbone, stn]
    if stn != "none":
        kinds = {"fcn": ("fully_connected", 32), "cnn": ("convolutional", 20)}
        assert (config["stn"]["localisation"], config["stn"]["width"]) == kinds[backbone]
    steps = experiment.trainer.epochs * experiment.trainer.steps_per_epoch(experiment.data.train_size)
    assert (steps, experiment.trainer.batch_size) == (150_000, 256)
    assert isinstance(experiment.optimizer, torch.optim.SGD)
    rates = [
        0.01 * experiment.schedule(step / steps) for step in (0, 49_999, 50_001, 99_999, 100_001, 149_999)
    ]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RIVALS["experiment"])
def test_the_transformer_and_its_rivals_have_one_size_and_equally_many_steps(compose, recipe):
    for data in RIVALS["data"]:
        experiment = build_experiment(compose("sweep=rivals", f"data={data}", f"experiment={recipe}"))
        assert abs(size(experiment.model) - 100_000) <= 0.03 * 100_000
        assert bool(experiment.model.transformers) == (recipe == "rivals/transformer")
        steps = experiment.trainer.epochs * experiment.trainer.steps_per_epoch(experiment.data.train_size)
        assert steps == 5148


@pytest.mark.slow
def test_the_networks_of_a_sweep_over_places_differ_in_these_alone(compose):
    sweep = lists("places")
    places = {"none": [], "input": ["input"], "feature_map": ["layer2"], "shared": ["input"]}
    assert sweep["experiment"] == [f"places/{name}" for name in places]
    for data, recipe in itertools.product(sweep["data"], sweep["experiment"]):
        model = build_experiment(compose("sweep=places", f"data={data}", f"experiment={recipe}")).model
        assert abs(size(model) - 100_000) <= 0.03 * 100_000
        assert list(model.transformers) == places[recipe.rpartition("/")[2]]
        shared = {id(weights) for weights in model.transformers.parameters()} & {
            id(weights) for weights in model.backbone.parameters()
        }
        assert bool(shared) == (recipe == "places/shared")


@pytest.mark.parametrize(("backbone", "setting", "layers"), WIDTHS, ids=[name for name, *_ in WIDTHS])
def test_a_scaled_network_is_the_one_with_its_widths_written_out(compose, backbone, setting, layers):
    target = 30_000
    scaled = build_experiment(compose(f"backbone={backbone}", f"backbone.parameters={target}")).model
    assert abs(size(scaled) - target) <= 0.05 * target
    widths = [len(scaled.backbone.stages.get_submodule(layer).weight) for layer in layers]
    written = f"backbone.{setting}={widths if len(widths) > 1 else widths[0]}".replace(" ", "")
    same = build_experiment(compose(f"backbone={backbone}", written)).model.state_dict()
    assert same.keys() == scaled.state_dict().keys()
    assert all(same[name].equal(value) for name, value in scaled.state_dict().items())


def test_the_nearest_size_is_taken():
    node = {"width": 1000, "name": "some"}
    assert scale_to(1000, node, "width", lambda node: node["width"]) == node


@pytest.mark.parametrize("more", [(), ("backbone.parameters=30000",)], ids=["unscaled", "scaled"])
def test_only_the_seed_decides_the_initial_weights(compose, more):
    def start(seed, noise):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        model = build_experiment(compose(*more, f"seed={seed}")).model
        assert torch.get_rng_state().equal(before)
        return torch.cat([parameter.detach().flatten() for parameter in model.backbone.parameters()])

    one, same, other = start(1, 0), start(1, 7), start(2, 0)
    assert one.equal(same)
    assert not one.equal(other)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("backbone=resnet18 +backbone.parameters=400000", "backbone.parameters must be null, as resnet18"),
        ("backbone.parameters=1", "backbone.parameters must be a number that the network comes within 5 %"),
        ("backbone=cnn stn=tps backbone.parameters=1000", "comes within 5 % of, as"),
        ("backbone=fcn backbone.parameters=100000000000", "comes within 5 % of, as"),
        ("backbone.parameters=0", "backbone.parameters must be an integer at least 1 or null, got 0"),
        # other mistakes are reported as without a number of parameters
        ("backbone=fcn backbone.parameters=9000 backbone.widths=[0,8]", "backbone.widths must be a list"),
        ("backbone=cnn backbone.parameters=400000 stn.output_size=10", "backbone.name must be a network"),
        ("backbone=fcn backbone.parameters=9000 stn.at=layer9", "stn.at must name places among input"),
    ],
)
def test_a_size_that_is_not_possible_is_one_clear_line(compose, line, words):
    with pytest.raises(UserError) as raised:
        build_experiment(compose(*line.split()))
    message = str(raised.value)
    assert words in message
    assert "\n" not in message


def test_a_config_without_the_width_is_refused(compose):
    with pytest.raises(UserError, match=r"^backbone\.width must be given, as backbone.parameters scales it$"):
        build_experiment(compose("~backbone.width", "backbone.parameters=50000"))
