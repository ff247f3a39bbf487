"""Several GPUs of one machine: each worker of a sweep uses one of them."""

import os
from multiprocessing import current_process

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable with the GPUs that CUDA may use, separated by commas; unset: all."""


def use_one_gpu() -> None:
    """In a worker of ``hydra/launcher=joblib``, hide all GPUs but one; in any other process, do nothing.

    The workers take the visible GPUs in turn. A worker keeps its GPU for all its runs, because CUDA reads the
    variable only once in a process.
    """
    kind, _, number = current_process().name.rpartition("-")  # loky, of joblib, counts its workers from 1
    if kind != "LokyProcess":
        return
    if VISIBLE in os.environ:
        gpus = os.environ[VISIBLE].split(",")
    else:
        import torch  # imported here, because it takes seconds

        gpus = [str(gpu) for gpu in range(torch.cuda.device_count())]  # asks the driver and leaves CUDA alone
    if len(gpus) > 1:
        os.environ[VISIBLE] = gpus[(int(number) - 1) % len(gpus)]
