"""Export of the student as an ONNX file, which any runtime can read."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin.errors import MissingDependency
from mekd_plugin.files import write_atomically
from mekd_plugin.modes import evaluating

__all__ = ["export_onnx"]


def export_onnx(student: nn.Module, path: str | Path, image_shape: tuple[int, int, int]) -> Path:
    """Write ``student`` as an ONNX model with a free batch size, input ``images`` and output ``logits``.

    Args:
        student: images ``(n, channels, height, width)`` -> logits ``(n, C)``; exported in evaluation mode.
        path: the file to write; it is written whole or not at all.
        image_shape: ``(channels, height, width)``.

    Raises:
        MissingDependency: onnx or onnxscript is not installed.
        InputError: the file cannot be written.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            f"exporting needs onnx and onnxscript ({error}): pip install 'mekd-plugin[onnx]'"
        ) from error
    device = next((weight.device for weight in student.parameters()), torch.device("cpu"))
    exported = _with_plain_normalisation(student)
    with evaluating(exported), tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "student.onnx"
        torch.onnx.export(
            exported,
            (torch.zeros(2, *image_shape, device=device),),
            str(made),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        write_atomically(Path(path), made.read_bytes())
    return Path(path)


class _Normalisation(nn.Module):
    """``(images - mean) / std``, channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def _with_plain_normalisation(student: nn.Module) -> nn.Module:
    """``student``; a copy with plain arithmetic in their place where it holds ``Normalize`` modules of torchvision's.

    Those look at their values while they run, which no exporter follows.
    """
    everywhere = student.named_modules(remove_duplicate=False)
    places = [name for name, part in everywhere if name and _is_torchvisions_normalize(part)]
    if not places:
        return student
    device = next((weight.device for weight in student.parameters()), torch.device("cpu"))
    replaced = copy.deepcopy(student)
    for name in places:
        normalize: Any = replaced.get_submodule(name)
        replaced.set_submodule(name, _Normalisation(normalize.mean, normalize.std).to(device))
    return replaced


def _is_torchvisions_normalize(part: nn.Module) -> bool:
    # By name, since loading torchvision takes a second, and whoever has such a module has loaded it.
    return type(part).__name__ == "Normalize" and type(part).__module__.startswith("torchvision.transforms")
