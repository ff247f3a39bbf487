"""The spatial transformer as a whole: where it starts, how it learns, and its use in other projects."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from stn_experiments.common.errors import UserError
from stn_experiments.config.build import build
from stn_experiments.config.choices import choices
from stn_experiments.models import SpatialTransformer
from stn_experiments.models.grids import (
    FAMILIES,
    Affine,
    GridGenerator,
    Projective,
    ThinPlateSpline,
    Translation,
)
from stn_experiments.models.localisation import FEATURES
from stn_experiments.models.sampler import Sampler
from stn_experiments.models.spatial_transformer import theta_at
from tests.models import test_grids

KINDS = [kind for kind in FEATURES if kind != "peak"]  # which is for translations


def transformer(shape=(1, 28, 45), output_size=(20, 34), **settings):
    torch.manual_seed(0)
    return SpatialTransformer(shape, output_size, **settings)


def test_one_import_brings_neither_hydra_nor_tensorboard_nor_mnist():
    code = """
import sys
from stn_experiments.models import SpatialTransformer
foreign = {"hydra", "omegaconf", "tensorboard", "torch.utils.tensorboard", "torchvision"} & set(sys.modules)
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("stn_experiments.")}
print(sorted(foreign), sorted(rooms))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] ['common', 'config', 'models']"


@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, "keypoints") for family in test_grids.FAMILIES]
    + [(Affine, kind) for kind in KINDS if kind not in ("keypoints", "window")],
)
def test_it_starts_as_the_exact_identity(family, kind, generator):
    model = transformer((2, 30, 45), (30, 45), family=family(), localisation=kind)
    source = torch.rand(4, 2, 30, 45, generator=generator)
    view = model(source)
    assert view.transform.theta.equal(torch.tensor(model.family.identity).expand(4, -1))
    torch.testing.assert_close(view.output, source, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", [*FAMILIES])
def test_it_starts_as_it_is_told(family, generator):
    identity = torch.tensor(FAMILIES[family]().identity)
    source = torch.rand(2, 1, 28, 45, generator=generator)
    start = (identity + 0.25).tolist()
    assert transformer(family=family, start=start)(source).transform.theta.tolist() == [start] * 2
    assert transformer(family=family, start=tuple(start)).regress(source).tolist() == [start] * 2
    first, again = (transformer(family=family, start=0.5).regress(source) for _ in range(2))
    assert first.equal(again)  # the seed decides
    assert first[0].equal(first[1])
    assert 0 < (first - identity).abs().mean() < 1.5


def test_the_noise_of_a_start_is_normal():
    family = ThinPlateSpline(32)
    noise = theta_at(0.3, family) - torch.tensor(family.identity)
    assert noise.std() == pytest.approx(0.3, rel=0.1)
    assert noise.mean() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    ("family", "size", "half"),
    [
        ("similarity", (14, 28), (14.0, 7.0)),
        ("affine", (14, 28), (14.0, 7.0)),
        ("projective", (14, 28), (14.0, 7.0)),
        ("affine", (28, 28), (14.0, 14.0)),
        ("similarity", (28, 28), (28.0, 14.0)),  # one factor for both axes, the larger one
    ],
)
def test_a_window_starts_at_the_size_of_the_output_centred_on_the_first_keypoint(
    family, size, half, generator
):
    model = transformer((1, 40, 80), size, family=family, localisation="window").eval()
    torch.nn.init.normal_(model.localisation.features[-2].heat.weight, std=20)
    source = torch.rand(3, 1, 40, 80, generator=generator)
    corners = model(source).box_pixels((40, 80))
    centres = (model.localisation.features(source)[:, :2] + 1) / 2 * torch.tensor([80.0, 40.0]) - 0.5
    expected = centres[:, None] + torch.tensor(half) * torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    torch.testing.assert_close(corners, expected, atol=1e-3, rtol=0)
    assert centres.std(0).min() > 0.1


def test_a_window_is_no_larger_than_the_image():
    model = transformer((1, 20, 20), 28, localisation="window")
    assert model.localisation.theta.bias.equal(torch.tensor(Affine.identity))


@pytest.mark.parametrize("settings", [{"family": "rotation"}, {"family": "tps"}, {"steps": 2}])
def test_a_window_must_move_and_has_one_step(settings):
    with pytest.raises(UserError, match="localisation must not be window unless steps is 1"):
        transformer(localisation="window", **settings)


def test_a_peak_is_where_the_window_is(generator):
    model = transformer((1, 84, 84), 28, family=Translation(1 / 3), localisation="peak").eval()
    source = torch.rand(3, 1, 84, 84, generator=generator)
    assert model.regress(source).equal(model.localisation.features(source))
    assert not any(weights.requires_grad for weights in model.localisation.theta.parameters())
    for settings in ({}, {"family": "translation", "start": [0.5, 0.0]}):
        with pytest.raises(UserError, match="localisation must not be peak unless family"):
            transformer(localisation="peak", **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_with_a_gradient_and_learns_to_depend_on_its_input(kind, generator):
    model = transformer((1, 28, 28), (28, 28), localisation=kind)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    source = torch.rand(8, 1, 28, 28, generator=generator)
    for step in range(2):
        optimizer.zero_grad()
        (model(source).output * source.flip(0)).mean().backward()
        gradients = {
            name: weights.grad.abs().max() for name, weights in model.localisation.named_parameters()
        }
        assert min(gradients["theta.weight"], gradients["theta.bias"]) > 1e-6
        if step == 1:  # the earlier layers learn once the last one has moved
            assert all(gradient > 0 for gradient in gradients.values())
        optimizer.step()
    assert model(source).transform.theta.std(0).max() > 0


@pytest.mark.parametrize("family", [Affine, Projective])
def test_each_step_refines_the_last_and_reads_the_original(family, generator):
    model = transformer(family=family(), steps=3).eval()
    torch.nn.init.normal_(model.localisation.theta.weight, std=0.05, generator=generator)
    source = torch.rand(3, 1, 28, 45, generator=generator)
    theta = model.localisation(source)
    for _ in range(2):
        seen = Sampler()(source, GridGenerator(family(), (28, 45))(theta))
        theta = model.family.compose(theta, model.localisation(seen))
    view = model(source)
    assert model.regress(source).equal(view.transform.theta)
    torch.testing.assert_close(view.transform.theta, theta)
    torch.testing.assert_close(view.output, Sampler()(source, GridGenerator(family(), (20, 34))(theta)))


def test_steps_share_weights_but_not_batch_statistics(generator):
    model = transformer(steps=2, start=[0.5, 0.0, 0.0, 0.0, 0.5, 0.0])
    (refinement,) = model.refinements
    assert list(map(id, refinement.parameters())) == list(map(id, model.localisation.parameters()))
    model(torch.rand(3, 1, 28, 45, generator=generator))  # the second step sees the middle, twice as large
    first, second = (dict(network.named_buffers()) for network in (model.localisation, refinement))
    means = [name for name in first if name.endswith("running_mean")]
    assert means
    assert not any(torch.allclose(first[name], second[name]) for name in means)


def test_antialiasing_averages_the_pixels_that_a_small_output_would_skip(generator):
    source = torch.rand(1, 1, 60, 84, generator=generator)
    model = transformer((1, 60, 84), (20, 28))
    assert model.sampler.oversample == (3, 3)
    expected = F.avg_pool2d(source, 3)
    torch.testing.assert_close(model(source).output, expected, atol=1e-5, rtol=0)
    plain = transformer((1, 60, 84), (20, 28), antialias=False)(source)
    assert plain.transform.grid.shape == (1, 20, 28, 2)
    torch.testing.assert_close(plain.output, source[..., 1::3, 1::3], atol=1e-5, rtol=0)


def test_oversampling_matches_the_identity():
    one, cases = (1, 1), {(42, 42): (2, 2), (60, 28): (2, 1), (28, 280): (1, 10), (100, 100): (4, 4)}
    for canvas, oversample in {(28, 28): one, (20, 20): one, **cases}.items():
        model = transformer((1, *canvas), (28, 28))
        assert model.sampler.oversample == oversample
        assert model(torch.rand(1, 1, *canvas)).output.shape == (1, 1, 28, 28)


def test_theta_and_grid_keep_single_precision_under_autocast():
    model = transformer((1, 40, 60), (20, 30))
    torch.nn.init.normal_(model.localisation.theta.weight, std=0.1)
    images = torch.rand(4, 1, 40, 60)
    whole = model.eval()(images)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images)
    assert all(part.dtype == torch.float32 for part in (half.output, half.outline, *half.transform))
    assert 0 < (whole.transform.theta - half.transform.theta).abs().max() < 0.05
    # The grid is computed from theta exactly; an error of 1/256 would be a quarter of a pixel.
    assert torch.equal(model.grid_generator(half.transform.theta), half.transform.grid)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"family": ThinPlateSpline()}, {"steps": 2}], ids=str)
def test_it_compiles_into_one_graph_with_the_same_output_and_gradient(generator, settings):
    model = transformer((3, 20, 30), (10, 15), **settings).eval()
    torch.nn.init.normal_(model.localisation.theta.weight, std=0.1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")  # needs no C++ compiler
    images = torch.rand(4, 3, 20, 30, generator=generator)
    results = []
    for run in (model, compiled):
        source = images.clone().requires_grad_()
        view = run(source)
        view.output.square().sum().backward()
        results.append((view.output, source.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": ThinPlateSpline(), "steps": 2}, "steps must be 1 for ThinPlateSpline, whose transforms"),
        ({"output_size": (28, 181)}, "output_size must be at most 4 times the input's 28×45, got 28×181"),
        (
            {"family": "similar"},
            r"family must be a Family or one of translation, rotation, scale_translation, similarity, "
            "affine, projective, tps, got 'similar'",
        ),
        ({"family": None}, r"family must be .*, got None"),
        ({"output_size": (0, 32)}, r"output_size must be an integer at least 1 or .*, got \(0, 32\)"),
        ({"output_size": 2.5}, r"output_size must be .*, got 2\.5"),
        ({"shape": (45, 28)}, r"shape must be a list of 3, each an integer at least 1, got \(45, 28\)"),
        ({"localisation": "cnn"}, "localisation must be one of polar, .*, got 'cnn'"),
        ({"interpolation": "linear"}, "interpolation must be one of bilinear, .*, got 'linear'"),
        ({"padding": "zero"}, "padding must be one of zeros, .*, got 'zero'"),
        ({"width": 0}, "width must be an integer at least 1, got 0"),
        ({"antialias": 1}, "antialias must be true or false, got 1"),
        ({"steps": 0}, "steps must be an integer at least 1, got 0"),
        ({"start": [1.0, 0.0]}, r"start must be null, a standard deviation or the 6 numbers of theta of"),
        ({"start": -1}, "start must be a number from 0 to 10 or a list, each a number .* or null, got -1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        transformer(**settings)
    assert isinstance(caught.value, ValueError)


def test_a_family_may_be_given_by_its_name_in_the_configs():
    for name in FAMILIES:
        family, configured = transformer(family=name).family, build(choices("stn")[name]["family"], "family")
        assert type(family) is type(configured)
        assert family.identity == configured.identity
