"""A trained run, evaluated again, on its own data or on any other."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import to_json, write_atomically, writing_to
from stn_experiments.config.build import build
from stn_experiments.config.plugins import use_plugins
from stn_experiments.data.datasets import DataSet
from stn_experiments.data.examples import shows_one_digit
from stn_experiments.data.own_images import ImageFolder, NpzFile
from stn_experiments.data.splits import one_of_each_class
from stn_experiments.evaluation.evaluate import evaluate_test, mistakes, predict
from stn_experiments.evaluation.probe import DIGITS, Probe, ProbeName, probe
from stn_experiments.runs.experiment import check_name, find_device
from stn_experiments.runs.figure import draw_figure
from stn_experiments.runs.load import load_network
from stn_experiments.runs.run_log import mistakes_caption
from stn_experiments.storage.run_folder import RunFolder, data_digest
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.tracking.pictures import save_picture
from stn_experiments.training.config import Device


def evaluate_run(
    run: RunFolder,
    data_config: Mapping[str, Any] | None = None,
    device_name: Device = "auto",
    plugins: Sequence[str] = (),
) -> tuple[dict[str, Any], Path]:
    """Evaluate a run's network on the test set of a data config, by default the run's own.

    Args:
        run: the folder of the run.
        data_config: a config group ``data``.
        device_name: where the network is evaluated.
        plugins: packages that ``data_config`` is built from, besides those of the run.

    Returns:
        The content of ``result.json``, and the folder that it was written to, beside a panel.

    Raises:
        UserError: the folder holds no trained run or cannot be written to, or the network cannot read these
            images.
    """
    model, own = load_network(run, device_name)
    config = run.config()
    if plugins:
        use_plugins([*config.get("plugins", []), *plugins])
    data_config = data_config or config["data"]
    check_name(data_config, "data")
    data = build(data_config, "data", DataSet)
    check_compatible(run, own, data)
    splits = data.load(find_device(device_name))
    test = splits.test
    scores = evaluate_test(model, test, splits.draw_pairs)
    result = {"data": data_config["name"], "run": str(run.folder), **scores}
    panels = {"panel": (test, f"{data_config['name']}, test error {result['test_error']:.2f} %")}
    if (wrong := mistakes(test, scores)) is not None:
        panels["panel-mistakes"] = (wrong, f"{data_config['name']}, {mistakes_caption(wrong, test)}")
    folder = evaluation_folder(run, data_config)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "panel-mistakes.png").unlink(missing_ok=True)  # of an evaluation before
        for name, (batch, caption) in panels.items():
            images = one_of_each_class(batch)
            panel = draw_panel(images, predict(model, images), caption, class_names=data.class_names)
            save_picture(panel, folder / f"{name}.png")
        if splits.kinds is not None:
            result["kinds"], figure = draw_figure(model, splits.kinds, data_config["name"])
            save_picture(figure, folder / "figure.png")
        write_atomically(folder / "result.json", to_json(result))
    return result, folder


def probe_run(run: RunFolder, name: ProbeName, device_name: Device = "auto") -> Probe:
    """Probe a run's network on the canvas of its own data, and write the results to its folder.

    Raises:
        UserError: the folder holds no trained run or cannot be written to, or its images do not show one
            MNIST digit.
    """
    model, data = load_network(run, device_name)
    if not shows_one_digit(data):
        raise UserError(
            f"--probe shows single MNIST digits, which {run.folder} cannot read: it was trained with "
            f"data={run.config()['data']['name']}"
        )
    found = probe(model, name, data.test_digits(DIGITS), data.shape[1:])
    file = probe_file(run.folder, name)
    with writing_to(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, to_json(asdict(found)))
    return found


def probe_file(folder: Path, name: ProbeName) -> Path:
    """The file with the results of a probe of the run in a folder."""
    return folder / "evaluations" / f"probe-{name}.json"


def check_compatible(run: RunFolder, own: DataSet, data: DataSet) -> None:
    """Check that a run's network can read other data than its own.

    Raises:
        UserError: images, classes or questions differ.
    """
    remedies = ["choose other data", "set data.distortion.canvas", "choose other data", "choose other data"]
    if isinstance(data, NpzFile):
        remedies[:2] = [f"convert those in {data.file}", f"resize those in {data.file}"]
    elif isinstance(data, ImageFolder):
        remedies[:2] = ["set data.colour", "set data.size"]
    for wanted, got, remedy in zip(_traits(own), _traits(data), remedies, strict=True):
        if wanted != got:
            raise UserError(f"{run.folder} reads {wanted}, got {got}: {remedy}")
    wanted_names, got_names = own.class_names or [], data.class_names or []
    for wanted, got in zip(wanted_names, got_names, strict=False):
        if wanted != got:
            raise UserError(f"{run.folder} reads the class {wanted}, where {got} is now: choose other data")


def _traits(data: DataSet) -> list[str]:
    """What a network for this data depends on, in words."""
    channels, height, width = data.shape
    return [
        {1: "grey images", 3: "colour images"}.get(channels, f"images of {channels} channels"),
        f"images of {height}×{width} pixels",
        f"images of {data.classes} classes" + (f", {data.length} in each" if data.length > 1 else ""),
        f"questions of {data.vocab_size} words" if data.vocab_size else "no questions",
    ]


def evaluation_folder(run: RunFolder, data_config: Mapping[str, Any]) -> Path:
    """The folder of the evaluation of a run on the data of a config."""
    return run.folder / "evaluations" / f"{data_config['name']}-{data_digest(data_config)}"
