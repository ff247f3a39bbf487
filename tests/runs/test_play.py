"""What the page of scripts/play.py shows: pictures, probabilities and rotations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stn_experiments.common.errors import UserError
from stn_experiments.evaluation.pose_scores import residual_pose, whole_canvas
from stn_experiments.runs import play as module
from stn_experiments.runs.load import load_config
from stn_experiments.runs.play import UNTOUCHED, Playground
from stn_experiments.storage.run_folder import RunFolder
from tests.data.signs import NAMES, write_signs
from tests.models.harness import Given

STILL = {**UNTOUCHED, "shear": 0, "bend": 0, "seed": 0}


@pytest.fixture
def play(untrained, few_digits):
    """A playground of untrained runs, each of some settings."""

    def make(*runs):
        return Playground([untrained(f"run{n}", *few_digits, *some) for n, some in enumerate(runs)])

    return make


def test_the_angle_turns_the_digit_as_its_pose_says(play):
    ground = play(["data=rotated"])
    digit = ground.examples.example(3, 1)
    still, turned = (ground.examples.draw(digit, {**STILL, "angle": angle}) for angle in (0, 90))
    torch.testing.assert_close(still.images[0, 0], digit.image[0] / 255)
    torch.testing.assert_close(turned.images, still.images.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    for angle in (-170, -30, 45):
        matrix = ground.examples.draw(digit, {**STILL, "angle": angle}).pose.matrix[:, 0]
        true = residual_pose(whole_canvas(torch.zeros(1, 4, 2)), matrix, (28, 28)).rotation
        assert true.item() == pytest.approx(angle, abs=1e-3)


def test_each_slider_changes_the_image_and_its_start_does_not(play):
    ground = play(["data=cluttered", "stn=none"])
    digit = ground.examples.example(0, 0)
    assert set(STILL) == set(ground.examples.sliders)
    still = ground.examples.draw(digit, STILL).images
    torch.testing.assert_close(still[0, 0, 16:44, 16:44], digit.image[0] / 255)
    for name, (_, low, high, step) in ground.examples.sliders.items():
        base = {**STILL, "bend": 1, "noise": 0.2, "clutter": 8} if name == "seed" else STILL
        assert low <= base[name] <= high
        for value in {low, low + step, high} - {base[name]}:
            image = ground.examples.draw(digit, {**base, name: value}).images
            assert not torch.equal(image, ground.examples.draw(digit, base).images), name
            assert torch.equal(image, ground.examples.draw(digit, {**base, name: value}).images)
    moved = ground.examples.draw(digit, {**STILL, "x": 5, "y": -2}).images
    torch.testing.assert_close(moved, still.roll((-2, 5), (2, 3)))


def test_the_transformers_rotation_is_beside_the_true_one(play):
    """A transformer that finds each digit again undoes all, one that ignores the image nothing."""
    ground = play(["data=rotated", "stn=similarity"], ["data=rotated", "stn=similarity"])
    values = {**STILL, "angle": -110, "scale": 0.8, "shear": 0.2, "x": 2, "noise": 0.1}
    digit = ground.examples.example(7, 0)
    poses = [ground.examples.draw(digit, {**STILL, "angle": angle}).pose.matrix for angle in (-90, 20, 20)]
    finds, ignores = (torch.cat([poses[place][:, 0] for place in places]) for places in ((0, 1), (1, 2)))
    for model, matrix in zip(ground.models, (finds, ignores), strict=True):
        (a, b, x), (_, _, y), _ = matrix.permute(1, 2, 0)
        model.transformers["input"][0].localisation = Given(torch.stack([a, b, x, y], 1))
    found, ignored = ground.answers(digit, values, "", 60)
    assert found.rotation == pytest.approx(-110, abs=0.01)
    assert ignored.rotation == pytest.approx(0, abs=0.01)


def test_every_run_has_a_panel_and_probabilities(play):
    ground = play(["data=rotated"], ["data=rotated", "stn=none"], ["data=rotated", "stn.at=[input,layer1]"])
    digit = ground.examples.example(1, 0)
    turned = list(ground.answers(digit, {**STILL, "angle": 90}, "", 60))
    still = next(ground.answers(digit, STILL, "", 60))
    assert [answer.run for answer in turned] == ["run0", "run1", "run2"]
    assert [answer.rotation is None for answer in turned] == [False, True, True]
    for answer in turned:
        assert len(answer.probabilities) == 10
        assert sum(answer.probabilities.values()) == pytest.approx(1)
    one, other, unturned = (np.asarray(answer.panel)[-74:-14, 14:74] for answer in (*turned[:2], still))
    assert np.array_equal(one, other)  # column a
    assert np.abs(one - np.rot90(unturned).astype(float)).mean() < 1 < np.abs(one - 1.0 * unturned).mean()


def test_an_animation_sweeps_one_slider_and_is_kept_with_the_first_run(play, monkeypatch):
    monkeypatch.setattr(module, "FRAMES", 3)
    ground = play(["data=rotated"], ["data=rotated", "stn=none"])
    file = ground.animate(ground.examples.example(1, 0), STILL, "x")
    assert file == ground.folders[0] / "evaluations" / "play-x.gif"
    with Image.open(file) as animation:
        assert animation.n_frames == 3
        assert animation.height > 2 * 110
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("")
    with pytest.raises(UserError, match="evaluations cannot be written to"):
        ground.animate(ground.examples.example(1, 0), STILL, "x")


def test_runs_of_unlike_canvases_are_refused(play):
    with pytest.raises(
        UserError, match=r"run0 reads digits of shape \(1, 28, 28\), \S*run1 digits of shape \(1, 42, 42\)$"
    ):
        play(["data=rotated"], ["data=rts"])
    with pytest.raises(UserError, match=r"run0 cannot read: it was trained with data=addition$"):
        play(["data=addition"])


@pytest.fixture
def on_signs(untrained, tmp_path):
    """Write an untrained run on images of some classes."""

    def write(name, classes=4, *settings):
        folder = write_signs(tmp_path / f"signs of {name}", {"train": 3, "test": 2}, classes=classes)
        own = ("data=folder", f"data.folder='{folder}'", "data.size=[20,24]", "trainer.batch_size=4")
        return untrained(name, *own, "stn=affine", *settings)

    return write


@pytest.fixture
def signs(on_signs):
    """A playground of an untrained run on colour images of four classes."""
    return Playground([on_signs("own")])


def test_a_users_own_images_are_shown_by_name_and_moved_as_the_sliders_say(signs):
    examples = signs.examples
    assert list(examples.class_names) == sorted(NAMES[:4])
    assert "clutter" not in examples.sliders
    still = {name: UNTOUCHED.get(name, 0) for name in examples.sliders}
    one = examples.example(2, 1)
    assert torch.equal(examples.example(2, 5).image, one.image)  # the last one
    assert one.label.item() == 2
    start = examples.draw(one, still)
    torch.testing.assert_close(start.images, one.image / 255, atol=1e-5, rtol=0)
    moved = examples.draw(one, {**still, "x": 3, "y": -2})
    rolled = start.images.roll((-2, 3), (2, 3))
    torch.testing.assert_close(moved.images[..., 4:14, 6:18], rolled[..., 4:14, 6:18], atol=1e-5, rtol=0)
    turned = examples.draw(one, {**still, "angle": 180})
    torch.testing.assert_close(turned.images, start.images.rot90(2, (2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned.pose.box[0, 0], start.pose.box[0, 0].roll(2, 0), atol=1e-5, rtol=0)
    noisy = [examples.draw(one, {**still, "noise": 0.3, "seed": seed}).images for seed in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    tilted = {**still, "angle": 40}
    poses = torch.cat(
        [examples.draw(one, values).pose.matrix[:, 0, :2].flatten(1) for values in (tilted, still)]
    )
    signs.models[0].transformers["input"][0].localisation = Given(poses)  # finds each image again
    (answer,) = signs.answers(one, tilted, "", 60)
    assert list(answer.probabilities) == list(examples.class_names)
    assert answer.rotation == pytest.approx(40, abs=0.01)


def test_runs_on_unlike_images_are_not_shown_together(signs, on_signs, untrained, few_digits):
    for other, says in (
        (untrained("digits", *few_digits, "data=rotated"), r"digits digits of shape \(1, 28, 28\)$"),
        (on_signs("grey", 4, "data.colour=false"), r"grey images of 4 classes of shape \(1, 20, 24\)$"),
    ):
        start = r"own reads images of 4 classes of shape \(3, 20, 24\), \S*"
        with pytest.raises(UserError, match=start + says):
            Playground([*signs.folders, other])


def test_runs_on_other_classes_are_not_shown_together(signs, on_signs):
    other = on_signs("other")
    folder, name = Path(load_config(RunFolder(other))["data"]["folder"]), sorted(NAMES[:4])[0]
    for split in ("train", "test"):
        (folder / split / name).rename(folder / split / "zebra")
    with pytest.raises(UserError, match=rf"only one of \S*own and \S*other has {name}$"):
        Playground([*signs.folders, other])
