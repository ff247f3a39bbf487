"""A cache for MNIST and sources of it."""

import hashlib

import pytest

from stn_experiments.data import idx, mnist, sources
from tests.data.tiny_mnist import (
    ARRAYS,
    CONTENTS,
    NAMES,
    forbidden,
)


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
