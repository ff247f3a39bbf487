"""Evaluate a run again: python scripts/evaluate.py RUN [data=cluttered] [data.distortion.clutter=10 ...]."""

import argparse
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stn_experiments.commands import plain, run_command
from stn_experiments.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs"


def main() -> None:
    """Evaluate a run's best checkpoint, and say what came out and where the panel lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run, as scripts/train.py names it at its end")
    parser.add_argument(
        "overrides",
        nargs="*",
        help="other data, in the words of scripts/train.py: data=cluttered data.distortion.clutter=10; "
        "another data set is drawn on the canvas that the run was trained on",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    arguments = parser.parse_args()

    from stn_experiments.evaluate_run import evaluate_run  # torch loads slowly, --help needs none
    from stn_experiments.runs import Run

    run = Run(arguments.run)
    data = other_data(run.config()["data"], arguments.overrides) if arguments.overrides else None
    result, folder = evaluate_run(run, data, arguments.device)
    print(f"test error  {result['test_error']:.2f} %  on {result['data']}")
    print(f"result      {folder / 'result.json'}")
    print(f"panel       {folder / 'panel.png'}")


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
        data = plain(compose("train", overrides))["data"]
    return {**data, "root": data["root"] or own.get("root")} if "root" in data else data


if __name__ == "__main__":
    run_command(main)
