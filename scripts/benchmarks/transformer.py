"""The time of each family's transformer, as a fraction of the backbone's."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.bench import Bench, task_of
from benchmarks.measure import Job, Row, ratio, repeat
from benchmarks.table import Table
from stn_experiments.models.classifier import INPUT, Classifier
from stn_experiments.runs.experiment import build_experiment

FAMILIES = ("translation", "scale_translation", "similarity", "affine", "projective", "tps")


def tables(bench: Bench) -> list[Table]:
    """Milliseconds per batch."""
    rows = []
    for config in bench.configs("stn", FAMILIES):
        experiment = build_experiment(config)
        size = experiment.trainer.batch_size
        (batch,) = bench.batches(task_of(config), 1, size)
        model = experiment.model.to(bench.device).train()
        seconds = bench.measure(jobs(model, batch.images, batch.labels))
        row: Row = {"stn": config["stn"]["name"]}
        row |= {name: tuple(1000 * one for one in values) for name, values in seconds.items()}
        for way in ("forward", "backward"):
            share = ratio(seconds[f"transformer {way}"], seconds[f"backbone {way}"])
            row[f"% {way}"] = tuple(100 * one for one in share)
        rows.append(row)
    names = f"`{config['data']['name']}` and `{config['backbone']['name']}`"
    return [Table(f"Transformers on {names}, milliseconds per batch of {size}", rows)]


def jobs(model: Classifier, images: Tensor, labels: Tensor) -> dict[str, Job | None]:
    """Forward and backward passes of the transformer at the input and of the backbone."""
    transformer = model.transformers[INPUT][0]  # type: ignore[index]
    seen = transformer(images).output
    shown = seen.detach().requires_grad_()  # a transformer needs its gradient
    loss = F.cross_entropy(model.backbone(shown), labels)
    direction = torch.randn_like(seen)

    def backward(output: Tensor, of: Iterable[Tensor], given: Tensor | None = None) -> Job:
        wanted = list(of)
        return repeat(lambda: torch.autograd.grad(output, wanted, given, retain_graph=True))

    return {
        "transformer forward": repeat(lambda: transformer(images)),
        "transformer backward": backward(seen, transformer.parameters(), direction),
        "backbone forward": repeat(lambda: F.cross_entropy(model.backbone(shown), labels)),
        "backbone backward": backward(loss, [shown, *model.backbone.parameters()]),
    }
