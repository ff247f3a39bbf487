"""The 70,000 MNIST digits, from the user's folder, our cache, or the network; always the official ones."""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from torch import Tensor

from stn_experiments.common.errors import DataUnavailable, UserError
from stn_experiments.data.idx import FILES, READ_ERRORS, IdxFile, checked, decode, read
from stn_experiments.data.sources import SOURCES

logger = logging.getLogger(__name__)

DATA_DIR_VARIABLE = "STN_DATA_DIR"
USER_SUBFOLDERS = ("", "MNIST/raw", "raw")


class Digits(NamedTuple):
    """One split: ``images`` (N, 28, 28) uint8, 0 is the background; ``labels`` (N,) int64, 0 to 9."""

    images: Tensor
    labels: Tensor


class Mnist(NamedTuple):
    """The official split: ``train`` holds 60,000 digits and ``test`` 10,000, both in the official order."""

    train: Digits
    test: Digits


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
    return _load(lambda file: read(cache / file.name, file))


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
    arrays = [decode(read(file), file) for file in FILES]
    return Mnist(Digits(arrays[0], arrays[1].long()), Digits(arrays[2], arrays[3].long()))


def _load_user_folder(root: str | Path, setting: str) -> Mnist:
    folder = _expand(root, setting).absolute()
    # os.path here and below because Path.is_dir raises where a folder may not be entered, up to Python 3.13.
    if not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):  # noqa: PTH112
        raise UserError(
            f"{setting}: {folder} is not a readable folder: give one that holds the four MNIST files"
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
        return read(path, file)
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
            read(folder / file.name, file)
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
                contents = [checked(*pair) for pair in zip(source(Path(work)), FILES, strict=True)]
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


def _reason(error: Exception) -> str:
    """The last line of an error's text, which is where pip and torchvision say what went wrong."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
