"""What trained runs make of one digit, as a user rotates, moves and spoils it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Generator

from stn_experiments.common.errors import UserError
from stn_experiments.data.batch import Batch, concat_batches, index_batch, to_device
from stn_experiments.data.distortions import FixedDistortion
from stn_experiments.data.mnist import Digits
from stn_experiments.evaluation.evaluate import per_image, predict
from stn_experiments.evaluation.pose_scores import residual_pose, wrapped
from stn_experiments.runs.load import load_digit_run
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.tracking.panels import draw_panel
from stn_experiments.tracking.pictures import save_animation
from stn_experiments.training.config import Device

TEST_DIGITS = 10_000
FRAMES = 25
UNTOUCHED = {"angle": 0.0, "scale": 1.0, "x": 0.0, "y": 0.0, "noise": 0.0, "clutter": 0.0}
"""Settings of the image that the answer of a transformer is relative to; the others are kept."""


class Answer(NamedTuple):
    """What a run makes of a distorted digit.

    ``rotation``, in degrees, is what its transformer undoes, relative to what it does to the same digit
    before it is rotated, scaled, moved and spoilt. It is ``None`` if there is not exactly one transformer.
    """

    run: str
    panel: Image.Image
    probabilities: list[float]
    rotation: float | None


class Playground:
    """Runs that read canvases of one size, and the test digits.

    Raises:
        UserError: a folder holds no trained run, or a run reads no single digits or other canvases than the
            first.
    """

    def __init__(self, folders: Sequence[Path], device_name: Device = "cpu") -> None:
        loaded = [load_digit_run(RunFolder(folder), device_name, "the page") for folder in folders]
        self.folders = folders
        self.models = [model for model, _ in loaded]
        first = loaded[0][1]
        height, width = self.size = first.shape[1:]
        for folder, (_, data) in zip(folders, loaded, strict=True):
            if data.shape != first.shape:
                texts = ["{1}×{2} pixels".format(*shape) for shape in (first.shape, data.shape)]
                places = f"{folders[0]} reads {texts[0]}, {folder} {texts[1]}"
                raise UserError(f"the runs must read canvases of one size: {places}")
        self.digits = first.test_digits(TEST_DIGITS)
        self.of_class = [(self.digits.labels == label).nonzero()[:, 0] for label in range(first.classes)]
        self.sliders = {  # label, lowest, highest value, step
            "angle": ("angle, degrees", -180, 180, 1),
            "scale": ("scale", 0.5, 2, 0.05),
            "x": ("moved right, pixels", -(width // 2), width // 2, 1),
            "y": ("moved down, pixels", -(height // 2), height // 2, 1),
            "shear": ("shear", -1, 1, 0.05),
            "bend": ("bend, pixels", 0, 3, 0.1),
            "noise": ("noise, standard deviation", 0, 1, 0.05),
            "clutter": ("clutter, crops", 0, 16, 1),
            "seed": ("seed of bend, noise, clutter", 0, 99, 1),
        }

    def test_digit(self, label: int, number: int) -> Digits:
        """The test digit of a class with a number from 0."""
        place = self.of_class[label][number]
        return Digits(self.digits.images[place, None], self.digits.labels[place, None])

    def draw(self, digit: Digits, values: Mapping[str, float]) -> Batch:
        """One digit as the sliders say; always the same image."""
        digits = Digits(*map(torch.cat, zip(digit, self.digits, strict=True)))  # clutter is of all others
        settings: dict[str, Any] = {name: values[name] for name in ("angle", "shear", "bend", "noise")}
        settings |= {"scale": (values["scale"], values["scale"]), "offset": (values["x"], values["y"])}
        distortion = FixedDistortion(self.size, clutter=int(values["clutter"]), **settings)
        return distortion.draw(digits, torch.tensor([0]), Generator().manual_seed(int(values["seed"])))

    def answers(
        self, digit: Digits, values: Mapping[str, float], caption: str = "", cell: int = 170
    ) -> Iterator[Answer]:
        """What each run makes of a digit as the sliders say; ``caption`` is beside its name in the panel."""
        reference = self.draw(digit, {**values, **UNTOUCHED})
        batch = concat_batches([self.draw(digit, values), reference])
        for folder, model in zip(self.folders, self.models, strict=True):
            both = to_device(batch, next(model.parameters()).device)
            prediction, rotation, name = predict(model, both), None, folder.resolve().name
            if "outline" in (results := per_image(prediction, both)):
                left = residual_pose(results["outline"], both.pose.matrix[:, 0], self.size).rotation
                rotation = float(wrapped(values["angle"] - (left[0] - left[1])))
            panel = draw_panel(index_batch(both, slice(1)), prediction, f"{name}  {caption}".strip(), cell)
            yield Answer(name, panel, prediction.logits[0].float().softmax(0).tolist(), rotation)

    def animate(self, digit: Digits, values: Mapping[str, float], name: str) -> Path:
        """Write an animation of one slider from end to end to the folder of the first run.

        Raises:
            UserError: the folder cannot be written to.
        """
        _, low, high, step = self.sliders[name]
        file = self.folders[0] / "evaluations" / f"play-{name}.gif"
        try:
            frames = []
            for value in np.linspace(low, high, FRAMES):
                at = {**values, name: round(value / step) * step}
                answers = self.answers(digit, at, f"{name} {at[name]:.3g}", 110)
                panels = [np.asarray(answer.panel) for answer in answers]
                frames.append(Image.fromarray(np.concatenate(panels)))
            file.parent.mkdir(exist_ok=True)
            save_animation(frames, file, 0.2)
        except OSError as error:
            raise UserError(f"{file.parent} cannot be written to: {error}") from error
        return file
