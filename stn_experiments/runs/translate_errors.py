"""Errors of torch and of the system that a user can do something about, each as one clear line."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from stn_experiments.common.errors import NotFinite, TrainingFailed, UserError
from stn_experiments.runs.experiment import Experiment
from stn_experiments.storage.run_folder import RunFolder

OUT_OF_MEMORY = "allocate memory|out of memory|ALLOC_FAILED|could not create a (primitive|memory)"
"""What torch, cuDNN and, at the end, oneDNN say."""


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Translate errors of the system while the data of that name are loaded.

    Raises:
        TrainingFailed: there is too little memory, or a file cannot be read.
    """
    try:
        yield
    except BrokenPipeError:  # stdout is closed, and the command ends
        raise
    except OSError as error:
        raise TrainingFailed(f"data={name} cannot be loaded: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingFailed(
            f"there is too little memory for data={name}: fewer or smaller images need less (docs/faults.md)"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python or torch has run out of memory."""
    return isinstance(error, MemoryError) or re.search(OUT_OF_MEMORY, str(error)) is not None


@contextmanager
def translate_errors(experiment: Experiment, folder: RunFolder) -> Iterator[None]:
    """Translate out-of-memory, disk, capture and determinism errors, and say how to see a bad step.

    Raises:
        TrainingFailed: a step is not finite, or there is too little memory or disk.
        UserError: a step cannot be captured as a graph, or a kernel is not deterministic.
    """
    try:
        yield
    except NotFinite as error:
        seen = f"python scripts/replay.py {shlex.quote(str(folder.folder))} --step {error.step}"
        raise TrainingFailed(f"{error}; {seen} shows that step") from error
    except BrokenPipeError:  # stdout is closed, and the command ends
        raise
    except OSError as error:
        raise TrainingFailed(
            f"training stopped: {folder.folder} cannot be written to ({error}); everything saved in it is "
            "complete, and the same command resumes from it"
        ) from error
    except (MemoryError, RuntimeError) as error:
        message = str(error)
        first_line = message.partition("\n")[0]
        if is_out_of_memory(error):
            raise TrainingFailed(
                "training stopped: there is too little memory for "
                f"trainer.batch_size={experiment.trainer.batch_size}; a smaller one needs less"
            ) from error
        if "captur" in message:  # CUDA and torch say this in several ways
            raise UserError(
                "trainer.cuda_graph must be false for this network, which waits for the device "
                f"({first_line})"
            ) from error
        if "deterministic" in message:
            raise UserError(f"trainer.deterministic cannot be true here: {first_line}") from error
        raise
