"""How several runs learned, side by side, as an animation."""

from collections.abc import Sequence
from pathlib import Path

from stn_experiments.common.errors import UserError
from stn_experiments.report.collect import find_runs, read_run
from stn_experiments.storage.run_folder import RunFolder
from stn_experiments.tracking.learning import Learning, learning_frames
from stn_experiments.tracking.pictures import save_animation

MOST = 4  # runs


def animate(folders: Sequence[Path], file: Path) -> None:
    """Write the panels of the runs in folders as a GIF, epoch by epoch, beside their validation errors.

    Raises:
        UserError: the file has another suffix or cannot be written, there is no run or too many of them, or
            one cannot be read, has no panel or a damaged one.
    """
    if file.suffix.lower() != ".gif":
        raise UserError(f"--animation must end in .gif, got {file}")
    runs = find_runs(folders)
    if not 0 < len(runs) <= MOST:
        raise UserError(f"--animation takes 1 to {MOST} runs, got {len(runs)}")
    try:
        save_animation(learning_frames(list(map(read_learning, runs))), file)
    except (OSError, SyntaxError) as error:  # Pillow raises either for a damaged PNG
        raise UserError(f"--animation: {error}") from error


def read_learning(folder: Path) -> Learning:
    """The panels and the validation errors of a run.

    Raises:
        UserError: the folder is not a run, or it has no panel.
    """
    errors = {line["epoch"]: line["val_error"] for line in read_run(folder, []).history}
    panels = RunFolder(folder).panels()
    if not panels:
        raise UserError(f"{folder} has no panel: --animation takes runs, whose panels folder has some")
    return Learning(folder.name, panels, errors)
