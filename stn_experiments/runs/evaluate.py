"""A run that was trained, evaluated again: rebuilt from its folder alone, on its own data or on any other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import digest, to_json, write_atomically
from stn_experiments.config.build import build
from stn_experiments.data.datasets import one_of_each_class
from stn_experiments.evaluation.evaluate import evaluate, of_test, predict
from stn_experiments.runs.experiment import NAMED, build_model, find_device
from stn_experiments.storage import checkpoints
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.tracking.pictures import save_picture
from stn_experiments.training.loop import Device


def evaluate_run(
    run: RunFolder, data_config: Mapping[str, Any] | None = None, device_name: Device = "auto"
) -> tuple[dict[str, Any], Path]:
    """Evaluate a run's best checkpoint on the test set of a data config, by default of its own.

    Returns:
        What goes into ``result.json``, and the folder that it was written to beside a panel.

    Raises:
        UserError: the folder holds no trained run or cannot be written to, or its network cannot read these
            images.
    """
    config = run.config()
    for group in NAMED:
        if group not in config:
            raise UserError(f"{run.config_file} says nothing of {group}: an earlier version trained this run")
    own = build(config["data"], "data")
    data_config = data_config or config["data"]
    data = build(data_config, "data")
    if (data.shape, data.classes) != (own.shape, own.classes):
        raise UserError(
            f"{run.folder} reads {describe(own.shape)} images of {own.classes} classes, "
            f"got {describe(data.shape)} of {data.classes}: set data.distortion.canvas"
        )
    if data.vocab_size != own.vocab_size:
        raise UserError(
            f"{run.folder} reads questions of {own.vocab_size or 'no'} words, got data with those of "
            f"{data.vocab_size or 'no'}"
        )
    device = find_device(device_name)
    model = build_model(config, own, config["seed"])
    state = checkpoints.load(run.best)
    try:
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{run.best} does not hold the network of {run.config_file.name}: {str(error).splitlines()[0]}"
        ) from error
    test = data.load(device).test
    result = {"data": data_config["name"], "run": str(run.folder)}
    result |= of_test(evaluate(model.to(device), test))
    folder = evaluation_folder(run, data_config)
    digits = one_of_each_class(test)
    caption = f"{data_config['name']}, test error {result['test_error']:.2f} %"
    panel = draw_panel(digits, predict(model, digits), caption)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(panel, folder / "panel.png")
        write_atomically(folder / "result.json", to_json(result))
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error}") from error
    return result, folder


def evaluation_folder(run: RunFolder, data_config: Mapping[str, Any]) -> Path:
    """Where the evaluation of a run on the data of a config goes."""
    return run.folder / "evaluations" / f"{data_config['name']}-{digest(data_config)}"


def describe(shape: tuple[int, int, int]) -> str:
    """(C, H, W) as a person writes it."""
    return "×".join(map(str, shape))
