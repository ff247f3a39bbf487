"""Graphs need CUDA; on other machines these tests check that functions run eagerly."""

from functools import partial

import pytest
import torch

from stn_experiments.data.augmentation import Augmentation
from stn_experiments.data.own_images import ImageFolder
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.train import make_trainer, set_up_torch
from stn_experiments.training.cuda_graphs import WARM_UP_CALLS, CudaGraphs
from tests.data.signs import write_signs

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
EPOCHS = WARM_UP_CALLS + 2
NETWORKS = [
    ("stn=none",),
    *(
        (f"stn={family}",)
        for family in ("translation", "scale_translation", "similarity", "affine", "projective", "tps")
    ),
    ("stn.localisation=convolutional", "trainer.precision=bfloat16"),
    ("stn.at=[input,layer2]", "stn.steps=2"),
    ("stn.consistency.weight=1", "stn.consistency.scale=1.3", "stn.consistency.translation=0.1"),
    ("stn.consistency.weight=1", "stn=similarity", "stn.count=2", "stn.steps=2"),
    ("backbone=cnn", "backbone.filters=[4,4]"),
    ("backbone=fcn", "backbone.widths=[8,8]", "optimizer=sgd", "scheduler=step"),
    ("backbone=resnet18",),
    ("backbone=gcnn", "backbone.width=4", "stn=none"),
    ("backbone=polar", "backbone.width=4", "stn=none"),
    ("backbone=tipooling", "backbone.width=4", "stn=similarity"),
    *((f"attention={gate}", "stn=none") for gate in ("se", "cbam", "mask")),
    ("experiment=ram_cluttered",),
    ("experiment=question_answering",),
]
DATA = (
    "addition affnist clean cluttered elastic low_contrast mixed motion_blur noisy noisy_translated "
    "projective rts sim2mnist translated homography_noise projective_mnist scaled_finnveden"
)


@pytest.fixture
def trained(compose, few_digits):
    """The trainer that some choices describe, after some epochs."""

    def train(*choices):
        compact = not any(choice.startswith(("backbone=", "experiment=")) for choice in choices)
        small = few_digits if compact else few_digits[:2]
        experiment = build_experiment(compose(*choices, *small, "trainer.localisation_clip=1"))
        set_up_torch(experiment.trainer, experiment.device)
        trainer = make_trainer(experiment, experiment.data.load(experiment.device).train)
        for _ in range(EPOCHS):
            trainer.run_epoch()
            trainer.next_epoch()
        return trainer

    yield train
    torch.use_deterministic_algorithms(False)


@needs_cuda
@pytest.mark.parametrize(
    "choices", [*NETWORKS, *((f"data={name}", "data.train_digits=null") for name in DATA.split())], ids=str
)
def test_a_run_with_graphs_is_the_same_run(trained, choices):
    pairs = [(*choices, "trainer.deterministic=true", f"trainer.cuda_graph={on}") for on in ("true", "false")]
    graphs, eager = (trained(*pair) for pair in pairs)
    assert (graphs.cuda_graphs.captured, eager.cuda_graphs.captured) == (2, 0)  # the draw and the update
    for name, value in eager.model.state_dict().items():
        torch.testing.assert_close(graphs.model.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@needs_cuda
def test_a_run_with_graphs_follows_the_schedule(trained):
    graphs, eager = (trained(f"trainer.cuda_graph={on}") for on in ("true", "false"))
    one, other = (trainer.state_dict()["scheduler"] for trainer in (graphs, eager))
    assert one.pop("_last_lr") == pytest.approx(other.pop("_last_lr"), rel=1e-6)
    assert one == other


def test_augmented_images_of_a_folder_are_the_same_from_a_graph(tmp_path):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    augmentation = Augmentation(20, (0.8, 1.2), 0.2, 3, 2, 1, True, 0.3, 0.3, 0.1)
    folder = write_signs(tmp_path, {"train": 8, "test": 2}, classes=2)
    train = ImageFolder(str(folder), 32, training=augmentation).load(device).train
    generator = torch.Generator(device)
    graphs = CudaGraphs(generator)
    wrapped = graphs.wrap(partial(train.draw, generator=generator))
    for seed in range(WARM_UP_CALLS + 2):
        index = train.order(generator.manual_seed(seed))
        drawn = wrapped(index).images.clone()
        train.order(generator.manual_seed(seed))
        torch.testing.assert_close(train.draw(index, generator).images, drawn, rtol=1e-5, atol=1e-5)
    assert graphs.captured == torch.cuda.is_available()


def test_without_cuda_a_wrapped_function_is_called_each_time(generator):
    graphs, optimizer = CudaGraphs(generator), torch.optim.AdamW([torch.ones(2)], lr=0.5, fused=True)
    graphs.make_capturable(optimizer)
    seen = []
    wrapped = graphs.wrap(lambda *tensors: seen.append(tensors))
    for _ in range(WARM_UP_CALLS + 2):
        assert wrapped(generator.get_state()) is None
    assert len(seen) == WARM_UP_CALLS + 2
    assert graphs.captured == 0
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert not optimizer.param_groups[0]["capturable"]


def test_a_state_is_the_same_whether_or_not_learning_rates_are_tensors(trained):
    trainer = trained("trainer.device=cpu")
    before = trainer.state_dict()
    for group in trainer.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.double)
    after = trainer.state_dict()
    assert after["scheduler"] == before["scheduler"]
    assert after["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    trainer.load_state_dict(after)
    assert all(isinstance(group["lr"], float) for group in trainer.optimizer.param_groups)
