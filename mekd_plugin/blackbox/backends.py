"""What a teacher can be: a torch module, a function, or an ONNX Runtime session (an optional dependency)."""

from __future__ import annotations

import copy
import functools
import glob
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mekd_plugin.errors import CheckpointError, InputError, MissingDependency
from mekd_plugin.modes import evaluating

__all__ = ["Ask", "Call", "Identity", "identity_of", "make_backend", "onnx_teacher", "place_of"]

Ask = Callable[..., Any]
"""A batch of images, and how to hand them over where that is not plain -> whatever the teacher answers, unchecked."""

Call = Callable[[Callable[..., Any], Tensor], Any]
"""How to hand images over: ``call(teacher, images)``."""


class Identity(NamedTuple):
    """What tells one teacher from another.

    Attributes:
        describe: returns it, for the teacher as it is now.
        certain: whether it is about what the teacher computes, or was declared; else it is a function's name alone.
    """

    describe: Callable[[], str]
    certain: bool


_CHANNELS = (1, 3)  # of an image, and of no side of one
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
    its own, or an interrupted run will not be repeated bit for bit.

    Raises:
        InputError: it is neither callable nor a module.
    """
    if answer is not None:
        ask = make_backend(teacher, device)
        return lambda images, call=_plainly: answer(ask(images, call))
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


def identity_of(teacher: nn.Module | Ask, declared: str | None = None) -> Identity:
    """What tells ``teacher`` from any other: what was declared, a hash of weights or of an ONNX file, or a name.

    A module is known by its weights, and a method of one likewise. A callable may carry its own in its attribute
    ``identity``, a string. Any other function has just its name: two functions of one name, or one function that asks
    another service today, are the same by that.

    Raises:
        InputError: ``declared`` is not a name.
    """
    if declared is not None:
        if not isinstance(declared, str) or not declared.strip():
            raise InputError(f"identity={declared!r}: expected a name for the teacher, such as its model's version")
        return Identity(lambda: declared, True)
    if isinstance(teacher, nn.Module):
        return Identity(lambda: _hash_of_weights(teacher), True)
    known = getattr(teacher, "identity", None)
    if isinstance(known, str):
        return Identity(lambda: known, True)
    owner = getattr(teacher, "__self__", None)
    name = _name_of(teacher)
    if isinstance(owner, nn.Module):
        return Identity(lambda: f"{name} {_hash_of_weights(owner)}", True)
    return Identity(lambda: name, False)


def place_of(teacher: nn.Module | Ask, declared: torch.device | None) -> tuple[torch.device, torch.dtype]:
    """Device and precision that the teacher computes in, as far as they can be told."""
    like = _like(teacher) if isinstance(teacher, nn.Module) else None
    if like is not None:
        return like.device, like.dtype
    return declared or torch.device("cpu"), torch.float32


def answer_on_meta(module: nn.Module, image_shape: tuple[int, int, int], answer: Callable[[Any], Any] | None) -> Any:
    """What a module would answer about two images, as a tensor without values: a check that asks nothing.

    A copy of it runs on torch's meta device, its weights without their values, so that nothing is computed and nothing
    that it remembers changes.

    Args:
        module: as its teacher's.
        image_shape: ``(channels, height, width)``.
        answer: see :func:`make_backend`.

    Returns:
        Its answer; None where it cannot run on that device, which says nothing against it.

    Raises:
        InputError: it cannot take such images.
    """
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {}
    for tensor in tensors:
        twin = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(twin, requires_grad=False) if isinstance(tensor, nn.Parameter) else twin
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
    images = torch.empty(2, *image_shape, dtype=dtype, device="meta")
    try:
        twin_module = copy.deepcopy(module, memo)
        for part in twin_module.modules():  # whoever counts what the teacher sees should not see this
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
        with torch.no_grad():
            answered = twin_module.eval()(images)
            return answered if answer is None else answer(answered)
    except RuntimeError as error:
        words = str(error)
        if isinstance(error, NotImplementedError) or "meta" in words.lower() or not _is_about_shapes(words):
            return None
        raise InputError(
            f"the teacher {type(module).__name__} cannot take images of shape {image_shape}: {words.splitlines()[0]}; "
            "resize them, or take another teacher"
        ) from error
    except Exception:  # it looks at values, cannot be copied, or the like: it is checked when it is asked
        return None


def _is_about_shapes(words: str) -> bool:
    """Whether an error of torch's says that sizes do not fit, as a matrix product or a convolution does."""
    return any(sign in words for sign in ("shape", "size", "channels", "multiplied", "dim"))


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


def _module_backend(module: nn.Module) -> Ask:
    def ask(images: Tensor, call: Call = _plainly) -> Any:
        like = _like(module)
        like = images if like is None else like
        sent = images.to(like.device, like.dtype if images.is_floating_point() else images.dtype)
        with evaluating(module), torch.inference_mode(), torch.autocast(like.device.type, enabled=False):
            return call(module, sent)

    return ask


def _function_backend(function: Ask, device: torch.device | str | None) -> Ask:
    def ask(images: Tensor, call: Call = _plainly) -> Any:
        with torch.no_grad():
            return call(function, images if device is None else images.to(device))

    return ask


def _plainly(teacher: Callable[..., Any], images: Tensor) -> Any:
    return teacher(images)


def _like(module: nn.Module) -> Tensor | None:
    """A tensor whose device and precision are the module's."""
    return next((value for value in (*module.parameters(), *module.buffers()) if value.is_floating_point()), None)


def _name_of(function: Any) -> str:
    if isinstance(function, functools.partial):
        return f"partial of {_name_of(function.func)}"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _hash_of_weights(module: nn.Module) -> str:
    # Without names: a module that only wraps another is the same teacher.
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


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
            "lambda images: model(images.permute(0, 2, 3, 1))"
        )
    if wanted[0] != given[0]:
        return f"{problem}: convert them to {wanted[0]} channels" + (
            "" if given[1:] == wanted[1:] else " and resize them"
        )
    return f"{problem}; resize them"
