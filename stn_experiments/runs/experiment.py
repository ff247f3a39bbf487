"""From a config to everything that a run needs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import nn

from stn_experiments.common.errors import UserError
from stn_experiments.common.ranges import Count, Range, Seed
from stn_experiments.config.build import build, check, locate, settings_of
from stn_experiments.config.plugins import use_plugins
from stn_experiments.data.datasets import DataSet, OneDigitMnist
from stn_experiments.models.backbones import Backbone
from stn_experiments.models.classifier import INPUT, LOCALISATION, Classifier, TransformerConfig
from stn_experiments.models.gates import GateConfig
from stn_experiments.models.localisation import LocalisationKind
from stn_experiments.models.prediction import AttentionHeadConfig
from stn_experiments.models.recurrent import is_recurrent
from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.runs.model_size import scale_to
from stn_experiments.training.config import Device, TrainerConfig
from stn_experiments.training.schedules import Schedule

NAME_CHARACTERS = "letters, digits and any of _.+-"
NAMED_GROUPS = ("data", "backbone", "stn", "attention")
"""The groups whose choices have a name, which results and tables show."""
SETTINGS = ("seed", "plugins", *NAMED_GROUPS, "optimizer", "scheduler", "trainer", "run", "search")
"""The top level of a config. A search is built by ``sweeps.search``, and a run ignores it."""


@dataclass(frozen=True)
class RunConfig:
    """Where runs go, and what happens if the folder of a run exists.

    Its ``name`` is the beginning of the folder's name.

    Args:
        root: the folder that contains the runs' folders.
        force: delete an old run of the same config, and train again.
        checkpoint_seconds: longest time between two checkpoints; null saves only after each epoch.
        checkpoint_steps: largest number of steps between two checkpoints; null has no limit.
        panels: largest number of panels during training, spread evenly over the epochs.
    """

    root: str = "outputs"
    force: bool = False
    checkpoint_seconds: Annotated[float, Range(0)] | None = 60.0
    checkpoint_steps: Count | None = None
    panels: Count = 100

    def panel_epochs(self, epochs: int) -> list[int]:
        """The epochs of ``epochs`` after which a panel is drawn; the last one is among them."""
        count = min(self.panels, epochs)
        return [-(-number * epochs // count) for number in range(1, count + 1)]


class Experiment(NamedTuple):
    """What a config describes, and the config itself."""

    config: Mapping[str, Any]
    seed: int
    data: DataSet
    model: Classifier
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    trainer: TrainerConfig
    device: torch.device
    run: RunConfig


def build_experiment(config: Mapping[str, Any]) -> Experiment:
    """Build everything that a config describes. This fetches no data and writes no file.

    Raises:
        UserError: a setting, or a combination of settings, cannot work.
    """
    for key in config:
        if key not in SETTINGS:
            raise UserError(f"{key} is not a setting: there are {', '.join(SETTINGS)}")
    for key in SETTINGS:
        if key not in config:
            raise UserError(f"{key} is missing from the config")
    use_plugins(config["plugins"])
    seed = check(config["seed"], Seed, "seed")
    check_names(config)
    run = build(config["run"], "run", RunConfig)
    trainer = build(config["trainer"], "trainer", TrainerConfig)
    with settings_of("trainer"):
        device = find_device(trainer.device)
    schedule = build(config["scheduler"], "scheduler", Schedule)
    data = build(config["data"], "data", DataSet)
    with settings_of("trainer"):
        trainer.steps_per_epoch(data.train_size)
    model = build_model(config, data, seed)
    optimizer = build(
        config["optimizer"], "optimizer", torch.optim.Optimizer, params=model.parameter_groups()
    )
    for group in optimizer.param_groups:
        if group["part"] == LOCALISATION:
            group["lr"] *= trainer.localisation_lr
    return Experiment(config, seed, data, model, optimizer, schedule, trainer, device, run)


def check_names(config: Mapping[str, Any]) -> None:
    """Check that the names in a config can name a folder. That of ``run`` may be null.

    Raises:
        UserError: one of them is missing, too long or contains other characters.
    """
    for group in NAMED_GROUPS:
        check_name(config[group], group)
    if not isinstance(config["run"], Mapping) or config["run"].get("name") is not None:
        check_name(config["run"], "run", 80)


def check_name(node: Any, group: str, longest: int = 60) -> None:
    """Check that the name of a group in a config can name a folder.

    Raises:
        UserError: it is missing, has more than ``longest`` characters, or others than a folder's name.
    """
    name = node.get("name") if isinstance(node, Mapping) else None
    if not (isinstance(name, str) and len(name) <= longest and re.fullmatch(r"[\w+-][\w.+-]*", name)):
        characters = f"{longest} {NAME_CHARACTERS}"
        raise UserError(f"{group}.name must be up to {characters} (a folder is named by it), got {name!r}")


def build_model(config: Mapping[str, Any], data: DataSet, seed: int) -> Classifier:
    """The classifier of a config for images of ``data``. Only ``seed`` decides its initial weights."""
    node = {key: value for key, value in config["backbone"].items() if key != "parameters"}
    parameters = check(config["backbone"].get("parameters"), Count | None, "backbone.parameters")
    setting = locate(node, "backbone", Backbone).width_setting
    transformers = build(config["stn"], "stn", TransformerConfig | None)
    attention = build(config["attention"], "attention", GateConfig | AttentionHeadConfig | None)
    parts = (transformers, attention, data)
    if parameters is not None:
        if setting is None:
            raise UserError(f"backbone.parameters must be null, as {node['name']} has no widths to scale")
        if setting not in node:
            raise UserError(f"backbone.{setting} must be given, as backbone.parameters scales it")
        with torch.random.fork_rng(devices=[]):
            assemble(node, *parts)  # reports other mistakes first

        def count(scaled: Mapping[str, Any]) -> int:
            with torch.device("meta"):
                return count_parameters(assemble(scaled, *parts))

        node = dict(scale_to(parameters, node, setting, count))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return assemble(node, *parts)


def count_parameters(model: nn.Module) -> int:
    """The number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def assemble(
    node: Mapping[str, Any],
    transformers: TransformerConfig | None,
    attention: GateConfig | AttentionHeadConfig | None,
    data: DataSet,
) -> Classifier:
    """The classifier of a backbone's config node, its transformers and another attention."""
    check_fits(data, transformers, attention)
    fitting = fitting_localisation(node, data)
    with settings_of("stn"):
        at_input = transformers.build_at_input(data.shape, fitting, data.length) if transformers else []
        if isinstance(data, OneDigitMnist) and data.encoder.size != at_input[0].output_size:
            wanted, got = ("×".join(map(str, size)) for size in (data.encoder.size, at_input[0].output_size))
            raise UserError(
                f"output_size must be that of the encoder's images, data.encoder.canvas, {wanted}, got {got}"
            )
    backbone = build_backbone(node, data, at_input)
    placed: dict[str, list[SpatialTransformer]] = {INPUT: at_input}
    with settings_of("stn"):
        if transformers and transformers.share:
            transformers.share_layers(at_input[0], backbone, data.shape, fitting)
        elif transformers:
            placed |= transformers.build_inside(backbone)
    gates, attention_head = {}, None
    with settings_of("attention"):
        if isinstance(attention, GateConfig):
            gates = attention.build(backbone)
        elif attention is not None:
            attention_head = attention.build(backbone.output_shape, data.classes, data.vocab_size)
    losses = (transformers.consistency, transformers.colocalisation) if transformers else ()
    return Classifier(backbone, placed, gates, attention_head, *losses)


def check_fits(
    data: DataSet,
    transformers: TransformerConfig | None,
    attention: GateConfig | AttentionHeadConfig | None,
) -> None:
    """Check that a network of these parts can learn from the data.

    Raises:
        UserError: it cannot.
    """
    if attention is not None and data.length > 1:
        raise UserError("attention.name must be none for data with several labels an image")
    if data.vocab_size and not isinstance(attention, AttentionHeadConfig):
        raise UserError("attention.name must be coattention, which reads the questions of this data")
    is_one_class = isinstance(data, OneDigitMnist)
    is_without_labels = transformers is not None and transformers.colocalisation > 0
    if is_without_labels and (attention is not None or not is_one_class):
        raise UserError("stn.colocalisation must be 0 unless data=colocalisation and attention=none")
    if is_one_class and not is_without_labels:
        raise UserError(
            "data=colocalisation has images of one class alone: experiment=colocalisation trains on it"
        )


def fitting_localisation(node: Mapping[str, Any], data: DataSet) -> LocalisationKind:
    """The kind of localisation network that fits a backbone's config node and the data."""
    fitting = locate(node, "backbone", Backbone).localisation
    if fitting == "keypoints" and data.turns_about_centre:
        return "polar"
    if fitting == "keypoints" and data.lies_anywhere:
        return "window"
    return fitting


def build_backbone(
    node: Mapping[str, Any], data: DataSet, transformers: Sequence[SpatialTransformer]
) -> Backbone:
    """The backbone of a config node, for the output of the transformers at the input, if there are any."""
    channels, *size = data.shape
    if transformers:
        channels, size = channels * len(transformers), list(transformers[0].output_size)
    labels = 1 if is_recurrent(transformers) else data.length
    backbone = build(node, "backbone", Backbone, shape=(channels, *size), classes=data.classes * labels)
    if labels > 1:
        backbone.head = nn.Sequential(backbone.head, nn.Unflatten(1, (data.classes, labels)))
    return backbone


def find_device(name: Device) -> torch.device:
    """The device of that name; ``auto`` is the fastest one of this machine.

    Raises:
        UserError: this machine has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [device for device, is_there in there.items() if is_there and name in ("auto", device)]
    if not found:
        raise UserError(f"device must be a device of this machine, which has no {name}")
    return torch.device(found[0])
