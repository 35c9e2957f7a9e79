"""What a teacher can be: a torch module, or a function (``onnx_file.py`` makes one of a file)."""

from __future__ import annotations

import copy
import functools
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.modes import evaluating

__all__ = [
    "Ask",
    "Call",
    "Declared",
    "Identity",
    "NameAlone",
    "answer_on_meta",
    "check_teacher",
    "identity_of",
    "make_backend",
    "place_of",
]

Ask = Callable[..., Any]
"""A batch of images, and how to hand them over where that is not plain -> whatever the teacher answers, unchecked."""

Call = Callable[[Callable[..., Any], Tensor], Any]
"""How to hand images over: ``call(teacher, images)``."""


class Identity(NamedTuple):
    """What tells one teacher from another.

    Attributes:
        describe: returns it, for the teacher as it is now.
        certain: whether it is about all that the teacher computes with, or was declared; else it is little more than a
            name, of a function, or of a module with nothing, or with something unknown, in its state.
    """

    describe: Callable[[], str]
    certain: bool


class NameAlone(str):
    """A declared identity that only says what the teacher is called, not what it computes."""

    __slots__ = ()


class Declared(NamedTuple):
    """What a function that asks a service may say of itself, in attributes of these names.

    Attributes:
        images_a_call: the most images of one question.
        as_sent: images -> the same as the service gets them, where an upload changes them.
        value_range: smallest and largest pixel value of the images that it takes.
        remote: whether somebody else may change what it answers.
        recorded: whether it answers from a table alone, so that made-up images are not to be tried on it.
    """

    images_a_call: int | None = None
    as_sent: Callable[[Tensor], Tensor] | None = None
    value_range: tuple[float, float] | None = None
    remote: bool = False
    recorded: bool = False

    @classmethod
    def of(cls, teacher: Any) -> Declared:
        """What ``teacher`` says; nothing of a module."""
        if isinstance(teacher, nn.Module) or not isinstance(getattr(teacher, "remote", None), bool):
            return cls()
        found = {name: getattr(teacher, name) for name in cls._fields if hasattr(teacher, name)}
        return cls(**found)

    def tell(self, ask: Ask) -> Ask:
        """``ask``, which stands before the teacher, with the same said of it."""
        for name, value in self._asdict().items():
            setattr(ask, name, value)
        return ask


def check_teacher(teacher: Any) -> None:
    """Refuse what cannot be asked.

    Raises:
        InputError: it is neither callable nor a module, or a class of one.
    """
    if not callable(teacher):
        raise InputError(
            f"a teacher of type {type(teacher).__name__}: expected an nn.Module, a function from images to answers, or "
            "onnx_teacher(path)"
        )
    if isinstance(teacher, type):
        raise InputError(f"teacher={teacher!r} is a class: hand in an instance of it")


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
        InputError: as :func:`check_teacher`.
    """
    check_teacher(teacher)
    if answer is not None:
        ask = make_backend(teacher, device)
        return lambda images, call=_plainly: answer(ask(images, call))
    if isinstance(teacher, nn.Module):
        if device is not None:
            teacher.to(device)
        return _module_backend(teacher)
    return _function_backend(teacher, device)


def identity_of(teacher: nn.Module | Ask, declared: str | None = None) -> Identity:
    """What tells ``teacher`` from any other: what was declared, a hash of weights or of an ONNX file, or a name.

    A module is known by all that its ``state_dict`` holds, its weights, and a method of one likewise. A callable may
    carry its own identity in its attribute ``identity``, a string. Any other function has just its name: two functions
    of one name, or one function that asks another service today, are the same by that. So are two modules of a class
    that have no weights, or that differ in what their state holds of unknown types.

    Raises:
        InputError: ``declared`` is not a name.
    """
    if declared is not None:
        if not isinstance(declared, str) or not declared.strip():
            raise InputError(f"identity={declared!r}: expected a name for the teacher, such as its model's version")
        return Identity(lambda: declared, not isinstance(declared, NameAlone))
    if isinstance(teacher, nn.Module) and _is_told_by_state(teacher):
        return Identity(lambda: _hash_of_state(teacher), True)
    known = getattr(teacher, "identity", None)
    if isinstance(known, str):
        return Identity(lambda: known, True)
    owner = teacher if isinstance(teacher, nn.Module) else getattr(teacher, "__self__", None)
    name = _name_of(teacher)
    if isinstance(owner, nn.Module):
        return Identity(lambda: f"{name} {_hash_of_state(owner)}", _is_told_by_state(owner))
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
    except (Exception, SystemExit):  # it looks at values, cannot be copied, ends itself: checked when it is asked
        return None


def _is_about_shapes(words: str) -> bool:
    """Whether an error of torch's says that sizes do not fit, as a matrix product or a convolution does."""
    return any(sign in words for sign in ("shape", "size", "channels", "multiplied", "dim"))


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


def _hash_of_state(module: nn.Module) -> str:
    # Without names: a module that only wraps another is the same teacher.
    digest = hashlib.sha256()
    for part in _parts(list(module.state_dict().values())):
        if isinstance(part, Tensor):
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif part is not None:
            digest.update(part)
    return digest.hexdigest()[:12]


def _is_told_by_state(module: nn.Module) -> bool:
    """Whether there is something in the module's state, and nothing that :func:`_parts` does not know."""
    sizes = [
        part if part is None else part.numel() if isinstance(part, Tensor) else len(part)
        for part in _parts(list(module.state_dict().values()))
    ]
    return any(sizes) and None not in sizes


def _parts(value: Any) -> Iterator[Tensor | bytes | None]:
    """What a value of a module's state consists of: plain tensors, and bytes; None for what cannot be looked into."""
    if isinstance(value, Tensor):
        yield from _parts_of_tensor(value)
    elif isinstance(value, torch.ScriptObject):  # packed weights of quantised layers
        try:
            packed = value.__getstate__()
        except RuntimeError:  # of a class that cannot be saved
            yield None
        else:
            yield from _parts(packed)
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _parts((name, entry))
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from _parts(entry)
    elif isinstance(value, bytes | bytearray):
        yield bytes(value)
    elif isinstance(value, io.BytesIO):
        yield value.getvalue()
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield value.tobytes()
    elif isinstance(value, str | bool | int | float | complex | torch.dtype | torch.device):
        yield f"{type(value).__name__} {value!r} ".encode()
    elif value is not None:
        yield None


def _parts_of_tensor(tensor: Tensor) -> Iterator[Tensor | bytes | None]:
    """As :func:`_parts`, of a tensor: a quantised one has no bytes of its own, and its scales count, too."""
    if tensor.is_quantized:
        yield tensor.int_repr()
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            yield from _parts((tensor.q_scale(), tensor.q_zero_point()))
        else:
            yield from (tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points())
            yield from _parts(tensor.q_per_channel_axis())
    elif hasattr(tensor, "__tensor_flatten__"):  # a subclass that consists of other tensors
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _parts(getattr(tensor, name))
    elif tensor.layout is torch.sparse_coo:
        whole = tensor.detach().coalesce()
        yield from (whole.indices(), whole.values())
    elif tensor.layout is torch.strided and not tensor.is_meta:
        yield tensor
    else:
        yield None
