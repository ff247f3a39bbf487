"""Co-localisation: its loss, what learns by it, what its data are, and that it resumes to the same bits."""

import numpy as np
import pytest
import torch

from stn_experiments.common.errors import UserError
from stn_experiments.config.build import build
from stn_experiments.data.datasets import DataSet
from stn_experiments.models.colocalisation import triplet_loss
from stn_experiments.runs.experiment import build_experiment
from stn_experiments.runs.train import make_trainer
from stn_experiments.training import pretrain as pretrain_module

SETTINGS = (
    "experiment=colocalisation",
    "data.digit=3",
    "trainer.epochs=2",
    "trainer.images_per_epoch=40",
    "trainer.device=cpu",
)
CPU = torch.device("cpu")


@pytest.fixture
def trainer(compose, few_digits, monkeypatch):
    monkeypatch.setattr(pretrain_module, "STEPS", 3)

    def make():
        experiment = build_experiment(compose(*SETTINGS, *few_digits))
        return make_trainer(experiment, experiment.data.load(CPU).train)

    return make


def test_the_loss_is_the_hinge_over_all_pairs(generator):
    windows, random = (torch.randn(5, 7, generator=generator) for _ in range(2))
    margin, mean = 1.2, random.double().numpy().mean(0)
    t, r = (codes.double().numpy() - mean for codes in (windows, random))
    t, r = (codes / np.sqrt((codes**2).sum(1, keepdims=True)) for codes in (t, r))
    hinges = [
        max(0, ((t[n] - t[m]) ** 2).sum() - ((t[n] - r[n]) ** 2).sum() + margin)
        for n in range(5)
        for m in range(5)
        if n != m
    ]
    assert 0 in hinges
    assert triplet_loss(windows, random, margin).item() == pytest.approx(np.mean(hinges), rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert triplet_loss(windows, random, margin).item() == pytest.approx(np.mean(hinges), rel=1e-5)


def test_the_loss_reads_the_encoder_in_the_precision_of_training(compose, few_digits):
    experiment = build_experiment(compose(*SETTINGS, *few_digits, "trainer.precision=bfloat16"))
    trainer = make_trainer(experiment, experiment.data.load(CPU).train)
    types = []
    convolution = next(m for m in trainer.model.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda _, read, output: types.append(output.dtype))
    trainer.train_step(next(trainer.batches()))
    assert types == [torch.bfloat16] * 3


def test_the_encoder_learns_before_and_only_the_localisation_network_afterwards(trainer):
    run = trainer()
    backbone = run.model.backbone
    untrained = {name: value.clone() for name, value in backbone.state_dict().items()}
    run.run_epoch(until_step=0)
    encoder = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert not any(encoder[name].equal(value) for name, value in untrained.items())
    localisation = [weights.clone() for weights in run.model.localisation_parameters()]
    run.train_step(next(run.batches()))
    changed = [
        not old.equal(new) for old, new in zip(localisation, run.model.localisation_parameters(), strict=True)
    ]
    assert changed == [weights.requires_grad for weights in run.model.localisation_parameters()]
    assert all(encoder[name].equal(value) for name, value in backbone.state_dict().items())
    assert all(weights.grad is None for weights in backbone.parameters())
    statistics = run.averaged_model().backbone.state_dict()
    assert all(statistics[name].allclose(value) for name, value in encoder.items())


def test_labels_do_not_decide_a_step(trainer):
    run, other = trainer(), trainer()
    for each in (run, other):
        each.run_epoch(until_step=0)
    batch = next(run.batches())
    run.train_step(batch)
    other.train_step(batch._replace(labels=(batch.labels + 1) % 10))
    for one, same in zip(run.model.parameters(), other.model.parameters(), strict=True):
        assert one.equal(same)


def test_it_resumes_to_the_same_bits(trainer):
    whole, first, second = trainer(), trainer(), trainer()
    whole.run_epoch()
    first.run_epoch(until_step=1)
    second.load_state_dict(first.state_dict())
    second.run_epoch()
    for name, value in whole.model.state_dict().items():
        assert value.equal(second.model.state_dict()[name]), name


def test_all_images_show_one_class_at_uniform_places_among_sixteen_crops(compose, few_digits):
    data = build(compose(*SETTINGS, *few_digits, "data.train_digits=120")["data"], "data", DataSet)
    splits = data.load(CPU)
    generator = torch.Generator().manual_seed(0)
    batch = splits.train.draw(torch.arange(1200), generator=generator, posed=True)
    labels = torch.cat([batch.labels, splits.valid.labels, splits.test.labels])
    assert labels.unique().tolist() == [3]
    assert batch.images.shape[1:] == (1, 84, 84)
    places = (batch.pose.matrix[:, 0, :2, 2].numpy() + 1) * 42 - 14  # of the frame's first pixel
    np.testing.assert_allclose(places, places.round(), atol=1e-3)
    assert (places.round().min(), places.round().max()) == (0, 56)
    shares = np.histogram(places, np.linspace(-0.5, 56.5, 4))[0] / places.size
    assert np.abs(shares - 1 / 3).max() < 5 * np.sqrt(2 / 9 / places.size)
    assert (data.distortion.clutter, data.distortion.clutter_size) == (16, 6)
    encoder = splits.train.draw_encoder(torch.arange(120), generator)
    assert encoder.images.shape[1:] == (1, 28, 28)
    assert len(encoder.labels.unique()) == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("data=cluttered", "stn.colocalisation must be 0 unless data=colocalisation"),
        ("stn.colocalisation=0", "data=colocalisation has images of one class alone"),
        ("stn.count=2", "colocalisation must be 0 unless there is one translation, at input"),
        ("attention=se", "stn.colocalisation must be 0 unless data=colocalisation and attention=none"),
    ],
)
def test_it_is_refused_where_it_cannot_work(compose, settings, message):
    with pytest.raises(UserError, match=message):
        build_experiment(compose(*SETTINGS[:1], settings))
