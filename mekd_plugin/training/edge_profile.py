"""What an exported student weighs and how fast it answers on this machine, in float32 and in int8."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mekd_plugin.blackbox.onnx_file import onnx_teacher
from mekd_plugin.checks import as_whole
from mekd_plugin.errors import CheckpointError, InputError, MissingDependency
from mekd_plugin.files import write_atomically
from mekd_plugin.training.evaluation import Agreement, agreement_of

__all__ = ["EdgeProfile", "ModelProfile", "profile_onnx", "quantize_onnx"]

_BATCHES = (1, 32)
_RANDOM_IMAGES = 256
_AT_A_TIME = 256


class ModelProfile(NamedTuple):
    """One form of a student.

    Attributes:
        kilobytes: of its file, 1,000 bytes each.
        milliseconds: an image takes, by batch size: the median of several runs, divided by the size.
    """

    kilobytes: float
    milliseconds: dict[int, float]


class EdgeProfile(NamedTuple):
    """A student in ONNX Runtime on this machine's CPU; ``print`` shows it as a table.

    Attributes:
        float32: as it was exported.
        int8: the same after dynamic quantisation: weights in 8 bits, activations as they come.
        agreement: on how many images both name the same class, as a share with its interval.
        measured_on: what these images are.
        threads: that an operator may use.
        repeats: runs of each batch size, after one that is not timed.
    """

    float32: ModelProfile
    int8: ModelProfile
    agreement: Agreement
    measured_on: str
    threads: int
    repeats: int

    def __str__(self) -> str:
        forms = {"float32": self.float32, "int8": self.int8}
        share, low, high, count = self.agreement
        titles = "".join(f"{f'ms an image, batch of {size}':>28}" for size in self.float32.milliseconds)
        return "\n".join([
            f"{'':8}{'kB':>10}{titles}",
            *(
                f"{name:8}{form.kilobytes:>10,.1f}" + "".join(f"{value:>28.3f}" for value in form.milliseconds.values())
                for name, form in forms.items()
            ),
            f"int8 names float32's class on {100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {count:,} "
            f"{self.measured_on}",
            f"ONNX Runtime, {self.threads} thread{'' if self.threads == 1 else 's'}, median of {self.repeats} runs",
        ])  # fmt: skip


def profile_onnx(
    path: str | Path,
    image_shape: tuple[int, int, int],
    value_range: tuple[float, float],
    images: Tensor | None = None,
    *,
    threads: int = 1,
    repeats: int = 30,
    int8: str | Path | None = None,
) -> EdgeProfile:
    """Measure an ONNX model, and what int8 makes of it.

    Args:
        path: of the model, as ``result.save`` or ``mekd distill --onnx`` writes it.
        image_shape: ``(channels, height, width)``.
        value_range: of the pixels.
        images: ``(N, channels, height, width)`` in that range, N at least 1, on which the two forms are compared; None
            draws 256 of noise, which tells less than images that the student is meant for.
        threads: that an operator may use, at least 1.
        repeats: timed runs of each batch size, at least 1.
        int8: where to keep the quantised model; None keeps none.

    Raises:
        MissingDependency: onnxruntime or onnx is not installed.
        CheckpointError: there is no whole model.
        InputError: a number is below 1, there is no image, or the quantised model cannot be written.
    """
    threads = as_whole("threads", threads, at_least=1)
    repeats = as_whole("repeats", repeats, at_least=1)
    low, high = value_range
    rng = torch.Generator().manual_seed(0)
    noise = low + (high - low) * torch.rand(_RANDOM_IMAGES, *image_shape, generator=rng)
    shown, measured_on = (noise, "images of noise") if images is None else (images.float(), "images")
    if not len(shown):
        raise InputError("no image to compare float32 and int8 on: hand in at least one, or None for noise")
    with tempfile.TemporaryDirectory() as folder:
        quantised = quantize_onnx(path, Path(folder) / "int8.onnx")
        files = (Path(path), quantised)
        asked = [onnx_teacher(file, threads=threads) for file in files]
        labels = [torch.cat([ask(part) for part in shown.split(_AT_A_TIME)]).argmax(dim=1) for ask in asked]
        float32, eight_bits = (
            ModelProfile(
                file.stat().st_size / 1000,
                {size: _milliseconds(ask, _batch_of(shown, size), repeats) for size in _BATCHES},
            )
            for file, ask in zip(files, asked, strict=True)
        )
        if int8 is not None:
            write_atomically(Path(int8), quantised.read_bytes())
    return EdgeProfile(float32, eight_bits, agreement_of(labels[0] == labels[1]), measured_on, threads, repeats)


def quantize_onnx(path: str | Path, out: str | Path) -> Path:
    """Write the model at ``path`` to ``out`` with weights of 8 bits; activations are quantised as they come.

    Raises:
        MissingDependency: onnxruntime or onnx is not installed.
        CheckpointError: there is no file at ``path``.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path} is not a file: expected an .onnx model")
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingDependency(
            f"a profile needs onnxruntime and onnx ({error}): pip install 'mekd-plugin[onnx]'"
        ) from error
    with _without_advice():
        # Unsigned: the CPU's integer convolution takes no signed weights.
        quantize_dynamic(str(path), str(out), weight_type=QuantType.QUInt8)
    return Path(out)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep back the advice to run a further tool first, which ONNX Runtime logs at every quantisation."""

    def others(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(others)
    try:
        yield
    finally:
        root.removeFilter(others)


def _batch_of(images: Tensor, size: int) -> Tensor:
    """``size`` images, repeated where there are fewer."""
    return images[torch.arange(size) % len(images)]


def _milliseconds(ask: Any, batch: Tensor, repeats: int) -> float:
    """An image's share of the time that a batch takes."""
    ask(batch)  # the first one sets things up
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        ask(batch)
        seconds.append(time.perf_counter() - began)
    return 1000 * median(seconds) / len(batch)
