"""Figure 1 of Jaderberg et al. 2015: what a network makes of each distortion of a mixture."""

from collections.abc import Callable, Mapping
from itertools import cycle

from PIL import Image

from stn_experiments.common.geometry import image_size
from stn_experiments.data.batch import Batch, concat_batches, index_batch
from stn_experiments.data.splits import KindSet
from stn_experiments.evaluation.evaluate import evaluate_kind, predict
from stn_experiments.evaluation.pose_scores import residual_pose, whole_canvas
from stn_experiments.models.classifier import Classifier
from stn_experiments.tracking.panels import draw_panel, write_notes

CLASSES = (7, 5, 6, 6)
"""Classes of the digits that are drawn, in turn."""
TURNED = 45
"""Degrees by which a digit that is drawn is turned at least, if the kind turns digits as far."""
CELL = 160
"""Larger than in other panels, for the lines of scores."""


def draw_figure(
    model: Classifier, kinds: Mapping[str, Callable[[], KindSet]], title: str
) -> tuple[dict[str, dict[str, float]], Image.Image]:
    """The scores of each kind (see :func:`evaluate_kind`), and a panel with a row for each.

    A row shows the :func:`first_of_class`. The line below it is about all test digits. The caption begins
    with ``title``.
    """
    scores, rows = {}, []
    for (name, draw), label in zip(kinds.items(), cycle(CLASSES), strict=False):
        kind = draw()
        scores[name] = evaluate_kind(model, kind)
        rows.append(first_of_class(kind.batch, label))
        caption = f"{title}; scores of all {len(kind.batch.labels):,} test digits"
    images = concat_batches(rows)
    panel = draw_panel(images, predict(model, images), caption, CELL)
    return scores, write_notes(panel, [note(name, values) for name, values in scores.items()])


def first_of_class(batch: Batch, label: int) -> Batch:
    """The first image of a class that is ``TURNED``, or else of the class, or else of the batch."""
    canvas = whole_canvas(batch.pose.box[:, 0])
    rotation = residual_pose(canvas, batch.pose.matrix[:, 0], image_size(batch.images)).rotation
    of_class = batch.labels == label
    turned = of_class & (rotation.abs() >= TURNED)
    first = int((of_class.int() + turned.int()).argmax())
    return index_batch(batch, slice(first, first + 1))


def note(name: str, scores: Mapping[str, float]) -> str:
    """The main scores of a kind in one line; the rotation of the input is omitted if it is 0."""
    parts = [f"error {scores['error']:.1f} %"]
    if "frame_iou_mean" in scores:
        parts.append(f"IoU {scores['frame_iou_mean']:.2f}")
    if "residual_rotation_deg" in scores:
        after, before = (f"{scores[f'{when}_rotation_deg']:.0f}" for when in ("residual", "input"))
        parts.append(f"rotation left {after}°" + (f" (input {before}°)" if before != "0" else ""))
    if "disturbance_inside" in scores:
        left, of_frame = (100 * scores[f"disturbance_inside{end}"] for end in ("", "_of_exact_frame"))
        parts.append(f"{left:.0f} % of the disturbance left (digit's frame {of_frame:.0f} %)")
    return f"{name}: {', '.join(parts)}"
