"""Single precision inside ``torch.autocast``, where half precision is not enough."""

import torch
from torch import Tensor


def to_float32(tensor: Tensor) -> Tensor:
    """Convert a tensor of half precision to float32; return any other unchanged."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def autocast_disabled(tensor: Tensor) -> torch.autocast:
    """A context without autocast on the device of ``tensor``."""
    device = "cpu" if tensor.is_meta else tensor.device.type  # there is no autocast on meta
    return torch.autocast(device, enabled=False)
