import errno
import os

import pytest

from stn_experiments.common.files import digest, read_json, replacing, to_json, write_atomically


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "result.json"
    for text in ("one", "two\u2028"):
        write_atomically(path, text)
        assert path.read_bytes() == text.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_can_be_kept(tmp_path):
    path, kept = tmp_path / "last", tmp_path / "previous"
    write_atomically(path, b"1", keep=kept)
    assert not kept.exists()
    write_atomically(path, b"2", keep=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"2", b"1")


@pytest.mark.parametrize("fails_at", ["writing", "fsync"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, fails_at):
    path = tmp_path / "file"
    path.write_text("old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if fails_at == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half of")
            if fails_at == "writing":
                refuse()

    with pytest.raises(OSError, match="No space left"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2.0], "a": 1}) != digest({"a": 1, "b": [3]})


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_reads_as_empty(tmp_path, content):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) == {}
    path.write_text(to_json({"a": 1}))
    assert read_json(path) == {"a": 1}
