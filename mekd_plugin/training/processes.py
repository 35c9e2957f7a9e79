"""Where a run computes: its device, and the other processes it shares the work with (accelerate's)."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, pad_across_processes
from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.rows import Shard

__all__ = ["Processes"]


@dataclass(frozen=True)
class Processes:
    """A process's place among those of ``accelerate launch`` or ``torchrun``; alone where neither was used.

    Attributes:
        device: where this process computes.
        shard: this process's rank, and how many there are.
    """

    device: torch.device
    shard: Shard

    @classmethod
    def join(cls, device: str = "auto") -> Processes:
        """Find this process's place.

        Args:
            device: ``"auto"`` (an accelerator where there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...

        Raises:
            InputError: the device is unknown, or not on this machine.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            state = PartialState(cpu=device == "cpu")
            atexit.register(_leave_together, state)
            return cls(state.device, Shard(state.process_index, state.num_processes))
        try:
            if not isinstance(device, str | torch.device) or str(device) == "meta":
                raise RuntimeError("it names nothing that computes")
            if device == "auto":
                found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
                chosen = found or torch.device("cpu")
            else:
                chosen = torch.device(device)
            torch.empty(1, device=chosen)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f'device={device!r} cannot be used here ({_first_line(error)}); expected "auto", "cpu" or e.g. "cuda:0"'
            ) from error
        return cls(chosen, Shard())

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.shard.rank == 0

    @contextlib.contextmanager
    def own_randomness(self) -> Iterator[None]:
        """Inside this context, random numbers are drawn and seeds set without disturbing the caller's."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            yield

    def gather(self, values: Tensor) -> Tensor:
        """``values`` of all processes, one after another along the first axis; lengths may differ.

        The result is on the device of ``values``.
        """
        if self.shard.world == 1:
            return values
        device = values.device
        length = torch.tensor([len(values)], device=self.device)
        lengths = gather(length).tolist()
        if not max(lengths):
            return values
        padded = pad_across_processes(values.to(self.device), dim=0)
        parts = gather(padded).split(max(lengths))
        return torch.cat([part[:count] for part, count in zip(parts, lengths, strict=True)]).to(device)

    def agree(self, value: bool) -> bool:
        """What the first process says; all wait for it, so none acts on a file that it writes next."""
        return bool(self.gather(torch.tensor([value]))[0])

    def any(self, value: bool) -> bool:
        """Whether one of them says so; all wait for each other."""
        return bool(self.gather(torch.tensor([value])).any())

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over the processes, in one exchange."""
        if self.shard.world == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.shard.world
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def align(self, module: nn.Module) -> None:
        """Give every process the first one's weights and buffers."""
        if self.shard.world > 1:
            with torch.no_grad():
                for tensor in [*module.parameters(), *module.buffers()]:
                    tensor.copy_(broadcast(tensor.detach().contiguous()))


def _first_line(error: BaseException) -> str:
    """What an error says first: torch's go on for pages about every backend."""
    line = str(error).strip().partition("\n")[0]
    return line if len(line) <= 200 else f"{line[:200]}..."


def _leave_together(state: PartialState) -> None:
    """At exit: a process that left while a peer still talked to it would have it aborted by torch's own threads."""
    if torch.distributed.is_initialized():
        # A peer has gone already, or the backend has no such barrier.
        with contextlib.suppress(RuntimeError, ValueError):
            torch.distributed.monitored_barrier(timeout=timedelta(seconds=10))
        state.destroy_process_group()
