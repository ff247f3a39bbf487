"""The formats of an exported network, and the Python code that uses a file of each."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]
Program = Callable[[Tensors], Tensors]
"""An exported network, loaded again: from named inputs to named outputs."""

MEANING = {
    "images": "in [0, 1], on black, for any B",
    "question": "the numbers of the words",
    "v": "the output of the transformer",
    "theta": "in normalised coordinates",
    "box": "(x, y) in pixels; the centre of the first pixel is at 0",
}
"""What a comment says of an input or output, besides its shape."""


class Format(NamedTuple):
    """A format of files.

    Args:
        suffix: that of a file's name.
        packages: what it needs besides torch.
        export: from a network and inputs to the content of a file, the program in it and example outputs.
        usage: from a file, inputs and outputs to the Python code that uses it.
    """

    suffix: str
    packages: tuple[str, ...]
    export: Callable[[nn.Module, Tensors], tuple[bytes, Program, Tensors]]
    usage: Callable[[Path, Tensors, Tensors], str]


def example_of(inputs: Tensors) -> tuple[Tensor, ...]:
    """The first image and question, twice: with a single one, exporters fix the size of the batch to 1."""
    return tuple(value[:1].repeat(2, *[1] * (value.dim() - 1)) for value in inputs.values())


def open_batch(inputs: Tensors) -> list[dict[int, Any]]:
    """The dimension of each input whose size stays open."""
    batch = torch.export.Dim("batch")
    return [{0: batch} for _ in inputs]


def export_torch(network: nn.Module, inputs: Tensors) -> tuple[bytes, Program, Tensors]:
    """The network as ``torch.export.save`` writes it: the content, the program in it, example outputs."""
    example = example_of(inputs)
    exported = torch.export.export(network, example, dynamic_shapes=open_batch(inputs))
    file = io.BytesIO()
    torch.export.save(exported, file)
    loaded = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), lambda batch: loaded(*batch.values()), network(*example)


def export_onnx(network: nn.Module, inputs: Tensors) -> tuple[bytes, Program, Tensors]:
    """The same as an ONNX model."""
    import onnxruntime

    example = example_of(inputs)
    outputs = network(*example)
    exported = torch.onnx.export(
        network,
        example,
        dynamo=True,
        dynamic_shapes=open_batch(inputs),
        input_names=list(inputs),
        output_names=list(outputs),
        verbose=False,
    )
    assert exported is not None
    content = exported.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def program(batch: Tensors) -> Tensors:
        arrays = session.run(list(outputs), {name: value.numpy() for name, value in batch.items()})
        return dict(zip(outputs, map(torch.from_numpy, arrays), strict=True))

    return content, program, outputs


def torch_usage(file: Path, inputs: Tensors, outputs: Tensors) -> str:
    """The Python code that uses an exported program of torch."""
    lines = ["import torch", "", f"program = torch.export.load({quoted(file)}).module()"]
    lines += example_lines(inputs, "torch")
    lines += ["with torch.no_grad():", f"    outputs = program({', '.join(inputs)})"]
    lines += [f'{name} = outputs["{name}"]  # {meaning(name, outputs)}' for name in outputs]
    return "\n".join(lines)


def onnx_usage(file: Path, inputs: Tensors, outputs: Tensors) -> str:
    """The Python code that uses an ONNX model."""
    feeds = ", ".join(f'"{name}": {name}' for name in inputs)
    lines = ["import numpy as np", "import onnxruntime", ""]
    lines += [f"session = onnxruntime.InferenceSession({quoted(file)})", *example_lines(inputs, "np")]
    lines += [f"outputs = session.run(None, {{{feeds}}})"]
    lines += [f"{name} = outputs[{at}]  # {meaning(name, outputs)}" for at, name in enumerate(outputs)]
    return "\n".join(lines)


def example_lines(inputs: Tensors, library: str) -> list[str]:
    """The lines of code that make an example of each input, eight zeros, with ``torch`` or ``np``."""
    lines = []
    for name, value in inputs.items():
        kind = f"{library}.{str(value.dtype).removeprefix('torch.')}"
        zeros = f"{library}.zeros({(8, *value.shape[1:])}, dtype={kind})"
        lines.append(f"{name} = {zeros}  # {meaning(name, inputs)}")
    return lines


def meaning(name: str, tensors: Mapping[str, Tensor]) -> str:
    """The shape of an input or output, and what it is."""
    shape = ", ".join(map(str, tensors[name].shape[1:]))
    return ", ".join(filter(None, [f"(B, {shape})", MEANING.get(name.rstrip("0123456789"))]))


def quoted(file: Path) -> str:
    """A path as a literal of Python."""
    return json.dumps(str(file), ensure_ascii=False)


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), export_onnx, onnx_usage),
    "torch": Format(".pt2", (), export_torch, torch_usage),
}
