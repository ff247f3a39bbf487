"""What makes another run: settings and data that can change its result, and nothing else."""

import os

import pytest

from stn_experiments.storage.run_folder import data_digest, run_digest


def test_other_content_of_a_data_file_makes_another_run(compose, tmp_path):
    file = tmp_path / "own.npz"
    settings = compose("data=npz", f"data.file={file}")
    file.write_bytes(b"one")
    first = run_digest(settings)
    file.write_bytes(b"two")
    os.utime(file, (1, 1))
    second = run_digest(settings)
    file.write_bytes(b"one")
    assert run_digest(settings) == first != second
    file.unlink()
    assert run_digest(settings) == first


def test_only_other_content_of_a_folder_of_images_makes_another_run(compose, tmp_path):
    for root in ("here", "there"):
        for name in ("a/1.png", "b/2.png"):
            (tmp_path / root / name).parent.mkdir(parents=True)
            (tmp_path / root / name).write_bytes(name.encode())
    here, there = (compose("data=folder", f"data.folder={tmp_path / root}") for root in ("here", "there"))
    first = run_digest(here)
    assert run_digest(there) == first
    (tmp_path / "here" / ".hidden").write_bytes(b"1")
    os.utime(tmp_path / "here" / "a" / "1.png", (1, 1))
    assert run_digest(here) == first
    found = {first}
    for change in (
        lambda folder: (folder / "a" / "1.png").write_bytes(b"other"),
        lambda folder: (folder / "a" / "1.png").rename(folder / "b" / "1.png"),
        lambda folder: (folder / "b" / "3.png").write_bytes(b""),
        lambda folder: (folder / "b" / "2.png").unlink(),
    ):
        change(tmp_path / "here")
        found.add(run_digest(here))
    assert len(found) == 5
    assert run_digest(compose("data=folder", f"data.folder={tmp_path / 'none'}")) not in found


def test_a_folder_in_place_of_a_file_is_not_read(compose, tmp_path):
    (tmp_path / "folder").mkdir()
    digests = set()
    for content in (b"one", b"two"):
        (tmp_path / "folder" / "1.png").write_bytes(content)
        (tmp_path / "file").write_bytes(content)
        digests |= {
            run_digest(compose("data=npz", f"data.file={tmp_path / 'folder'}")),
            run_digest(compose("data=folder", f"data.folder={tmp_path / 'file'}")),
        }
    assert len(digests) == 2


def test_the_place_of_a_data_file_makes_no_other_run(compose, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.npz").write_bytes(b"content")
    files = ("here/own.npz", "there/own.npz", tmp_path / "here" / "own.npz")
    configs = [compose("data=npz", f"data.file={file}") for file in files]
    for digest_of in (run_digest, lambda one: data_digest(one["data"])):
        assert len({digest_of(one) for one in configs}) == 1
    (tmp_path / "there" / "own.npz").write_bytes(b"other content")
    assert data_digest(configs[0]["data"]) != data_digest(configs[1]["data"])


@pytest.mark.parametrize(
    "change",
    [["seed=1"], ["data.online=false"], ["optimizer.lr=0.1"], ["stn.padding=border"], ["trainer.epochs=9"]],
)
def test_a_setting_that_can_change_the_result_makes_another_run(compose, change):
    assert run_digest(compose(*change)) != run_digest(compose())


def test_a_setting_that_cannot_change_the_result_does_not(compose):
    elsewhere = ("data.root=/nowhere", "trainer.device=cpu", "run.root=other", "run.name=mine")
    saved = ("run.force=true", "run.checkpoint_seconds=1", "run.checkpoint_steps=2")
    assert run_digest(compose(*elsewhere, *saved)) == run_digest(compose())
