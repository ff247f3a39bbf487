"""Errors of torch in one line that names the setting. Others are defects, and stay as they are."""

from types import SimpleNamespace

import pytest
import torch

from stn_experiments.common.errors import TrainingFailed, UserError
from stn_experiments.runs.translate_errors import loading, translate_errors

EXPERIMENT = SimpleNamespace(trainer=SimpleNamespace(batch_size=30))
MEMORY = (TrainingFailed, "too little memory for trainer.batch_size=30;")
CAPTURE = "CUDA error: operation not permitted when stream is capturing\nSearch for it"
DETERMINISTIC = "x does not have a deterministic implementation"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), *MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has"), *MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), *MEMORY),
        (RuntimeError("could not create a primitive"), *MEMORY),  # oneDNN, found with resnet18 under a limit
        (MemoryError(), *MEMORY),
        (RuntimeError(CAPTURE), UserError, "trainer.cuda_graph must be false for this network, which waits"),
        (
            RuntimeError(DETERMINISTIC),
            UserError,
            f"deterministic cannot be true here: {DETERMINISTIC}",
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError, "mat1 and mat2"),
    ],
)
def test_an_error_of_torch_is_one_line_that_names_the_setting(error, kind, words):
    with pytest.raises(kind) as caught, translate_errors(EXPERIMENT, None):
        raise error
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_that_do_not_fit_in_memory_are_one_line():
    with (
        pytest.raises(TrainingFailed, match=r"too little memory for data=rts: fewer or smaller images"),
        loading("rts"),
    ):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    with pytest.raises(RuntimeError, match="mat1"), loading("rts"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_data_that_cannot_be_read_are_one_line_about_the_data():
    line = r"^data=folder cannot be loaded: .*Input/output error"
    with pytest.raises(TrainingFailed, match=line), loading("folder"):
        raise OSError(5, "Input/output error", "a.png")
    with pytest.raises(BrokenPipeError), loading("folder"):
        raise BrokenPipeError
