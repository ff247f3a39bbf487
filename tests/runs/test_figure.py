"""Figure 1: a row for each kind of a mixture, its line, and the same scores in result.json."""

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stn_experiments.common import geometry
from stn_experiments.data.batch import Batch, Pose
from stn_experiments.evaluation.evaluate import evaluate
from stn_experiments.runs import figure as module
from stn_experiments.runs.evaluate import evaluate_run
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.figure import draw_figure, first_of_class, note
from stn_experiments.runs.load import load_run
from stn_experiments.tracking.panels import draw_panel

KINDS = ["clean", "rotated", "noisy", "cluttered"]


@pytest.mark.slow
def test_a_run_on_a_mixture_has_the_figure_and_the_scores_of_its_kinds(train):
    settings = ("data=mixed", "trainer.epochs=1")
    code, _, err = train(*settings)
    assert (code, err) == (0, "")
    run = train.run_of(*settings)
    kinds = run.result()["kinds"]
    assert [*kinds] == KINDS
    assert ["disturbance_inside" in scores for scores in kinds.values()] == [False, False, True, True]
    model, config = load_run(run.folder)
    splits = build_experiment(config).data.load(torch.device("cpu"))
    for name, draw in splits.kinds.items():
        alone = evaluate(model, draw().batch)
        for score in ("error", "frame_iou_mean", "residual_rotation_deg"):
            assert kinds[name][score] == pytest.approx(alone[score], abs=1e-4)
    events = EventAccumulator(str(run.folder))
    events.Reload()
    assert "panel/figure" in events.Tags()["images"]
    result, folder = evaluate_run(run, device_name="cpu")
    assert [*result["kinds"]] == KINDS
    for name, scores in result["kinds"].items():
        assert scores == pytest.approx(kinds[name], abs=1e-4)
    pictures = [Image.open(file) for file in (run.figure, folder / "figure.png")]
    assert pictures[0].size == pictures[1].size


def test_the_rows_are_test_digits_of_the_classes_in_turn(compose, few_digits, monkeypatch):
    drawn = {}

    def keep(batch, prediction, caption, cell):
        drawn.update(batch=batch, caption=caption)
        return draw_panel(batch, prediction, caption, cell)

    monkeypatch.setattr(module, "draw_panel", keep)
    monkeypatch.setattr(module, "write_notes", lambda panel, notes: drawn.update(notes=notes) or panel)
    experiment = build_experiment(compose("data=mixed", *few_digits))
    splits = experiment.data.load(torch.device("cpu"))
    scores, _ = draw_figure(experiment.model, splits.kinds, "after 3 epochs")
    assert drawn["caption"] == "after 3 epochs; scores of all 40 test digits"
    assert drawn["batch"].labels.tolist() == [7, 5, 6, 6]
    for row, draw in enumerate(splits.kinds.values()):
        expected = first_of_class(draw().batch, (7, 5, 6, 6)[row])
        assert drawn["batch"].images[row].equal(expected.images[0])
    assert drawn["notes"] == [note(name, scores[name]) for name in KINDS]


def test_the_first_image_of_a_class_or_of_all_that_is_turned_if_there_is_one():
    angles = torch.tensor([90.0, 0, 44, 20, -46, 60])
    matrix = geometry.normalised(
        geometry.similarity(angles.deg2rad(), torch.full((6,), 0.7), torch.zeros(6, 2)), (28, 28), (40, 60)
    )
    pose = Pose(matrix[:, None], torch.zeros(6, 1, 4, 2), torch.zeros(6, 1, 1, 1))
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 40, 60)
    batch = Batch(images, torch.tensor([1, 5, 5, 3, 5, 5]), pose)
    chosen = [first_of_class(batch, label) for label in (5, 3, 1, 7)]
    assert [int(one.images[0, 0, 0, 0]) for one in chosen] == [4, 3, 0, 0]


def test_a_line_has_the_scores_that_there_are():
    assert note("clean", {"error": 1.24}) == "clean: error 1.2 %"
    scores = {"error": 2, "frame_iou_mean": 0.5, "residual_rotation_deg": 9.6, "input_rotation_deg": 0.2}
    shares = {"disturbance_inside": 0.404, "disturbance_inside_of_exact_frame": 0.456}
    assert note("noisy", scores | shares) == (
        "noisy: error 2.0 %, IoU 0.50, rotation left 10°, 40 % of the disturbance left (digit's frame 46 %)"
    )
    assert note("turned", scores | {"input_rotation_deg": 52}).endswith("rotation left 10° (input 52°)")
