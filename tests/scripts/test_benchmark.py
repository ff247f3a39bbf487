"""The benchmark measures what it says, and its brief measurement runs."""

import os
import re
from types import SimpleNamespace

import pytest
import torch
from benchmarks import growth, time_to_error, training, tutorial
from benchmarks.bench import Bench, task_of
from benchmarks.measure import interleaved, rate, ratio, speeds
from benchmarks.rivals import Loader, Samples
from benchmarks.table import EXPLANATION, Table, number, write

from stn_experiments.common.errors import UserError
from stn_experiments.data.batch import concat_batches
from stn_experiments.data.mnist import Mnist
from stn_experiments.runs.experiment import build_experiment
from tests.conftest import ROOT

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where work is done."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


def test_jobs_take_turns_and_are_warm(clock):
    order = []

    def job(name, seconds):
        def run(units):
            is_first = name not in dict(order)
            order.append((name, units))
            clock.now += units * seconds + (100 if is_first else 0)

        return run

    times = interleaved({"a": job("a", 0.5), "b": job("b", 2.0), "c": None}, 3, 2.0, CPU)
    assert times == {"a": (0.5,) * 3, "b": (2.0,) * 3, "c": ()}
    assert order[-6:] == [("a", 4), ("b", 1)] * 3


def test_a_job_may_say_what_counts(clock):
    def run(units):
        clock.now += 10
        return 0.25 * units

    assert interleaved({"a": run}, 1, 1.0, CPU) == {"a": (0.25,)}


def test_medians_spreads_and_ratios_by_repeat():
    slow, fast = (4.0, 6.0, 20.0), (1.0, 2.0, 4.0)
    assert rate(fast, 100) == (100, 50, 25)
    assert ratio(slow, fast) == (4, 3, 5)
    assert number((4.0, 3.0, 5.0), "×") == "4.00× ± 25 %"
    assert ratio((), fast) == ratio(fast, ()) == rate((), 1) == ()
    assert speeds({"ours": fast, "theirs": slow, "none": ()}, 100) == {
        "ours": rate(fast, 100),
        "theirs": rate(slow, 100),
        "none": (),
        "ours ÷ theirs": (4, 3, 5),
        "ours ÷ none": (),
    }


def test_a_table_has_dashes_for_missing_numbers():
    rows = [{"a": "x", "b": (1234.5,), "c ÷ b": ()}, {"a": "y", "b": (274_560,), "c ÷ b": (0.5,)}]
    assert Table("T", rows, "Note.").markdown() == (
        "## T\n\n| a | b | c ÷ b |\n| --- | ---: | ---: |\n| x | 1,230 | – |\n"
        "| y | 274,560 | 0.500× |\n\nNote.\n"
    )


def test_the_written_tables_and_those_in_the_docs_explain_their_numbers(tmp_path):
    write(tmp_path / "benchmark.md", [Table("T", [{"a": "x", "b ÷ c": (2.0,)}])], "command")
    docs = ROOT / "docs"
    for page in (tmp_path / "benchmark.md", docs / "benchmark.md", docs / "benchmark-gpu.md"):
        assert f"\n\n{EXPLANATION}\n\n" in page.read_text()


def test_a_pass_of_a_loader_has_any_length(digits):
    loader = Loader(Samples(digits, lambda picture: torch.zeros(1, 28, 28)), 12, 0)
    assert [len(labels) for _, labels in loader.passes(2)] == [12, 12]
    batches = [labels for _, labels in loader.passes(7)]
    assert len(batches) == 7
    loader.shuffle(3)
    assert len({index for batch in loader.order for index in batch}) == 36  # an epoch draws no digit twice


def test_the_tutorials_network_has_the_published_size_and_starts_as_the_identity():
    network = tutorial.network()
    assert sum(parameter.numel() for parameter in network.parameters()) == 27_360
    theta = network.fc_loc(network.localization(torch.rand(2, 1, 28, 28)).flatten(1))
    assert theta.tolist() == [[1, 0, 0, 0, 1, 0]] * 2


@pytest.mark.parametrize("tutorials", [False, True])
def test_our_loop_and_bare_steps_train_the_same_network_alike(compose, digits, tutorials):
    config = compose(
        "stn.consistency.weight=0", "scheduler=constant", "trainer.batch_size=16", "trainer.device=cpu"
    )
    one, other = build_experiment(config), build_experiment(config)
    if tutorials:
        one, other = map(training.with_tutorials_network, (one, other))
    bench = Bench(lambda _: config)
    bench.__dict__["mnist"] = Mnist(digits, digits)
    (batch,) = bench.batches(task_of(config), 1, 16)
    same = training.TrainingSet(64, lambda index, generator: concat_batches([batch] * (len(index) // 16)))
    before = [parameter.clone() for parameter in one.model.parameters()]
    for job in (training.our_loop(one, same), training.bare_steps(other, [batch])):
        torch.manual_seed(0)
        assert job(6) is None
    for start, mine, its in zip(before, one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(mine, its)
        assert not torch.equal(start, mine)


@pytest.mark.slow
def test_a_bound_is_reached_where_the_error_stays_below_it():
    errors = (3, 1.5, 2.5, 1.9, 0.9)
    curve = [time_to_error.Point(10.0 * n, 100 * n, error) for n, error in enumerate(errors, 1)]
    assert time_to_error.row("ours", curve) == {
        "loop": "ours",
        "seconds to 2.0 %": (40.0,),
        "images to 2.0 %": (400,),
        "seconds to 1.0 %": (50.0,),
        "images to 1.0 %": (500,),
        "seconds to 0.7 %": (),
        "images to 0.7 %": (),
        "best error, %": (0.9,),
        "last error, %": (0.9,),
        "seconds in all": (50.0,),
        "epochs": (5,),
    }


@pytest.mark.slow
def test_a_process_of_its_own_has_its_own_memory_and_fails_in_one_line():
    hoard = b"x" * 700_000_000
    assert 0 < growth.in_new_process(growth.peak_memory, CPU) < len(hoard) / 1e6 < growth.peak_memory(CPU)
    with pytest.raises(UserError, match=r"^seed is missing from the config$"):
        growth.in_new_process(growth.measure_step, {}, 1.0)
    with pytest.raises(UserError, match=r"^growth could not be measured: is there too little memory"):
        growth.in_new_process(os._exit, 9)


@pytest.mark.slow
def test_a_brief_measurement_answers_every_question(command, tmp_path):
    code, out, err = command(
        *("benchmark.py", "--output", "there/b.md", "--repeats", "1", "--seconds", "0.01"),
        *("trainer.device=cpu", "trainer.epochs=1", "trainer.images_per_epoch=4096"),
    )
    assert (code, err) == (0, "")
    text = (tmp_path / "there" / "b.md").read_text()
    head, *found = re.split(r"^## ", text, flags=re.MULTILINE)
    assert "command python scripts/benchmark.py --output there/b.md --repeats 1 --seconds 0.01" in head
    for fact in ("cpu", "cores", "threads", "torch", "commit"):
        assert f", {fact} " in head
    tables = [[line for line in table.splitlines() if line.startswith("| ")][2:] for table in found]
    assert [len(rows) for rows in tables] == [14, 3, 8, 14, 4, 6, 4, 2, 13]
    assert all(re.search(r"\d", row.partition(" | ")[2]) for rows in tables for row in rows)
    assert out.startswith("## " + "## ".join(found).partition("\n\n## ")[0])


QUESTIONS = "data, own_images, training, transformer, page, time_to_error, growth"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speed"], f"a question must be one of {QUESTIONS}, got speed"),
        (["--repeats", "0"], "--repeats must be above 0 and finite, got 0"),
        (["--seconds", "inf"], "--seconds must be above 0 and finite, got inf"),
        (["trainer.foo=1"], "trainer.foo is not a setting"),
        (["--output", "/proc/nowhere"], "--output must be a file that can be written"),
        (["time_to_error", "data=rts"], "data must be rotated for time_to_error"),
        (["data", "data=npz", "data.file=no.npz"], "no.npz"),
    ],
)
def test_a_mistake_is_one_line(refused, arguments, words):
    assert words in refused("benchmark.py", *arguments)
