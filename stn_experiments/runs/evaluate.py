"""A trained run, rebuilt from its folder and evaluated again, on its own data or on any other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import digest, to_json, write_atomically
from stn_experiments.config.build import build
from stn_experiments.data.datasets import DataSet, one_of_each_class
from stn_experiments.evaluation.evaluate import as_test_scores, evaluate, predict
from stn_experiments.models.classifier import Classifier
from stn_experiments.runs.experiment import NAMED_GROUPS, build_model, find_device
from stn_experiments.storage import checkpoints
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.tracking.pictures import save_picture
from stn_experiments.training.config import Device


def evaluate_run(
    run: RunFolder, data_config: Mapping[str, Any] | None = None, device_name: Device = "auto"
) -> tuple[dict[str, Any], Path]:
    """Evaluate a run's best checkpoint on the test set of a data config, by default the run's own.

    Returns:
        The content of ``result.json``, and the folder that it was written to, beside a panel.

    Raises:
        UserError: the folder holds no trained run or cannot be written to, or the network cannot read these
            images.
    """
    config = run.config()
    for group in NAMED_GROUPS:
        if group not in config:
            raise UserError(f"{run.config_file} has no group {group}: an earlier version trained this run")
    own = build(config["data"], "data", DataSet)
    data_config = data_config or config["data"]
    data = build(data_config, "data", DataSet)
    check_compatible(run, own, data)
    model = load_model(run, config, own).to(find_device(device_name))
    test = data.load(find_device(device_name)).test
    result = {"data": data_config["name"], "run": str(run.folder), **as_test_scores(evaluate(model, test))}
    images = one_of_each_class(test)
    caption = f"{data_config['name']}, test error {result['test_error']:.2f} %"
    panel = draw_panel(images, predict(model, images), caption)
    folder = evaluation_folder(run, data_config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(panel, folder / "panel.png")
        write_atomically(folder / "result.json", to_json(result))
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error}") from error
    return result, folder


def check_compatible(run: RunFolder, own: DataSet, data: DataSet) -> None:
    """Check that a run's network can read other data than its own.

    Raises:
        UserError: images, classes or questions differ.
    """
    if (data.shape, data.classes) != (own.shape, own.classes):
        own_shape, shape = ("×".join(map(str, some.shape)) for some in (own, data))
        raise UserError(
            f"{run.folder} reads {own_shape} images of {own.classes} classes, "
            f"got {shape} of {data.classes}: set data.distortion.canvas"
        )
    if data.vocab_size != own.vocab_size:
        raise UserError(
            f"{run.folder} reads questions of {own.vocab_size or 'no'} words, got data with those of "
            f"{data.vocab_size or 'no'}"
        )


def load_model(run: RunFolder, config: Mapping[str, Any], data: DataSet) -> Classifier:
    """The network of a run's config, with the weights of its best epoch.

    Raises:
        UserError: there is no such checkpoint, or it belongs to another network.
    """
    model = build_model(config, data, config["seed"])
    state = checkpoints.load(run.best)
    try:
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{run.best} does not hold the network of {run.config_file.name}: {str(error).splitlines()[0]}"
        ) from error
    return model


def evaluation_folder(run: RunFolder, data_config: Mapping[str, Any]) -> Path:
    """The folder of the evaluation of a run on the data of a config."""
    return run.folder / "evaluations" / f"{data_config['name']}-{digest(data_config)}"
