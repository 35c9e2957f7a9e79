"""A few of the images that a run really sent, for the report: seen where they leave, whatever the method."""

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

from mekd_plugin.files import write_atomically

__all__ = ["SentImages"]

_CLASSES_SHOWN = 10
_SECONDS_BETWEEN_WRITES = 2.0


class SentImages:
    """The last image of each of up to ten classes, evenly spaced among all, that the teacher answered.

    Args:
        path: the ``.npz`` file; an undamaged one that is already there is continued.
        num_classes: C.
        value_range: that of the images.
    """

    def __init__(self, path: Path, num_classes: int, value_range: tuple[float, float] = (-1.0, 1.0)) -> None:
        self._path, self._range = path, value_range
        spaced = np.linspace(0, num_classes - 1, min(num_classes, _CLASSES_SHOWN))
        self._shown = sorted({round(value) for value in spaced.tolist()})
        self._images: dict[int, np.ndarray] = {}
        self._written = -_SECONDS_BETWEEN_WRITES
        if path.exists():
            try:
                with np.load(path, allow_pickle=False) as kept:
                    self._images = dict(zip(kept["labels"].tolist(), kept["images"], strict=True))
            except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
                self._images = {}  # pictures for a report only: a damaged file is started over

    def wrap(self, teacher: nn.Module | Callable[[Tensor], Any]) -> nn.Module | Callable[[Tensor], Any]:
        """``teacher``, with its questions looked at on the way."""
        if isinstance(teacher, nn.Module):
            return _WatchedModule(teacher, self)

        def ask(images: Tensor) -> Any:
            answers = teacher(images)
            self.see(images, answers)
            return answers

        return ask

    def see(self, images: Tensor, answers: Any) -> None:
        """Look at a batch ``(n, channels, height, width)`` and its answers, scores ``(n, C)`` or labels ``(n,)``."""
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


class _WatchedModule(nn.Module):
    def __init__(self, teacher: nn.Module, watcher: SentImages) -> None:
        super().__init__()
        self.teacher, self._watcher = teacher, watcher

    def forward(self, images: Tensor) -> Any:
        answers = self.teacher(images)
        self._watcher.see(images, answers)
        return answers
