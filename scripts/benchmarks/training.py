"""How fast is training: beside the network alone, the tutorial's loop, and Lightning's?"""

import logging
import time
import warnings
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import tutorial
from benchmarks.bench import Bench, task_of
from benchmarks.data import NAMES
from benchmarks.measure import Job, again
from benchmarks.table import Cell, Table, label, quotient, rate
from stn_experiments.data.datasets import TrainingSet
from stn_experiments.data.distortions import Batch
from stn_experiments.runs.experiment import Experiment, build_experiment
from stn_experiments.runs.train import prepare, recorder_of
from stn_experiments.storage.run_folder import run_name
from stn_experiments.training.loop import TrainerConfig, Training, train_epoch

BACKBONES = ("compact", "cnn", "fcn", "resnet18")
PREMADE = 16
OURS, FLOOR, TUTORIAL, LIGHTNING = "our loop", "batches made beforehand", "the tutorial's loop", "Lightning"
COLUMNS = [OURS, FLOOR, "our loop ÷ this"]
NOTE = "Batches made beforehand: the same network and optimiser on data that cost nothing, and no metrics."


def tables(bench: Bench) -> list[Table]:
    """Images a second of each backbone, of each data set, and of the tutorial's network in four loops."""
    return [backbones(bench), data_sets(bench), tutorials_network(bench)]


def backbones(bench: Bench) -> Table:
    """Our loop and its floor, for each backbone with and without a transformer."""
    names = [name for name in BACKBONES if not (bench.quick and name == "resnet18")]
    configs = {
        run_name(config): config
        for stn in ("none", "affine")
        for config in bench.configs("backbone", names, f"stn={stn}")
    }
    rows = [
        row(bench, config, f"{config['backbone']['name']}, stn={config['stn']['name']}")
        for config in configs.values()
    ]
    config = next(iter(configs.values()))
    title = (
        f"Training on `{config['data']['name']}`, images/s in batches of {config['trainer']['batch_size']}"
    )
    return Table("training", title, ["network", *COLUMNS], rows, NOTE)


def data_sets(bench: Bench) -> Table:
    """Our loop and its floor, for each data set."""
    configs = bench.configs("data", NAMES[:2] if bench.quick else NAMES)
    rows = [row(bench, config, config["data"]["name"]) for config in configs]
    backbone, stn, trainer = (configs[0][group] for group in ("backbone", "stn", "trainer"))
    title = (
        f"Training of `{backbone['name']}` with `stn={stn['name']}`, images/s in batches of "
        f"{trainer['batch_size']}"
    )
    return Table("data_sets", title, ["data", *COLUMNS], rows, NOTE)


def row(bench: Bench, config: dict[str, Any], name: str) -> list[Cell]:
    """Our loop and its floor on what a config describes."""
    one, other = build_experiment(config), build_experiment(config)
    size, task = one.trainer.batch_size, task_of(one)
    premade = bench.batches(task, PREMADE, size)
    times = bench.measure({OURS: our_loop(one, bench.train_set(task)), FLOOR: floor(other, premade)})
    return [
        label(name),
        *(rate(times[loop], size) for loop in (OURS, FLOOR)),
        quotient(times[FLOOR], times[OURS]),
    ]


def tutorials_network(bench: Bench) -> Table:
    """The tutorial's network in our loop, on batches made beforehand, in its own loop, in Lightning's."""
    config = bench.compose(
        ["data=rotated", "optimizer=sgd", f"trainer.batch_size={tutorial.BATCH}", "scheduler=constant"]
    )
    pair = [with_tutorials_network(build_experiment(config)._replace(device=bench.device)) for _ in range(2)]
    task = task_of(pair[0])
    loader = tutorial.batches(bench.mnist.train, bench.workers)
    network = tutorial.network(0).to(bench.device)
    optimizer = tutorial.optimizer(network)

    jobs: dict[str, Job | str] = {
        OURS: our_loop(pair[0], bench.train_set(task)),
        FLOOR: floor(pair[1], bench.batches(task, PREMADE, tutorial.BATCH)),
        TUTORIAL: lambda units: tutorial.train(network, optimizer, loader.passes(units), bench.device),
        LIGHTNING: lightning_loop(bench),
    }
    times = bench.measure(jobs)
    rows = [
        [label(name), rate(took, tutorial.BATCH), quotient(took, times[OURS])] for name, took in times.items()
    ]
    note = (
        f"The same network, SGD and batches of {tutorial.BATCH}; the last two read torchvision's transforms "
        f"through a DataLoader with {bench.workers} workers."
    )
    title = "The network of PyTorch's tutorial on rotated digits"
    return Table("tutorial", title, ["loop", "images/s", "our loop ÷ this"], rows, note)


def with_tutorials_network(experiment: Experiment) -> Experiment:
    """The experiment with the tutorial's network and optimiser."""
    model = tutorial.wrapped(0, experiment.device)
    return experiment._replace(model=model, optimizer=tutorial.optimizer(model, fused=True))


def our_loop(experiment: Experiment, train: TrainingSet) -> Job:
    """Steps of the loop that trains every run."""
    training = prepare(experiment, train.size)
    return lambda units: steps(training, train, experiment.trainer, units)


def steps(training: Training, train: TrainingSet, trainer: TrainerConfig, units: int) -> None:
    """So many steps: the last of an epoch or, where there are more, of several."""
    progress = training.progress
    whole = progress.steps.shape[1]
    while units > 0:
        progress.next_epoch()
        progress.done = max(0, whole - units)
        units -= whole
        train_epoch(training, train, trainer)


def floor(experiment: Experiment, batches: list[Batch]) -> Job:
    """Steps of the same network and optimiser, on data that cost nothing, and nothing else.

    On CUDA they are a replayed graph.
    """
    model, optimizer = experiment.model.to(experiment.device).train(), experiment.optimizer
    recorder = recorder_of(experiment)
    source = cycle(batches)

    def step(images: Tensor, labels: Tensor) -> None:
        with experiment.trainer.autocast(experiment.device):
            logits = model(images).logits
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def once() -> None:
        batch = next(source)
        recorder("step", step, batch.images, batch.labels)

    return again(once)


def lightning_loop(bench: Bench) -> Job | str:
    """Steps of Lightning's TrainerConfig on the tutorial's network and DataLoader."""
    try:
        import lightning
    except ImportError:
        return "lightning is not installed"
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    loader = tutorial.batches(bench.mnist.train, bench.workers)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = tutorial.network(0)
            self.seconds = 0.0

        def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
            images, labels = batch
            return F.nll_loss(self.network(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return tutorial.optimizer(self)

        # Setting a TrainerConfig and its workers up is none of the loop; a real epoch hides it.
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                self.start = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.start

    module = Module()

    def run(units: int) -> float:
        loader.sampler.count = units
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator={"cuda": "gpu"}.get(bench.device.type, bench.device.type),
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader.batches)
        return module.seconds

    return run
