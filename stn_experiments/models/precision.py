"""Single precision inside ``torch.autocast``, where half precision is not enough."""

import torch
from torch import Tensor

HALF_TYPES = (torch.bfloat16, torch.float16)


def to_float32(tensor: Tensor) -> Tensor:
    """Convert a tensor of half precision to float32; return any other unchanged."""
    return tensor.float() if tensor.dtype in HALF_TYPES else tensor


def autocast_disabled(tensor: Tensor) -> torch.autocast:
    """A context without autocast on the device of ``tensor``."""
    return torch.autocast(tensor.device.type, enabled=False)
