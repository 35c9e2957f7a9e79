"""A canary: a few questions of a run's first life that are asked again in a later one, to notice a changed teacher."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mekd_plugin.errors import DamagedFile, TeacherChanged
from mekd_plugin.files import write_atomically
from mekd_plugin.responses import Response
from mekd_plugin.sealing import CHECKSUM, check_seal, metadata_of, seal_tensors

__all__ = ["STAGE", "Canary"]

STAGE = "canary"
"""The stage under which they are counted, as an evaluation."""
_IMAGES = 4
_TOLERANCE = 0.01
"""Share of the largest score: other batches and other processors round otherwise, another model does not stop there."""


class Canary:
    """The first images that a teacher answered, and its answers.

    Args:
        path: of the file that holds them.
        strict: whether a difference is an error; else it is a warning.

    Attributes:
        due: whether the teacher is to be looked at before it is asked anything new: until all images were compared,
            and after a difference that is an error for good.

    Raises:
        DamagedFile: the file cannot be read.
    """

    def __init__(self, path: Path, *, strict: bool) -> None:
        self._path, self._strict = path, strict
        self._kept: dict[str, Tensor] = {}
        self._changed: list[str] | None = None  # what a comparison of all images found
        if path.exists():
            try:
                content = path.read_bytes()
                check_seal(content, metadata_of(content).get(CHECKSUM))
                self._kept = load(content)
                count = len(self._kept["images"])
                if any(len(self._kept[name]) != count for name in ("fingerprints", "values")):
                    raise ValueError("columns of different lengths")
            except (SafetensorError, ValueError, KeyError, OSError) as error:
                raise DamagedFile(
                    f"{path} is damaged ({error}): put a copy back, or delete it, and nobody looks whether the teacher "
                    "is still the same"
                ) from error
        self.due = bool(self._kept)

    def remember(self, images: Tensor, fingerprints: Tensor, response: Response) -> None:
        """Keep the first few images that were ever asked about, with their answers."""
        wanted = _IMAGES - (len(self._kept["images"]) if self._kept else 0)
        if wanted <= 0 or self._changed is not None:
            return
        found = {"images": images, "fingerprints": fingerprints, "values": response.values}
        for name, column in found.items():
            own = column[:wanted].detach().cpu()
            self._kept[name] = (torch.cat([self._kept[name], own]) if name in self._kept else own).contiguous()
        write_atomically(self._path, seal_tensors(save(self._kept), {}))

    def look(self, ask: Callable[[Tensor, Tensor], Response]) -> None:
        """Ask again, and hold what the teacher answers now against what it answered then.

        An error of ``ask`` leaves the canary due, and all its images are asked about another time. Once a difference is
        known, it is raised without asking.

        Args:
            ask: images and their fingerprints, on the CPU -> the answers of today.

        Raises:
            TeacherChanged: an answer differs, and that is an error.
        """
        if self._changed is None:
            self._changed = self._differences(ask(self._kept["images"], self._kept["fingerprints"]))
        said = (
            f"the teacher has changed since the answers that are kept: asked again about {len(self._kept['images'])} "
            f"of its first images, it answers {len(self._changed)} otherwise ({'; '.join(self._changed)}). Answers of "
            "two teachers would be mixed: start a new run in another directory"
        )
        if self._changed and self._strict:
            raise TeacherChanged(f'{said}, or say on_drift="warn" if that is meant')
        self.due = False
        if self._changed:
            warnings.warn(said, stacklevel=2)

    def _differences(self, response: Response) -> list[str]:
        now, told, found = response.values.detach().cpu(), self._kept["values"], []
        for number, (then, again) in enumerate(zip(told, now.to(told.dtype), strict=True), 1):
            if not response.soft:
                if then != again:
                    found.append(f"image {number}: class {int(then)} then, {int(again)} now")
            elif float((then - again).abs().max()) > _TOLERANCE * max(1.0, float(then.abs().max())):
                place = int((then - again).abs().argmax())
                found.append(
                    f"image {number}: class {place} scored {float(then[place]):.4g} then, {float(again[place]):.4g} now"
                )
        return found
