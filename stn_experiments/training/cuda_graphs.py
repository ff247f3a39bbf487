"""CUDA graphs: the kernels of a whole step, recorded once and from then on started in one go."""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

WARM_UP = 3
"""Calls that run as they are, for libraries to settle in, before one is recorded."""


class Recording(NamedTuple):
    """A graph, where it reads its arguments, and what it writes."""

    graph: torch.cuda.CUDAGraph
    arguments: tuple[Tensor, ...]
    result: Any


class Recorder:
    """Runs functions of tensors; on CUDA, where ``on``, from their fourth call as graphs.

    A training step is some hundreds of small kernels. Started from Python one by one, they leave a fast GPU
    idle for most of the time.

    A function is recorded for each combination of shapes. It must neither wait for the device nor read
    anything of the host that changes. What is random in it comes from ``generator``, which gives the same
    numbers as without a graph; it is seeded outside.
    """

    def __init__(self, generator: Generator, on: bool = True) -> None:
        self.generator = generator
        self.on = on and generator.device.type == "cuda"
        self._calls: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, Recording] = {}
        if self.on:
            self._stream = torch.cuda.Stream(generator.device)

    def adopt(self, optimizer: Optimizer) -> None:
        """Keep the learning rates of ``optimizer`` where a recorded step reads them anew each time."""
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = self.on
            if self.on:
                group["lr"] = torch.as_tensor(group["lr"], device=self.generator.device)

    def __call__(self, name: str, function: Callable[..., Any], *arguments: Tensor) -> Any:
        """What ``function``, of which there is one of that ``name``, gives for ``arguments``.

        The next call of the same shapes may write over it.
        """
        if not self.on:
            return function(*arguments)
        key = (name, *(argument.shape for argument in arguments))
        self._calls[key] += 1
        if self._calls[key] <= WARM_UP:
            return self._beside(function, arguments)
        if key not in self._recordings:
            self._recordings[key] = self._record(function, arguments)
        recording = self._recordings[key]
        for place, argument in zip(recording.arguments, arguments, strict=True):
            place.copy_(argument)
        recording.graph.replay()
        return recording.result

    def _beside(self, function: Callable[..., Any], arguments: tuple[Tensor, ...]) -> Any:
        """Call it on the stream of the recordings: nothing recorded may have begun on the default one."""
        main = torch.cuda.current_stream()
        self._stream.wait_stream(main)
        with warnings.catch_warnings(), torch.cuda.stream(self._stream):
            warnings.filterwarnings("ignore", "This instance was constructed with capturable")
            result = function(*arguments)
        main.wait_stream(self._stream)
        return result

    def _record(self, function: Callable[..., Any], arguments: tuple[Tensor, ...]) -> Recording:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        places = tuple(argument.clone() for argument in arguments)
        with torch.cuda.graph(graph, stream=self._stream):
            result = function(*places)
        return Recording(graph, places, result)
