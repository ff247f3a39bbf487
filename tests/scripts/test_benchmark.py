"""The benchmark measures what it says, and its smoke test runs."""

import inspect
import json
import runpy
import subprocess
import sys

import pytest
import torch
from benchmarks import growth, time_to_error, training, tutorial
from benchmarks.bench import Bench, task_of
from benchmarks.measure import Times, interleaved, spread
from benchmarks.table import Table, label, missing, number, quotient, rate

from stn_experiments.common.errors import UserError
from stn_experiments.data.batch import concat_batches
from stn_experiments.runs.experiment import build_experiment
from tests.conftest import ROOT

CPU = torch.device("cpu")


class Clock:
    """Time that passes only where work is done."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_jobs_take_turns_and_are_warm():
    clock, order = Clock(), []

    def job(name, seconds):
        def run(units):
            order.append(name)
            clock.now += units * seconds + (100 if order.count(name) == 1 else 0)  # the first time is slow

        return run

    times = interleaved({"a": job("a", 0.5), "b": job("b", 2.0), "c": "no c"}, 3, 2.0, CPU, clock)
    assert times == {"a": Times((0.5,) * 3), "b": Times((2.0,) * 3), "c": "no c"}
    assert order[-6:] == ["a", "b"] * 3


def test_a_job_may_say_what_counts():
    clock = Clock()

    def run(units):
        clock.now += 10
        return 0.25 * units

    assert interleaved({"a": run}, 1, 1.0, CPU, clock) == {"a": Times((0.25,))}


def test_medians_spreads_and_ratios_by_repeat():
    slow, fast = Times((4.0, 6.0, 20.0)), Times((1.0, 2.0, 4.0))
    assert slow.median == 6
    assert spread((8.0, 10.0, 12.0)) == 0.2
    assert rate(fast, 100).value == 50
    assert quotient(slow, fast).repeats == (4, 3, 5)
    assert quotient(slow, fast).text == "4.00× ± 25 %"
    assert quotient("no such", fast) == rate("no such", 1) == missing("no such")


def test_an_empty_cell_has_its_reason_below():
    table = Table("t", "T", ["a", "b", "c"], [[label("x"), number((1234.5,)), missing("why")]], "Note.")
    assert table.markdown() == (
        "## T\n\n| a | b | c |\n| --- | ---: | ---: |\n| x | 1,230 | – (1) |\n\n(1) why  \n\nNote.\n"
    )
    (row,) = table.json()["rows"]
    assert row == {
        "a": "x",
        "b": {"value": 1234.5, "repeats": [1234.5]},
        "c": {"value": None, "reason": "why"},
    }


def test_the_tutorials_network_has_the_published_size_and_starts_as_the_identity():
    network = tutorial.network(0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 27_360
    theta = network.fc_loc(network.localization(torch.rand(2, 1, 28, 28)).flatten(1))
    assert theta.tolist() == [[1, 0, 0, 0, 1, 0]] * 2


@pytest.mark.parametrize("tutorials", [False, True])
def test_our_loop_and_bare_steps_train_the_same_network_alike(compose, tutorials):
    config = compose("scheduler=constant", "trainer.batch_size=16", "trainer.device=cpu")
    one, other = build_experiment(config), build_experiment(config)
    if tutorials:
        one, other = map(training.with_tutorials_network, (one, other))
    bench = Bench(lambda _: config, quick=True)
    (batch,) = bench.batches(task_of(one), 1, 16)
    same = training.TrainingSet(64, lambda index, generator: concat_batches([batch] * (len(index) // 16)))
    before = [parameter.clone() for parameter in one.model.parameters()]
    for experiment, job in (
        (one, training.our_loop(one, same)),
        (other, training.bare_steps(other, [batch])),
    ):
        torch.manual_seed(0)
        assert job(6) is None
        assert sum(parameter.numel() for parameter in experiment.model.parameters()) > 27_000
    for start, mine, its in zip(before, one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(mine, its)
        assert not torch.equal(start, mine)


def test_a_bound_is_reached_where_the_error_stays_below_it():
    curve = [
        time_to_error.Point(10.0 * n, 100 * n, error) for n, error in enumerate((3, 1.5, 2.5, 1.9, 0.9), 1)
    ]
    assert time_to_error.reached(curve, 2.0) == curve[3]
    assert time_to_error.reached(curve, 1.0) == curve[4]
    assert time_to_error.reached(curve, 0.7) is None
    assert "at best 0.90 %, last 0.90 %" in time_to_error.cells(curve, 0.7)[0].reason


def test_memory_is_that_of_the_process_itself():
    hoard = bytearray(300_000_000)
    source = "\n".join(
        [
            "from __future__ import annotations",
            "from pathlib import Path",
            "import os, resource",
            inspect.getsource(growth.peak_of),
            inspect.getsource(growth.peak_memory),
            "print(peak_memory(type('Device', (), {'type': 'cpu'})))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    alone = float(done.stdout)  # without torch, to be quick
    assert 0 < alone < len(hoard) / 1e6 < growth.peak_memory(CPU)


def test_a_failed_process_is_one_line(compose):
    with pytest.raises(
        UserError, match=r"-m benchmarks\.growth ended with 1: .*seed is missing from the config"
    ):
        growth.measure_in_process(Bench(compose), {})


@pytest.fixture
def benchmark(monkeypatch, tmp_path, capfd):
    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
        code = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "benchmark.py"), run_name="__main__")
        except SystemExit as left:
            code = left.code
        return code, *capfd.readouterr()

    return run


@pytest.mark.slow
def test_the_smoke_test_answers_every_question(benchmark, tmp_path):
    code, out, err = benchmark("--quick", "--workers", "0", "--output", "there", "trainer.device=cpu")
    assert (code, err) == (0, "")
    text = (tmp_path / "there" / "benchmark.md").read_text()
    found = json.loads((tmp_path / "there" / "benchmark.json").read_text())
    assert {"cpu", "cores", "threads", "torch", "commit"} <= found.keys()
    assert found["command"].startswith("python scripts/benchmark.py --quick --workers 0 --output there")
    names = [table["name"] for table in found["tables"]]
    assert names == [
        "data",
        "training",
        "data_sets",
        "tutorial",
        "transformer",
        "time_to_error",
        "growth",
    ]
    for table in found["tables"]:
        assert table["title"] in text
        assert table["title"] in out
        for row in table["rows"]:
            _, *cells = row.values()
            assert all(cell["value"] is not None or cell["reason"] for cell in cells)
            assert all(cell["value"] is None or cell["value"] >= 0 for cell in cells)
            assert any(cell["value"] for cell in cells)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["speed"],
            "a question must be one of data, training, transformer, time_to_error, growth, got speed",
        ),
        (["--repeats", "0"], "--repeats must be above 0, got 0"),
        (["--workers", "-1"], "--workers must be at least 0, got -1"),
        (["--quick", "trainer.foo=1"], "trainer.foo is not a setting"),
        (["--quick", "--output", "/proc/nowhere"], "--output must be a folder that can be written to"),
        (["time_to_error", "--quick", "data=rts"], "data must be rotated for time_to_error"),
        (["--quick", "data", "data=npz", "data.file=no.npz"], "no.npz"),
    ],
)
def test_a_mistake_is_one_line(benchmark, arguments, words):
    code, out, err = benchmark(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
