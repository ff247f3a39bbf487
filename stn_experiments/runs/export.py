"""A trained run's network as one file, for programs without this package."""

import os
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import write_atomically, writing_to
from stn_experiments.common.geometry import image_size
from stn_experiments.models.classifier import INPUT, Classifier
from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.models.view import View
from stn_experiments.runs.export_formats import FORMATS, Program, Tensors
from stn_experiments.runs.load import load_network
from stn_experiments.storage.run_folder import RunFolder

Part = Literal["classifier", "transformer", "both"]
FormatName = Literal["onnx", "torch"]

CHECKED = 1000
"""The number of test images on which an export is compared with the run."""
CHUNK = 250
TOLERANCE = 1e-4
"""The largest difference between an output of the run and of its export, relative to the output's largest
absolute value if that is above 1, as it is for pixels."""


class Export(NamedTuple):
    """A file that was written: the largest absolute difference of each output from the run's on ``images``
    test images, and the Python code that uses the file.
    """

    differences: dict[str, float]
    images: int
    usage: str


class Network(nn.Module):
    """A classifier as exporters want it, from tensors to a dictionary of tensors.

    Args:
        model: the classifier.
        with_views: give V, theta and the box of each transformer at the input, too.
    """

    def __init__(self, model: Classifier, with_views: bool) -> None:
        super().__init__()
        self.model = model
        self.with_views = with_views

    def forward(self, images: Tensor, question: Tensor | None = None) -> Tensors:
        """The outputs for images (B, C, H, W) and perhaps questions (B, T)."""
        output = self.model(images, question)
        views = output.stages[INPUT].views if self.with_views else []
        return {"logits": output.logits, **name_views(views, images)}


class Transformers(nn.Module):
    """The transformers at the input of a classifier, without the rest of it."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.transformers = model.transformers[INPUT]

    def forward(self, images: Tensor) -> Tensors:
        """V, theta and the box of each transformer, or each of its steps, for images (B, C, H, W)."""
        transformers = cast(Iterable[SpatialTransformer], self.transformers.children())
        return name_views([view for some in transformers for view in some.views(images)], images)


def name_views(views: list[View], images: Tensor) -> Tensors:
    """The ``v``, ``theta`` and ``box`` (in pixels) of views, numbered from 1 if there are several."""
    named: Tensors = {}
    for number, view in enumerate(views, 1):
        assert view.transform is not None
        end = str(number) if len(views) > 1 else ""
        box = view.box_pixels(image_size(images))
        named |= {f"v{end}": view.output, f"theta{end}": view.transform.theta, f"box{end}": box}
    return named


def export_run(run: RunFolder, part: Part, form: FormatName, output: Path) -> Export:
    """Write a part of a run's network to a file, after a check on the run's test set.

    Args:
        run: the folder of the run.
        part: ``classifier``: images to logits; ``transformer``: images to V, theta and box; or both.
        form: the format of the file.
        output: the file, which is replaced if it exists.

    Raises:
        UserError: the folder holds no trained run or not this part, a package is missing, the network
            cannot be exported, its export differs from it, or the file cannot be written.
    """
    check_output(output, form)
    for package in FORMATS[form].packages:
        if find_spec(package) is None:
            raise UserError(f"--format {form} needs {package}: pip install -e '.[export]'")
    model, data = load_network(run, "cpu")
    network = select_part(model, part, run)
    test = data.load(torch.device("cpu")).test
    inputs = {"images": test.images[:CHECKED]}
    if test.question is not None and part != "transformer":
        inputs["question"] = test.question[:CHECKED]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            content, program, outputs = FORMATS[form].export(network, inputs)
            differences = compare(network, program, inputs)
    except Exception as error:  # exporters raise errors of many kinds
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UserError(f"{run.folder} cannot be exported with --format {form}: {reason}") from error
    for name, (difference, largest) in differences.items():
        if not difference <= TOLERANCE * max(1, largest):  # also if it is not a number
            raise UserError(
                f"{run.folder} cannot be exported with --format {form}: {name} differs by {difference:.2g}"
            )
    with writing_to("--output"):
        write_atomically(output, content)
    absolute = {name: difference for name, (difference, _) in differences.items()}
    return Export(absolute, len(inputs["images"]), FORMATS[form].usage(output, inputs, outputs))


def check_output(output: Path, form: FormatName) -> None:
    """Check that a file of a format may be written there.

    Raises:
        UserError: its name has another suffix, its folder is missing, or it is a folder.
    """
    suffix = FORMATS[form].suffix
    if output.suffix != suffix:  # torch.export.load reads no other
        raise UserError(f"--output must end in {suffix} for --format {form}, got {output}")
    if os.path.isdir(output):  # noqa: PTH112 (Path.is_dir may raise)
        raise UserError(f"--output must be a file, got the folder {output}")
    if not os.path.isdir(output.parent):  # noqa: PTH112
        raise UserError(f"--output must be in a folder that exists, got {output}")


def select_part(model: Classifier, part: Part, run: RunFolder) -> nn.Module:
    """The module that computes a part of a run's network.

    Raises:
        UserError: the network has no transformer at its input.
    """
    if part != "classifier" and INPUT not in model.transformers:
        places = ", ".join(model.transformers)
        why = f"has transformers only at {places}, not at the input" if places else "has no transformer"
        raise UserError(f"--part must be classifier: {run.folder} {why}")
    return Transformers(model) if part == "transformer" else Network(model, with_views=part == "both")


def compare(network: nn.Module, program: Program, inputs: Tensors) -> dict[str, tuple[float, float]]:
    """Of each output, the largest absolute difference between a network and its export, and the largest
    absolute value.
    """
    found: dict[str, list[Tensor]] = {}
    for batch in batches(inputs):
        outputs = program(batch)
        for name, value in network(*batch.values()).items():
            both = torch.stack([(outputs[name] - value).abs().max(), value.abs().max()])
            found.setdefault(name, []).append(both)
    return {name: tuple(torch.stack(pairs).amax(0).tolist()) for name, pairs in found.items()}


def batches(inputs: Tensors) -> Iterator[Tensors]:
    """A batch of one, then batches of other sizes."""
    count = len(inputs["images"])
    for start, end in [(0, 1), *((start, start + CHUNK) for start in range(1, count, CHUNK))]:
        yield {name: value[start:end] for name, value in inputs.items()}
