"""Errors of torch and of the system that a user can do something about, each as one clear line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from stn_experiments.common.errors import TrainingFailed, UserError
from stn_experiments.runs.experiment import Experiment
from stn_experiments.storage.run_folder import RunFolder

OUT_OF_MEMORY = "allocate memory|out of memory|ALLOC_FAILED|could not create a (primitive|memory)"
"""What torch, cuDNN and, at the end, oneDNN say."""


@contextmanager
def translate_errors(experiment: Experiment, folder: RunFolder) -> Iterator[None]:
    """Translate out-of-memory, disk, capture and determinism errors.

    Raises:
        TrainingFailed: there is too little memory or disk.
        UserError: a step cannot be captured as a graph, or a kernel is not deterministic.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        translated = _translate(error, experiment, folder)
        if translated is None:
            raise
        raise translated from error


def _translate(
    error: OSError | MemoryError | RuntimeError, experiment: Experiment, folder: RunFolder
) -> UserError | None:
    if isinstance(error, OSError):
        what = "its output" if isinstance(error, BrokenPipeError) else str(folder.folder)
        return TrainingFailed(
            f"training stopped: {what} cannot be written to ({error}); everything saved in {folder.folder} "
            "is complete, and the same command resumes from it"
        )
    if isinstance(error, MemoryError) or re.search(OUT_OF_MEMORY, str(error)):
        return TrainingFailed(
            "training stopped: there is too little memory for "
            f"trainer.batch_size={experiment.trainer.batch_size}; a smaller one needs less"
        )
    first_line = (str(error).splitlines() or [""])[0]
    if "captur" in str(error):  # CUDA and torch say this in several ways
        return UserError(
            f"trainer.cuda_graph must be false for this network, which waits for the device ({first_line})"
        )
    if "deterministic" in str(error):
        return UserError(f"trainer.deterministic cannot be true here: {first_line}")
    return None
