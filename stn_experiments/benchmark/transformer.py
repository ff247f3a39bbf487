"""What does each family's transformer cost, as a share of the backbone behind it?"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from stn_experiments.benchmark.bench import Bench, task_of
from stn_experiments.benchmark.measure import Job, ratios
from stn_experiments.benchmark.table import Cell, Table, label, milliseconds, number
from stn_experiments.experiment import build_experiment
from stn_experiments.models.classifier import INPUT, Classifier

FAMILIES = ("translation", "attention", "similarity", "affine", "projective", "tps")
JOBS = ("transformer forward", "transformer backward", "backbone forward", "backbone backward")


def tables(bench: Bench) -> list[Table]:
    """Milliseconds of a batch."""
    rows = []
    for config in bench.configs("stn", FAMILIES):
        experiment = build_experiment(config)
        size = experiment.trainer.batch_size
        (batch,) = bench.batches(task_of(experiment), 1, size)
        model = experiment.model.to(bench.device).train()
        times = bench.measure(jobs(model, batch.images, batch.labels))
        shares: list[Cell] = [
            number(
                tuple(100 * ratio for ratio in ratios(times[f"transformer {way}"], times[f"backbone {way}"]))
            )
            for way in ("forward", "backward")
        ]
        rows.append([label(config["stn"]["name"]), *(milliseconds(times[name]) for name in JOBS), *shares])
    names = f"`{config['data']['name']}` and `{config['backbone']['name']}`"
    title = f"Transformers on {names}, milliseconds a batch of {size}"
    return [Table("transformer", title, ["stn", *JOBS, "% forward", "% backward"], rows)]


def jobs(model: Classifier, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Job]:
    """Each way through the transformer at the input and through the backbone, once for a unit."""
    transformer = model.transformers[INPUT][0]  # type: ignore[index]
    seen = transformer(images).output
    shown = seen.detach().requires_grad_()  # as behind a transformer, which wants its gradient
    loss = F.cross_entropy(model.backbone(shown), labels)
    direction = torch.randn_like(seen)

    def backward(output: torch.Tensor, of: list[torch.Tensor], given: torch.Tensor | None = None) -> Job:
        return _times(lambda: torch.autograd.grad(output, of, given, retain_graph=True))

    return dict(
        zip(
            JOBS,
            [
                _times(lambda: transformer(images)),
                backward(seen, _parameters(transformer), direction),
                _times(lambda: F.cross_entropy(model.backbone(shown), labels)),
                backward(loss, [shown, *_parameters(model.backbone)]),
            ],
            strict=True,
        )
    )


def _parameters(module: nn.Module) -> list[torch.Tensor]:
    return list(module.parameters())


def _times(once: Callable[[], object]) -> Job:
    def job(units: int) -> None:
        for _ in range(units):
            once()

    return job
