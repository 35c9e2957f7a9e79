"""A stage's step as CUDA graphs: recorded once, then replayed without Python launching each kernel.

With small images and networks a GPU waits for Python to launch its kernels. A recorded step computes what the step
computes, from the same random numbers; only batches, optimisers and schedules are left to Python.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mekd_plugin.errors import MekdError
from mekd_plugin.rows import Rows

__all__ = ["WORTH_RECORDING", "Recorder"]

WORTH_RECORDING = 30
"""Steps; a shorter stage is over before a recording has paid."""
_WARM_UP = 3  # steps in which optimisers make their state, and cuDNN and cuBLAS choose; the last of them is watched

_LOGGER = logging.getLogger(__name__)

Scalars = dict[str, Tensor]


@dataclass(frozen=True)
class _Segment:
    """A step up to one of its updates, and what is done there; None at the step's end.

    Attributes:
        graph: of all that the device computes.
        gradients: where it leaves those of the weights that move.
        move: steps their optimisers.
    """

    graph: torch.cuda.CUDAGraph
    gradients: Sequence[tuple[nn.Parameter, Tensor | None]] = ()
    move: Callable[[], None] | None = None

    def replay(self) -> None:
        self.graph.replay()
        if self.move is not None:
            for weight, gradient in self.gradients:
                weight.grad = gradient
            self.move()


class Recorder:
    """Takes a stage's steps: the first ones as they are, one that is recorded, the others by replaying it.

    An update divides the recording: gradients are recorded, but the optimiser's step, whose numbers change with a
    schedule, is taken anew each time. From the first batch of another shape on, steps are taken as they are; so are
    those of a stage whose step makes the host wait for the device.

    While a step is recorded, settings of the whole process are changed for a moment (warnings, garbage collection,
    torch's watch over waits), so stages should not be trained in several threads at once.

    Args:
        device: a CUDA device.
        name: of the stage, for messages.
    """

    def __init__(self, device: torch.device, name: str) -> None:
        self._device, self._name = device, name
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self._taken, self._refused = 0, False
        self._held: Rows | None = None
        self._segments: list[_Segment] = []
        self._scalars: Scalars = {}
        self._open: contextlib.ExitStack | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def close(self) -> None:
        """Let go of the recording and of its memory."""
        for segment in self._segments:
            for weight, _ in segment.gradients:
                weight.grad = None
        self._refused, self._held, self._graph, self._segments, self._scalars = True, None, None, [], {}

    @property
    def segments(self) -> int:
        """Parts of the recording; 0 as long as there is none."""
        return len(self._segments)

    def take(self, rows: Rows, step: Callable[[Rows], Scalars]) -> Scalars:
        """One step; what ``step`` returns. A replay writes into the tensors that the recorded step returned.

        Args:
            rows: of the step, on the device.
            step: computes it; calls :meth:`update` at each of its updates.

        Raises:
            MekdError: the step could not be recorded, and was half done when that was found.
        """
        if self._refused:
            return step(rows)
        if self._held is not None:
            return self._replayed(rows, step)
        with self._aside():
            self._taken += 1
            if self._taken < _WARM_UP:
                return step(rows)
            if self._taken == _WARM_UP:
                with _watched() as waits:
                    scalars = step(rows)
                if waits:
                    _LOGGER.info("stage %r is not recorded as a CUDA graph: %s", self._name, waits[0])
                    self._refused = True
                return scalars
            return self._recorded(rows, step)

    def update(self, weights: Sequence[nn.Parameter], move: Callable[[], None]) -> None:
        """Gradients were taken: move the weights.

        Args:
            weights: those that have new gradients.
            move: steps their optimisers.
        """
        if self._open is None:
            with _unwatched():
                move()
            return
        self._close([(weight, weight.grad) for weight in weights], move)
        self._begin()

    def _replayed(self, rows: Rows, step: Callable[[Rows], Scalars]) -> Scalars:
        assert self._held is not None
        held, new = _tensors(self._held), _tensors(rows)
        if [(name, tensor.shape, tensor.dtype) for name, tensor in held] != [(n, t.shape, t.dtype) for n, t in new]:
            _LOGGER.info("stage %r is no longer replayed: its rows have another shape", self._name)
            self.close()
            return step(rows)
        for (_, old), (_, tensor) in zip(held, new, strict=True):
            old.copy_(tensor)
        for segment in self._segments:
            segment.replay()
        return self._scalars

    def _recorded(self, rows: Rows, step: Callable[[Rows], Scalars]) -> Scalars:
        held, random = _copied(rows), torch.cuda.get_rng_state(self._device)
        try:
            with _no_collection():
                self._begin()
                self._scalars = step(held)
                self._close()
        except BaseException as error:
            self._abandon(random)
            if not isinstance(error, RuntimeError):
                raise
            if self._segments and isinstance(error, torch.OutOfMemoryError):
                raise MekdError(
                    f"stage {self._name!r} found no memory for recording its step as a CUDA graph: {error}; "
                    "recorded=False computes it step by step"
                ) from error
            if self._segments:
                raise MekdError(
                    f"stage {self._name!r} calls its step recordable, and as a CUDA graph it broke off in the middle: "
                    f"{error}; its Training should say recordable=False, and recorded=False records none"
                ) from error
            warnings.warn(f"stage {self._name!r} is not recorded as a CUDA graph: {error}", stacklevel=2)
            return step(rows)
        self._held = held
        return self._scalars

    def _begin(self) -> None:
        self._graph, self._open = torch.cuda.CUDAGraph(), contextlib.ExitStack()
        recording = torch.cuda.graph(
            self._graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        )
        self._open.enter_context(recording)

    def _close(
        self, gradients: Sequence[tuple[nn.Parameter, Tensor | None]] = (), move: Callable[[], None] | None = None
    ) -> None:
        """End the segment, and compute it: recording alone computes nothing."""
        assert self._open is not None and self._graph is not None
        opened, self._open = self._open, None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The CUDA Graph is empty")  # nothing need follow the last update
            opened.close()
        self._segments.append(_Segment(self._graph, gradients, move))
        self._segments[-1].replay()

    def _abandon(self, random: Tensor) -> None:
        """End a recording that broke off, and put the device's random numbers back to where they were."""
        self._refused = True
        opened, self._open = self._open, None
        if opened is not None:
            with contextlib.suppress(RuntimeError):  # what broke the recording is said already
                opened.close()
        numbers = torch.cuda.default_generators[torch.cuda.current_device()]
        numbers.graphsafe_set_state(torch.Generator(self._device).graphsafe_get_state())
        numbers.set_state(random)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Steps before a recording run on the stream of the recording, as torch asks."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            here.wait_stream(self._stream)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Within it, Python frees no memory in passing: that of a device could not be freed while a step is recorded."""
    gc.collect()
    usual = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if usual:
            gc.enable()


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    """What makes the host wait for the device inside this context, as far as torch notices; filled when it ends."""
    waits: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        said = str(warning.message)
        if "synchronizing CUDA operation" in said:
            waits.append(said)
        elif "debug mode" not in said:  # that it is a prototype
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@contextlib.contextmanager
def _unwatched() -> Iterator[None]:
    """Within it, nobody is told: what an optimiser waits for is no part of a recording."""
    mode = torch.cuda.get_sync_debug_mode()
    if not mode:
        yield
        return
    torch.cuda.set_sync_debug_mode("default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _tensors(rows: Rows) -> list[tuple[str, Tensor]]:
    """Images, answers and further columns by name, always in the same order."""
    answers = [] if rows.response is None else [("response", rows.response.values)]
    return [("images", rows.images), *answers, *sorted(rows.extra.items())]


def _copied(rows: Rows) -> Rows:
    """The same rows in memory of their own, whose contents may be replaced."""
    response = rows.response
    return Rows(
        rows.images.clone(),
        None if response is None else replace(response, values=response.values.clone()),
        {name: column.clone() for name, column in rows.extra.items()},
    )
