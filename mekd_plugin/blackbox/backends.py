"""What a teacher can be: a torch module, a function, or an ONNX Runtime session (an optional dependency)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mekd_plugin.errors import CheckpointError, InputError, MissingDependency
from mekd_plugin.modes import evaluating

__all__ = ["Ask", "identity_of", "make_backend", "onnx_teacher"]

Ask = Callable[[Tensor], Any]
"""A batch of images -> whatever the teacher answers, not checked yet."""

_ONNX_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def make_backend(
    teacher: nn.Module | Ask,
    device: torch.device | str | None = None,
    answer: Callable[[Any], Any] | None = None,
) -> Ask:
    """The way to ask ``teacher``.

    ``answer`` takes the scores or labels out of what the teacher returns, where that is more than one tensor.

    A module is asked in eval and inference mode, in its own precision (autocast is off) and on its own device, or on
    ``device``, to which it is then moved; the training flag of each of its parts is put back. A function gets the
    images as they are, or on ``device``, without gradient; one that draws random numbers should have a generator of
    its own, or an interrupted run will not be repeated to the bit.

    Raises:
        InputError: it can neither be called nor is it a module.
    """
    if answer is not None:
        ask = make_backend(teacher, device)
        return lambda images: answer(ask(images))
    if isinstance(teacher, nn.Module):
        if device is not None:
            teacher.to(device)
        return _module_backend(teacher)
    if not callable(teacher):
        raise InputError(
            f"a teacher of type {type(teacher).__name__}: expected an nn.Module, a function from images to answers, or "
            "onnx_teacher(path)"
        )
    return _function_backend(teacher, device)


def identity_of(teacher: nn.Module | Ask) -> Callable[[], str]:
    """What tells ``teacher`` from another: a hash of a module's weights, or the name of a function."""
    if not isinstance(teacher, nn.Module):
        name = getattr(teacher, "__qualname__", type(teacher).__name__)
        return lambda: str(name)

    def weights() -> str:
        # Without names: a module that only wraps another is the same teacher.
        digest = hashlib.sha256()
        for value in teacher.state_dict().values():
            if isinstance(value, Tensor):
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]

    return weights


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
        InputError: the model takes something else than one batch of floating point images, or ``output`` is unclear.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(
            'an ONNX teacher needs onnxruntime, which is not installed: pip install "mekd-plugin[onnx]"'
        ) from error
    if not Path(path).is_file():
        raise CheckpointError(f"{path} is no file: expected an .onnx model")
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=list(providers or ["CPUExecutionProvider"])
        )
    except Exception as error:  # ONNX Runtime raises classes of its own, with no common base that it documents
        raise CheckpointError(f"{path} is no whole .onnx model that ONNX Runtime can load ({error})") from error
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
    return _onnx_function(session, inputs[0], output)


def _module_backend(module: nn.Module) -> Ask:
    def ask(images: Tensor) -> Any:
        like = next((value for value in (*module.parameters(), *module.buffers()) if value.is_floating_point()), images)
        sent = images.to(like.device, like.dtype if images.is_floating_point() else images.dtype)
        with evaluating(module), torch.inference_mode(), torch.autocast(like.device.type, enabled=False):
            return module(sent)

    return ask


def _function_backend(function: Ask, device: torch.device | str | None) -> Ask:
    def ask(images: Tensor) -> Any:
        with torch.no_grad():
            return function(images if device is None else images.to(device))

    return ask


def _onnx_function(session: Any, entry: Any, output: str) -> Callable[[Tensor], Tensor]:
    fixed, *shape = entry.shape
    dtype = _ONNX_DTYPES[entry.type]

    def ask(images: Tensor) -> Tensor:
        wanted = [size if isinstance(size, int) else found for size, found in zip(shape, images.shape[1:], strict=True)]
        if list(images.shape[1:]) != wanted:
            raise InputError(f"images of {tuple(images.shape[1:])}: the ONNX model takes {tuple(wanted)}; resize them")
        array = images.detach().cpu().numpy().astype(dtype)
        size = fixed if isinstance(fixed, int) else len(array)
        answers = []
        for start in range(0, len(array), size):
            batch = array[start : start + size]
            # A model with a fixed batch size gets its last batch filled up with repetitions of the last image.
            padded = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            answers.append(session.run([output], {entry.name: padded})[0][: len(batch)])
        return torch.from_numpy(np.concatenate(answers))

    return ask
