"""A trained run's network, rebuilt from the run's folder."""

from pathlib import Path
from typing import Any

from stn_experiments.common.errors import UserError
from stn_experiments.config.build import build
from stn_experiments.config.plugins import use_plugins
from stn_experiments.data.datasets import DataSet
from stn_experiments.models.classifier import Classifier
from stn_experiments.runs.experiment import NAMED_GROUPS, build_model, find_device
from stn_experiments.storage import checkpoints
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.training.config import Device


def load_run(folder: str | Path, device_name: Device = "cpu") -> tuple[Classifier, dict[str, Any]]:
    """A trained run's network, in evaluation mode, and its config.

    The network maps images (B, C, H, W) in [0, 1] to a ``ClassifierOutput``. A run on the user's own images
    needs its ``data.file`` or ``data.folder``, which decide the shape and the number of classes.

    Raises:
        UserError: the folder holds no trained run of this version, or this machine has no such device.
    """
    run = RunFolder(Path(folder).expanduser())
    return load_network(run, device_name)[0], run.config()


def load_network(run: RunFolder, device_name: Device) -> tuple[Classifier, DataSet]:
    """A trained run's network, in evaluation mode on a device, and its data set.

    The weights are those of the last epoch, averaged as the config says.

    Raises:
        UserError: the folder holds no trained run of this version, its checkpoint belongs to another network,
            or this machine has no such device.
    """
    config = load_config(run)
    data = build(config["data"], "data", DataSet)
    model = build_model(config, data, config["seed"])
    state = checkpoints.load(run.model)
    try:
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{run.model} does not hold the network of {run.config_file.name}: {str(error).splitlines()[0]}"
        ) from error
    return model.to(find_device(device_name)).eval(), data


def load_config(run: RunFolder) -> dict[str, Any]:
    """The config of a run, whose plugins are imported.

    Raises:
        UserError: the folder holds no run of this version, or a plugin cannot be imported.
    """
    config = run.config()
    for group in NAMED_GROUPS:
        if group not in config:
            raise UserError(f"{run.config_file} has no group {group}: an earlier version trained this run")
    use_plugins(config.get("plugins", []))  # earlier versions had none
    return config
