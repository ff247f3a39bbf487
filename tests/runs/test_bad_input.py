"""Command lines with bad settings: each is refused in one line or describes a run that can be trained.

Configs are composed and built in this process. ``WHOLE_COMMANDS`` go through the script.
"""

import random

import hydra
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from stn_experiments.common.errors import UserError
from stn_experiments.config.compose import compose
from stn_experiments.data.datasets import DistortedMnist
from stn_experiments.data.mnist import Digits
from stn_experiments.runs.experiment import build_experiment
from tests.conftest import ROOT

BASES = (
    "",
    "data=cluttered backbone=cnn stn=tps optimizer=sgd scheduler=step trainer=quick",
    "data=mixed backbone=fcn stn=none scheduler=constant",
    "data=addition stn=translation stn.at=[input,layer2]",
    "experiment=question_answering",
    "data=cluttered stn=none attention=ram",
    "data=npz data.file=own.npz stn=projective trainer.batch_size=4",
)
"""Together they have every kind of setting. ResNet-18, which is slow to build, has no settings."""


def paths(base):
    """All settings and groups of settings of a command line's config, as dotted paths."""
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose("train", base.split()))

    def walk(node, prefix):
        for key, value in node.items():
            yield prefix + key
            yield from walk(value, f"{prefix}{key}.") if isinstance(value, dict) else ()

    return list(walk(config, ""))


WHERE = {path: base for base in reversed(BASES) for path in paths(base)}
"""Each setting, with a command line that has it."""

HUGE = ["1e308", "-1e308", "1e-320", "1" + "0" * 30, "-1" + "0" * 30, "9" * 400]
JUNK = [
    *("", "null", "true", "False", "-1", "0", "-0.0", "1.5", "-7.25", "0x10", "1_000", "nan", "-inf", "inf"),
    *("abc", "''", '""', "' '", "'it", '"', "a b", "a=b", "a,b", "a:b", "[]", "[1]", "[1,2,3]", "[-1,-1]"),
    *("[[1,2],[3]]", "[a", "]", "{}", "{a:1}", "{a:{b:[1]}}", "{a:1", "{1:2,b:3}", "[{a:1}]", "[nan,inf]"),
    *("{_target_:os.system}", "{_target_:stn_experiments.models.grids.Affine}", "[null]", "[true,'1']"),
    *("`id`", "$(touch x)", "; touch x", "| cat", "&& ls", "*", "?", "~", "!!", "%s%n", "\\", "\\\\", "<a>"),
    *("ü", "日本語", "🙂", "\u202e", "٣", "a\nb", "\t", "\x1b[31m", "\x85", "\u2028", "x" * 200),
    *("${nowhere}", "${nowhere.at.all}", "${oc.env:NO_SUCH_VARIABLE}", "${oc.decode:'['}", "${no_such:1}"),
    *("${", "${}", "${seed", "${..}", "${.x}", "${trainer}", "${run}", "${hydra:nowhere}", "${now:%Y}"),
    *("choice(1,2)", "range(3)", "glob(*)", "int(x)", "sort(1,a)", "float(nan)", "f(", "shuffle(1)"),
    *("!!python/object/apply:os.system [ls]", "../../../nowhere", "https://example.org/x", "--help", *HUGE),
]
TARGETS = [
    *("os.system", "subprocess.Popen", "builtins.eval", "torch.load", "pathlib.Path", "shutil.rmtree"),
    *("stn_experiments.data.mnist.load_mnist", "stn_experiments.data.sources.subprocess.run"),
    *("stn_experiments.cli.command.exit_with_failures", "stn_experiments.storage.environment.commit"),
    *("stn_experiments.common.errors.UserError", "stn_experiments.storage.run_folder.Path"),
    *("stn_experiments.config.build.importlib.import_module", "stn_experiments."),
    *("stn_experiments.data.distortions.Distortion", "stn_experiments.models.grids.Family", "torch.optim"),
    *("stn_experiments.training.schedules.constant", "torch.optim.lr_scheduler.LambdaLR", "torch.optim.sgd"),
    *("stn_experiments..", "stn_experiments", ".", "''", "7", "null", "[os.system]", "${run.root}"),
]
GROUPS = ["data", "backbone", "stn", "optimizer", "scheduler", "trainer", "experiment"]
CHOICES = ["nowhere", "../mnist", "..", ".", "/etc/passwd", "[rotated,nowhere]", "affine", "[]", "cnn.yaml"]
BROKEN = ["", "=", "==", "seed", "seed+=1", "@", "seed@x=1", "~", "++", "a.b.c", "/seed=1", "-", "--", "--x"]

FORMS = [
    *("{}={}", "~{}={}", "+{}={}", "++{}={}", "{}.nowhere={}", "++{}.nowhere={}"),
    *("~{}", "+{}", "++{}", "@{}"),
]
SETTINGS = sorted(WHERE)
WITHIN = [path for path in SETTINGS if any(other.startswith(f"{path}.") for other in SETTINGS)]
CHANCE = random.Random(0)
JUNK_LINES = [f"{WHERE[path]} {path}=".split() for path in SETTINGS]
JUNK_LINES = [[*words, last + JUNK[17 * n % len(JUNK)]] for n, (*words, last) in enumerate(JUNK_LINES)]
JUNK_LINES = [
    pytest.param(words, marks=pytest.mark.slow if n % 6 else ()) for n, words in enumerate(JUNK_LINES)
]
for number in range(60):
    path, base = CHANCE.choice(SETTINGS), CHANCE.choice(BASES).split()
    words = [*base, FORMS[number % len(FORMS)].format(path, CHANCE.choice(JUNK))]
    JUNK_LINES.append(pytest.param(words, marks=pytest.mark.slow))
JUNK_LINES += [[f"++{CHANCE.choice(WITHIN)}._target_={target}"] for target in TARGETS]
JUNK_LINES += [[f"{group}={choice}"] for group, choice in zip(GROUPS * 2, CHOICES, strict=False)]
JUNK_LINES += [[line] for line in BROKEN]

FOUND_LINES = [
    # a group where a single value belongs, or the other way round
    *("trainer.epochs={a:1}", "run.root={a:1}", "stn.at={a:1}", "~stn.family._target_", "~backbone._target_"),
    *("data=mixed data.distortion.kinds=7", "data=mixed +data.distortion.kinds.x=7"),
    "data=mixed data.distortion.kinds.clean=null",
    # a target that is allowed, but does not fit
    "backbone._target_=stn_experiments.data.mnist.load_mnist",
    "stn=none stn._target_=stn_experiments.training.schedules.constant",
    "stn.family._target_=stn_experiments.data.distortions.Distortion",
    "stn.family._target_=stn_experiments.models.grids.MatrixFamily",
    "scheduler=constant scheduler._target_=stn_experiments.storage.environment.commit",
    "scheduler=constant scheduler._target_=stn_experiments.data.mnist.load_mnist",  # fetched it
    # a name that cannot be part of a folder's name
    *("data.name=5", "data.name=null", "~data.name", "stn.name=[1]", "data.name=../../up", "stn.name=a/b"),
    f"data.name={'x' * 300}",
    # settings that torch refuses in ways of its own
    *("optimizer.foreach=true", "optimizer.differentiable=true", f"optimizer.lr={'9' * 400}"),
    # one image of one pixel, with which batch normalisation cannot be trained
    "trainer.batch_size=1 stn.output_size=4",
    *("backbone=null", "backbone=7", f"seed={'9' * 5000}", "trainer.batch_size=0"),
]
"""Command lines that once ended badly."""
REFUSED = [
    ("+stn.family.x={1:2}", "stn.family.x must have names as keys, got 1"),
    ("+foo=1", "foo is not a setting: there are seed, plugins, data"),
    ("trainer.foo=1", "trainer.foo is not a setting"),
    ("+trainer.foo=1", "trainer.foo is not a setting of trainer: it has epochs, batch_size"),
    ("+data.distortion.angel=3", "distortion: it has canvas, angle, scale"),
    ("+data.distortion.angel=3", "; did you mean angle?"),
    ("stn=none stn.width=8", "stn.width is not a setting; only stn=affine,"),
    ("data=rotatedd", "got rotatedd, did you mean rotated?"),
    ("stn=", "stn must be one of affine, none"),
    ("epochs=3", "epochs is not a setting; did you mean trainer.epochs?"),
    ("optimizer.lt=3", "optimizer.lt is not a setting; did you mean optimizer.lr?"),
    ("data=cluttered data.distortion.scale=0.5", "data.distortion.scale must be a list of 2"),
    ("data=[rotated,rts]", "data must be one choice, got [rotated,rts]"),
    ("seed=0,1", "seed=0,1 has several values: give one"),
    (
        "experiment=paper/cnnn",
        "experiment must be one of attention_models/affine, attention_models/affine_cbam, ",
    ),
    ("experiment=paper/cnnn", "got paper/cnnn, did you mean paper/cnn?"),
    ("data=rts cluttered", "cluttered is not a setting: write NAME=VALUE without spaces, or in quotes"),
    ("run.name=7", "run.name must be up to 80 letters"),
    ("data=npz data.file=my=x.npz", "put special characters in quotes, 'data.file=\"my=x.npz\"'"),
    ("model=cnn", "model"),
    ("seed=abc", "seed must be an integer from 0 to 2147483647, got 'abc'"),
    ("trainer.epochs=null", "trainer.epochs must be an integer at least 1, got None"),
    ("data.online=maybe", "data.online must be true or false, got 'maybe'"),
    ("data.distortion.canvas=[28]", "canvas must be an integer from 1 to 1024 or a list of 2"),
    ("optimizer.lr=fast", "optimizer.lr must be a number"),
    ("data=rotated data.distortion=7", "data.distortion must be"),
    ("trainer.epochs=0", "trainer.epochs must be an integer at least 1, got 0"),
    ("trainer.batch_size=-8", "trainer.batch_size must be an integer at least 2, got -8"),
    ("data.distortion.angle=200", "data.distortion.angle must be a number from 0 to 180, got 200"),
    ("optimizer.lr=-1", "optimizer.lr must be a number from 0 to 1e+30, got -1"),
    ("optimizer.betas=[0.9,1]", "optimizer.betas must be a list of 2, each a number from 0 to 0.999999, got"),
    ("stn.padding=mirror", "stn.padding must be one of zeros, border, reflection, got 'mirror'"),
    ("trainer.device=tpu", "trainer.device must be one of auto, cpu, cuda, mps, got 'tpu'"),
    ("scheduler.warmup=2", "scheduler.warmup must be a number from 0 to 1, got 2"),
    ("data.valid_size=60000", "data.valid_size must be an integer from 1 to 50000"),
    ("data.distortion.canvas=20", "canvas must be at least the digit's own 28 pixels, got 20"),
    ("data=cluttered data.distortion.clutter_size=80", "clutter_size must be an integer from 1 to 28"),
    ("stn.output_size=400", "stn.output_size must be at most 4 times the input's 28×28, got 400×400"),
    ("backbone=cnn stn.output_size=10", "backbone.name must be a network that can read 10×10 pixels, got"),
    ("trainer.batch_size=60000", "batch_size must be at most the 55000 training images"),
    ("data=mixed data.distortion.kinds.noisy.canvas=50", "kinds.noisy.canvas must be the same as canvas, 42"),
    ("stn=none +stn.output_size=28", "stn.output_size is not a setting of stn: it has no settings"),
    ("stn=tps stn.steps=2", "stn.steps must be 1 for ThinPlateSpline, whose transforms do not compose"),
    ("stn.at=layer9", "stn.at must name places among input, stem, layer1, layer2, layer3, got layer9"),
    ("attention=cbam backbone=fcn", "attention.name must not be cbam for a backbone without a stage whose"),
    ("attention=mask backbone=cnn", "attention.at must name different stages among conv1, conv2, at least"),
    ("data=sequence attention=se", "attention.name must be none for data with several labels an image"),
    ("attention=se attention.reduction=0", "attention.reduction must be an integer from 1 to 512"),
    ("stn.count=2 stn.at=[input,layer2]", "stn.count must be 1 unless at is only input, got 2"),
    ("data=npz data.file=nowhere.npz", "data.file nowhere.npz"),
    ("data=folder data.folder=nowhere", "data.folder nowhere: there is no such folder"),
    ("data=folder data.folder=. data.fit=squash", "data.fit must be one of resize, crop, pad, got 'squash'"),
    ("data=folder data.folder=. data.training.scale=[2,1]", "data.training.scale must be given as smallest"),
    ("backbone._target_=os.system", "_target_ must begin with stn_experiments. or torch.optim."),
    ("seed", "seed is not a setting: write NAME=VALUE"),
]
"""Command lines with a mistake, and what the line of each says."""
WHOLE_COMMANDS = [
    *("data=[1]", "stn=[{a:1}]", "hydra=7", "=1", "hydra.verbose={a:1}", "--resolve", "--foo"),
    *("--run --multirun", f"seed={'[' * 500}{']' * 500}"),
]
"""Those that fail before a config is composed."""


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    """The path of a sound .npz file."""
    images, labels = np.full((20, 28, 28), 7, np.uint8), np.arange(20) % 3
    path = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images[:5], y_test=labels[:5])
    return path


@pytest.fixture(scope="module")
def refusal(own_file, tmp_path_factory):
    """The line with which a command line's config is refused; empty if its run can be trained for a step."""

    def run(*overrides):
        folder = tmp_path_factory.mktemp("empty")
        overrides = [override.replace("own.npz", str(own_file)) for override in overrides]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            try:
                experiment = build_experiment(compose(ROOT / "configs", overrides))
            except UserError as error:
                line = str(error)
            except Exception as error:  # inside Hydra; the command reports it in one line
                if raised_by_this_package(error):
                    raise
                line = " ".join(str(error).split())
            else:
                train_for_a_step(experiment)
                line = ""
            finally:
                GlobalHydra.instance().clear()
        assert len(line.splitlines()) <= 1
        assert list(folder.iterdir()) == []
        return line

    return run


def raised_by_this_package(error):
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return trace.tb_frame.f_globals["__name__"].startswith("stn_experiments.")


def train_for_a_step(experiment):
    """Train on two images; some kinds of ``mixed`` get none."""
    generator, count = torch.Generator().manual_seed(0), min(2, experiment.trainer.batch_size)
    images = torch.rand(count, *experiment.data.shape, generator=generator)
    labels, question = torch.zeros(count, dtype=torch.long), None
    if isinstance(experiment.data, DistortedMnist):
        digits = Digits((torch.rand(10, 28, 28, generator=generator) * 255).byte(), torch.arange(10))
        batch = experiment.data.distortion.draw(digits, torch.arange(count), generator)
        images, labels, question = batch.images, batch.labels, batch.question
    logits = experiment.model(images, question, generator).logits
    F.cross_entropy(logits, labels).backward()
    experiment.optimizer.step()
    assert all(0 <= experiment.schedule(progress) <= 1 for progress in (0, 0.3, 1))


@pytest.mark.parametrize("words", JUNK_LINES, ids=lambda words: ascii(words[-1])[:60])
def test_junk_on_the_command_line(refusal, words):
    """It is refused in one line, or describes a run that can be trained."""
    refusal(*words)


@pytest.mark.parametrize("line", FOUND_LINES, ids=[line[:70] for line in FOUND_LINES])
def test_command_lines_that_once_ended_badly(refusal, line):
    assert refusal(*line.split())


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[line for line, _ in REFUSED])
def test_the_line_names_the_mistake(refusal, line, words):
    assert words in refusal(*line.split())


@pytest.mark.parametrize("base", BASES)
def test_a_correct_command_line_is_not_refused(refusal, base):
    assert refusal(*base.split()) == ""


@pytest.mark.parametrize("call", ["torch.nn.Linear.__init__", "torch.nn.Conv2d.forward"])
def test_a_network_too_large_for_memory_is_one_line(command, monkeypatch, tmp_path, call):
    def fail(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9999999 bytes")

    monkeypatch.setattr(call, fail)  # such sizes are allowed, but no test allocates them
    code, out, err = command("train.py")
    assert (code, out.count("\n"), err.count("\n")) == (2, 1, 1)
    assert "memory" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", WHOLE_COMMANDS, ids=[line[:40] for line in WHOLE_COMMANDS])
def test_commands_that_once_ended_badly(refused, tmp_path, line):
    refused("train.py", *line.split())
    assert list(tmp_path.iterdir()) == []
