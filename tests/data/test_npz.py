"""A user's .npz file is read in every layout in use, and refused in one line where it cannot be right."""

import io
import math
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stn_experiments.common.errors import UserError
from stn_experiments.data import npz
from stn_experiments.data.npz import read_npz

COUNTS = {"train": 10, "valid": 4, "test": 6}
SIDE = 6


def arrays(channels=None, height=SIDE, width=SIDE):
    """Random bytes, of which one is 255, as (N, H, W) or (N, C, H, W), and three classes; by common key."""
    rng = np.random.default_rng(0)
    content = {}
    for split, count in COUNTS.items():
        axes = (height, width) if channels is None else (channels, height, width)
        images = rng.integers(0, 256, (count, *axes), dtype=np.uint8)
        images.flat[0] = 255
        content |= {f"x_{split}": images, f"y_{split}": np.arange(count) % 3}
    return content


def change(content, kind, function):
    """``content`` with ``function`` done to all images (``x``) or all labels (``y``)."""
    return {key: function(value) if key.startswith(kind) else value for key, value in content.items()}


def write(folder, content, compressed=True):
    path = Path(folder) / "own.npz"
    (np.savez_compressed if compressed else np.savez)(path, **content)
    return path


def write_members(folder, members):
    """An .npz of what each member is to hold, byte for byte."""
    path = Path(folder) / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_header(header, data):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("latin1") + data


def refusal(path, *parts, **settings):
    """The line with which a file is refused, less its beginning; it must have all ``parts``."""
    with pytest.raises(UserError) as caught:
        read_npz(path, **settings)
    line = str(caught.value)
    assert line.startswith(f"file {path}: ")
    assert len(line.splitlines()) == 1
    for part in parts:
        assert part in line
    return line.removeprefix(f"file {path}: ")


def peak_of_refusal(path, *parts):
    """The bytes that were held at once while a file was refused."""
    tracemalloc.start()
    try:
        refusal(path, *parts)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def assert_is(file, content, scale=255):
    """``file`` holds the images (N, C, H, W) or (N, H, W) and the whole labels of ``content``."""
    for split, (images, labels) in zip(COUNTS, file[:3], strict=True):
        wanted = torch.from_numpy(np.ascontiguousarray(content[f"x_{split}"], np.float32)) / scale
        wanted = wanted[:, None] if wanted.ndim == 3 else wanted
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert images.is_contiguous()
        torch.testing.assert_close(images, wanted)
        assert labels.tolist() == content[f"y_{split}"].tolist()


LAYOUTS = {
    "flat": lambda x: x.reshape(len(x), -1),
    "plain": lambda x: x,
    "channel first": lambda x: x[:, None],
    "channel last": lambda x: x[..., None],
    "fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layouts_of_one_channel(tmp_path, layout, compressed):
    content = arrays()
    file = read_npz(write(tmp_path, change(content, "x", LAYOUTS[layout]), compressed))
    assert_is(file, content)
    assert file.classes == 3


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("last", [False, True])
def test_several_channels_come_first_or_last(tmp_path, channels, last):
    content = arrays(channels, height=5, width=7)
    stored = change(content, "x", lambda x: x.transpose(0, 2, 3, 1)) if last else content
    assert_is(read_npz(write(tmp_path, stored)), content)


def test_each_split_may_have_a_layout_of_its_own(tmp_path):
    content = arrays()
    stored = {**content, "x_valid": content["x_valid"][:, None], "x_test": content["x_test"].reshape(6, -1)}
    assert_is(read_npz(write(tmp_path, stored)), content)


def test_size_gives_flat_images_their_sides(tmp_path):
    content = arrays(height=4, width=9)
    path = write(tmp_path, change(content, "x", LAYOUTS["flat"]))
    assert read_npz(path).train.images.shape[1:] == (1, 6, 6)
    assert_is(read_npz(path, size=(4, 9)), content)
    refusal(path, "'x_train'", "images of 5x7 pixels", "(10, 36)", size=(5, 7))


@pytest.mark.parametrize(
    ("shape", "size", "wanted"),
    [
        ((3, 3, 4), (3, 4), (3, 3, 4)),
        ((3, 4, 3), (3, 4), (3, 3, 4)),
        ((1, 36), (1, 36), (1, 1, 36)),
        ((3, 9), (3, 9), (1, 3, 9)),
    ],
)
def test_size_decides_what_a_shape_leaves_open(tmp_path, shape, size, wanted):
    path = write(tmp_path, change(arrays(), "x", lambda x: np.full((len(x), *shape), 255)))
    assert read_npz(path, size=size).test.images.shape[1:] == wanted
    refusal(path, "'x_train'", "read in one way only", "size (height, width)", str(shape)[1:])


@pytest.mark.parametrize("shape", [(35,), (), (5, 6, 7), (6, 6, 5), (1, 1, 6, 6), (1, 6, 6, 1)])
def test_other_shapes_of_images_are_refused(tmp_path, shape):
    path = write(tmp_path, change(arrays(), "x", lambda x: np.zeros((len(x), *shape), np.uint8)))
    refusal(path, "'x_train'", "(N, H*W), (N, H, W), (N, C, H, W) or (N, H, W, C)", f"shape {(10, *shape)}")


@pytest.mark.parametrize("size", [(6, 5), (12, 3)])
@pytest.mark.parametrize("layout", ["plain", "channel first", "channel last"])
def test_images_of_another_size_are_refused(tmp_path, layout, size):
    path = write(tmp_path, change(arrays(), "x", LAYOUTS[layout]))
    refusal(path, "'x_train'", f"images of {size[0]}x{size[1]} pixels", "shape (10, ", size=size)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_splits_of_different_image_shapes_are_refused(tmp_path, split):
    path = write(tmp_path, {**arrays(), f"x_{split}": np.zeros((COUNTS[split], 7, 7))})
    refusal(path, f"'x_{split}'", "(1, 6, 6) (C, H, W) as in 'x_train'", "got (1, 7, 7)")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("X_{}", "Y_{}"),
        ("X_{}", "y_{}"),
        ("{}_x", "{}_y"),
        ("{}_images", "{}_labels"),
        ("{}_data", "{}_targets"),
        ("{}_image", "{}_label"),
        ("images_{}", "labels_{}"),
        ("{}X", "{}Y"),
        ("{}-Inputs", "{} Target"),
    ],
)
@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("Train", "VAL", "Test"), ("training", "validation", "test")]
)
def test_keys_in_use(tmp_path, images, labels, names):
    content = arrays()
    stored = {"unused": np.array([None])}
    for split, name in zip(COUNTS, names, strict=True):
        stored[images.format(name)] = content[f"x_{split}"]
        stored[labels.format(name)] = content[f"y_{split}"]
    assert_is(read_npz(write(tmp_path, stored)), content)


SCALES = {
    "bytes": (lambda x: x, 255),
    "wide integers": (lambda x: x.astype(">i8"), 255),
    "floats of bytes": (lambda x: x.astype(np.float64), 255),
    "floats of one": (lambda x: (x / 255).astype(np.float32), 255),
    "big-endian floats": (lambda x: (x / 255).astype(">f8"), 255),
    "half bytes": (lambda x: (x // 2).astype(np.float16), None),
    "truth values": (lambda x: x > 127, None),
    "bytes of 0 and 1": (lambda x: (x > 127).astype(np.uint8), None),
}


@pytest.mark.parametrize("scale", SCALES)
def test_the_scales_of_images(tmp_path, scale):
    function, divisor = SCALES[scale]
    content = arrays()
    wanted = content if divisor else change(content, "x", function)
    divisor = divisor or (255 if scale == "half bytes" else 1)
    assert_is(read_npz(write(tmp_path, change(content, "x", function))), wanted, divisor)


def test_the_whole_file_has_one_scale(tmp_path):
    content = arrays()
    content["x_test"] = np.ones_like(content["x_test"])
    assert_is(read_npz(write(tmp_path, content)), content)


def test_splits_on_two_scales_are_refused(tmp_path):
    content = arrays()
    content["x_valid"] = content["x_valid"] / 255
    refusal(write(tmp_path, content), "'x_valid'", "go to 255", "got fractions")


def test_sums_just_above_one_are_clipped(tmp_path):
    content = change(arrays(), "x", lambda x: x / 255 * (1 + 1e-6))
    file = read_npz(write(tmp_path, content))
    assert file.train.images.max() == 1
    assert file.train.images[0, 0, 0, 1] == pytest.approx(content["x_train"][0, 0, 1], abs=1e-6)


@pytest.mark.parametrize("value", [-1, -0.001, 255.5, 256, 1e300, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("split", COUNTS)
def test_images_out_of_range_are_refused(tmp_path, split, value):
    content = change(arrays(), "x", lambda x: x.astype(np.float64))
    content[f"x_{split}"][1, 2, 3] = value
    refusal(write(tmp_path, content), f"'x_{split}'", "0 to 1 or 0 to 255")


def one_hot(labels, classes=3):
    return np.eye(classes, dtype=np.float32)[labels]


LABELS = {
    "bytes": lambda y: y.astype(np.uint8),
    "floats": lambda y: y.astype(np.float64),
    "column": lambda y: y[:, None],
    "column of floats": lambda y: y[:, None].astype(np.float32),
    "one-hot": one_hot,
    "one-hot bytes": lambda y: one_hot(y).astype(np.uint8),
    "one-hot truth values": lambda y: one_hot(y) > 0,
}


@pytest.mark.parametrize("kind", LABELS)
def test_the_kinds_of_labels(tmp_path, kind):
    content = arrays()
    file = read_npz(write(tmp_path, change(content, "y", LABELS[kind])))
    assert_is(file, content)
    assert file.classes == 3


def test_the_highest_label_of_any_split_counts(tmp_path):
    content = {**arrays(), "y_test": np.array([0, 1, 2, 3, 4, 11])}
    assert read_npz(write(tmp_path, content)).classes == 12


def test_one_hot_labels_may_have_classes_without_images(tmp_path):
    content = {**arrays(), "y_train": one_hot(arrays()["y_train"], 10)}
    assert read_npz(write(tmp_path, content)).classes == 10


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        ([0, 1, 2, 3, 4, -1], ["from 0 to 9999", "got -1 to 4"]),
        ([0, 1, 2, 3, 4, 10_000], ["from 0 to 9999", "got 0 to 10000"]),
        ([0, 1, 2, 3, 4, math.nan], ["from 0 to 9999", "nan"]),
        ([0, 1, 2, 3, 4, math.inf], ["from 0 to 9999", "inf"]),
        ([0, 1, 2, 3, 4, 1.5], ["whole numbers", "fractions"]),
        ([0, 1, 2, 3, 4], ["a label for each of the 6 images in 'x_test'", "got 5"]),
        ([0, 1, 2, 3, 4, 5, 6], ["a label for each of the 6 images in 'x_test'", "got 7"]),
        (np.ones((6, 3)), ["one-hot"]),
        (np.zeros((6, 3)), ["one-hot"]),
        (one_hot(np.arange(6) % 3) * 2, ["one-hot"]),
        (one_hot(np.arange(6) % 3) / 3 + 2 / 9, ["one-hot"]),
        (np.tile([1.0, 1.0, -1.0], (6, 1)), ["one-hot"]),
        (np.full((6, 3), math.nan), ["one-hot"]),
        (np.zeros((6, 3, 1)), ["one-hot", "shape (6, 3, 1)"]),
        (np.zeros((6, 10_001), np.uint8), ["up to 10000", "shape (6, 10001)"]),
        (["a"] * 6, ["numbers", "got <U1"]),
        (np.zeros(6, complex), ["numbers", "got complex128"]),
        (np.zeros(6, "m8[s]"), ["numbers", "got timedelta64[s]"]),
        (np.zeros(6, "i4,f4"), ["numbers", "got [("]),
        (np.int64(5), ["at least one image or label", "shape ()"]),
        ([], ["at least one image or label", "shape (0,)"]),
    ],
)
def test_labels_that_cannot_be_right_are_refused(tmp_path, labels, parts):
    refusal(write(tmp_path, {**arrays(), "y_test": np.array(labels)}), "'y_test'", *parts)


@pytest.mark.parametrize(
    ("changes", "key", "got"),
    [
        ({"y_train": one_hot(np.arange(10) % 3), "y_valid": np.full(4, 3)}, "'y_valid'", "got 4"),
        ({"y_train": one_hot(np.arange(10) % 3), "y_valid": one_hot(np.arange(4), 4)}, "'y_valid'", "got 4"),
        (
            {"y_train": one_hot(np.arange(10) % 3, 9), "y_test": one_hot(np.arange(6) % 3)},
            "'y_train'",
            "got 9",
        ),
    ],
)
def test_labels_that_disagree_are_refused(tmp_path, changes, key, got):
    refusal(write(tmp_path, {**arrays(), **changes}), key, "have 3 classes as the one-hot labels do", got)


def without_valid(count):
    """Training images that all differ, with the number of each as its label."""
    content = {key: value for key, value in arrays().items() if "valid" not in key}
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    images[:, 0, 0] = np.arange(count)
    return {**content, "x_train": images, "y_train": np.arange(count)}


@pytest.mark.parametrize(
    ("count", "asked", "held"), [(100, 15, 15), (100, 5000, 20), (9, 5000, 1), (2, 1, 1)]
)
def test_images_are_held_out_where_none_are_for_validation(tmp_path, count, asked, held):
    train, valid, test, _ = read_npz(write(tmp_path, without_valid(count)), valid_size=asked)
    assert len(valid.labels) == len(valid.images) == held
    assert sorted(torch.cat([train.labels, valid.labels]).tolist()) == list(range(count))
    for images, labels in (train, valid):
        assert (images[:, 0, 0, 0] * 255).round().long().tolist() == labels.tolist()
    assert len(test.labels) == 6


def test_the_seed_decides_which_are_held_out(tmp_path):
    path = write(tmp_path, without_valid(100))
    first, again, other = (read_npz(path, seed=seed).valid.labels.tolist() for seed in (0, 0, 1))
    assert first == again
    assert sorted(first) != sorted(other)


def test_one_training_image_cannot_be_held_out(tmp_path):
    refusal(write(tmp_path, without_valid(1)), "2 training images or more", "got 1")


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test", "x_valid", "y_valid"])
def test_a_missing_key_is_named_beside_those_there_are(tmp_path, key):
    content = arrays()
    content["other"] = content.pop(key)
    name = key[2:] + (" images" if key[0] == "x" else " labels")
    line = refusal(write(tmp_path, content), f"has no {name}:", "x_train, y_train, x_test, y_test")
    assert line.endswith(f"got {', '.join(map(repr, content))}")


def test_many_keys_are_not_all_listed(tmp_path):
    path = write_members(tmp_path, {f"a\nb{number}.npy": b"" for number in range(1000)})
    assert len(refusal(path, r"'a\nb0', 'a\nb1'", "[...]")) < 500


def test_an_archive_of_nothing_is_refused(tmp_path):
    refusal(write_members(tmp_path, {}), "has no train images", "got no arrays")


@pytest.mark.parametrize("key", ["X_train", "train_images", "images_training"])
def test_two_keys_for_the_same_are_refused(tmp_path, key):
    content = arrays()
    path = write(tmp_path, {**content, key: content["x_train"]})
    refusal(path, "one array of train images", f"got 'x_train', {key!r}")


def test_two_arrays_under_one_key_are_refused(tmp_path):
    path = write(tmp_path, arrays())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("y_test.npy", npy_bytes(np.zeros(6)))
    refusal(path, "one array of test labels", "got 'y_test', 'y_test'")


@pytest.mark.parametrize("key", ["x_train", "x_valid", "x_test"])
def test_an_empty_split_is_refused(tmp_path, key):
    refusal(write(tmp_path, {**arrays(), key: np.zeros((0, 6, 6))}), repr(key), "shape (0, 6, 6)")


@pytest.mark.parametrize("name", ["missing.npz", "", "nul\0.npz", "two\nlines"])
def test_a_missing_file_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"^file .*: there is no such file: give the path of an \.npz file$"):
        read_npz(tmp_path / name)


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, arrays())
    assert read_npz("~/own.npz").classes == 3
    refusal("~nobody-of-this-name/own.npz", "the path", "home")


def test_a_single_array_is_refused(tmp_path):
    path = tmp_path / "own.npy"
    np.save(path, arrays()["x_train"])
    refusal(path, "an .npz file", "got a single .npy array")


@pytest.mark.parametrize("content", [b"", b"P", b"\x80\x04N.", b"\x1f\x8b\x08", b"x_train,y_train\n1,2\n"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    refusal(path, "an .npz file, as numpy.savez writes it", "got a file of another kind")


class Trap:
    """Unpickling this leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["x_test", "y_train"])
def test_pickled_objects_are_refused_and_never_loaded(tmp_path, key):
    trap = np.array([Trap(tmp_path / "sprung")] * COUNTS[key[2:]], dtype=object)
    refusal(write(tmp_path, {**arrays(), key: trap}), repr(key), "numbers", "got pickled objects")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("compressed", [True, False])
def test_nothing_is_written(tmp_path, compressed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, arrays(), compressed)
    before = path.read_bytes()
    read_npz(path)
    assert [found.name for found in tmp_path.iterdir()] == ["own.npz"]
    assert path.read_bytes() == before


MEMBERS = {f"{key}.npy": npy_bytes(value) for key, value in arrays().items()}
PYTHON_2 = "{'descr': '|u1', 'fortran_order': False, 'shape': (10L, 6L, 6L), }"


def test_files_from_python_2_are_read_in_silence(tmp_path):
    content = arrays()
    path = write_members(
        tmp_path, {**MEMBERS, "x_train.npy": with_header(PYTHON_2, content["x_train"].tobytes())}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_is(read_npz(path), content)


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"no array",
        MEMBERS["x_test.npy"][:40],
        MEMBERS["x_test.npy"][:-1],
        MEMBERS["x_test.npy"] + b"\0",
        b"\x93NUMPY\x09\x09" + MEMBERS["x_test.npy"][8:],
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-6, -6, 6), }", bytes(216)),
        with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (6, 6, 600000000000), }", bytes(216)),
        with_header("{'descr': '|u1', 'fortran_order': False, 'shape': 216, }", bytes(216)),
        with_header("{'descr': '|q9', 'fortran_order': False, 'shape': (6, 6, 6), }", bytes(216)),
        with_header("(" * 9000, bytes(216)),
        with_header("{" + " " * 20000 + "}", bytes(216)),
        with_header("__import__('os').abort()", bytes(216)),
    ],
    ids=range(14),
)
def test_a_damaged_array_is_refused_before_it_is_allocated(tmp_path, member):
    path = write_members(tmp_path, {**MEMBERS, "x_test.npy": member})
    assert peak_of_refusal(path, "'x_test'") < 5e6


def test_a_boundless_header_is_not_read_to_its_end(tmp_path):
    header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 20_000_000) + b" " * 20_000_000
    path = write_members(tmp_path, {**MEMBERS, "x_test.npy": header})
    assert peak_of_refusal(path, "'x_test'") < 5e6


def forge_size(path, name, size):
    """Have the archive's directory say that a member unpacks to ``size`` bytes."""
    content = bytearray(path.read_bytes())
    name = name.encode()
    entry = content.rindex(name) - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(content)


def test_a_file_too_large_for_memory_is_refused_by_its_headers(tmp_path):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (10, 20000, 20000), }"
    path = write_members(tmp_path, {**MEMBERS, "x_train.npy": with_header(header, b"")})
    forge_size(path, "x_train.npy", len(with_header(header, b"")) + 10 * 20000 * 20000)
    refusal(path, "8 GB", "got 16.0 GB", "'x_train', ")


def test_the_size_that_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path, arrays())
    needed = (20 * 36 * 4 + 20 * 8) / 1e9
    monkeypatch.setattr(npz, "MAX_GB", needed)
    read_npz(path)
    monkeypatch.setattr(npz, "MAX_GB", needed * 0.999)
    refusal(path, "of memory")


def test_wrong_bytes_of_an_array_are_refused(tmp_path):
    path = write(tmp_path, arrays(), compressed=False)
    content = path.read_bytes()
    pixels = arrays()["x_test"].tobytes()
    path.write_bytes(content.replace(pixels, pixels[::-1]))
    refusal(path, "'x_test' is damaged", "CRC")


def test_a_locked_archive_is_refused(tmp_path):
    path = write(tmp_path, arrays(), compressed=False)
    content = bytearray(path.read_bytes())
    for entry in (content.index(b"x_train.npy") - 30, content.rindex(b"x_train.npy") - 46):
        content[entry + (6 if content[entry + 2] == 3 else 8)] |= 1
    path.write_bytes(content)
    refusal(path, "'x_train'", "encrypted")


def small(compressed):
    content = {key: value[:2] for key, value in arrays().items()}
    with tempfile.TemporaryDirectory() as folder:
        return write(folder, content, compressed).read_bytes()


SMALL = [small(True), small(False)]
SMALL_MEMBERS = {f"{key}.npy": npy_bytes(value[:2]) for key, value in arrays().items()}
EDITS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), max_size=4)
LENGTHS = st.one_of(st.none(), st.integers(0, 2**16))
FUZZ = settings(max_examples=150, deadline=1000, derandomize=True, database=None)


def damaged(content, edits, length):
    content = bytearray(content)
    for at, flips in edits:
        content[at % len(content)] ^= flips
    return bytes(content[: length if length is None else length % len(content)])


def assert_loads_or_is_refused(path):
    try:
        file = read_npz(path)
    except UserError:
        refusal(path)
        return
    for images, labels in file[:3]:
        assert len(images) == len(labels) > 0
        assert ((images >= 0) & (images <= 1)).all()
        assert ((labels >= 0) & (labels < file.classes)).all()


@FUZZ
@given(st.sampled_from(SMALL), EDITS, LENGTHS)
def test_a_damaged_archive_loads_or_is_refused(content, edits, length):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.npz"
        path.write_bytes(damaged(content, edits, length))
        assert_loads_or_is_refused(path)


@FUZZ
@given(st.sampled_from(sorted(SMALL_MEMBERS)), EDITS, LENGTHS)
def test_a_sound_archive_of_damaged_arrays_loads_or_is_refused(name, edits, length):
    with tempfile.TemporaryDirectory() as folder:
        member = damaged(SMALL_MEMBERS[name], edits, length)
        assert_loads_or_is_refused(write_members(folder, {**SMALL_MEMBERS, name: member}))
