"""Data sets split the digits, draw training batches anew, and keep the fixed sets fixed."""

from itertools import combinations

import numpy as np
import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.data import datasets
from stn_experiments.data.batch import Batch, unknown_pose
from stn_experiments.data.datasets import DistortedMnist, OneDigitMnist
from stn_experiments.data.distortions import Distortion, Mixed
from stn_experiments.data.mnist import Digits, Mnist
from stn_experiments.data.own_images import NpzFile
from stn_experiments.data.questions import Questions
from stn_experiments.data.sequences import Sequences
from stn_experiments.data.splits import one_of_each_class

CPU = torch.device("cpu")
TURNED = Distortion(angle=90)


@pytest.fixture
def mnist(monkeypatch):
    """70,000 digits, each with its own number written in its first pixels."""

    def numbered(count, first):
        images = torch.zeros(count, 28, 28, dtype=torch.uint8)
        number = torch.arange(first, first + count)
        for place in range(3):
            images[:, 13, 12 + place] = (number // 100**place % 100 + 1).byte()
        return Digits(images, number % 10)

    fake = Mnist(numbered(60_000, 0), numbered(10_000, 60_000))
    monkeypatch.setattr(datasets, "load_mnist", lambda root: fake)


def numbers(images):
    """The numbers that :func:`mnist` wrote into digits."""
    codes = (images[:, 0, 13, 12:15] * 255).round() - 1
    return (codes * torch.tensor([1.0, 100, 10_000])).sum(1).int().tolist()


@pytest.mark.parametrize("valid_size", [5_000, 10_000])
def test_the_splits_hold_each_digit_once(mnist, generator, valid_size):
    data = DistortedMnist(Distortion(), valid_size=valid_size)
    train, valid, test, *_ = data.load(CPU)
    assert train.size == data.train_size == 60_000 - valid_size
    assert len(valid.labels) == valid_size
    everything = train.draw(train.order(generator), generator)
    together = numbers(everything.images) + numbers(valid.images)
    assert sorted(together) == list(range(60_000))
    assert together != list(range(60_000))
    assert numbers(test.images) == list(range(60_000, 70_000))
    assert valid.labels.tolist() == [number % 10 for number in numbers(valid.images)]


def test_fewer_training_digits_are_a_part_of_more_and_change_no_fixed_set(mnist, generator):
    few, more, every = (DistortedMnist(Distortion(), train_digits=count) for count in (100, 1000, None))
    splits = [data.load(CPU) for data in (few, more, every)]
    trained = [set(numbers(train.draw(train.order(generator), generator).images)) for train, *_ in splits]
    assert [data.train_size for data in (few, more, every)] == [*map(len, trained)] == [100, 1000, 55_000]
    assert trained[0] < trained[1] < trained[2]
    for name in ("valid", "test"):
        fixed = [numbers(getattr(split, name).images) for split in splits]
        assert fixed[0] == fixed[1] == fixed[2]
    assert not trained[2] & set(numbers(splits[2].valid.images))


def test_more_training_digits_than_are_left_are_refused():
    DistortedMnist(Distortion(), valid_size=10_000, train_digits=50_000)
    with pytest.raises(UserError, match=r"train_digits must be at most the 50000 .* held out, got 50001"):
        DistortedMnist(Distortion(), valid_size=10_000, train_digits=50_001)


def test_only_the_seed_of_the_data_decides_the_fixed_sets(mnist):
    one, same = (DistortedMnist(TURNED).load(CPU) for _ in range(2))
    other = DistortedMnist(TURNED, seed=1).load(CPU)
    for name in ("valid", "test"):
        assert getattr(one, name).images.equal(getattr(same, name).images)
        assert not getattr(one, name).pose.matrix.equal(getattr(other, name).pose.matrix)
    assert not one.valid.labels.equal(other.valid.labels)
    matrix = one.test.pose.matrix
    assert matrix.equal(same.test.pose.matrix)
    assert not matrix[:1000].equal(matrix[1000:2000])  # of two chunks
    assert not matrix[:1000].equal(one.valid.pose.matrix[:1000])


def test_pairs_are_the_same_test_digits_under_two_distortions(mnist):
    data = DistortedMnist(TURNED)
    splits = data.load(CPU)
    before = splits.test.pose.matrix.clone()
    first, second = splits.draw_pairs()
    expected = [number % 10 for number in range(60_000, 70_000, 10)]
    assert first.labels.tolist() == second.labels.tolist() == expected
    matrices = first.pose.matrix, second.pose.matrix, splits.test.pose.matrix[::10]
    for one, other in combinations(matrices, 2):
        assert not one.isclose(other).all((1, 2, 3)).any()
    again = DistortedMnist(TURNED).load(CPU)
    assert all(map(torch.equal, matrices[:2], (batch.pose.matrix for batch in again.draw_pairs())))
    assert again.test.pose.matrix.equal(before)
    other = DistortedMnist(TURNED, seed=1).load(CPU).draw_pairs()
    assert not other[0].pose.matrix.equal(first.pose.matrix)


def test_pairs_and_single_digits_of_one_class_are_all_of_that_class(mnist):
    data = OneDigitMnist(Distortion(canvas=40), digit=3)
    first, second = data.load(CPU).draw_pairs()
    assert first.labels.tolist() == second.labels.tolist() == [3] * 1000
    assert data.test_digits(100).labels.tolist() == [3] * 100


def test_each_kind_of_a_mixture_is_drawn_alone_and_always_the_same(few_digits, digits, monkeypatch):
    monkeypatch.setattr(datasets, "CHUNK", 15)
    noisy = Distortion(canvas=40, place="anywhere", clutter=4, noise=0.3)
    mixed = Mixed(40, {"turned": Distortion(canvas=40, angle=90), "noisy": noisy})
    data = DistortedMnist(mixed, valid_size=40)
    splits, again = data.load(CPU), data.load(CPU)
    assert [*splits.kinds] == ["turned", "noisy"]
    for number, (name, kind) in enumerate(mixed.kinds.items(), 6):
        drawn, same = splits.kinds[name](), again.kinds[name]()
        generator = torch.Generator().manual_seed(number)
        parts = [kind.draw(digits, index, generator) for index in torch.arange(40).split(15)]
        assert drawn.batch.images.equal(torch.cat([part.images for part in parts]))
        assert drawn.batch.pose.matrix.equal(torch.cat([part.pose.matrix for part in parts]))
        assert drawn.batch.labels.equal(digits.labels)
        assert all(
            map(torch.equal, (*drawn.batch[:2], drawn.disturbance), (*same.batch[:2], same.disturbance))
        )
    other = DistortedMnist(mixed, valid_size=40, seed=1).load(CPU).kinds["noisy"]()
    assert not other.batch.images.equal(drawn.batch.images)
    assert DistortedMnist(TURNED, valid_size=40).load(CPU).kinds is None


def test_the_disturbance_of_a_kind_is_what_is_not_the_digit(few_digits, digits):
    noisy = Distortion(canvas=40, place="anywhere", clutter=4, noise=0.3)
    mixed = Mixed(40, {"turned": Distortion(canvas=40, angle=90), "noisy": noisy})
    kinds = DistortedMnist(mixed, valid_size=40).load(CPU).kinds
    assert not kinds["turned"]().disturbance.any()
    (images, _, pose, _), disturbance = kinds["noisy"]()
    digit_alone = torch.zeros(40, 40, 40)
    for canvas, digit, matrix in zip(digit_alone, digits.images, pose.matrix[:, 0], strict=True):
        left, top = (matrix[:2, 2] * 20 + 6).round().int().tolist()
        canvas[top : top + 28, left : left + 28] = digit / 255
    energy = (images[:, 0] - digit_alone).square()
    torch.testing.assert_close(disturbance, energy.view(40, 20, 2, 20, 2).mean((2, 4)), atol=1e-5, rtol=0)


def test_test_digits_are_spread_over_the_test_set(mnist):
    for count, expected in ((1000, range(60_000, 70_000, 10)), (20_000, range(60_000, 70_000))):
        digits = DistortedMnist(TURNED).test_digits(count)
        assert numbers(digits.images[:, None] / 255) == list(expected)
        assert digits.labels.tolist() == [number % 10 for number in expected]


def test_each_order_is_of_all_digits_and_differs(mnist, generator):
    train = DistortedMnist(Distortion()).load(CPU).train
    one, other = train.order(generator), train.order(generator)
    assert one.sort().values.equal(torch.arange(55_000))
    assert not one.equal(other)


@pytest.mark.parametrize("online", [True, False])
def test_training_images_are_drawn_anew_if_online(few_digits, generator, online):
    train = DistortedMnist(TURNED, online=online, valid_size=40).load(CPU).train
    index = torch.tensor([3, 1, 4])
    first, second = (train.draw(index, generator) for _ in range(2))
    assert first.labels.equal(second.labels)
    assert first.images.equal(second.images) is not online


def test_training_digits_can_have_a_distortion_of_their_own(few_digits):
    mild, wild = Distortion(angle=10), Distortion(angle=10, bend=2, shear=0.3)
    plain, augmented, other = (
        DistortedMnist(distortion, training=training, valid_size=40).load(CPU)
        for distortion, training in ((mild, None), (mild, wild), (wild, None))
    )
    index = torch.arange(8)
    drawn, expected = (
        splits.train.draw(index, torch.Generator().manual_seed(0)) for splits in (augmented, other)
    )
    assert drawn.images.equal(expected.images)
    for fixed in ("valid", "test"):
        assert getattr(plain, fixed).images.equal(getattr(augmented, fixed).images)
        assert not getattr(other, fixed).images.equal(getattr(augmented, fixed).images)


@pytest.mark.parametrize(
    ("distortion", "training"),
    [
        (Distortion(), Distortion(canvas=40)),
        (Questions(), Distortion(canvas=60)),
        (Sequences(), Distortion(canvas=100)),
    ],
)
def test_training_images_must_be_like_those_of_the_fixed_sets(distortion, training):
    with pytest.raises(UserError, match=r"training must make \(1, .* images of 10 classes"):
        DistortedMnist(distortion, training=training)


def test_own_images(tmp_path, generator):
    counts = {"train": 12, "valid": 6, "test": 9}
    arrays = {f"x_{name}": np.full((count, 5, 7, 3), count, np.uint8) for name, count in counts.items()}
    arrays |= {f"y_{name}": np.arange(count) % 4 for name, count in counts.items()}
    np.savez(tmp_path / "own.npz", **arrays)
    data = NpzFile(str(tmp_path / "own.npz"))
    assert (data.shape, data.classes, data.train_size, data.vocab_size) == ((3, 5, 7), 4, 12, 0)
    train, valid, test, draw_pairs, kinds = data.load(CPU)
    assert draw_pairs is None
    assert kinds is None
    assert sorted(train.order(generator).tolist()) == list(range(12))
    some = train.draw(torch.tensor([3, 2]), generator, posed=True)
    for batch, labels, grey in (
        (some, [3, 2], 12),
        (valid, [*range(4), 0, 1], 6),
        (test, [*range(4)] * 2 + [0], 9),
    ):
        assert batch.labels.tolist() == labels
        torch.testing.assert_close(batch.images, torch.full((len(labels), 3, 5, 7), grey / 255))
        assert batch.pose.box.shape == (len(labels), 0, 4, 2)


@pytest.mark.parametrize(
    ("known", "test_labels", "warnings"),
    [
        ([0, 1], [1, 0, 1, 0], []),
        (
            [0, 1],
            [0, 7, 3, 7],
            ["warning: own.npz: test images have labels that no training image has: 3, 7"],
        ),
        (
            [1, 2],
            [1, 2, 1, 2],
            ["warning: own.npz: the training labels begin at 1; classes are numbered from 0"],
        ),
    ],
)
def test_labels_that_training_never_has_are_a_warning(
    tmp_path, monkeypatch, caplog, known, test_labels, warnings
):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((4, 5, 5), np.uint8)
    known = np.array(known * 2)
    arrays = {"x_train": images, "y_train": known, "x_valid": images, "y_valid": known, "x_test": images}
    np.savez("own.npz", **arrays, y_test=np.array(test_labels))
    NpzFile("own.npz").load(torch.device("cpu"))
    assert caplog.messages == warnings


@pytest.mark.parametrize(
    ("labels", "expected"), [([3, 0, 3, 0, 1], [0, 1, 3]), ([*range(25), 0], list(range(0, 25, 3)))]
)
def test_one_of_each_class_or_of_every_nth(labels, expected):
    images = torch.arange(len(labels)).float().view(-1, 1, 1, 1)
    whole = Batch(images, torch.tensor(labels), unknown_pose(len(labels)))
    batch = one_of_each_class(whole)
    assert batch.labels.tolist() == expected
    assert batch.images.flatten().tolist() == [labels.index(label) for label in expected]
    sequences = torch.tensor(labels)[:, None] + torch.tensor([0, 1])
    assert one_of_each_class(whole._replace(labels=sequences)).images.equal(batch.images)
