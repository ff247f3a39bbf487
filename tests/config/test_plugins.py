"""A package outside this one whose classes a config names: the examples of docs/adding-your-own.md."""

import sys

import pytest

from stn_experiments.common.errors import UserError
from stn_experiments.config.compose import compose as compose_config
from stn_experiments.config.plugins import use_plugins
from stn_experiments.runs import load_run
from stn_experiments.runs.evaluate import evaluate_run
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.replay import replay
from stn_experiments.runs.train import train
from stn_experiments.storage.run_folder import RunFolder, run_digest
from tests.conftest import ROOT

EXAMPLES = ROOT / "docs" / "examples"
CONFIGS = EXAMPLES / "my_package" / "configs"
MINE = ("plugins=[my_package]", "data=occluded", "backbone=strided", "attention=contrast")
SMALL = (
    "trainer=quick",
    "trainer.device=cpu",
    "trainer.epochs=1",
    "trainer.batch_size=30",
    "data.valid_size=40",
)


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    """Python finds the examples, and forgets them and other plugins afterwards."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    use_plugins([])
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture
def config(few_digits, tmp_path):
    def make(*overrides):
        words = [f"hydra.searchpath=[file://{CONFIGS}]", *MINE, *SMALL, f"run.root={tmp_path}", *overrides]
        return compose_config(ROOT / "configs", words)

    return make


def test_a_run_with_plugins_is_trained_drawn_evaluated_loaded_and_replayed_from_its_folder(config, capsys):
    settings = config()
    result = train(settings)
    run = RunFolder.of(settings)
    assert [result[group] for group in ("data", "backbone", "attention")] == [
        "occluded",
        "strided",
        "contrast",
    ]
    assert {"ink_inside", "hit_rate"} <= result.keys()  # which need a pose and a map
    assert run.panel(0).exists()
    assert run.test_panel.exists()

    use_plugins([])  # as in another process
    assert evaluate_run(run, device_name="cpu")[0]["test_error"] == result["test_error"]
    use_plugins([])
    model, loaded = load_run(run.folder)
    assert loaded["plugins"] == ["my_package"]
    assert type(model.backbone).__module__ == "my_package.backbones"
    use_plugins([])
    assert "step 3" in replay(run, 3)


@pytest.mark.slow
def test_a_run_without_plugins_is_evaluated_on_data_of_one(few_digits, command, untrained):
    run = untrained("RUN", *few_digits, "data=rotated")
    words = ("--config-dir", CONFIGS, "data=occluded", "--device", "cpu", "data.valid_size=40")
    code, out, _ = command("evaluate.py", run, *words, "plugins=[my_package]")
    assert code == 0
    assert "on occluded" in out
    code, _, err = command("evaluate.py", run, *words)
    assert code == 2
    assert "plugins=[PACKAGE] allows another package" in err


def test_the_settings_of_a_plugin_have_its_types_and_ranges(config):
    for override, line in (
        ("data.distortion.bar=29", "data.distortion.bar must be an integer from 0 to 28, got 29"),
        (
            "+data.distortion.bars=1",
            "data.distortion.bars is not a setting of data.distortion: it has canvas",
        ),
        ("attention.radius=0", "attention.radius must be an integer from 1 to 15, got 0"),
        ("backbone.width=wide", "backbone.width must be an integer from 1 to 4096, got 'wide'"),
    ):
        with pytest.raises(UserError, match=f"^{line.replace('+', '')}"):
            build_experiment(config(override))


def test_only_the_plugins_of_the_present_config_are_allowed(config):
    build_experiment(config())
    with pytest.raises(UserError, match=r"must begin with stn_experiments\. or torch\.optim\., got 'my_pack"):
        build_experiment(config("plugins=[]"))


def test_plugins_are_part_of_the_name_of_a_run(config):
    assert run_digest(config()) != run_digest(config("plugins=[my_package,json]"))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("my_package", "got 'my_package'$"),
        ([3], "got 3$"),
        (["../my_package"], r"got '\.\./my_package'$"),
        (["no_such"], r"got 'no_such' \(ModuleNotFoundError: No module named 'no_such'\): install it, or"),
        (["broken"], r"got 'broken' \(SyntaxError: .*\): install it, or add its folder to PYTHONPATH$"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_line(monkeypatch, tmp_path, names, says):
    (tmp_path / "broken.py").write_text("def:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"^plugins must be a list of packages .*{says}") as caught:
        use_plugins(names)
    assert "\n" not in str(caught.value)


def test_an_error_in_a_module_of_a_plugin_is_one_line(config, monkeypatch, tmp_path):
    (tmp_path / "faulty").mkdir()
    (tmp_path / "faulty" / "__init__.py").touch()
    (tmp_path / "faulty" / "distortions.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = config("plugins=[faulty]", "data.distortion._target_=faulty.distortions.Occluded")
    with pytest.raises(
        UserError, match=r"^data\.distortion\._target_ cannot be imported: .*\(ZeroDivisionError"
    ):
        build_experiment(settings)
