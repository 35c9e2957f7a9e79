"""What a distillation leaves: the student, what was asked, and what it took."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Distiller, Inverse
from mekd_plugin.training.evaluation import Agreement, measured_agreement
from mekd_plugin.training.saved_student import save_student

__all__ = ["Distillation", "images_sent", "peak_memory_mb"]


@dataclass(repr=False)
class Distillation:
    """What a distillation leaves.

    Attributes:
        student: the trained network, in evaluation mode.
        history: scalars over the steps, ``{"stage", "step", "loss", ...}``; evaluations under ``"evaluation"``.
        ledger: what was asked, by stage.
        report: what the method has to say, JSON; ``report["warnings"]`` are sentences for the user.
        steps: the student's optimiser steps.
        seconds: ``{"prepare", "distill", "processor"}``: before and during the student's training by the clock, and
            the processor's of both together, with those of a stage that another run trained and shares. This process's
            own, so a resumed run counts what it did after resuming.
        peak_memory_mb: the largest resident size of the process, or of the GPU's tensors where there is a GPU.
        held_out_agreement: share of held-out answers on which the student names the teacher's class; None without any.
            They are about images of the kind that the method sent, which for ``mekd`` are generated ones: how good the
            student is on real images may be another matter, and :meth:`check` asks about those.
        signature: one line with every setting that decides the result.
        inverse: the method's generator, and which latents it takes; None for a method that has none.
        held_out: the same share, with its 95 % interval and the number of images.
        held_out_on: what those images are, such as ``"synthetic images"``.
        image_shape: ``(channels, height, width)`` of the student's images.
        num_classes: C.
        value_range: of those images.
        classes: names of the classes; None where the black box was not told them.
    """

    student: nn.Module
    history: list[dict[str, Any]]
    ledger: Ledger
    report: dict[str, Any]
    steps: int
    seconds: dict[str, float]
    peak_memory_mb: float
    held_out_agreement: float | None
    signature: str
    inverse: Inverse | None = None
    held_out: Agreement | None = None
    held_out_on: str = ""
    image_shape: tuple[int, int, int] = (1, 1, 1)
    num_classes: int = 0
    value_range: tuple[float, float] = (-1.0, 1.0)
    classes: tuple[str, ...] | None = None

    def save(
        self, directory: str | Path, *, network: str | None = None, onnx: bool = True, transform: Any = None
    ) -> Path:
        """Write the student into a folder that travels, for :func:`mekd_plugin.load_student`.

        Weights as safetensors, an ONNX model where onnx is installed, and ``student.json``: image shape, value range,
        names of the classes, signature, and the agreement on held-out answers.

        Args:
            directory: created where missing.
            network: the student's name for :func:`mekd_plugin.networks.build`, if it has one.
            onnx: whether to write the ONNX model.
            transform: a pipeline of ``torchvision.transforms`` that the student's images of files went through; files
                that it is asked about later go through the same. None scales them to size and value range.

        Returns:
            The directory.

        Raises:
            InputError: it cannot be written, or the transform does not make what the student takes.
        """
        held_out = None if self.held_out is None else {**self.held_out._asdict(), "on": self.held_out_on}
        return save_student(
            self.student,
            directory,
            image_shape=self.image_shape,
            value_range=self.value_range,
            num_classes=self.num_classes,
            classes=self.classes,
            network=network,
            onnx=onnx,
            transform=transform,
            signature=self.signature,
            held_out=held_out,
            queries=self.ledger.as_record(),
        )

    def check(self, teacher: BlackBox, images: Tensor) -> Agreement:
        """How often student and teacher name the same class on ``images``, such as real ones; this asks the teacher.

        Args:
            teacher: the black box that was distilled. Every image is a question, counted as ``ledger.evaluation``:
                outside the budget, though a service charges for it.
            images: ``(N, channels, height, width)``, N at least 1, in the teacher's value range. They leave the edge.

        Returns:
            The share, its 95 % interval, and how many images were asked about.

        Raises:
            MekdError: as :meth:`BlackBox.evaluate`.
        """
        return measured_agreement(self.student, images, teacher.evaluate(images, stage="check"))

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {value:,.0f} s" for name, value in self.seconds.items() if name != "processor")
        lines = [
            f"{self.signature.partition(' ')[0]}: {type(self.student).__name__} after {self.steps:,} steps ({stages})",
            f"asked: {self.ledger}",
        ]
        if self.held_out is not None:
            value, low, high, count = self.held_out
            lines.append(
                f"agrees with the teacher on {100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {count:,} "
                f"held-out {self.held_out_on}; result.check(teacher, images) asks about images of your own"
            )
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.report.get("warnings", []))])

    __repr__ = __str__


def images_sent(distiller: Distiller) -> str:
    """What the answers are about, in words."""
    leaves = distiller.needs.leaves_edge
    return {"mixtures": "mixtures of images", "nothing of the edge": "images that show nothing of the edge"}.get(
        leaves, leaves
    )


def peak_memory_mb(device: torch.device) -> float:
    """The largest size so far of the process, or of the tensors on ``device`` where that is a GPU; mebibytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    memory = psutil.Process().memory_info()
    # Windows remembers the peak; elsewhere the system is asked for its own account of it.
    peak = getattr(memory, "peak_wset", None)
    if peak is not None:
        return float(peak) / 2**20
    try:
        import resource
    except ImportError:
        return float(memory.rss) / 2**20  # no system account of the peak: what it takes now
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)
