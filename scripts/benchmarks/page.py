"""How long the page of ``scripts/play.py`` takes to answer a change of a slider."""

from importlib.util import find_spec
from tempfile import TemporaryDirectory

import torch

from benchmarks.bench import Bench
from benchmarks.measure import Job, repeat
from benchmarks.table import Table
from stn_experiments.runs.play import UNTOUCHED, Playground
from stn_experiments.runs.train import train
from stn_experiments.storage.run_folder import RunFolder

RUNS: dict[str, list[list[str]]] = {
    "one run": [[]],
    "two runs, one without a transformer": [[], ["stn=none"]],
    "one run, data=cluttered": [["data=cluttered"]],
    "eight glimpses, data=cluttered": [["data=cluttered", "stn=none", "attention=ram"]],
}
"""The overrides of the runs that a page shows."""
BRIEF = ("trainer.epochs=1", "trainer.images_per_epoch=1280", "trainer.device=cpu", "run.panels=1")


def tables(bench: Bench) -> list[Table]:
    """Milliseconds for each number and kind of runs."""
    rows = []
    threads = torch.get_num_threads()
    with TemporaryDirectory() as root:
        for name, runs in RUNS.items():
            seconds = bench.measure({"": change(bench, root, runs)})[""]
            rows.append({"page": name, "ms": tuple(1000 * one for one in seconds)})
    torch.set_num_threads(threads)
    note = "From the sliders' values to the HTML with its pictures; one CPU thread, without a browser."
    title = "A change of a slider on the page to play with, milliseconds"
    return [Table(title, rows, note)]


def change(bench: Bench, root: str, runs: list[list[str]]) -> Job | None:
    """A job that answers a change of a slider, for briefly trained runs."""
    if find_spec("gradio") is None:
        return None
    from play_page import answer_html

    folders = []
    for overrides in runs:
        config = bench.config(*BRIEF, *overrides, f"run.root={root}")
        if not (folder := RunFolder.of(config)).result():
            train(config, folder)
        folders.append(folder.folder)
    torch.set_num_threads(1)  # as scripts/play.py does
    playground = Playground(folders)
    digit = playground.examples.example(3, 0)
    angles = iter(range(10**9))

    def answer() -> None:
        values = {name: UNTOUCHED.get(name, 0) for name in playground.examples.sliders} | {
            "angle": next(angles) % 180
        }
        for shown in playground.answers(digit, values):
            answer_html(shown, values["angle"])

    return repeat(answer)
