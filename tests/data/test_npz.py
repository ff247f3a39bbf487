"""A user's .npz file is read in every layout in use, or refused in one line that names the array."""

import io
import math
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.data import npz
from stn_experiments.data.npz import read_npz
from stn_experiments.data.splits import without_pose
from tests.data.damage import CreatesAFile, damaged, files

COUNTS = {"train": 10, "valid": 4, "test": 6}
ONE_HOT = np.eye(3, dtype=np.float32)


def arrays(shape=(6, 6)):
    """Random bytes from 0 to 255 and three classes, by key."""
    rng = np.random.default_rng(0)
    content = {}
    for split, count in COUNTS.items():
        content[f"x_{split}"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        content[f"x_{split}"].flat[0] = 255
        content[f"y_{split}"] = np.arange(count) % 3
    return content


def change(content, kind, function):
    """``content`` with ``function`` applied to all images (``x``) or all labels (``y``)."""
    return {key: function(value) if key[0] == kind else value for key, value in content.items()}


@pytest.fixture
def write(tmp_path):
    def write(content, save=np.savez_compressed):
        save(tmp_path / "own.npz", **content)
        return tmp_path / "own.npz"

    return write


def write_members(path, members):
    """Write an .npz file whose arrays are given as bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def assert_refused(path, *parts, **settings):
    with pytest.raises(UserError) as caught:
        read_npz(path, **settings)
    line = str(caught.value)
    assert line.startswith(f"file {path}: ")
    assert len(line.splitlines()) == 1
    assert [part for part in parts if part not in line] == []


def decoded(split):
    """Images as floats in [0, 1], and labels, of a split of a file."""
    return without_pose(split)[:2]


def assert_holds(file, content, scale=255):
    """``file`` holds the labels of ``content``, and its images (N, C, H, W) or (N, H, W) over ``scale``."""
    for split, (images, labels) in zip(COUNTS, map(decoded, file[:3]), strict=True):
        expected = torch.from_numpy(content[f"x_{split}"].astype(np.float32)) / scale
        torch.testing.assert_close(images, expected[:, None] if expected.ndim == 3 else expected)
        assert images.is_contiguous()
        assert labels.dtype == torch.int64
        assert labels.tolist() == content[f"y_{split}"].tolist()


# Layouts

LAYOUTS = {
    "flat": lambda x: x.reshape(len(x), -1),
    "plain": lambda x: x,
    "channel first": lambda x: x[:, None],
    "channel last": lambda x: x[..., None],
    "fortran order": np.asfortranarray,
    "one for each split": lambda x: {10: x, 4: x[:, None], 6: x.reshape(len(x), -1)}[len(x)],
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_one_channel(write, layout, save):
    path = write(change(arrays(), "x", LAYOUTS[layout]), save)
    before = files(path.parent)
    file = read_npz(path)
    assert_holds(file, arrays())
    assert file.classes == 3
    assert files(path.parent) == before


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_channels_come_first_or_last(write, channels):
    content = arrays((channels, 5, 7))
    assert_holds(read_npz(write(content)), content)
    assert_holds(read_npz(write(change(content, "x", lambda x: x.transpose(0, 2, 3, 1)))), content)


def test_flat_images_have_the_given_size_or_are_square(write):
    content = arrays((4, 9))
    path = write(change(content, "x", LAYOUTS["flat"]))
    assert read_npz(path).train.images.shape[1:] == (1, 6, 6)
    assert_holds(read_npz(path, size=(4, 9)), content)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((3, 3, 4), (3, 4), (3, 3, 4)),
        ((3, 4, 3), (3, 4), (3, 3, 4)),
        ((1, 36), (1, 36), (1, 1, 36)),
        ((3, 9), (3, 9), (1, 3, 9)),
    ],
)
def test_the_size_decides_what_a_shape_leaves_open(write, shape, size, expected):
    path = write(change(arrays(), "x", lambda x: np.full((len(x), *shape), 255)))
    assert read_npz(path, size=size).test.images.shape[1:] == expected
    assert_refused(path, "'x_train'", "read in one way only", "size (height, width)", str(shape)[1:])


@pytest.mark.parametrize(
    ("shape", "size", "takes"),
    [
        *((shape, None, "be images (square where flat)") for shape in [(35,), (), (5, 6, 7), (1, 1, 6, 6)]),
        *((shape, (12, 3), "be images of 12x3 pixels") for shape in [(35,), (6, 6), (1, 6, 6), (6, 6, 1)]),
    ],
)
def test_other_shapes_of_images_are_refused(write, shape, size, takes):
    path = write(change(arrays(), "x", lambda x: np.zeros((len(x), *shape), np.uint8)))
    layouts = "(N, H*W), (N, H, W), (N, C, H, W) or (N, H, W, C)"
    assert_refused(path, f"'x_train' must {takes}, {layouts}", f"shape {(10, *shape)}", size=size)


# Keys


@pytest.mark.parametrize(
    ("images", "labels", "splits"),
    [
        ("X_{}", "y_{}", ("train", "valid", "test")),
        ("{}_x", "{}_y", ("Train", "VAL", "Test")),
        ("{}_images", "{}_labels", ("training", "validation", "testing")),
        ("image_{}", "label_{}", ("train", "val", "test")),
        ("{}_data", "{}_targets", ("train", "val", "test")),
        ("{}X", "{}Y", ("train", "valid", "test")),
        ("{}-Inputs", "{} Target", ("train", "validation", "test")),
        ("input {}", "TARGET.{}", ("Training", "Valid", "Test")),
    ],
)
def test_keys_in_use(write, images, labels, splits):
    content = arrays()
    stored = {"unused": np.array([None])}
    for split, name in zip(COUNTS, splits, strict=True):
        stored[images.format(name)] = content[f"x_{split}"]
        stored[labels.format(name)] = content[f"y_{split}"]
    assert_holds(read_npz(write(stored)), content)


@pytest.mark.parametrize("key", arrays())
def test_a_missing_key_is_named_beside_those_present(write, key):
    content = arrays()
    content["other"] = content.pop(key)
    name = key[2:] + (" images" if key[0] == "x" else " labels")
    expected = f"has no {name}:", "x_train, y_train, x_test, y_test", f"got {', '.join(map(repr, content))}"
    assert_refused(write(content), *expected)


def test_an_archive_without_arrays_is_refused(write):
    assert_refused(write({}), "has no train images", "got no arrays")


# The scale of images

SCALES = {
    "bytes": (lambda x: x, 255),
    "big-endian integers": (lambda x: x.astype(">i8"), 255),
    "floats to 255": (lambda x: x.astype(np.float64), 255),
    "floats to 1": (lambda x: (x / 255).astype(np.float32), 1),
    "floats just above 1": (lambda x: x / 255 * (1 + 1e-6), 1),
    "booleans": (lambda x: x > 127, 1),
    "bytes of 0 and 1": (lambda x: (x > 127).astype(np.uint8), 1),
}


@pytest.mark.parametrize("scale", SCALES)
def test_scales_of_images(write, scale):
    function, divisor = SCALES[scale]
    content = change(arrays(), "x", function)
    file = read_npz(write(content))
    assert_holds(file, content, divisor)
    assert decoded(file.train)[0].max() == 1


def test_bytes_take_no_more_memory_than_in_the_file(write):
    file = read_npz(write(arrays()))
    assert [split.images.dtype for split in file[:3]] == [torch.uint8] * 3


def test_the_whole_file_has_one_scale(write):
    content = {**arrays(), "x_test": np.ones((6, 6, 6), np.uint8)}
    assert_holds(read_npz(write(content)), content)


# Labels

LABELS = {
    "bytes": lambda y: y.astype(np.uint8),
    "floats": lambda y: y.astype(np.float64),
    "column": lambda y: y[:, None],
    "one-hot": lambda y: ONE_HOT[y],
    "one-hot booleans": lambda y: ONE_HOT[y] > 0,
}


@pytest.mark.parametrize("kind", LABELS)
def test_kinds_of_labels(write, kind):
    file = read_npz(write(change(arrays(), "y", LABELS[kind])))
    assert_holds(file, arrays())
    assert file.classes == 3


@pytest.mark.parametrize(
    ("labels", "classes"), [({"y_test": np.array([0, 1, 2, 3, 4, 11])}, 12), ({"y_train": np.eye(10)}, 10)]
)
def test_the_highest_label_or_the_width_of_one_hot_labels_is_the_number_of_classes(write, labels, classes):
    assert read_npz(write({**arrays(), **labels})).classes == classes


# Arrays that cannot be right


def pixel(key, value):
    images = arrays()[key].astype(np.float64)
    images[1, 2, 3] = value
    return {key: images}


def cycle(table, count):
    return np.asarray(table)[np.arange(count) % 3]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"X_train": arrays()["x_train"]}, ["one array of train images", "got 'x_train', 'X_train'"]),
        ({"x_valid": np.zeros((4, 7, 7))}, ["'x_valid'", "(1, 6, 6) (C, H, W) as in 'x_train'", "(1, 7, 7)"]),
        ({"x_test": np.zeros((6, 1, 7, 6))}, ["'x_test'", "as in 'x_train', got (1, 7, 6)"]),
        ({"x_test": np.zeros((6, 0, 6))}, ["'x_test'", "at least one image or label", "shape (6, 0, 6)"]),
        (pixel("x_train", -0.001), ["'x_train'", "0 to 1 or 0 to 255, got -0.001 to 255"]),
        (pixel("x_valid", 255.5), ["'x_valid'", "0 to 1 or 0 to 255"]),
        (pixel("x_test", 1e300), ["'x_test'", "0 to 1 or 0 to 255"]),
        (pixel("x_test", math.nan), ["'x_test'", "0 to 255, got NaN in 1 of 6, first in number 1 from 0"]),
        (pixel("x_test", math.inf), ["'x_test'", "0 to 1 or 0 to 255, got 0 to inf"]),
        ({"x_valid": arrays()["x_valid"] / 255}, ["'x_valid'", "go to 255 as the others do, got fractions"]),
        ({"y_test": [0, 1, 2, 3, 4, -1]}, ["'y_test'", "from 0 to 9999, got -1 to 4"]),
        ({"y_test": [0, 1, 2, 3, 4, 10_000]}, ["'y_test'", "from 0 to 9999, got 0 to 10000"]),
        ({"y_test": [0, 1, 2, 3, 4, math.nan]}, ["from 0 to 9999, got NaN in 1 of 6, first in number 5"]),
        ({"y_test": [0, 1, 2, 3, 4, 1.5]}, ["'y_test'", "whole numbers, got fractions"]),
        ({"y_test": [0, 1, 2, 3, 4]}, ["'y_test'", "a label for each of the 6 images in 'x_test', got 5"]),
        ({"y_test": np.ones((6, 3))}, ["'y_test'", "one-hot"]),
        ({"y_test": np.zeros((6, 3))}, ["'y_test'", "one-hot"]),
        ({"y_test": cycle(ONE_HOT / 3 + 2 / 9, 6)}, ["'y_test'", "one-hot"]),
        ({"y_test": np.tile([1.0, 1.0, -1.0], (6, 1))}, ["'y_test'", "one-hot"]),
        ({"y_test": np.zeros((6, 3, 1))}, ["'y_test'", "one-hot", "shape (6, 3, 1)"]),
        ({"y_test": np.zeros((6, 10_001), bool)}, ["'y_test'", "up to 10000, got shape (6, 10001)"]),
        ({"y_test": ["cat"] * 6}, ["'y_test'", "got strings such as 'cat'; number the classes from 0"]),
        ({"y_test": [b"cat"] * 6}, ["'y_test'", "got strings such as b'cat'"]),
        ({"y_test": np.zeros(6, complex)}, ["'y_test'", "numbers, got complex128"]),
        ({"y_test": 5}, ["'y_test'", "at least one image or label", "shape ()"]),
        ({f"y_{split}": [0] * n for split, n in COUNTS.items()}, ["labels must be of at least two classes"]),
        ({"y_train": cycle(ONE_HOT, 10), "y_valid": [3] * 4}, ["'y_valid'", "have 3 classes", "got 4"]),
        ({"y_train": cycle(np.eye(9), 10), "y_test": cycle(ONE_HOT, 6)}, ["'y_train'", "as the one-hot"]),
    ],
)
def test_invalid_arrays_are_refused(write, changes, parts):
    assert_refused(write({**arrays(), **changes}), *parts)


# The validation split


def without_valid(count):
    """Training images that all differ; the label of each is its number."""
    content = {key: value for key, value in arrays().items() if "valid" not in key}
    images = np.zeros((count, 6, 6), np.uint8)
    images[:, 0, 0] = np.arange(count)
    return {**content, "x_train": images, "y_train": np.arange(count)}


@pytest.mark.parametrize(
    ("count", "valid_size", "held"), [(100, 15, 15), (100, 5000, 20), (9, 5000, 1), (2, 1, 1)]
)
def test_training_images_are_held_out_for_validation(write, count, valid_size, held):
    train, valid, test, _ = read_npz(write(without_valid(count)), valid_size=valid_size)
    assert len(valid.labels) == len(valid.images) == held
    assert sorted(torch.cat([train.labels, valid.labels]).tolist()) == list(range(count))
    for images, labels in map(decoded, (train, valid)):
        assert (images[:, 0, 0, 0] * 255).round().long().tolist() == labels.tolist()
    assert len(test.labels) == 6


def test_the_seed_decides_which_images_are_held_out(write):
    path = write(without_valid(100))
    first, again, other = (read_npz(path, seed=seed).valid.labels.tolist() for seed in (0, 0, 1))
    assert first == again
    assert sorted(first) != sorted(other)


def test_a_single_training_image_cannot_be_held_out(write):
    assert_refused(write(without_valid(1)), "2 training images or more", "got 1")


# Missing, damaged and dangerous files


def test_a_missing_file_is_refused(tmp_path):
    assert_refused(tmp_path / "missing.npz", "there is no such file: give the path of an .npz file")
    assert_refused(tmp_path, "it is a folder: give the path of an .npz file")


def test_the_home_folder_is_expanded(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(arrays())
    assert read_npz("~/own.npz").classes == 3


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"x_train,y_train\n1,2\n", b"PK\x03\x04" + bytes(range(256)), npy(np.zeros(3))),
        pickle.dumps(CreatesAFile("created")),
    ],
    ids=["empty", "text", "half a zip", "a single array", "a pickle"],
)
def test_files_of_other_kinds_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.npz").write_bytes(content)
    assert_refused(tmp_path / "own.npz", "must be an .npz file, as numpy.savez writes it")
    assert list(files(tmp_path)) == [tmp_path / "own.npz"]


@pytest.mark.parametrize("key", ["x_test", "y_train"])
def test_pickled_objects_are_never_loaded(write, tmp_path, key):
    objects = np.array([CreatesAFile(tmp_path / "created")] * COUNTS[key[2:]], dtype=object)
    assert_refused(write({**arrays(), key: objects}), repr(key), "be an array of numbers, got Python objects")
    assert list(files(tmp_path)) == [tmp_path / "own.npz"]


def test_files_that_unpack_to_too_much_are_refused_before_they_are_read(write, monkeypatch):
    path = write({**arrays(), "x_test": np.zeros((6, 1000, 1000), np.uint8), "unused": np.zeros(10**6)})
    monkeypatch.setattr(npz, "MAX_GB", 0.005)
    tracemalloc.start()
    assert_refused(path, "unpack to at most 0.005 GB", "GB in 'x_train'")
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    monkeypatch.setattr(npz, "MAX_GB", 0.007)
    assert_refused(path, "have images (1, 6, 6)")


def test_a_wrong_checksum_is_refused(write):
    path, pixels = write(arrays(), np.savez), arrays()["x_test"].tobytes()
    path.write_bytes(path.read_bytes().replace(pixels, pixels[::-1]))
    assert_refused(path, "'x_test' is damaged", "CRC")


MEMBERS = {key: npy(value) for key, value in arrays().items()}
HUGE = MEMBERS["x_test"].replace(b"(6, 6, 6), }" + b" " * 11, b"(6, 6, 600000000000), }")
assert MEMBERS["x_test"] != HUGE


@pytest.mark.parametrize("member", [b"", b"no array", MEMBERS["x_test"][:40], MEMBERS["x_test"][:-1], HUGE])
def test_a_damaged_array_is_named(tmp_path, member):
    assert_refused(write_members(tmp_path / "own.npz", {**MEMBERS, "x_test": member}), "'x_test'")


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_load_or_are_refused(write, tmp_path, seed):
    """One file in three has a damaged archive, compressed or not; the others have a damaged array."""
    key = sorted(MEMBERS)[seed % len(MEMBERS)]
    path = tmp_path / "own.npz"
    if seed % 3 == 0:
        path = write(arrays(), np.savez if seed % 2 else np.savez_compressed)
        path.write_bytes(damaged(path.read_bytes(), seed))
    else:
        write_members(path, {**MEMBERS, key: damaged(MEMBERS[key], seed)})
    try:
        file = read_npz(path)
    except UserError:
        assert_refused(path)
        return
    for images, labels in map(decoded, file[:3]):
        assert len(images) == len(labels) > 0
        assert ((images >= 0) & (images <= 1)).all()
        assert ((labels >= 0) & (labels < file.classes)).all()
