import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.data import datasets
from stn_experiments.data.datasets import DistortedMnist
from stn_experiments.data.distortions import Distortion
from stn_experiments.data.mnist import Digits, Mnist

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
    return fake


def numbers(images):
    """Which digits these are, from what :func:`mnist` wrote into them."""
    codes = images.reshape(-1, *images.shape[-2:])[:, 13, 12:15].float()
    codes = (codes if codes.max() > 1 else codes * 255).round() - 1
    return (codes * torch.tensor([1.0, 100, 10_000])).sum(1).int().tolist()


def test_the_splits_hold_each_digit_once(mnist):
    train, valid, test = DistortedMnist(Distortion()).load(CPU)
    assert (train.size, len(valid.labels), len(test.labels)) == (55_000, 5_000, 10_000)
    everything = train.draw(train.order(torch.Generator()), torch.Generator())
    together = numbers(everything.images) + numbers(valid.images)
    assert sorted(together) == list(range(60_000))
    assert together != list(range(60_000))
    assert numbers(test.images) == list(range(60_000, 70_000))
    assert valid.labels.tolist() == [number % 10 for number in numbers(valid.images)]


def test_the_fixed_sets_depend_on_the_data_seed_alone(mnist):
    one, same = (DistortedMnist(TURNED).load(CPU) for _ in range(2))
    other = DistortedMnist(TURNED, seed=1).load(CPU)
    for name in ("valid", "test"):
        assert getattr(one, name).images.equal(getattr(same, name).images)
        assert not getattr(one, name).images.equal(getattr(other, name).images)
    assert one.test.pose.matrix.equal(same.test.pose.matrix)


def test_test_digits_are_not_all_turned_alike_from_chunk_to_chunk(mnist):
    matrix = DistortedMnist(TURNED).load(CPU).test.pose.matrix
    assert not matrix[:1000].equal(matrix[1000:2000])


def test_an_order_is_of_all_digits_and_another_every_time(mnist, generator):
    train = DistortedMnist(Distortion()).load(CPU).train
    one, other = train.order(generator), train.order(generator)
    assert one.sort().values.equal(torch.arange(55_000))
    assert not one.equal(other)
    assert numbers(train.draw(one[:500], generator).images) != numbers(
        train.draw(other[:500], generator).images
    )


@pytest.mark.parametrize("fresh", [True, False])
def test_training_images_are_drawn_afresh_unless_frozen(mnist, fresh, generator):
    train = DistortedMnist(TURNED, online=fresh).load(CPU).train
    index = torch.tensor([3, 1, 4])
    first, second = (train.draw(index, generator) for _ in range(2))
    assert first.labels.equal(second.labels)
    assert first.images.equal(second.images) is not fresh


def test_the_validation_split_has_the_size_asked_for(mnist):
    data = DistortedMnist(Distortion(), valid_size=10_000)
    train, valid, _ = data.load(CPU)
    assert (train.size, len(valid.labels), data.train_size) == (50_000, 10_000, 50_000)


def test_shape_and_classes():
    data = DistortedMnist(Distortion(canvas=(30, 50)))
    assert data.shape == (1, 30, 50)
    assert data.classes == 10


def test_training_digits_can_be_distorted_otherwise_than_those_of_the_fixed_sets(few_digits):
    mild, wild = Distortion(angle=10), Distortion(angle=10, bend=2, shear=0.3)
    plain, augmented, other = (
        DistortedMnist(distortion, training=training, valid_size=40).load(CPU)
        for distortion, training in ((mild, None), (mild, wild), (wild, None))
    )
    index = torch.arange(8)
    drawn, expected = (
        splits.train.draw(index, torch.Generator().manual_seed(0)) for splits in (augmented, other)
    )
    assert torch.equal(drawn.images, expected.images)
    for fixed in ("valid", "test"):
        assert torch.equal(getattr(plain, fixed).images, getattr(augmented, fixed).images)
        assert not torch.equal(getattr(other, fixed).images, getattr(augmented, fixed).images)


def test_training_images_must_be_as_those_of_the_fixed_sets():
    with pytest.raises(UserError, match=r"training must make \(1, 28, 28\) images of 10 classes"):
        DistortedMnist(Distortion(), training=Distortion(canvas=40))
