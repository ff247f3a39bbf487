"""Graphs need CUDA; without it these tests see that nothing is recorded."""

import pytest
import torch

from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.train import prepare, set_up_torch
from stn_experiments.training.cuda_graphs import WARM_UP, Recorder
from stn_experiments.training.loop import train_epoch

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
EPOCHS = WARM_UP + 2
NETWORKS = [
    ("stn=none",),
    *(
        (f"stn={family}",)
        for family in ("translation", "attention", "similarity", "affine", "projective", "tps")
    ),
    ("stn.localisation=convolutional", "trainer.precision=bfloat16"),
    ("stn.at=[input,layer2]", "stn.steps=2"),
    ("backbone=cnn", "backbone.filters=[4,4]"),
    ("backbone=fcn", "backbone.widths=[8,8]", "optimizer=sgd", "scheduler=step"),
    ("backbone=resnet18",),
    *((f"attention={gate}", "stn=none") for gate in ("se", "cbam", "mask")),
    ("experiment=ram_cluttered",),
    ("experiment=coattention",),
]
DATA = (
    "addition affnist clean cluttered elastic low_contrast mixed motion_blur noisy projective rts sim2mnist "
    "translated"
)


@pytest.fixture
def trained(compose, few_digits):
    """The training that some choices describe, after some epochs."""

    def train(*choices):
        compact = not any(choice.startswith(("backbone=", "experiment=")) for choice in choices)
        small = few_digits if compact else few_digits[:2]
        experiment = build_experiment(compose(*choices, *small, "trainer.localisation_clip=1"))
        set_up_torch(experiment.trainer)
        digits = experiment.data.load(experiment.device).train
        training = prepare(experiment, digits.size)
        for _ in range(EPOCHS):
            train_epoch(training, digits, experiment.trainer)
            training.progress.next_epoch()
        return training

    yield train
    torch.use_deterministic_algorithms(False)


@needs_cuda
@pytest.mark.parametrize("choices", [*NETWORKS, *((f"data={name}",) for name in DATA.split())], ids=str)
def test_a_recorded_run_is_the_same_run(trained, choices):
    pairs = [(*choices, "trainer.deterministic=true", f"trainer.cuda_graph={on}") for on in ("true", "false")]
    recorded, plain = (trained(*pair) for pair in pairs)

    assert {name for name, *_ in recorded.recorder._recordings} == {"draw", "learn"}
    assert not plain.recorder._recordings
    for name, value in plain.state()["model"].items():
        torch.testing.assert_close(recorded.state()["model"][name], value, rtol=1e-5, atol=1e-6, msg=name)


@needs_cuda
def test_a_recorded_run_goes_on_with_the_learning_rates_of_its_schedule(trained):
    recorded, plain = (trained(f"trainer.cuda_graph={on}") for on in ("true", "false"))
    one, other = (training.state()["scheduler"] for training in (recorded, plain))
    assert one.pop("_last_lr") == pytest.approx(other.pop("_last_lr"), rel=1e-6)
    assert one == other


def test_without_cuda_a_function_is_simply_called(generator):
    recorder, optimizer = Recorder(generator), torch.optim.AdamW([torch.ones(2)], lr=0.5, fused=True)
    recorder.adopt(optimizer)
    seen = []
    for _ in range(WARM_UP + 2):
        assert recorder("call", lambda *tensors: seen.append(tensors), generator.get_state()) is None
    assert len(seen) == WARM_UP + 2
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert not optimizer.param_groups[0]["capturable"]


def test_a_state_is_the_same_whether_or_not_rates_are_tensors(trained):
    training = trained("trainer.device=cpu")
    before = training.state()
    for group in training.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.double)
    after = training.state()
    assert after["scheduler"] == before["scheduler"]
    assert after["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    training.load(after)
    assert all(isinstance(group["lr"], float) for group in training.optimizer.param_groups)
