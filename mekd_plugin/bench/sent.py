"""What a run really sent, seen where it leaves, whatever the method: pictures for the report, and images to attack."""

from __future__ import annotations

import io
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mekd_plugin.bench.privacy import MOST_SENT, shrunk
from mekd_plugin.blackbox.backends import Declared
from mekd_plugin.files import write_atomically

__all__ = ["SentImages", "SentSample"]

_CLASSES_SHOWN = 10
_SECONDS_BETWEEN_WRITES = 2.0
_SECONDS_BETWEEN_SAMPLES = 60.0
_DAMAGED = (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)


class SentImages:
    """The last image of each of up to ten classes, evenly spaced among all, that the teacher answered.

    Args:
        path: the ``.npz`` file; an undamaged one that is already there is continued.
        num_classes: C.
        value_range: that of the images.
        sample: keeps the images for an attack, too; None keeps none.
    """

    def __init__(
        self,
        path: Path,
        num_classes: int,
        value_range: tuple[float, float] = (-1.0, 1.0),
        sample: SentSample | None = None,
    ) -> None:
        self._path, self._range, self._sample = path, value_range, sample
        spaced = np.linspace(0, num_classes - 1, min(num_classes, _CLASSES_SHOWN))
        self._shown = sorted({round(value) for value in spaced.tolist()})
        self._images: dict[int, np.ndarray] = {}
        self._written = -_SECONDS_BETWEEN_WRITES
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    self._images = dict(zip(kept["labels"].tolist(), kept["images"], strict=True))
            except _DAMAGED:
                self._images = {}  # pictures for a report only: a damaged file is started over

    def wrap(self, teacher: nn.Module | Callable[[Tensor], Any]) -> nn.Module | Callable[[Tensor], Any]:
        """``teacher``, with its questions looked at on the way."""
        if isinstance(teacher, nn.Module):
            return _WatchedModule(teacher, self)

        def ask(images: Tensor) -> Any:
            answers = teacher(images)
            self.see(images, answers)
            return answers

        return Declared.of(teacher).tell(ask)

    def see(self, images: Tensor, answers: Any) -> None:
        """Look at a batch ``(n, channels, height, width)`` and its answers, scores ``(n, C)`` or labels ``(n,)``."""
        if self._sample is not None:
            self._sample.see(images)
        try:
            values = torch.as_tensor(answers).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            return  # nothing that could be an answer: the boundary says so, with the number of the batch
        if values.dim() not in (1, 2) or len(values) != len(images):
            return
        labels = values.argmax(dim=1) if values.dim() == 2 else values
        low, high = self._range
        for label in self._shown:
            found = (labels == label).nonzero()
            if len(found):
                image = images[int(found[-1])].detach().cpu().float()
                levels = ((image - low) / (high - low) * 255).clamp(0, 255).round().byte()
                self._images[label] = levels.permute(1, 2, 0).numpy()
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Keep what was seen; nothing is written before anything was sent."""
        if not self._images:
            return
        labels = sorted(self._images)
        stream = io.BytesIO()
        np.savez_compressed(stream, labels=np.array(labels), images=np.stack([self._images[label] for label in labels]))
        write_atomically(self._path, stream.getvalue())
        self._written = time.monotonic()


class SentSample:
    """The images that were sent, for an attack; of very many a uniform sample, each as likely to be in it.

    Reservoir sampling (Vitter 1985, algorithm R); what is drawn depends on how many were seen and on nothing else. Kept
    in half precision and no larger than 32 x 32, and written once a minute and when :meth:`write` is called: of a run
    that was killed, images may be missing.

    Args:
        path: the ``.npz`` file; an undamaged one that is already there is continued.
        size: images that it holds at most.
    """

    def __init__(self, path: Path, size: int = MOST_SENT) -> None:
        self._path, self._size = path, size
        self.seen = self._kept = 0
        self._held = torch.zeros(0, 0, 0, 0, dtype=torch.float16)  # grows by doubling
        self._count = 0
        self._mixed = False
        self._written = time.monotonic()
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    images, seen = torch.from_numpy(kept["images"]).half(), int(kept["seen"])
                if images.dim() != 4 or len(images) > min(seen, size):
                    raise ValueError(f"{seen} images seen and {tuple(images.shape)} kept")
                if len(images) < min(seen, size):  # begun as a smaller sample, which it stays
                    self._size = len(images)
                self._held, self._count, self.seen = images, len(images), seen
                self._kept = self.seen
            except _DAMAGED:
                self.seen = 0

    @property
    def images(self) -> Tensor:
        """``(n, channels, height, width)`` float16; n is 0 where nothing was sent, or images of several shapes."""
        return self._held[:0] if self._mixed else self._held[: self._count]

    @property
    def complete(self) -> bool:
        """Whether it is all that was seen, and no sample of it."""
        return self.seen <= self._size

    def see(self, images: Tensor) -> None:
        """Look at a batch ``(n, channels, height, width)``."""
        if images.dim() != 4:
            return
        rng = torch.Generator().manual_seed(self.seen)
        chosen: dict[int, int] = {}
        for place in range(len(images)):
            number = self.seen + place
            slot = number if number < self._size else int(torch.randint(number + 1, (1,), generator=rng))
            if slot < self._size:
                chosen[slot] = place
        if chosen and not self._mixed:
            rows = torch.tensor(list(chosen.values()), device=images.device)
            kept = shrunk(images.detach()[rows].float()).half().cpu()
            self._mixed = self._count > 0 and kept.shape[1:] != self._held.shape[1:]
            if not self._mixed:
                self._keep(torch.tensor(list(chosen)), kept)
        self.seen += len(images)
        if time.monotonic() - self._written > _SECONDS_BETWEEN_SAMPLES:
            self.write()

    def _keep(self, slots: Tensor, images: Tensor) -> None:
        needed = max(self._count, int(slots.max()) + 1)
        if needed > len(self._held):
            larger = images.new_empty(min(max(2 * needed, 1000), self._size), *images.shape[1:])
            if self._count:
                larger[: self._count] = self._held[: self._count]
            self._held = larger
        self._held[slots] = images
        self._count = needed

    def write(self) -> None:
        """Keep the sample; nothing is written where nothing was sent since it was last kept."""
        if len(self.images) == 0 or self.seen == self._kept:
            return
        stream = io.BytesIO()
        np.savez(stream, images=self.images.numpy(), seen=np.array(self.seen))
        write_atomically(self._path, stream.getvalue())
        self._written, self._kept = time.monotonic(), self.seen


class _WatchedModule(nn.Module):
    def __init__(self, teacher: nn.Module, watcher: SentImages) -> None:
        super().__init__()
        self.teacher, self._watcher = teacher, watcher

    def forward(self, images: Tensor) -> Any:
        answers = self.teacher(images)
        self._watcher.see(images, answers)
        return answers
