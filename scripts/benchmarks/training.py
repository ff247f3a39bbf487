"""The speed of training, beside the bare network, the tutorial's loop and Lightning."""

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
from stn_experiments.data.batch import Batch
from stn_experiments.data.datasets import TrainingSet
from stn_experiments.runs.experiment import Experiment, build_experiment
from stn_experiments.runs.train import make_trainer
from stn_experiments.storage.run_folder import run_name
from stn_experiments.training.cuda_graphs import CudaGraphs

BACKBONES = ("compact", "cnn", "fcn", "resnet18")
PREMADE = 16
OURS, BARE, TUTORIAL, LIGHTNING = "our loop", "ready-made batches", "the tutorial's loop", "Lightning"
COLUMNS = [OURS, BARE, "our loop ÷ this"]
NOTE = "Ready-made batches: the same network and optimiser without drawing data and without metrics."


def tables(bench: Bench) -> list[Table]:
    """Images per second of each backbone, of each data set, and of the tutorial's network in four loops."""
    return [backbones(bench), data_sets(bench), tutorials_network(bench)]


def backbones(bench: Bench) -> Table:
    """Our loop and bare steps, for each backbone with and without a transformer."""
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
    """Our loop and bare steps, for each data set."""
    configs = bench.configs("data", NAMES[:2] if bench.quick else NAMES)
    rows = [row(bench, config, config["data"]["name"]) for config in configs]
    backbone, stn, trainer = (configs[0][group] for group in ("backbone", "stn", "trainer"))
    title = (
        f"Training of `{backbone['name']}` with `stn={stn['name']}`, images/s in batches of "
        f"{trainer['batch_size']}"
    )
    return Table("data_sets", title, ["data", *COLUMNS], rows, NOTE)


def row(bench: Bench, config: dict[str, Any], name: str) -> list[Cell]:
    """Our loop and bare steps for one config."""
    one, other = build_experiment(config), build_experiment(config)
    size, task = one.trainer.batch_size, task_of(one)
    premade = bench.batches(task, PREMADE, size)
    times = bench.measure({OURS: our_loop(one, bench.train_set(task)), BARE: bare_steps(other, premade)})
    return [
        label(name),
        *(rate(times[loop], size) for loop in (OURS, BARE)),
        quotient(times[BARE], times[OURS]),
    ]


def tutorials_network(bench: Bench) -> Table:
    """The tutorial's network in our loop, in bare steps, in its own loop and in Lightning."""
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
        BARE: bare_steps(pair[1], bench.batches(task, PREMADE, tutorial.BATCH)),
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
    """Steps of the trainer that trains every run."""
    trainer = make_trainer(experiment, train)

    def steps(units: int) -> None:
        """Train the last steps of an epoch or, for more units than that, of several."""
        while units > 0:
            trainer.next_epoch()
            trainer.done = max(0, trainer.steps_per_epoch - units)
            units -= trainer.steps_per_epoch
            trainer.run_epoch()

    return steps


def bare_steps(experiment: Experiment, batches: list[Batch]) -> Job:
    """Steps of the same network and optimiser on ready-made batches, and nothing else; on CUDA as a graph."""
    model, optimizer = experiment.model.to(experiment.device).train(), experiment.optimizer
    is_fused = all(group.get("fused") for group in optimizer.param_groups)
    graphs = CudaGraphs(torch.Generator(experiment.device), experiment.trainer.cuda_graph and is_fused)
    graphs.make_capturable(optimizer)
    source = cycle(batches)

    def step(images: Tensor, labels: Tensor) -> None:
        with experiment.trainer.autocast(experiment.device):
            logits = model(images).logits
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    captured = graphs.wrap(step)

    def once() -> None:
        batch = next(source)
        captured(batch.images, batch.labels)

    return again(once)


def lightning_loop(bench: Bench) -> Job | str:
    """Steps of Lightning's Trainer with the tutorial's network and DataLoader."""
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

        # The set-up of a Trainer and its workers does not count; a real epoch hides it.
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
