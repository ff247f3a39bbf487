"""Workers of a sweep that share several GPUs."""

import os
from types import SimpleNamespace

import pytest
import torch

from stn_experiments.sweeps import gpus
from stn_experiments.sweeps.gpus import VISIBLE, use_one_gpu
from tests.runs.harness import TOO_LONG, npz_settings, start_script


@pytest.fixture
def visible(monkeypatch):
    """The GPUs that a process of some name sees after ``use_one_gpu``."""

    def see(name, listed):
        monkeypatch.setattr(gpus, "current_process", lambda: SimpleNamespace(name=name))
        if listed is None:
            monkeypatch.delenv(VISIBLE, raising=False)
        else:
            monkeypatch.setenv(VISIBLE, listed)
        for _ in range(2):  # the second run of a worker is on the same GPU
            use_one_gpu()
        return os.environ.get(VISIBLE)

    return see


@pytest.mark.parametrize(
    ("listed", "count", "seen"),
    [
        ("2,3", 2, ["2", "3", "2"]),
        ("GPU-a,GPU-b,GPU-c", 3, ["GPU-a", "GPU-b", "GPU-c"]),
        ("5", 1, ["5", "5", "5"]),
        ("", 0, ["", "", ""]),
        (None, 2, ["0", "1", "0"]),
        (None, 1, [None, None, None]),
        (None, 0, [None, None, None]),
    ],
)
def test_workers_take_the_visible_gpus_in_turn(visible, monkeypatch, listed, count, seen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert [visible(f"LokyProcess-{number}", listed) for number in (1, 2, 3)] == seen
    assert visible("MainProcess", listed) == listed


RECORD = """
import os, pathlib, time, torch
folder = pathlib.Path(os.environ["SEEN"])
seen = f"{os.environ['CUDA_VISIBLE_DEVICES']} {torch.cuda.is_initialized()}"
(folder / str(os.getpid())).write_text(seen)
while len(list(folder.iterdir())) < 2:  # the first worker must not take both runs
    time.sleep(0.1)
"""


@pytest.mark.slow
def test_each_run_of_a_joblib_sweep_sees_another_gpu(tmp_path, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (tmp_path / "recording.py").write_text(RECORD)
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv(VISIBLE, "2,3")
    words = ["-m", *npz_settings(tmp_path), f"run.root={tmp_path / 'runs'}", "trainer.epochs=1", "seed=0,1"]
    words += ["stn=none", "plugins=[recording]", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    _, errors = (process := start_script(*words)).communicate(timeout=TOO_LONG)
    assert (process.returncode, errors) == (0, "")
    assert sorted(file.read_text() for file in (tmp_path / "seen").iterdir()) == ["2 False", "3 False"]
