"""What trained runs make of one image, as a user rotates, moves and spoils it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from stn_experiments.common.errors import UserError
from stn_experiments.common.files import writing_to
from stn_experiments.data.batch import concat_batches, index_batch, to_device
from stn_experiments.data.datasets import DataSet
from stn_experiments.data.examples import Example, find_examples, kind_of
from stn_experiments.evaluation.evaluate import per_image, predict
from stn_experiments.evaluation.pose_scores import residual_pose, wrapped
from stn_experiments.runs.load import load_network
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.tracking.pictures import save_animation
from stn_experiments.training.config import Device

FRAMES = 25
UNTOUCHED = {"angle": 0.0, "scale": 1.0, "x": 0.0, "y": 0.0, "noise": 0.0, "clutter": 0.0}
"""Settings of the image that the answer of a transformer is relative to; the others are kept."""


class Answer(NamedTuple):
    """What a run makes of an image; ``probabilities`` are by the names of the classes.

    ``rotation``, in degrees, is what its transformer undoes, relative to what it does to the same image
    before it is rotated, scaled, moved and spoilt. It is ``None`` if there is not exactly one transformer.
    """

    run: str
    panel: Image.Image
    probabilities: dict[str, float]
    rotation: float | None


class Playground:
    """Runs that read images of one kind and shape, with the same classes, and test images of that kind.

    Raises:
        UserError: a folder holds no trained run, or a run reads no single images, or others than the first.
    """

    def __init__(self, folders: Sequence[Path], device_name: Device = "cpu") -> None:
        loaded = [load_network(RunFolder(folder), device_name) for folder in folders]
        self.folders = folders
        self.models = [model for model, _ in loaded]
        first = loaded[0][1]
        self.size = first.shape[1:]
        kinds = [self._kind(folder, data) for folder, (_, data) in zip(folders, loaded, strict=True)]
        for folder, kind, (_, data) in zip(folders, kinds, loaded, strict=True):
            if kind != kinds[0]:
                places = f"{folders[0]} reads {kinds[0]}, {folder} {kind}"
                raise UserError(f"the runs must read images of one kind and shape: {places}")
            if odd := {*(data.class_names or ())} ^ {*(first.class_names or ())}:
                places = f"only one of {folders[0]} and {folder} has {min(odd)}"
                raise UserError(f"the runs must have the same classes, but {places}")
        self.examples = find_examples(first)

    @staticmethod
    def _kind(folder: Path, data: DataSet) -> str:
        if kind := kind_of(data):
            return f"{kind} of shape {data.shape}"
        raise UserError(
            f"the page shows single MNIST digits or your own images, which {folder} cannot read: it was "
            f"trained with data={RunFolder(folder).config()['data']['name']}"
        )

    def answers(
        self, example: Example, values: Mapping[str, float], caption: str = "", cell: int = 170
    ) -> Iterator[Answer]:
        """What each run makes of an image as the sliders say; ``caption`` is beside its name in the panel."""
        draw, names = self.examples.draw, self.examples.class_names
        untouched = {name: value for name, value in UNTOUCHED.items() if name in values}
        batch = concat_batches([draw(example, values), draw(example, {**values, **untouched})])
        for folder, model in zip(self.folders, self.models, strict=True):
            both = to_device(batch, next(model.parameters()).device)
            prediction, rotation, name = predict(model, both), None, folder.resolve().name
            if "outline" in (results := per_image(prediction, both)):
                left = residual_pose(results["outline"], both.pose.matrix[:, 0], self.size).rotation
                rotation = float(wrapped(values["angle"] - (left[0] - left[1])))
            text = f"{name}  {caption}".strip()
            panel = draw_panel(index_batch(both, slice(1)), prediction, text, cell, names)
            probabilities = prediction.logits[0].float().softmax(0).tolist()
            yield Answer(name, panel, dict(zip(names, probabilities, strict=True)), rotation)

    def animate(self, example: Example, values: Mapping[str, float], name: str) -> Path:
        """Write an animation of one slider from end to end to the folder of the first run.

        Raises:
            UserError: the folder cannot be written to.
        """
        _, low, high, step = self.examples.sliders[name]
        file = self.folders[0] / "evaluations" / f"play-{name}.gif"
        frames = []
        for value in np.linspace(low, high, FRAMES):
            at = {**values, name: round(value / step) * step}
            answers = self.answers(example, at, f"{name} {at[name]:.3g}", 110)
            panels = [np.asarray(answer.panel) for answer in answers]
            frames.append(Image.fromarray(np.concatenate(panels)))
        with writing_to(file.parent):
            file.parent.mkdir(exist_ok=True)
            save_animation(frames, file, 0.2)
        return file
