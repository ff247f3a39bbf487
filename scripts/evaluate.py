"""Evaluate runs again: python scripts/evaluate.py RUN ... [data=rts,cluttered] [data.seed=7 ...].

With --probe: how they respond to one distortion alone, in steps, on the same digits.
"""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stn_experiments.cli.command import (
    ArgumentParser,
    attempt,
    exit_with_failures,
    expand_home,
    refuse_spaces,
    run_command,
)
from stn_experiments.common.errors import UserError
from stn_experiments.common.files import write_atomically, writing_to

if TYPE_CHECKING:
    from stn_experiments.evaluation.probe import Probe, ProbeName

CONFIGS = Path(__file__).parent.parent / "configs"
PROBES = ("rotation", "scale", "position", "noise", "clutter")


def main() -> None:
    """Evaluate each run on each data set, or probe each run, and print the results."""
    arguments = parse()
    paths = [Path(word) for word in arguments.words if "=" not in word]
    if not paths:
        raise UserError("the folder of a run is needed; scripts/train.py prints it")

    from stn_experiments.report.collect import find_runs  # imported here, because --help needs no torch
    from stn_experiments.runs.other_data import split_choices

    choices = split_choices([expand_home(word) for word in arguments.words if "=" in word])
    folders = [
        folder
        for path in paths
        for folder in (find_runs([path]) if os.path.isdir(path) else []) or [path]  # noqa: PTH112
    ]
    if len(folders) > len(paths):
        print(f"runs        {len(folders)} in {', '.join(map(str, paths))}")
    jobs = [(folder, overrides) for folder in folders for overrides in choices]
    probes: dict[Path, Probe] = {}
    found = []
    for folder, overrides in jobs:
        name = " ".join([folder.name, *overrides]) if len(jobs) > 1 else ""
        if arguments.probe:
            found.append(attempt(partial(probe, folder, arguments, probes), name))
        else:
            found.append(attempt(partial(evaluate, folder, arguments, overrides), name))
    if probes:
        found.append(attempt(partial(draw_probes, probes, arguments.probe), ""))
    failed = [failure for failure in found if failure]
    if len(failed) == len(jobs) > 1 and len({failure.message for failure in failed}) == 1:
        failed = [failed[0]._replace(job=f"each of {len(jobs)} evaluations")]
    exit_with_failures(failed)


def parse() -> argparse.Namespace:
    """The words and options of the command line."""
    parser = ArgumentParser(description=__doc__)
    about = (
        "the folder of a run, or a folder of runs; optionally overrides that select other data, as for "
        "scripts/train.py: data=cluttered data.distortion.clutter=10. data=rotated,rts evaluates on both. "
        "Other data are drawn on the canvas of the run's own data"
    )
    parser.add_argument("words", nargs="+", metavar="RUN", help=about)
    either = parser.add_mutually_exclusive_group()
    about = "skip evaluations on the same data that are newer than the checkpoint"
    either.add_argument("--missing", action="store_true", help=about)
    about = (
        "instead, show 1,000 test digits under one distortion, in steps, on the canvas of the run's own "
        "data: error, confidence, IoU and what the transformer undoes, as a table, a plot and JSON"
    )
    either.add_argument("--probe", choices=PROBES, help=about)
    about = (
        "a folder with further choices, FOLDER/data/NAME.yaml; plugins=[PACKAGE] names the package with "
        "their classes, unless the run has it"
    )
    parser.add_argument("--config-dir", type=Path, metavar="FOLDER", help=about)
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="%(default)s by default"
    )
    arguments = parser.parse_intermixed_args()
    refuse_spaces(arguments.words)
    if arguments.config_dir and not any(word.startswith("data=") for word in arguments.words):
        raise UserError("--config-dir has further choices for data=NAME, which is missing")
    if arguments.probe and (changed := [word for word in arguments.words if "=" in word]):
        raise UserError(f"--probe draws its own images: leave out {' '.join(changed)}")
    return arguments


def evaluate(folder: Path, arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Evaluate one run on one data set."""
    from stn_experiments.report.collect import read_run
    from stn_experiments.runs.evaluate import evaluate_run, evaluation_folder
    from stn_experiments.runs.load import load_config
    from stn_experiments.runs.other_data import other_data, other_plugins
    from stn_experiments.storage.run_folder import RunFolder

    run = RunFolder(folder)
    data = other_data(load_config(run)["data"], overrides, CONFIGS, arguments.config_dir)
    earlier = evaluation_folder(run, data) / "result.json"
    if arguments.missing and is_newer(earlier, run.model):
        return
    result, path = evaluate_run(run, data, arguments.device, other_plugins(overrides))
    state = "" if run.result() else f"  (no result yet: {read_run(folder, []).progress})"
    print(f"test error  {result['test_error']:.2f} %  on {result['data']}{state}")
    print(f"result      {path / 'result.json'}")
    print(f"panel       {path / 'panel.png'}")


def probe(folder: Path, arguments: argparse.Namespace, probes: dict[Path, "Probe"]) -> None:
    """Probe one run, and add the result to ``probes``."""
    from stn_experiments.report.probes import probe_table, text
    from stn_experiments.runs.evaluate import probe_file, probe_run
    from stn_experiments.storage.run_folder import RunFolder

    found = probe_run(RunFolder(folder), arguments.probe, arguments.device)
    slope = "" if found.slope is None else f", slope {text(found.slope, '.3f')}"
    print(f"{found.name:10}  {folder.name}{slope}")
    print(probe_table(found).markdown(), end="")
    print(f"result      {probe_file(folder, arguments.probe)}")
    probes[folder] = found


def draw_probes(probes: dict[Path, "Probe"], name: "ProbeName") -> None:
    """Draw the probes of all runs in one picture, in the folder of the first run."""
    from stn_experiments.report.probes import probe_plot
    from stn_experiments.runs.evaluate import probe_file

    file = probe_file(next(iter(probes)), name).with_suffix(".png")
    same_names = len({folder.name for folder in probes}) < len(probes)
    labels = {str(folder) if same_names else folder.name: found for folder, found in probes.items()}
    with writing_to(file.parent):
        write_atomically(file, probe_plot(labels, "png"))
    print(f"plot        {file}")


def is_newer(file: Path, other: Path) -> bool:
    """Whether both files exist and ``file`` was written after the ``other``."""
    return file.exists() and other.exists() and file.stat().st_mtime > other.stat().st_mtime


if __name__ == "__main__":
    run_command(main)
