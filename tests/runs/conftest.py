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


@pytest.fixture
def interrupted(train, monkeypatch):
    """A run that was interrupted after step 6, with last.pt of that step and previous.pt of step 5."""
    with monkeypatch.context() as patched:
        interrupt_after(patched, 6)
        assert train("run.checkpoint_steps=1")[0] == 130
    steps = [checkpoints.load(path)["trainer"]["step"] for path in (train.run.last, train.run.previous)]
    assert steps == [6, 5]
    return train.run


@pytest.fixture
def finished(train, whole):
    assert train()[0] == 0
    return train.run
