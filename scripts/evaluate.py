"""Evaluate runs again: python scripts/evaluate.py RUN ... [data=rts,cluttered] [data.seed=7 ...]."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from stn_experiments.cli.command import attempt, in_one_line, note, plain, run_command
from stn_experiments.common.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs"


def main() -> None:
    """Evaluate the best checkpoint of each run, and say what came out and where the panel lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN",
        help="the folder of a run, or one that holds runs; and other data, in the words of scripts/train.py: "
        "data=cluttered data.distortion.clutter=10; "
        "data=rotated,rts are several, one after the other; "
        "another data set is drawn on the canvas that the run was trained on",
    )
    parser.add_argument("--missing", action="store_true", help="pass over what was evaluated since training")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    arguments = parser.parse_args()
    paths = [Path(word) for word in arguments.words if "=" not in word]
    if not paths:
        raise UserError("the folder of a run is needed, as scripts/train.py names it at its end")
    choices = each_choice([word for word in arguments.words if "=" in word])

    from stn_experiments.report.collect import find  # torch loads slowly, --help needs none

    folders = [folder for path in paths for folder in (find([path]) if path.is_dir() else []) or [path]]
    jobs = [(folder, overrides) for folder in folders for overrides in choices]
    for folder, overrides in jobs:
        name = " ".join([folder.name, *overrides]) if len(jobs) > 1 else ""
        note(attempt(partial(evaluate, folder, overrides, arguments), name))


def evaluate(folder: Path, overrides: list[str], arguments: argparse.Namespace) -> None:
    """Evaluate one run on one data set."""
    from stn_experiments.runs.evaluate import evaluate_run, evaluation_folder
    from stn_experiments.storage.run_folder import RunFolder

    run = RunFolder(folder)
    own = run.config()["data"]
    data = other_data(own, overrides) if overrides else own
    if arguments.missing and is_newer(evaluation_folder(run, data) / "result.json", run.best):
        return
    result, place = evaluate_run(run, data, arguments.device)
    print(f"test error  {result['test_error']:.2f} %  on {result['data']}")
    print(f"result      {place / 'result.json'}")
    print(f"panel       {place / 'panel.png'}")


def is_newer(file: Path, other: Path) -> bool:
    """Whether a file is there, and was written after the other."""
    return file.exists() and other.exists() and file.stat().st_mtime > other.stat().st_mtime


def each_choice(overrides: list[str]) -> list[list[str]]:
    """The overrides for each data set that ``data=a,b`` names, in place of it."""
    choices: list[list[str]] = [[]]
    for override in overrides:
        key, _, value = override.partition("=")
        values = value.split(",") if key == "data" else [value]
        choices = [[*words, f"{key}={one}"] for words in choices for one in values]
    return choices


def other_data(own: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The data config that ``overrides`` make of a run's own."""
    for override in overrides:
        if not override.startswith(("data=", "data.")) or "=" not in override:
            raise UserError(f"only data can be changed, by data=... or data.a.b=..., got {override}")
    if not any(override.startswith("data=") for override in overrides):
        return plain(OmegaConf.merge({"data": own}, OmegaConf.from_dotlist(overrides)))["data"]
    # The network reads the canvas it was trained on, so that is where the other data are drawn.
    if "distortion" in own and "data=npz" not in overrides:
        overrides = [f"data.distortion.canvas={own['distortion']['canvas']}".replace(" ", ""), *overrides]
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        try:
            data = plain(compose("train", overrides))["data"]
        except HydraException as error:
            raise UserError(in_one_line(error)) from error
    return {**data, "root": data["root"] or own.get("root")} if "root" in data else data


if __name__ == "__main__":
    run_command(main)
