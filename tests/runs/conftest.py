import shutil

import pytest

from stn_experiments.storage import checkpoints
from tests.runs.harness import Command, interrupt_after, make_quick


@pytest.fixture
def train(few_digits, compose, monkeypatch, tmp_path, capfd):
    """The command that trains a small run."""
    make_quick(monkeypatch)
    return Command(few_digits, compose, tmp_path, capfd)


@pytest.fixture
def whole(train):
    """The outcome of a run that nothing happens to."""
    return train.whole()


KEPT = {}


@pytest.fixture
def fill(train, tmp_path_factory):
    """Fill the folder of the small run by a function, or with what the function has made for another test."""

    def fill(does):
        run = train.run
        if does.__name__ in KEPT:
            kept, root = KEPT[does.__name__]
            shutil.copytree(kept, run.folder)
            run.config_file.write_text(run.config_file.read_text().replace(root, str(run.folder.parent)))
        else:
            does()
            kept = shutil.copytree(run.folder, tmp_path_factory.mktemp("kept") / "run")
            KEPT[does.__name__] = kept, str(run.folder.parent)
        return run

    return fill


@pytest.fixture
def interrupted(train, fill, monkeypatch):
    """A run that was interrupted after step 6, with last.pt of that step and previous.pt of step 5."""

    def interrupt():
        with monkeypatch.context() as patched:
            interrupt_after(patched, 6)
            assert train("run.checkpoint_steps=1")[0] == 130

    fill(interrupt)
    steps = [checkpoints.load(path)["trainer"]["step"] for path in (train.run.last, train.run.previous)]
    assert steps == [6, 5]
    return train.run


@pytest.fixture
def finished(train, fill):
    def finish():
        assert train()[0] == 0

    return fill(finish)
