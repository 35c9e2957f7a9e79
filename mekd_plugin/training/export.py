"""Export of the student as an ONNX file, which any runtime can read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

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
    with evaluating(student), tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "student.onnx"
        torch.onnx.export(
            student,
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
