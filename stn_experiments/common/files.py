"""Atomic writes, JSON, and short digests of configs and of files."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stn_experiments.common.errors import UserError


@contextmanager
def writing_to(place: Path | str) -> Iterator[None]:
    """Errors of the system in the block are one line about a place, such as a folder or an option.

    Raises:
        UserError: the block has raised an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{place} cannot be written to: {error}") from error


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; what is written to it becomes ``path`` at the end, even if power is lost.

    If the block raises, ``path`` is left as it was and the temporary file is removed.

    Args:
        path: the file to write.
        keep: where the old file at ``path`` goes; ``None`` overwrites it.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def write_atomically(path: Path, content: str | bytes, keep: Path | None = None) -> None:
    """Write text (as UTF-8) or bytes to a file, see :func:`replacing`."""
    with replacing(path, keep) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def digest(value: Mapping[str, Any]) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of a JSON value.

    The order of keys does not matter, and 1.0 is the same as 1.
    """
    return hashlib.sha256(json.dumps(_without_zeros(value), sort_keys=True).encode()).hexdigest()[:8]


def _without_zeros(value: Any) -> Any:
    """A JSON value with each float that is a whole number as an integer."""
    if isinstance(value, Mapping):
        return {key: _without_zeros(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_zeros(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def files_below(folder: Path) -> list[str]:
    """All files below a folder, by their sorted paths relative to it, without hidden files and folders."""
    found: list[str] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.relpath(place, folder) + os.sep
        found += [prefix + name for name in files if not name.startswith(".")]
    return sorted(name.removeprefix(f".{os.sep}") for name in found)


_digests: dict[Path, tuple[list[tuple[str, int, int]], str]] = {}


def digest_of_content(path: Path) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of a file; empty if it cannot be read.

    Of a folder, it covers the relative paths and contents of all files that are not hidden. It is computed
    once for each size and modification time. If the file vanishes, the last digest that this process has
    computed stays.
    """
    try:
        paths = {name: f"{path}/{name}" for name in files_below(path)} if path.is_dir() else {"": path}
        stats = [(name, os.stat(file)) for name, file in paths.items()]  # noqa: PTH116 (many files)
        version = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        if version and (path not in _digests or _digests[path][0] != version):
            sha256 = hashlib.sha256()
            for name, size, _ in version:
                sha256.update(os.fsencode(name) + b"\0%d\0" % size if name else b"")
                with open(paths[name], "rb") as content:  # noqa: PTH123 (many files)
                    while block := content.read(2**20):
                        sha256.update(block)
            _digests[path] = (version, sha256.hexdigest()[:8])
    except OSError:
        pass
    return _digests[path][1] if path in _digests else ""


def to_json(value: Any) -> str:
    """``value`` as indented JSON."""
    return json.dumps(value, indent=2) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing, cannot be read or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _sync(path: Path) -> None:
    """Flush a file, or a folder's directory entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
