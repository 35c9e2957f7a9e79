"""What stands in while somebody else's script runs: each of these is a context, and puts everything back in the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mekd_plugin.errors import MissingDependency

__all__ = [
    "event_logger",
    "loads_anywhere",
    "modules_forgotten",
    "modules_replaced",
    "numbers_loadable",
    "replaced",
    "without_gpu",
]


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """``owner``'s attribute is ``value`` within."""
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextmanager
def modules_replaced(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Importing one of these names gives the module that stands here, within."""
    kept = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in kept.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


@contextmanager
def modules_forgotten(folder: Path) -> Iterator[None]:
    """Modules imported from ``folder`` within are forgotten in the end: their names (``models``) may be anybody's."""
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            spec = getattr(sys.modules[name], "__spec__", None)
            places = [spec.origin, *(spec.submodule_search_locations or [])] if isinstance(spec, ModuleSpec) else []
            if any(place and Path(place).is_relative_to(folder) for place in places):
                del sys.modules[name]


@contextmanager
def loads_anywhere() -> Iterator[None]:
    """``torch.load`` takes a GPU's checkpoints on a machine without one."""
    load, place = torch.load, None if torch.cuda.is_available() else "cpu"

    def load_here(*args: Any, **kwargs: Any) -> Any:
        return load(*args, **{"map_location": place, **kwargs})

    with replaced(torch, "load", load_here):
        yield


def event_logger() -> AbstractContextManager[None]:
    """``tensorboard_logger`` can be imported within: itself, or torch's event writer where it is missing or broken."""
    name = "tensorboard_logger"
    try:
        import_module(name)
    except Exception as error:  # where it is installed, a current protobuf raises a TypeError of its own
        print(f"[mekd] {name} cannot be imported ({type(error).__name__}): torch's event writer stands in", flush=True)
        stand_in = ModuleType(name)
        stand_in.Logger = _EventLogger  # type: ignore[attr-defined]
        return modules_replaced({name: stand_in})
    return nullcontext()


def numbers_loadable() -> AbstractContextManager[Any]:
    """``torch.load`` takes NumPy numbers within, and still nothing that could run code.

    A suite that decays its learning rate by ``rate ** np.sum(epoch > decay_epochs)`` saves one in its optimiser's
    state, so that ``weights_only=True`` refuses the whole checkpoint.
    """
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # of NumPy 1 and 2
    return torch.serialization.safe_globals([*names, np.dtype, *kinds])


@contextmanager
def without_gpu() -> Iterator[None]:
    """For a suite that hard-codes ``.cuda()``: on a machine without a GPU, tensors and modules stay where they are."""
    if torch.cuda.is_available():
        yield
        return
    print("[mekd] this suite asks for a GPU and there is none: .cuda() leaves everything on the CPU", flush=True)

    def stay(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self

    with replaced(Tensor, "cuda", stay), replaced(nn.Module, "cuda", stay):
        yield


class _EventLogger:
    """``tensorboard_logger.Logger`` by torch's event writer."""

    def __init__(self, logdir: str, flush_secs: int = 2) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependency('the suite logs for TensorBoard: pip install "mekd-plugin[tensorboard]"') from error
        self._writer = SummaryWriter(str(Path(logdir).resolve()), flush_secs=flush_secs)  # a thread of it writes later

    def log_value(self, name: str, value: Any, step: int | None = None) -> None:
        self._writer.add_scalar(name, float(value), step)
