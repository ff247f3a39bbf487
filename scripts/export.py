"""Write a run's network to one file: python scripts/export.py RUN --format onnx --output FILE."""

from pathlib import Path

from stn_experiments.cli.command import ArgumentParser, run_command


def main() -> None:
    """Export a part of a run, and print how to use the file."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    about = "onnx: for ONNX Runtime and others; torch: for torch.export.load"
    parser.add_argument("--format", choices=["onnx", "torch"], required=True, help=about)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="FILE.onnx or FILE.pt2")
    parts = ["classifier", "transformer", "both"]
    about = "classifier (default): logits of images; transformer: V, theta and box of images; both"
    parser.add_argument("--part", choices=parts, default="classifier", help=about)
    arguments = parser.parse_args()

    from stn_experiments.runs.export import export_run  # imported here, because --help needs no torch
    from stn_experiments.storage.run_folder import RunFolder

    export = export_run(RunFolder(arguments.run), arguments.part, arguments.format, arguments.output)
    print(f"file        {arguments.output}")
    differences = ", ".join(f"{name} {value:.1g}" for name, value in export.differences.items())
    print(f"difference  {differences} at most from the run, on {export.images:,} test images")
    print(f"\n{export.usage}")


if __name__ == "__main__":
    run_command(main)
