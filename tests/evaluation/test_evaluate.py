import numpy as np
import pytest
import torch

from stn_experiments.common.bits import pack_bits, unpack_bits
from stn_experiments.data.distortions import Distortion
from stn_experiments.data.sequences import Sequences
from stn_experiments.evaluation.evaluate import (
    CHUNK,
    evaluate,
    evaluate_test,
    mistakes,
    outside_share,
    predict,
    theta_spread,
)
from stn_experiments.evaluation.yardsticks import SCORES, YARDSTICKS
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.tracking.tensorboard import TAGS
from tests.evaluation.harness import turned
from tests.models.harness import Given


@pytest.fixture
def batch(digits):
    return Distortion(angle=30).draw(digits, torch.arange(40), torch.Generator().manual_seed(5))


def test_evaluation_in_chunks_is_the_same_as_in_one(build, batch, monkeypatch):
    model = build()
    whole = evaluate(model, batch)
    monkeypatch.setattr("stn_experiments.evaluation.evaluate.CHUNK", 7)
    assert evaluate(model, batch) == pytest.approx(whole, abs=1e-5)
    assert CHUNK > 40
    logits = predict(model, batch).logits
    assert whole["error"] == (logits.argmax(1) != batch.labels).sum().item() * 100 / 40
    loss = torch.nn.functional.cross_entropy(logits, batch.labels)
    assert whole["loss"] == pytest.approx(loss.item())


def test_sequences_have_the_error_of_their_labels_and_that_of_the_whole(compose, few_digits, digits):
    settings = ("data=sequence", "data.distortion.canvas=[40,90]", "stn=affine", *few_digits)
    batch = Sequences((40, 90)).draw(digits, torch.arange(40), torch.Generator().manual_seed(5))
    for recurrent in (True, False):
        model = build_experiment(compose(*settings, f"stn.recurrent={recurrent}")).model
        prediction = predict(model, batch)
        assert len(prediction.views) == (3 if recurrent else 1)
        logits, labels = prediction.logits.double().numpy(), batch.labels.numpy()
        wrong, losses = np.zeros((40, 3), bool), np.zeros((40, 3))
        for index, step in np.ndindex(40, 3):
            scores = logits[index, :, step]
            losses[index, step] = np.log(np.exp(scores).sum()) - scores[labels[index, step]]
            wrong[index, step] = scores.argmax() != labels[index, step]
        found = evaluate_test(model, batch)
        assert found["test_loss"] == pytest.approx(losses.mean(), rel=1e-4)
        assert found["test_error"] == pytest.approx(100 * wrong.mean(), rel=1e-4)
        assert found["sequence_error"] == pytest.approx(100 * wrong.any(1).mean(), rel=1e-4)
        assert (unpack_bits(found["test_wrong"], found["test_images"]) == wrong.flatten()).all()
        assert mistakes(batch, found).images.equal(batch.images[wrong.any(1)])
        assert mistakes(batch, {**found, "test_wrong": pack_bits(np.zeros(120, bool))}) is None


def test_evaluation_leaves_the_model_as_it_was(build, batch):
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, batch)
    assert model.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_attention_is_scored_against_the_truth(build, batch):
    """An identity transformer shows the input's pose; one that knows the pose undoes it."""
    truth = batch.pose.matrix[:, 0, :2].flatten(1)
    model = build("stn=affine")
    identity = evaluate(model, batch)
    assert identity["residual_rotation_deg"] == pytest.approx(identity["input_rotation_deg"], rel=1e-4)
    assert identity["residual_translation_px"] == pytest.approx(identity["input_translation_px"], abs=1e-3)
    assert 0.3 < identity["iou_mean"] < 0.9
    model.transformers["input"][0].localisation = Given(truth)
    known = evaluate(model, batch)
    assert known["residual_rotation_deg"] == pytest.approx(0, abs=1e-2)
    assert known["residual_scale"] == pytest.approx(0, abs=1e-3)
    assert known["iou_mean"] == pytest.approx((20 / 28) ** 2, abs=0.02)  # the ink box in the digit's frame
    assert known["iou_above_half"] > 0.9
    assert known["frame_iou_mean"] == pytest.approx(1, abs=1e-3)
    assert known["found"] == 1
    assert known["ink_inside"] > 0.98
    assert known["off_target"] == pytest.approx(1 - (20 / 28) ** 2, abs=0.02)


def test_every_score_that_tensorboard_shows_exists(build, batch):
    scores = evaluate(build(), batch)
    assert {name for name in TAGS if name.startswith("val_")} <= {f"val_{name}" for name in scores}


@pytest.mark.parametrize("angle", [90, 180])
def test_pairs_tell_what_is_left_apart_from_the_class_and_the_digit(build, digits, angle):
    distortion = Distortion(angle=angle, canvas=(28, 28))
    pair = tuple(
        distortion.draw(digits, torch.arange(40), torch.Generator().manual_seed(seed)) for seed in (1, 2)
    )
    model = build("stn=affine")
    whole = evaluate_test(model, pair[0], lambda: pair)
    assert whole["pair_rotation_deg"] == pytest.approx(whole["input_pair_rotation_deg"], rel=1e-4)
    turns = [batch.pose.matrix[:, 0, 0, :2].double().numpy() for batch in pair]
    degrees = [np.degrees(np.arctan2(*turn.T[::-1])) for turn in turns]
    difference = (degrees[0] - degrees[1] + 180) % 360 - 180
    expected = np.sqrt(np.square(difference).mean() / 2)
    assert whole["input_pair_rotation_deg"] == pytest.approx(expected, rel=1e-3)
    for left in (torch.zeros(40), pair[0].labels * 36.0, torch.linspace(-170, 180, 40)):
        turn = torch.linalg.inv(turned(left.tolist()))  # each digit is shown turned by its own angle
        thetas = [(batch.pose.matrix[:, 0] @ turn)[:, :2].flatten(1) for batch in (pair[0], *pair)]
        model.transformers["input"][0].localisation = Given(*thetas)
        scores = evaluate_test(model, pair[0], lambda: pair)
        assert scores["pair_rotation_deg"] == pytest.approx(0, abs=0.05)
        assert (scores["residual_rotation_deg"] > 50) == bool(left.any())
    assert "pair_rotation_deg" not in evaluate_test(build("stn=none"), pair[0], lambda: pair)


def test_without_a_known_pose_there_is_no_score_of_it(build, batch):
    unknown = type(batch.pose)(torch.empty(40, 0, 3, 3), torch.empty(40, 0, 4, 2), torch.empty(40, 0, 1, 1))
    scores = evaluate(build(), batch._replace(pose=unknown))
    assert set(scores) == {"loss", "error", "theta_spread", "outside_share"}


LOCATED = {
    *("iou_mean", "iou_above_half", "frame_iou_mean", "found", "ink_inside", "off_target", "hit_rate"),
    *("iou_mean_of_centre_box", "found_of_centre_box", "ink_inside_of_centre_box"),
}
TRANSFORMED = {"theta_spread", "outside_share", "mirrored_share"} | {
    f"{which}_{what}"
    for which in ("residual", "input")
    for what in ("rotation_deg", "rotation_within_class_deg", "scale", "translation_px")
}


@pytest.mark.parametrize(
    ("settings", "scores"),
    [
        (("stn=none",), set()),
        (("stn=none", "attention=se"), set()),
        (("stn=none", "attention=cbam"), LOCATED),
        (("stn=affine", "attention=se"), LOCATED | TRANSFORMED),
        (("stn=affine", "attention=cbam"), LOCATED | TRANSFORMED),
    ],
)
def test_each_attention_has_the_scores_that_it_can_have(build, batch, settings, scores):
    """Channel attention has no location, and only a transformer changes the pose."""
    found = evaluate(build(*settings), batch)
    assert set(found) == {"loss", "error"} | scores
    assert all(0 <= found[name] <= 1 for name in LOCATED & scores)


def test_a_test_has_yardsticks_by_the_function_of_the_scores(build, batch):
    """A transformer at its start looks at the whole canvas, so it has the scores of that."""
    result = evaluate_test(build(), batch)
    assert {*evaluate(build(), batch)} - {"loss", "error"} <= {*result}
    for score in SCORES:
        assert result[f"{score}_of_canvas"] == pytest.approx(result[score], abs=1e-6)
        assert {f"{score}_of_{name}" for name in YARDSTICKS} <= {*result}
    half = evaluate_test(build("stn=none", "attention=mask", "attention.at=stem"), batch)
    assert half["iou_mean_of_random_views"] != result["iou_mean_of_random_views"]
    assert half["iou_mean_of_centre_box"] == result["iou_mean_of_centre_box"]
    assert not [name for name in evaluate_test(build("stn=none"), batch) if "_of_" in name]


def test_the_centre_box_is_that_of_the_set_and_computed_once(build, batch, digits, monkeypatch):
    other = Distortion(scale=(0.5, 0.5)).draw(digits, torch.arange(40), torch.Generator().manual_seed(5))
    model, name = build(), "iou_mean_of_centre_box"
    expected = [evaluate_test(model, one)[name] for one in (batch, other, batch)]
    assert [evaluate(model, one)[name] for one in (batch, other, batch)] == pytest.approx(expected)
    assert expected[0] != pytest.approx(expected[1], abs=0.05)
    monkeypatch.setattr("stn_experiments.evaluation.evaluate.centre_box", None)
    assert evaluate(model, batch)[name] == pytest.approx(expected[0])


def test_a_mask_on_the_digit_scores_high_and_one_in_a_corner_low(build, batch):
    model = build("stn=none", "attention=mask", "attention.at=stem")

    class Square(torch.nn.Module):
        """A mask that is open between two rows and columns of a 14×14 map."""

        def __init__(self, first, last):
            super().__init__()
            self.register_buffer("logits", torch.full((1, 1, 14, 14), -9.0))
            self.logits[..., first:last, first:last] = 9.0

        def forward(self, features):
            return self.logits.expand(len(features), -1, -1, -1)

    found = []
    for first, last in ((1, 13), (0, 2)):
        model.gates["stem"].spatial = Square(first, last)
        found.append(evaluate(model, batch))
    on, corner = found
    assert (on["iou_mean"] > 0.5, on["ink_inside"] > 0.9, on["hit_rate"]) == (True, True, 1)
    assert (corner["iou_mean"] < 0.02, corner["ink_inside"] < 0.02) == (True, True)
    assert corner["hit_rate"] < 0.5


def test_a_test_result_tells_how_many_glimpses_a_prediction_is_made_from(build, batch):
    ram = ("stn=none", "attention=ram", "backbone=compact", "attention.size=1", "attention.glimpses=3")
    assert evaluate_test(build(*ram), batch)["glimpses_seen"] == 4 * 3
    assert evaluate_test(build(*ram, "attention.copies=1"), batch)["glimpses_seen"] == 3
    assert "glimpses_seen" not in evaluate_test(build("stn=none"), batch)


def test_theta_spread_is_zero_for_constant_theta():
    assert theta_spread(torch.ones(9, 6)) == 0
    theta = torch.stack([torch.zeros(6), torch.full((6,), 2.0)])
    assert theta_spread(theta) == 1


def test_outside_share_counts_points_beyond_the_edge_in_either_direction():
    grid = torch.zeros(2, 2, 3, 2)
    grid[0, 0, :, 0] = 1.1
    grid[0, 1, 0, 1] = -2
    assert outside_share(grid).tolist() == pytest.approx([4 / 6, 0])
