"""Probes of transformers whose answers are known."""

import numpy as np
import pytest
import torch

from stn_experiments.data.distortions import Distortion
from stn_experiments.evaluation import probe as module
from stn_experiments.evaluation.evaluate import evaluate
from stn_experiments.evaluation.probe import PROBES, UNTOUCHED, draw_step, probe, probe_steps, true_answers
from tests.evaluation.harness import similarities, turned
from tests.models.harness import Given

SIZE = (28, 28)
FEW = {
    "rotation": [*range(-180, 181, 45)],
    "scale": [0.5, 0.8, 1.0, 1.6],
    "position": [(-3, 2), (0, 2), (0, 0), (4, -1)],
    "noise": [0.0, 0.5],
    "clutter": [0, 8],
}


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(module, "probe_steps", lambda name, size: FEW[name])


def answering(model, name, digits, answer):
    """The probe of a transformer whose theta is a function of the pose at each step."""
    poses = [draw_step(name, step, digits, SIZE).pose.matrix[:, 0] for step in (UNTOUCHED[name], *FEW[name])]
    (transformer,) = model.transformers["input"]
    transformer.localisation = Given(*(transformer.family.theta(answer(pose)) for pose in poses))
    return probe(model, name, digits, SIZE)


@pytest.mark.parametrize("name", UNTOUCHED)
def test_a_transformer_that_finds_each_digit_again_has_a_slope_of_one(build, digits, few_steps, name):
    """Whatever it makes of the digits themselves: each has its own upright, scale and centre."""
    own = similarities(1, SIZE, 40)
    found = answering(build("stn=similarity"), name, digits, lambda pose: pose @ own)
    assert np.allclose(found.answer, true_answers(name, FEW[name]), atol=2e-3)
    assert np.allclose(found.spread, 0, atol=2e-3)
    assert found.slope == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", UNTOUCHED)
def test_a_transformer_that_ignores_the_image_has_a_slope_of_zero(build, digits, few_steps, name):
    own = similarities(1, SIZE, 40)
    found = answering(build("stn=similarity"), name, digits, lambda pose: own)
    assert np.allclose(found.answer, 0, atol=2e-3)
    assert np.allclose(found.spread, 0, atol=2e-3)
    assert found.slope == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("family", ["similarity", "rotation"])
def test_a_transformer_that_turns_the_wrong_way_has_a_slope_of_minus_one(build, digits, few_steps, family):
    found = answering(build(f"stn={family}"), "rotation", digits, torch.linalg.inv)
    assert np.allclose(found.answer, [-step for step in FEW["rotation"]], atol=2e-3)
    assert found.slope == pytest.approx(-1, abs=1e-3)


def test_the_answer_is_the_mean_over_the_digits_and_the_spread_their_deviation_from_it(
    build, digits, few_steps
):
    """Half of the digits are turned upright, and half are left."""
    upright = torch.arange(40)[:, None, None] < 20
    left = turned([0.0] * 40)
    found = answering(build("stn=similarity"), "rotation", digits, lambda pose: pose.where(upright, left))
    half = FEW["rotation"].index(90)
    assert found.answer[half] == pytest.approx(45, abs=1e-3)
    assert found.spread[half] == pytest.approx(45, abs=1e-3)
    assert found.slope == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("name", PROBES)
def test_the_first_step_is_a_direct_evaluation_of_the_digits_as_they_are(build, digits, few_steps, name):
    model, step = build("stn=affine").eval(), UNTOUCHED.get(name, 0)
    batch = Distortion().draw(digits, torch.arange(40), torch.Generator())
    found, index = probe(model, name, digits, SIZE), FEW[name].index(step)
    drawn = draw_step(name, step, digits, SIZE)
    torch.testing.assert_close(drawn.images, batch.images, atol=1e-5, rtol=0)
    for part, expected in zip(drawn.pose, batch.pose, strict=True):
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=0)
    scores = evaluate(model, batch)
    assert found.error[index] == pytest.approx(scores["error"])
    true = model(batch.images).logits.softmax(1)[torch.arange(40), batch.labels]
    assert found.confidence[index] == pytest.approx(true.mean().item(), abs=1e-5)
    assert scores["iou_mean"] < scores["frame_iou_mean"] == pytest.approx(found.iou[index], abs=1e-4)


def test_the_steps_do_what_they_say(digits):
    images = draw_step("rotation", 0, digits, (40, 60)).images
    assert images.shape == (40, 1, 40, 60)
    (square,) = (draw_step("rotation", 0, digits, SIZE).images,)
    turned_left = draw_step("rotation", 90, digits, SIZE).images
    torch.testing.assert_close(turned_left, square.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    moved = draw_step("position", (7, -2), digits, (40, 60)).images
    torch.testing.assert_close(moved, images.roll((-2, 7), (2, 3)), atol=1e-4, rtol=0)
    smaller = Distortion(canvas=(40, 60), scale=(0.5, 0.5)).draw(digits, torch.arange(40), torch.Generator())
    torch.testing.assert_close(draw_step("scale", 0.5, digits, (40, 60)).images, smaller.images)
    noisy, spoilt = (draw_step(*step, digits, (40, 60)).images for step in (("noise", 0.1), ("clutter", 3)))
    assert noisy[images > 0.5].sub(images[images > 0.5]).std() == pytest.approx(0.1, abs=0.02)
    assert (spoilt >= images).all()
    assert 0 < (spoilt > images).sum(3).sum(2).max() <= 3 * 6 * 6
    assert torch.equal(spoilt, draw_step("clutter", 3, digits, (40, 60)).images)


def test_the_steps_cover_the_canvas_evenly():
    for name in PROBES:
        steps = probe_steps(name, (28, 28))
        assert UNTOUCHED.get(name, 0) in steps
        assert 15 < len(steps) < 85
    for side, offsets in ((28, range(-4, 5)), (42, range(-9, 10, 3)), (60, range(-20, 21, 5))):
        assert probe_steps("position", (28, side))[: len(offsets)] == [(x, -4) for x in offsets]


@pytest.mark.parametrize(
    ("settings", "has_iou"),
    [(["stn=none"], False), (["stn=none", "attention=mask"], True), (["stn.at=[input,layer1]"], True)],
)
def test_without_exactly_one_transformer_there_is_no_answer(build, digits, few_steps, settings, has_iou):
    found = probe(build("backbone=compact", *settings), "scale", digits, SIZE)
    assert (found.answer, found.spread, found.slope) == (None, None, None)
    assert (found.iou is not None) == has_iou
    assert len(found.error) == len(found.confidence) == len(FEW["scale"])


def test_a_family_without_rotation_answers_none(build, digits, few_steps):
    found = probe(build("stn=translation"), "rotation", digits, SIZE)
    assert np.allclose(found.answer, 0, atol=1e-3)


def test_noise_and_clutter_have_nothing_to_undo(build, digits, few_steps):
    for name in ("noise", "clutter"):
        found = probe(build("stn=affine"), name, digits, SIZE)
        assert found.answer is None
        assert len(found.iou) == 2
