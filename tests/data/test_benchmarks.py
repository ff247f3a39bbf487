"""The data sets of other papers have the statistics that their papers define, computed here with numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stn_experiments.common import geometry
from stn_experiments.common.errors import UserError
from stn_experiments.config.build import build
from stn_experiments.data import amat, datasets
from stn_experiments.data.corners import Corners
from stn_experiments.data.datasets import DataSet, RepeatedMnist, Rotated12kFiles
from stn_experiments.data.distortions import Distortion
from stn_experiments.data.mnist import Digits

CPU = torch.device("cpu")
DRAWS = 2000
REPEATED = ("projective_mnist", "rotated12k", "sim2mnist10k")
COUNTS = {  # training images, validation images, images of each of the 10,000 test digits, canvas
    "projective_mnist": (80_000, 5_000, 8, 64),
    "rotated12k": (10_000, 2_000, 5, 28),
    "sim2mnist10k": (10_000, 5_000, 5, 96),
    "translated_finnveden": (55_000, 5_000, 1, 60),
    "scaled_finnveden": (55_000, 5_000, 1, 112),
    "homography_noise": (55_000, 5_000, 1, 28),
}
CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 14.0


@pytest.fixture
def data_of(compose):
    return lambda name, *overrides: build(compose(f"data={name}", *overrides)["data"], "data", DataSet)


def drawn(data, digits, count=DRAWS):
    """Images, and matrices (N, 3, 3) from a digit's pixels to those of its canvas, both from the centre."""
    many = Digits(digits.images.repeat(count // 40, 1, 1), digits.labels.repeat(count // 40))
    batch = data.distortion.draw(many, torch.arange(count), torch.Generator().manual_seed(5))
    half = data.shape[1] / 2
    matrix = (
        np.diag([half, half, 1]) @ batch.pose.matrix[:, 0].double().numpy() @ np.diag([1 / 14, 1 / 14, 1])
    )
    return batch.images[:, 0].numpy(), matrix / matrix[:, 2:, 2:], many.images.numpy() / 255


def moved(matrix, points):
    """Points (N, 2) under matrices (B, 3, 3): (B, N, 2)."""
    there = np.concatenate([points, np.ones((len(points), 1))], 1) @ matrix.transpose(0, 2, 1)
    return there[..., :2] / there[..., 2:]


def assert_uniform(values, low, high):
    """Values are uniform from ``low`` to ``high``: their ends, and their deciles."""
    assert low - 1e-4 <= values.min()
    assert values.max() <= high + 1e-4
    shares = np.histogram(values, np.linspace(low - 1e-4, high + 1e-4, 11))[0] / len(values)
    assert np.abs(shares - 0.1).max() < 5 * np.sqrt(0.09 / len(values))


def bilinear(image, x, y):
    """An image (H, W), black around, at points in pixels from its centre."""
    padded = np.pad(image, 2)
    column, row = (
        np.clip(p + s / 2 - 0.5 + 2, 0, s + 2) for p, s in ((x, image.shape[1]), (y, image.shape[0]))
    )
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    right, down = column - left, row - top
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize("name", COUNTS)
def test_the_number_and_size_of_the_images(data_of, name):
    data = data_of(name)
    train, valid, test_draws, side = COUNTS[name]
    assert (data.train_size, data.valid_size, data.test_draws) == (train, valid, test_draws)
    assert data.shape == (1, side, side)
    assert data.online is (name not in REPEATED)
    assert data.training_task is data.distortion
    assert data.train_digits in (None, 10_000)


@pytest.mark.parametrize("name", REPEATED)
def test_each_digit_has_several_fixed_images(data_of, few_digits, generator, name):
    data = data_of(name, "data.train_digits=30", "data.valid_size=40", "data.draws=3")
    splits, again = data.load(CPU), data.load(CPU)
    assert data.train_size == splits.train.size == 90
    assert len(splits.test.labels) == 40 * data.test_draws
    index = torch.arange(90)
    train = splits.train.draw(index, generator)
    assert train.images.equal(again.train.draw(index, generator).images)
    assert splits.test.images.equal(again.test.images)
    for batch, digits in ((train, 30), (splits.test, 40)):
        assert batch.labels.equal(batch.labels[:digits].repeat(len(batch.labels) // digits))
        assert len(batch.pose.matrix.flatten(1).unique(dim=0)) == len(batch.labels)
    assert not train.pose.matrix[:30].equal(splits.test.pose.matrix[:30])
    online = replace(data, online=True).load(CPU).train
    first, second = (online.draw(index, generator) for _ in range(2))
    assert first.labels.equal(train.labels)
    assert not first.images.equal(second.images)


def test_one_image_of_each_digit_is_as_without_repeats(few_digits):
    plain, repeated = (
        kind(Distortion(angle=90), valid_size=40, online=False).load(CPU)
        for kind in (datasets.DistortedMnist, RepeatedMnist)
    )
    assert plain.test.images.equal(repeated.test.images)
    many = RepeatedMnist(Distortion(angle=90), valid_size=40, test_draws=4).load(CPU).test
    assert many.images[:40].equal(plain.test.images)


def test_projective_mnist_is_as_tai_et_al_define_it(data_of, digits):
    """Perspective, then scale and aspect, then shear, then rotation, about the middle of 64×64."""
    images, matrix, originals = drawn(data_of("projective_mnist"), digits)
    assert np.abs(matrix[:, :2, 2]).max() < 1e-3
    slope_x, slope_y = matrix[:, 2, :2].T * 14
    assert_uniform(slope_x / 0.8, -1, 1)
    assert_uniform(slope_y / (0.8 - np.abs(slope_x)), -1, 1)
    width = np.hypot(matrix[:, 0, 0], matrix[:, 1, 0])
    cos, sin = matrix[:, 0, 0] / width, matrix[:, 1, 0] / width
    height = cos * matrix[:, 1, 1] - sin * matrix[:, 0, 1]
    shear = (cos * matrix[:, 0, 1] + sin * matrix[:, 1, 1]) / height
    assert_uniform(np.arctan2(-sin, cos), -np.pi, np.pi)
    assert_uniform(shear, -1.5, 1.5)
    assert_uniform(np.log2(width * height) / 2, 0, 1)
    assert_uniform(np.log(width / height) / 2, -np.log(1.5), np.log(1.5))
    drawn_again = np.stack([width, height, shear, slope_x, slope_y, np.arctan2(-sin, cos)])
    assert np.abs(np.corrcoef(drawn_again)[2:] - np.eye(6)[2:]).max() < 0.07
    assert_images(images[:40], matrix[:40], originals)


def test_homographies_of_lin_and_lucey_move_the_corners_of_the_canvas(data_of, digits):
    images, matrix, originals = drawn(data_of("homography_noise"), digits)
    moves = moved(np.linalg.inv(matrix), CORNERS) - CORNERS
    together = moves.mean(1, keepdims=True)
    assert np.abs(moves.mean((0, 1))).max() < 0.2
    assert moves.std(0) == pytest.approx(np.full((4, 2), 3.5 * np.sqrt(2)), rel=0.05)
    assert together.std(0) == pytest.approx(np.full((1, 2), 3.5 * np.sqrt(1 + 1 / 4)), rel=0.05)
    assert (moves - together).std((0, 1)) == pytest.approx(np.full(2, 3.5 * np.sqrt(3 / 4)), rel=0.05)
    assert abs(np.corrcoef(moves[:, 0].T)[0, 1]) < 0.06
    assert (1 + matrix[:, 2, :2] @ CORNERS.T).min() > 0.1  # no digit's frame reaches the horizon
    assert_images(images[:40], matrix[:40], originals)


def test_no_frame_of_an_enlarged_digit_reaches_the_horizon(generator):
    scale = torch.full((1000,), 2.0)
    enlarged = geometry.similarity(torch.zeros(1000), scale, torch.zeros(1000, 2))
    matrix = Corners(3.5, "canvas", "axes_and_shift", (28, 28)).move(enlarged, scale, generator)
    depth = matrix[:, 2:, :2] @ torch.tensor(CORNERS.T, dtype=torch.float) + matrix[:, 2:, 2:]
    assert depth.min() > 0.1


@pytest.mark.parametrize(
    ("name", "turn", "low", "high"), [("rotated12k", True, 1, 1), ("scaled_finnveden", False, 0.5, 4)]
)
def test_rotations_and_scales_in_the_middle(data_of, digits, name, turn, low, high):
    _, matrix, _ = drawn(data_of(name), digits, 1000)
    assert np.abs(matrix[:, :2, 2]).max() < 1e-3
    scale = np.hypot(matrix[:, 0, 0], matrix[:, 0, 1])
    angle = np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0])
    if turn:
        assert_uniform(angle, -np.pi, np.pi)
        assert scale == pytest.approx(np.ones(1000), abs=1e-4)
    else:
        assert np.abs(angle).max() < 1e-5
        assert_uniform(np.log2(scale), np.log2(low), np.log2(high))


@pytest.mark.parametrize(("name", "crops"), [("translated_finnveden", 6), ("scaled_finnveden", 6)])
def test_clutter_of_finnveden_et_al(data_of, digits, name, crops):
    """Crops of a white page are 6×6 white squares, which show where the digit, here black, is not."""
    white = Digits(torch.full((40, 28, 28), 255, dtype=torch.uint8), digits.labels)
    white.images[0] = 0
    data = data_of(name)
    index = torch.zeros(DRAWS // 5, dtype=torch.long)
    batch = data.distortion.draw(white, index, torch.Generator().manual_seed(0))
    area = (batch.images > 0).sum((1, 2, 3)).numpy()
    assert area.max() == crops * 36
    assert (area == crops * 36).mean() > 0.4  # others overlap
    heat = batch.images.sum((0, 1)).numpy()
    assert (heat > 0).mean() > 0.98


def test_offsets_of_finnveden_et_al_are_uniform_up_to_16_pixels(data_of, digits):
    _, matrix, _ = drawn(data_of("translated_finnveden"), digits)
    for axis in range(2):
        offset = matrix[:, axis, 2]
        assert np.unique(offset.round(3)).tolist() == list(range(-16, 17))
        shares = np.bincount((offset.round() + 16).astype(int)) / DRAWS
        assert np.abs(shares - 1 / 33).max() < 5 * np.sqrt(1 / 33 / DRAWS)


def assert_images(images, matrix, originals):
    """Images show the digits at their poses, by a bilinear filter written here."""
    side = images.shape[1]
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    for image, to_digit, original in zip(images, np.linalg.inv(matrix), originals, strict=False):
        u, v, depth = np.einsum("ij,jhw->ihw", to_digit, np.stack([x, y, np.ones_like(x)]))
        np.testing.assert_allclose(image, bilinear(original, u / depth, v / depth), atol=2e-3)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The two files of Larochelle et al., with 12 and 20 images."""
    random = np.random.default_rng(0)
    monkeypatch.setattr(datasets, "TRAIN_IMAGES", 12)
    contents = {}
    for name, count in zip(amat.FILES, (12, 20), strict=True):
        monkeypatch.setitem(amat.FILES, name, count)
        contents[name] = random.random((count, 784)).round(4), random.integers(0, 10, count)
        lines = np.column_stack(contents[name])
        np.savetxt(tmp_path / name, lines, fmt="%.4f")
    return tmp_path, *contents.values()


def test_original_files_are_read_as_they_are(files, generator, monkeypatch):
    root, (train_images, train_labels), (test_images, test_labels) = files
    data = Rotated12kFiles(str(root), valid_size=2)
    monkeypatch.setenv("STN_DATA_DIR", str(root))
    for splits in (data.load(CPU), Rotated12kFiles(valid_size=2).load(CPU)):
        train = splits.train.draw(torch.arange(10), generator, posed=True)
        assert data.train_size == splits.train.size == 10
        assert splits.draw_pairs is None
        assert train.pose.box.shape == (10, 0, 4, 2)
        for batch, images, labels in (
            (train, train_images[:10], train_labels[:10]),
            (splits.valid, train_images[10:], train_labels[10:]),
            (splits.test, test_images, test_labels),
        ):
            assert batch.labels.tolist() == labels.tolist()
            np.testing.assert_allclose(batch.images[:, 0], images.reshape(-1, 28, 28), atol=1e-6)


def test_original_files_are_of_the_published_sizes(data_of):
    data = data_of("rotated12k_files")
    assert (data.train_size, data.valid_size, data.shape) == (10_000, 2_000, (1, 28, 28))
    assert list(amat.FILES.values()) == [12_000, 50_000]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_text("0.5 what\n"), "is damaged"),
        (
            lambda path: path.write_text("\n".join(path.read_text().splitlines()[1:])),
            r"20 lines of 785 .* \(19",
        ),
        (lambda path: path.write_text(path.read_text().replace("0.", "7.")), "grey levels from 0 to 1"),
    ],
)
def test_damaged_original_files_are_refused(files, change, words):
    change(files[0] / "mnist_all_rotation_normalized_float_test.amat")
    with pytest.raises(UserError, match=rf"data\.root: .*{words}"):
        Rotated12kFiles(str(files[0]), valid_size=2).load(CPU)


def test_original_files_need_a_folder(monkeypatch):
    monkeypatch.delenv("STN_DATA_DIR", raising=False)
    with pytest.raises(UserError, match=r"data\.root must be the folder"):
        Rotated12kFiles().load(CPU)
