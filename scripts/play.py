"""Rotate, move and spoil an image, and watch what runs make of it: python scripts/play.py RUN [MORE ...]."""

import socket
from importlib.util import find_spec
from pathlib import Path

from stn_experiments.cli.command import ArgumentParser, run_command
from stn_experiments.common.errors import UserError

OUTPUTS = Path("outputs")


def main() -> None:
    """Serve the page until it is interrupted."""
    parser = ArgumentParser(description=__doc__)
    text = "folders of runs that read images of one size; by default the newest finished run in outputs"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help=text)
    text = "address to listen on; the default 127.0.0.1 is this machine alone, 0.0.0.0 the whole network"
    parser.add_argument("--host", default="127.0.0.1", help=text)
    parser.add_argument("--port", type=int, default=7860, help="%(default)s by default; 0 finds a free one")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda", "mps"], default="cpu", help="%(default)s by default"
    )
    arguments = parser.parse_args()
    if find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install -c constraints.txt -e '.[play]'")

    import torch  # imported here, because --help needs no torch

    from stn_experiments.runs.play import Playground

    torch.set_num_threads(1)  # for one image, more threads only wait for one another
    playground = Playground(arguments.runs or [newest_run()], arguments.device)
    try:
        listener = socket.create_server((arguments.host, arguments.port))
    except (OSError, OverflowError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]
        raise UserError(
            f"port {arguments.port} of {arguments.host} cannot be used: {reason}; --port chooses another"
        ) from error

    from play_page import serve

    with listener:
        serve(playground, listener)


def newest_run() -> Path:
    """The folder of the run in ``outputs`` that finished last."""
    from stn_experiments.report.collect import find_runs
    from stn_experiments.storage.run_folder import RunFolder

    runs = [run for run in map(RunFolder, find_runs([OUTPUTS])) if run.result()]
    if not runs:
        raise UserError(
            f"there is no finished run in {OUTPUTS}: train one with scripts/train.py, or name one"
        )
    return max(runs, key=lambda run: run.result_file.stat().st_mtime).folder


if __name__ == "__main__":
    run_command(main)
