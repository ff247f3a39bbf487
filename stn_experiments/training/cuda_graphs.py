"""CUDA graphs: all kernels of a training step are captured once, then launched together."""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

WARM_UP_CALLS = 3
"""Eager calls before a capture, in which libraries choose their kernels and allocate."""


class Capture(NamedTuple):
    """A captured call: the graph, the tensors that it reads and the result that it writes."""

    graph: torch.cuda.CUDAGraph
    arguments: tuple[Tensor, ...]
    result: Any


class CudaGraphs:
    """Wraps functions of tensors so that, on CUDA, they run as graphs from their fourth call on.

    A training step is several hundred small kernels. Launched from Python one by one, they leave a fast GPU
    idle most of the time. On other devices, or where ``enabled`` is false, wrapped functions run eagerly.

    Args:
        generator: the source of all random numbers of the wrapped functions. A graph draws the same numbers
            from it as an eager call. It is seeded outside of the wrapped functions.
        enabled: whether to use graphs on CUDA.
    """

    def __init__(self, generator: Generator, enabled: bool = True) -> None:
        self.generator = generator
        self.enabled = enabled and generator.device.type == "cuda"
        self.captured = 0
        """Number of graphs."""
        if self.enabled:
            self._stream = torch.cuda.Stream(generator.device)

    def make_capturable(self, optimizer: Optimizer) -> None:
        """Hold the learning rates in tensors, which a captured step reads anew at each replay."""
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = self.enabled
            if self.enabled:
                group["lr"] = torch.as_tensor(group["lr"], device=self.generator.device)

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function of tensors. It is captured once for each combination of argument shapes.

        The function must not wait for the device, and must not depend on Python values that change between
        calls. The next call with the same shapes overwrites its result.
        """
        calls: Counter[tuple[torch.Size, ...]] = Counter()
        captures: dict[tuple[torch.Size, ...], Capture] = {}

        def call(*arguments: Tensor) -> Any:
            if not self.enabled:
                return function(*arguments)
            shapes = tuple(argument.shape for argument in arguments)
            calls[shapes] += 1
            if calls[shapes] <= WARM_UP_CALLS:
                return self._run_on_side_stream(function, arguments)
            if shapes not in captures:
                captures[shapes] = self._capture(function, arguments)
            capture = captures[shapes]
            for static, argument in zip(capture.arguments, arguments, strict=True):
                static.copy_(argument)
            capture.graph.replay()
            return capture.result

        return call

    def _run_on_side_stream(self, function: Callable[..., Any], arguments: tuple[Tensor, ...]) -> Any:
        """Warm up on the stream of the captures, as torch requires of what is captured later."""
        main = torch.cuda.current_stream()
        self._stream.wait_stream(main)
        with warnings.catch_warnings(), torch.cuda.stream(self._stream):
            warnings.filterwarnings("ignore", "This instance was constructed with capturable")
            result = function(*arguments)
        main.wait_stream(self._stream)
        return result

    def _capture(self, function: Callable[..., Any], arguments: tuple[Tensor, ...]) -> Capture:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        static = tuple(argument.clone() for argument in arguments)
        with torch.cuda.graph(graph, stream=self._stream):
            result = function(*static)
        self.captured += 1
        return Capture(graph, static, result)
