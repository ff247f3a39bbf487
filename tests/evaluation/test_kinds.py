"""Scores of one distortion of a mixture, and energy inside outlines against shares worked out by hand."""

import pytest
import torch

from stn_experiments.data.distortions import Distortion
from stn_experiments.data.splits import KindSet
from stn_experiments.evaluation.evaluate import energy_inside, evaluate, evaluate_kind
from tests.models.harness import Given

LEFT = [[-1, -1], [0, -1], [0, 1], [-1, 1]]
WHOLE = [[-3, -3], [3, -3], [3, 3], [-3, 3]]


def test_the_energy_inside_is_that_of_all_images_together(monkeypatch):
    monkeypatch.setattr("stn_experiments.evaluation.evaluate.CHUNK", 2)
    energy = torch.zeros(3, 2, 4)
    energy[0, 0] = torch.tensor([2.0, 1, 1, 0])  # 3 of 4 in the left half
    energy[1, 1] = torch.tensor([0.0, 0, 0, 12])  # 0 of 12
    energy[2, 0] = torch.tensor([1.0, 1, 1, 1])  # 4 of 4 in what is larger than the canvas
    outlines = torch.tensor([LEFT, LEFT, WHOLE], dtype=torch.float)
    assert energy_inside(outlines, energy) == pytest.approx((3 + 0 + 4) / (4 + 12 + 4))
    cut = torch.tensor([LEFT], dtype=torch.float) + torch.tensor([0.25, 0])  # half of the third cell, too
    assert energy_inside(cut, energy[:1]) == pytest.approx((1 + 1 + 0.5) / 4)
    lost = torch.full((1, 4, 2), torch.nan)
    assert energy_inside(lost, energy[:1]) == 0


def drawn(digits, **options):
    distortion = Distortion(canvas=60, place="anywhere", **options)
    return KindSet(*distortion.draw_disturbed(digits, torch.arange(40), torch.Generator().manual_seed(5)))


def test_a_kind_has_the_scores_of_a_set_and_how_much_of_the_disturbance_v_holds(build, digits):
    model, kind = (
        build("data=cluttered", "stn=affine", "stn.localisation=keypoints"),
        drawn(digits, clutter=6),
    )
    found = evaluate_kind(model, kind)
    assert found.items() >= {k: v for k, v in evaluate(model, kind.batch).items() if "_of_" not in k}.items()
    assert found["disturbance_inside"] == pytest.approx(1)  # of the identity
    of_frame, of_box = (found[f"disturbance_inside_of_{name}"] for name in ("exact_frame", "centre_box"))
    assert 0 < of_box < 1
    assert 0.1 < of_frame < 0.5  # the frame is 0.22 of the canvas

    model.transformers["input"][0].localisation = Given(kind.batch.pose.matrix[:, 0, :2].flatten(1))
    assert evaluate_kind(model, kind)["disturbance_inside"] == pytest.approx(of_frame)


@pytest.mark.parametrize(
    ("settings", "options"),
    [("stn=none", {"clutter": 6}), ("stn=none attention=mask", {"noise": 0.3}), ("stn=affine", {})],
)
def test_without_a_transformer_or_a_disturbance_there_is_no_share(build, digits, settings, options):
    found = evaluate_kind(build("data=cluttered", *settings.split()), drawn(digits, **options))
    assert "error" in found
    assert not [name for name in found if name.startswith("disturbance")]
