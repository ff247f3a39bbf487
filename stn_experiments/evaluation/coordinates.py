"""Coordinates of views: from the maps that attention reads to the network's input.

A point of an inner map goes back through the stages and through the transformers before it. This costs time,
so it is not part of a network's forward pass.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_experiments.common import geometry
from stn_experiments.evaluation.regions import densest_region
from stn_experiments.models.backbones import Placement
from stn_experiments.models.classifier import HEAD, Classifier, ClassifierOutput
from stn_experiments.models.gates import Gated
from stn_experiments.models.precision import to_float32
from stn_experiments.models.prediction import Prediction
from stn_experiments.models.spatial_transformer import SpatialTransformer
from stn_experiments.models.view import Heat, View

Step = Callable[[Tensor], Tensor]
"""Maps points (B, N, 2) of one map to those of an earlier one."""


def to_input_frame(output: ClassifierOutput, model: Classifier) -> Prediction:
    """The prediction of ``model`` with the points of all views in the coordinates of the network's input.

    Gates without a transformer between them become one view, see :func:`combine_gates`. After parallel
    transformers, points go back through the first of them.
    """
    views: list[View] = []
    to_input: tuple[Step, ...] = ()
    # Since the last transformer: where the current map lies, and the gates with the places of their maps.
    placement = Placement()
    gates: list[tuple[Gated, Placement]] = []
    for name, stage in output.stages.items():
        if stage.views or name == HEAD:
            if gates:
                views.append(move(combine_gates(gates), to_input))
            if placement != Placement():
                to_input = (placement.to_earlier, *to_input)
            placement, gates = Placement(), []
            views += [move(view, to_input) for view in stage.views]
            if name != HEAD:
                to_input = (_warp(model.transformers_at(name)[0], stage.views[0]), *to_input)
        placement = model.backbone.placements.get(name, Placement()).then(placement)
        if stage.gate is not None:
            gates.append((stage.gate, placement))
    return Prediction(output.logits, views, output.policy)


def combine_gates(gates: Sequence[tuple[Gated, Placement]]) -> View:
    """One view of consecutive gates, each with the place of its map on a common one.

    Points lie on the common map. The heat is the product of all masks at the resolution of the first one.
    """
    channels = [to_float32(gate.channels) for gate, _ in gates if gate.channels is not None]
    masks = [(to_float32(gate.mask), placement) for gate, placement in gates if gate.mask is not None]
    view = View(to_float32(gates[-1][0].output), gates=torch.cat(channels, 1) if channels else None)
    if not masks:
        return view
    weights, placement = masks[0]
    height, width = weights.shape[1:]
    cells = geometry.pixel_centres(height, width, weights.device).to(weights.dtype).view(1, height, width, 2)
    places = placement.to_earlier(cells).expand(len(weights), -1, -1, -1)
    for mask, other in masks[1:]:
        grid = other.from_earlier(places)
        factor = F.grid_sample(mask[:, None], grid, padding_mode="border", align_corners=False)
        weights = weights * factor[:, 0]
    outline = placement.to_earlier(densest_region(weights))
    return view._replace(outline=outline, heat=Heat(weights, places))


def move(view: View, steps: Sequence[Step]) -> View:
    """The view with its points mapped by steps, in this order.

    A view with heat but without an outline gets the outline of its densest region.
    """

    def moved(points: Tensor) -> Tensor:
        flat = points.flatten(1, -2)
        for step in steps:
            flat = step(flat)
        return flat.view_as(points)

    outline, marks, heat = view.outline, view.marks, view.heat
    if heat is not None and outline is None:
        outline = densest_region(heat.weights)
    return view._replace(
        outline=None if outline is None else moved(outline),
        marks=None if marks is None else moved(marks),
        heat=None if heat is None else heat._replace(places=moved(heat.places)),
    )


def _warp(transformer: SpatialTransformer, view: View) -> Step:
    """From the output of a transformer to the map that it read."""
    assert view.transform is not None
    return partial(transformer.family.transform, view.transform.theta)
