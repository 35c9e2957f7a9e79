"""``mekd distill --edge-images DIR``: a student from a folder of photographs, without a data set and without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from mekd_plugin.bench.pricing import format_price, price_of
from mekd_plugin.bench.run_inputs import recipe_of
from mekd_plugin.bench.run_record import blank_record, record_of
from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.bench.store import write_record
from mekd_plugin.bench.teacher_names import kind_of_teacher
from mekd_plugin.bench.teachers import classes_of_file, load_teacher, patience_for
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_whole
from mekd_plugin.errors import InputError
from mekd_plugin.image_files import channels_of, image_files, read_images
from mekd_plugin.networks import build
from mekd_plugin.training.export import export_onnx
from mekd_plugin.training.plan import plan
from mekd_plugin.training.run import distill as distill_once

__all__ = ["class_names", "distill_folder"]


def class_names(text: str | None, teacher: str) -> tuple[int, list[str] | None]:
    """How many classes there are, and their names where they are known.

    Args:
        text: ``"cat,dog"``, or a number; None where the teacher's file says the number.
        teacher: its name.

    Raises:
        InputError: nobody says it.
    """
    if text is None:
        if kind_of_teacher(teacher) == "file" and "@" not in teacher:
            return classes_of_file(Path(teacher)), None
        raise InputError(
            f"--classes is missing: {teacher} does not say how many there are; expected names, cat,dog,eel, or a number"
        )
    names = [name.strip() for name in text.split(",")]
    if len(names) == 1:
        return as_whole("--classes", names[0], at_least=2, of="classes", otherwise="names, as in cat,dog,eel"), None
    return len(names), names


def distill_folder(
    spec: RunSpec,
    folder: Path,
    out: Path,
    *,
    classes: str | None,
    device: str,
    price_per_1000: float | None,
    resume: bool,
    dry_run: bool,
    onnx: bool,
    console: Console,
) -> int:
    """Distil into ``out`` what the image files of ``folder`` allow; returns the exit status.

    Args:
        spec: the run's settings, of which the data set is not used.
        folder: of image files, without subfolders.
        out: the run's directory; it gets ``student.json`` and ``record.json``, too.
        classes: see :func:`class_names`.
        device: where the student trains.
        price_per_1000: of the questions; None for none.
        resume: go on with what ``out`` holds.
        dry_run: only say what it would ask.
        onnx: write the student as an ONNX model, too.
        console: to print on.
    """
    count, names = class_names(classes, spec.teacher)
    files = image_files(folder)
    size = spec.image_size
    images = read_images(files, None if size is None else (channels_of(files), size, size), remedy="--image-size N")
    channels, height, width = images.shape[1:]
    shape = (channels, height, width)
    torch.set_num_threads(spec.threads)
    teacher = load_teacher(spec.teacher, num_classes=count, image_shape=spec.teacher_shape(shape))
    boundary = BlackBox(
        teacher,
        spec.responses,
        count,
        budget=spec.query_budget,
        device=device if isinstance(teacher, nn.Module) else None,
        answers=spec.answers,
        answers_seed=spec.seed,
        classes=names,
        teacher_size=spec.teacher_size,
        **patience_for(spec.teacher),
    )
    student = build(spec.student, count, shape, seed=spec.seed)
    settings: dict[str, Any] = {
        "preset": spec.preset, "recipe": recipe_of(spec), "seed": spec.seed, "device": device,
        "validation": spec.validation, **spec.hyperparameters,
    }  # fmt: skip
    if dry_run:
        planned = plan(student, boundary, images, spec.method, price_per_1000=price_per_1000, **settings)
        console.print(f"{len(images):,} images of {shape}; this would ask {planned}. Nothing was asked.", markup=False)
        return 0
    result = distill_once(student, boundary, images, spec.method, directory=out, resume=resume, **settings)
    price = price_of(result.ledger.total, price_per_1000)
    record = record_of(
        blank_record(spec), result, last={}, teacher_accuracy=None, real_images=len(images), test_images=0
    )
    write_record(out / "record.json", replace(record, price=price))
    result.save(out, network=spec.student, onnx=onnx)
    if onnx and not (out / "student.onnx").is_file():  # the error says why
        export_onnx(result.student, out / "student.onnx", shape)
    lines = [str(result), *([] if price is None else [f"price {format_price(price)}"]), f"student: {out}"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0
