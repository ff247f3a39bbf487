"""Single precision where half of it would not do, within ``torch.autocast``."""

import torch
from torch import Tensor

HALVES = (torch.bfloat16, torch.float16)


def to_float32(tensor: Tensor) -> Tensor:
    """A tensor of half precision in single precision, any other as it is."""
    return tensor.float() if tensor.dtype in HALVES else tensor


def autocast_disabled(tensor: Tensor) -> torch.autocast:
    """Within it, functions on the tensor's device compute in the precision of what they are given."""
    return torch.autocast(tensor.device.type, enabled=False)
