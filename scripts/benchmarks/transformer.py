"""The time of each family's transformer, as a fraction of the backbone's."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.bench import Bench, task_of
from benchmarks.measure import Job, again
from benchmarks.table import Table, label, milliseconds, quotient
from stn_experiments.models.classifier import INPUT, Classifier
from stn_experiments.runs.experiment import build_experiment

FAMILIES = ("translation", "attention", "similarity", "affine", "projective", "tps")


def tables(bench: Bench) -> list[Table]:
    """Milliseconds per batch."""
    rows = []
    for config in bench.configs("stn", FAMILIES):
        experiment = build_experiment(config)
        size = experiment.trainer.batch_size
        (batch,) = bench.batches(task_of(experiment), 1, size)
        model = experiment.model.to(bench.device).train()
        times = bench.measure(jobs(model, batch.images, batch.labels))
        shares = [
            quotient(times[f"transformer {way}"], times[f"backbone {way}"], 100, "")
            for way in ("forward", "backward")
        ]
        rows.append([label(config["stn"]["name"]), *map(milliseconds, times.values()), *shares])
    names = f"`{config['data']['name']}` and `{config['backbone']['name']}`"
    title = f"Transformers on {names}, milliseconds per batch of {size}"
    return [Table("transformer", title, ["stn", *times, "% forward", "% backward"], rows)]


def jobs(model: Classifier, images: Tensor, labels: Tensor) -> dict[str, Job | str]:
    """Forward and backward passes of the transformer at the input and of the backbone."""
    transformer = model.transformers[INPUT][0]  # type: ignore[index]
    seen = transformer(images).output
    shown = seen.detach().requires_grad_()  # a transformer needs its gradient
    loss = F.cross_entropy(model.backbone(shown), labels)
    direction = torch.randn_like(seen)

    def backward(output: Tensor, of: Iterable[Tensor], given: Tensor | None = None) -> Job:
        wanted = list(of)
        return again(lambda: torch.autograd.grad(output, wanted, given, retain_graph=True))

    return {
        "transformer forward": again(lambda: transformer(images)),
        "transformer backward": backward(seen, transformer.parameters(), direction),
        "backbone forward": again(lambda: F.cross_entropy(model.backbone(shown), labels)),
        "backbone backward": backward(loss, [shown, *model.backbone.parameters()]),
    }
