"""MNIST is loaded from each place it may come from, completely or not at all."""

import gzip
import logging
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.data import idx, mnist
from tests.data.damage import damaged, files
from tests.data.tiny_mnist import (
    CONTENTS,
    FLIPPED,
    NAMES,
    PICKLE,
    assert_loads,
    assert_refused,
    files_in,
    write_files,
)

PACKED = gzip.compress(CONTENTS[0], mtime=0)


def test_idx_bytes():
    array = np.array([[1, 2, 3]], np.uint8)
    assert idx.encode(array) == bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3])


# The user's folder


@pytest.mark.parametrize("subfolder", ["", "MNIST/raw", "raw"])
@pytest.mark.parametrize("separator", ["-idx", ".idx"])
@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress)])
def test_layouts_of_a_users_folder(cache, tmp_path, subfolder, separator, suffix, pack):
    root = tmp_path / "mine"
    write_files(root / subfolder, lambda name: name.replace("-idx", separator) + suffix, pack)
    before = files(tmp_path)
    assert_loads(root)
    assert files(tmp_path) == before


def test_the_root_comes_before_the_environment_variable(cache, tmp_path, monkeypatch):
    write_files(tmp_path / "mine")
    monkeypatch.setenv("STN_DATA_DIR", str(tmp_path / "mine"))
    assert_loads()
    assert_loads("")
    assert_refused(tmp_path / "other", "data.root", tmp_path / "other")
    monkeypatch.setenv("STN_DATA_DIR", str(tmp_path / "gone"))
    assert_refused(None, "STN_DATA_DIR", tmp_path / "gone", "not a readable folder")
    assert_loads(tmp_path / "mine")


def test_the_home_folder_is_expanded(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(tmp_path / "mine")
    assert_loads("~/mine")
    assert_refused("~nobody-of-this-name/mine", "data.root", "give a full path")


def test_a_missing_file_and_an_unreadable_folder_are_refused(cache, tmp_path, monkeypatch):
    root = tmp_path / "mine"
    write_files(root)
    (root / NAMES[3]).unlink()
    assert_refused(root, "data.root", root, "lacks", NAMES[3])
    # Permission bits do not bind the superuser, under whom tests may run.
    monkeypatch.setattr(mnist.os, "access", lambda path, mode: False)
    assert_refused(root, root, "not a readable folder")


@pytest.mark.parametrize(
    ("suffix", "content", "reason"),
    [
        ("", FLIPPED, "MD5"),
        ("", CONTENTS[0][:-3], "less than the 28 bytes"),
        ("", CONTENTS[0] + bytes(10**7), "more than the 28 bytes"),
        ("", CONTENTS[2], "less than the 28 bytes"),
        ("", PICKLE, "the 28 bytes"),
        (".gz", PACKED[:-9], "ended before"),
        (".gz", PACKED[:-4] + bytes(4), "Incorrect length"),
        (".gz", PACKED[:12] + b"\xff" * 30, ""),
        (".gz", CONTENTS[0], "Not a gzipped file"),
        (".gz", gzip.compress(FLIPPED), "MD5"),
        (".gz", gzip.compress(bytes(10**7)), "more than the 28 bytes"),
    ],
    ids=[
        *("flipped", "short", "long", "another file", "pickle"),
        *("gz cut", "gz length", "gz garbage", "gz plain", "gz flipped", "gz long"),
    ],
)
def test_a_damaged_file_is_refused_and_kept(cache, tmp_path, suffix, content, reason):
    root = tmp_path / "mine"
    write_files(root)
    (root / NAMES[0]).unlink()
    (root / (NAMES[0] + suffix)).write_bytes(content)
    before = files(tmp_path)
    tracemalloc.start()
    assert_refused(root, "data.root", root / (NAMES[0] + suffix), "damaged", reason)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    assert files(tmp_path) == before


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_refused_or_still_hold_the_digits(cache, tmp_path, seed):
    suffix, pack = (".gz", lambda content: gzip.compress(content, mtime=0)) if seed % 4 else ("", bytes)
    root = tmp_path / "mine"
    write_files(root, lambda name: name + suffix, pack)
    path = root / (NAMES[seed % 4] + suffix)
    path.write_bytes(damaged(path.read_bytes(), seed))
    try:
        assert_loads(root)
    except UserError:
        assert_refused(root, "data.root", path)


# The cache


def test_the_default_cache(cache, monkeypatch):
    assert mnist.default_cache() == cache
    monkeypatch.setenv("HOME", "/somewhere")
    for ignored in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert mnist.default_cache() == Path("/somewhere/.cache/stn-experiments/mnist")


def test_a_complete_cache_is_used_without_a_fetch_or_a_lock(cache):
    write_files(cache)
    assert_loads()
    assert not mnist.fetch_into(cache)
    assert {path.name for path in files(cache)} == set(NAMES)


def test_an_empty_cache_is_filled(cache, fetched, caplog):
    with caplog.at_level(logging.INFO):
        assert_loads()
    assert [(record.levelname, str(cache) in record.message) for record in caplog.records] == [("INFO", True)]
    assert files_in(cache) == sorted(NAMES)
    assert [(cache / name).read_bytes() for name in NAMES] == CONTENTS
    assert_loads()
    assert len(fetched) == 1


def test_a_damaged_cache_is_fetched_again_with_a_warning(cache, fetched, caplog):
    write_files(cache)
    (cache / NAMES[0]).write_bytes(FLIPPED)
    assert_loads()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert NAMES[0] in record.message
    assert NAMES[2] not in record.message
    assert (cache / NAMES[0]).read_bytes() == CONTENTS[0]


def test_an_unwritable_cache_is_refused(cache, tmp_path):
    (tmp_path / "xdg").write_text("a file where the folder should be")
    assert_refused(None, cache, "cannot write", "XDG_CACHE_HOME", "data.root", "STN_DATA_DIR")


def test_a_full_disk_leaves_the_cache_as_it_was(cache, fetched, monkeypatch):
    write_files(cache)
    (cache / NAMES[1]).unlink()
    before = files(cache)

    def no_space(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    assert_refused(None, "cannot write", "No space left")
    assert files(cache) == {**before, cache / "fetch.lock": b""}


def test_two_that_start_at_once_fetch_once(cache, use_sources):
    calls, start, second_call = [], threading.Barrier(2), threading.Event()

    def slow(work):
        calls.append(work)
        if len(calls) == 2:
            second_call.set()
        second_call.wait(0.4)  # without the lock the other thread gets here too; with it, this times out
        return CONTENTS

    def load(_):
        start.wait()
        assert_loads()

    use_sources(slow=slow)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(load, range(2)))
    assert len(calls) == 1


@pytest.mark.slow
def test_real_digits():
    digits = mnist.load_mnist()
    assert digits.train.images.shape == (60_000, 28, 28)
    assert digits.test.images.shape == (10_000, 28, 28)
    assert digits.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert digits.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    histogram = torch.bincount(digits.test.labels).tolist()
    assert histogram == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # The mean grey level that is commonly used to normalise MNIST.
    assert digits.train.images.double().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
