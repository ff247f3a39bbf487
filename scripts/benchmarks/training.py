"""The speed of training, beside the bare network, the tutorial's loop and Lightning."""

import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import tutorial
from benchmarks.bench import Bench, task_of
from benchmarks.data import NAMES
from benchmarks.measure import Job, rate, ratio, repeat, speeds
from benchmarks.table import Table
from stn_experiments.data.batch import Batch
from stn_experiments.data.splits import TrainingSet
from stn_experiments.models.classifier import Classifier
from stn_experiments.models.consistency import Consistency
from stn_experiments.runs.experiment import Experiment, build_experiment
from stn_experiments.runs.train import make_trainer
from stn_experiments.storage.run_folder import run_digest
from stn_experiments.training.cuda_graphs import CudaGraphs

BACKBONES = ("compact", "cnn", "fcn", "resnet18")
PREMADE = 16
NOTE = (
    "Ready-made batches: the same network and optimiser without drawing data and without metrics. "
    "No step has the consistency loss."
)


def tables(bench: Bench) -> list[Table]:
    """Images per second of each backbone, of each data set, and of the tutorial's network in four loops."""
    networks = {
        run_digest(config): config
        for stn in ("none", "affine")
        for config in bench.configs("backbone", BACKBONES, f"stn={stn}")
    }
    return [
        our_speeds(bench, [*networks.values()], "network", "{backbone}, stn={stn}", "on `{data}`"),
        our_speeds(bench, bench.configs("data", NAMES), "data", "{data}", "of `{backbone}` with `stn={stn}`"),
        tutorials_network(bench),
    ]


def our_speeds(
    bench: Bench, configs: Sequence[Mapping[str, Any]], column: str, label: str, common: str
) -> Table:
    """Our loop and bare steps for each config; ``label`` is what they differ in, ``common`` what not."""
    names = [{group: config[group]["name"] for group in ("data", "backbone", "stn")} for config in configs]
    rows = []
    for config, of_config in zip(configs, names, strict=True):
        size = config["trainer"]["batch_size"]
        seconds = bench.measure(our_jobs(bench, build_experiment(config), build_experiment(config)))
        rows.append({column: label.format(**of_config), **speeds(seconds, size)})
    return Table(f"Training {common.format(**names[0])}, images/s in batches of {size}", rows, NOTE)


def our_jobs(bench: Bench, one: Experiment, other: Experiment) -> dict[str, Job | None]:
    """Our loop with one experiment, and bare steps with another; both without the consistency loss."""
    for experiment in (one, other):
        experiment.model.consistency = Consistency()
    task, size = task_of(one.config), one.trainer.batch_size
    return {
        "our loop": our_loop(one, bench.train_set(task)),
        "ready-made batches": bare_steps(other, bench.batches(task, PREMADE, size)),
    }


def tutorials_network(bench: Bench) -> Table:
    """The tutorial's network in our loop, in bare steps, in its own loop and in Lightning."""
    size = tutorial.BATCH
    config = bench.compose(
        ["data=rotated", "optimizer=sgd", f"trainer.batch_size={size}", "scheduler=constant"]
    )
    experiments = [build_experiment(config)._replace(device=bench.device) for _ in range(2)]
    loader = tutorial.batches(bench.mnist.train, bench.workers)
    jobs: dict[str, Job | None] = {
        **our_jobs(bench, *map(with_tutorials_network, experiments)),
        "the tutorial's loop": tutorial.loop(tutorial.network().to(bench.device), loader, bench.device),
        "Lightning": lightning_loop(bench),
    }
    seconds = bench.measure(jobs)
    rows = [
        {"loop": name, "images/s": rate(values, size), "our loop ÷ this": ratio(values, seconds["our loop"])}
        for name, values in seconds.items()
    ]
    note = (
        f"The same network, SGD and batches of {size}; the last two read torchvision's transforms through a "
        f"DataLoader with {bench.workers} workers."
    )
    return Table("The network of PyTorch's tutorial on rotated digits", rows, note)


def with_tutorials_network(experiment: Experiment) -> Experiment:
    """The experiment with the tutorial's network and optimiser."""
    model = tutorial.Wrapped().to(experiment.device)
    return experiment._replace(model=cast(Classifier, model), optimizer=tutorial.optimizer(model, fused=True))


def our_loop(experiment: Experiment, train: TrainingSet) -> Job:
    """Steps of the trainer that trains every run."""
    trainer = make_trainer(experiment, train)

    def steps(units: int) -> None:
        """Train the last steps of an epoch or, for more units than that, of several."""
        while units > 0:
            trainer.steps_done = max(0, trainer.steps_per_epoch - units)
            units -= trainer.steps_per_epoch
            trainer.run_epoch()
            trainer.next_epoch()

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
    return repeat(lambda: captured(*next(source)[:2]))


def lightning_loop(bench: Bench) -> Job | None:
    """Steps of Lightning's Trainer with the tutorial's network and DataLoader."""
    try:
        import lightning
    except ImportError:
        return None
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    loader = tutorial.batches(bench.mnist.train, bench.workers)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = tutorial.network()
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
        loader.shuffle(units)
        trainer = lightning.Trainer(max_epochs=1, accelerator=bench.device.type, devices=1, barebones=True)
        trainer.fit(module, loader.batches)
        return module.seconds

    return run
