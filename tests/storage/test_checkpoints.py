import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stn_experiments.common.errors import UserError
from stn_experiments.storage import checkpoints
from tests.data.damage import CreatesAFile

STATE = {
    "epoch": 3,
    "training": {
        "weight": torch.arange(300.0).view(10, 30),
        "empty": torch.zeros(0),
        "flag": torch.tensor(True),
    },
    "history": [{"loss": 0.1, "name": "first"}, {"loss": float("nan"), "name": None}],
    "bounds": (1, 2.5),
}


def same(one, other):
    return checkpoints.digest(one) == checkpoints.digest(other)


def test_a_loaded_state_is_the_saved_one(tmp_path):
    checkpoints.save(STATE, tmp_path / "last.pt")
    loaded = checkpoints.load(tmp_path / "last.pt")
    assert same(loaded, STATE)
    assert loaded["training"]["weight"].equal(STATE["training"]["weight"])
    assert loaded["history"][0] == STATE["history"][0]
    assert list(tmp_path.iterdir()) == [tmp_path / "last.pt"]


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 4},
        {"epoch": 3.0},
        {"training": {**STATE["training"], "weight": STATE["training"]["weight"].double()}},
        {"training": {**STATE["training"], "weight": STATE["training"]["weight"].view(30, 10)}},
        {"history": STATE["history"][::-1]},
        {"bounds": (12.5,)},
    ],
)
def test_the_digest_tells_states_apart(change):
    assert not same(STATE, {**STATE, **change})


def test_the_previous_checkpoint_is_kept_only_when_the_new_one_is_complete(tmp_path, monkeypatch):
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for epoch in (1, 2, 3):
        checkpoints.save({"epoch": epoch}, last, keep=previous)
    assert (checkpoints.load(last)["epoch"], checkpoints.load(previous)["epoch"]) == (3, 2)

    def full_disk(state, file):
        file.write(b"half of")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.save({"epoch": 4}, last, keep=previous)
    assert (checkpoints.load(last)["epoch"], checkpoints.load(previous)["epoch"]) == (3, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "previous.pt"}


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    with pytest.raises(UserError, match="there is no checkpoint"):
        checkpoints.load(path)
    for state in ({"format": 99}, {"epoch": 1}, [1, 2], torch.zeros(3)):
        torch.save(state, path)
        with pytest.raises(UserError, match="is not of format 4, which this version reads"):
            checkpoints.load(path)
    torch.save({"format": checkpoints.FORMAT, "epoch": 1}, path)
    with pytest.raises(checkpoints.DamagedCheckpoint, match="its digest does not match"):
        checkpoints.load(path)


damage = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("overwrite"), st.floats(0, 1), st.integers(1, 200)),
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(hurt=damage)
def test_every_damage_is_noticed_and_reported_in_one_line(tmp_path_factory, hurt):
    """torch.load by itself takes a flipped bit of a weight for the weight."""
    path = tmp_path_factory.mktemp("damaged") / "last.pt"
    checkpoints.save(STATE, path)
    content = bytearray(path.read_bytes())
    kind, where, amount = hurt
    place = min(int(where * len(content)), len(content) - 1)
    if kind == "flip":
        content[place] ^= 1 << amount
    elif kind == "cut":
        del content[place:]
    else:
        content[place : place + amount] = bytes(amount)
    path.write_bytes(content)
    try:
        loaded = checkpoints.load(path)
    except UserError as error:
        told = str(error)
        assert "\n" not in told
    else:
        assert same(loaded, STATE)  # the damage is where nothing is read


def test_a_flipped_bit_of_a_weight_is_damage(tmp_path):
    path = tmp_path / "last.pt"
    checkpoints.save(STATE, path)
    weights = STATE["training"]["weight"].numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weights) + 50] ^= 1
    path.write_bytes(content)
    assert not same(
        torch.load(path, weights_only=True), {"format": 3, "digest": checkpoints.digest(STATE), **STATE}
    )
    with pytest.raises(checkpoints.DamagedCheckpoint, match="its digest does not match"):
        checkpoints.load(path)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_cannot_run_code(tmp_path, wrapped):
    code = CreatesAFile(tmp_path / "touched")
    torch.save({"format": checkpoints.FORMAT, "epoch": code} if wrapped else code, tmp_path / "last.pt")
    with pytest.raises(checkpoints.DamagedCheckpoint, match="its content is not that of a checkpoint"):
        checkpoints.load(tmp_path / "last.pt")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("seconds", "steps", "due"),
    [
        (None, None, []),
        (60, None, [7, 14]),
        (None, 3, [3, 6, 9, 12]),
        (20, None, [3, 6, 9, 12]),
        (30, 2, [2, 4, 6, 8, 10, 12, 14]),
    ],
)
def test_checkpoints_are_due_as_often_as_asked(monkeypatch, seconds, steps, due):
    """Each step takes 9 seconds."""
    now = iter(range(0, 10_000, 9))
    clock = {"now": next(now)}
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock["now"])
    timer = checkpoints.CheckpointTimer(seconds, steps)
    found = []
    for step in range(1, 15):
        clock["now"] = next(now)
        if timer.is_due():
            found.append(step)
    assert found == due


def test_a_tensor_has_one_digest_whatever_its_strides():
    one = torch.tensor([1.5])
    assert checkpoints.digest(one.as_strided((1,), (0,))) == checkpoints.digest(one)
