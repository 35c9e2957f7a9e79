"""A teacher that is an ONNX file, asked by ONNX Runtime (an optional dependency)."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.errors import CheckpointError, InputError, MissingDependency

__all__ = ["onnx_teacher"]

_CHANNELS = (1, 3)  # of an image, and of no side of one
_ONNX_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def onnx_teacher(
    path: str | Path, *, output: str | None = None, providers: Sequence[str] | None = None, threads: int | None = None
) -> Callable[[Tensor], Tensor]:
    """A model file that ONNX Runtime asks: float images ``(N, channels, height, width)`` -> its answer.

    Args:
        path: of the ``.onnx`` file, with one input.
        output: name of the output to answer with; None where there is just one.
        providers: ONNX Runtime's execution providers, in order of preference; None for the CPU.
        threads: for one operator; None leaves it to ONNX Runtime.

    Raises:
        MissingDependency: onnxruntime is not installed.
        CheckpointError: the file is missing, or no model that ONNX Runtime can load.
        InputError: the model takes something other than one batch of floating point images, or ``output`` is unclear.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(
            'an ONNX teacher needs onnxruntime, which is not installed: pip install "mekd-plugin[onnx]"'
        ) from error
    if not Path(path).is_file():
        raise CheckpointError(f"{path} is not a file: expected an .onnx model")
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=list(providers or ["CPUExecutionProvider"])
        )
    except Exception as error:  # ONNX Runtime raises classes of its own, with no common base that it documents
        raise CheckpointError(f"{path} is not a whole .onnx model that ONNX Runtime can load ({error})") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _ONNX_DTYPES:
        found = ", ".join(f"{entry.name}: {entry.type} {entry.shape}" for entry in inputs)
        raise InputError(
            f"{path} takes {found}: expected one input of floating point images (N, channels, height, width); "
            "ask it in a function of your own, and hand that in as the teacher"
        )
    names = [entry.name for entry in session.get_outputs()]
    if output is None and len(names) == 1:
        output = names[0]
    if output is None or output not in names:
        raise InputError(f"output={output!r}: {path} answers with {', '.join(names)}; name one of them")
    ask = _onnx_function(session, inputs[0], output)
    setattr(ask, "identity", f"onnx {_hash_of_model(Path(path))} {output}")  # noqa: B010 -- functions have attributes
    return ask


def _hash_of_model(path: Path) -> str:
    """Of the file, and of those beside it that carry its name and hold its weights, as exporters write them."""
    digest = hashlib.sha256()
    beside = {*path.parent.glob(f"{glob.escape(path.name)}?*"), *path.parent.glob(f"{glob.escape(path.stem)}*data")}
    for part in (path, *sorted(beside - {path})):
        if part.is_file():
            with part.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def _onnx_function(session: Any, entry: Any, output: str) -> Callable[[Tensor], Tensor]:
    fixed, *shape = entry.shape
    dtype = _ONNX_DTYPES[entry.type]

    def ask(images: Tensor) -> Tensor:
        wanted = [size if isinstance(size, int) else found for size, found in zip(shape, images.shape[1:], strict=True)]
        if list(images.shape[1:]) != wanted:
            raise InputError(_another_shape(tuple(images.shape[1:]), tuple(wanted), shape))
        images = images.detach().cpu()
        array = (images.float() if images.dtype == torch.bfloat16 else images).numpy().astype(dtype)
        size = fixed if isinstance(fixed, int) else len(array)
        answers = []
        for start in range(0, len(array), size):
            batch = array[start : start + size]
            # A model with a fixed batch size gets its last batch filled up with repetitions of the last image.
            padded = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            answers.append(session.run([output], {entry.name: padded})[0][: len(batch)])
        return torch.from_numpy(np.concatenate(answers))

    return ask


def _another_shape(given: tuple[int, ...], wanted: tuple[int, ...], declared: Sequence[Any]) -> str:
    """What to do about images of shape ``given`` for an ONNX model that takes ``wanted``; it may not declare each."""
    problem = f"images of {given}: the ONNX model takes {wanted}"
    if declared[2] in _CHANNELS and declared[0] not in _CHANNELS:
        return (
            f"{problem}: its input is NHWC, (N, height, width, channels), and images here are NCHW. Put a Transpose in "
            "front of the model, or wrap it: model = onnx_teacher(path), then the teacher is "
            "lambda images: model(images.permute(0, 2, 3, 1)), and give identity=, which tells the file from others"
        )
    if wanted[0] != given[0]:
        return f"{problem}: convert them to {wanted[0]} channels" + (
            "" if given[1:] == wanted[1:] else " and resize them"
        )
    return f"{problem}; resize them"
