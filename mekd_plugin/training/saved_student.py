"""A student as a folder that travels: weights, an ONNX model, and what it takes to ask it about images and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.onnx_file import onnx_teacher
from mekd_plugin.checks import as_range, as_shape
from mekd_plugin.errors import CheckpointError, DamagedFile, InputError, MissingDependency
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.image_files import read_images
from mekd_plugin.networks import build, load_weights, network_names
from mekd_plugin.prediction import predict
from mekd_plugin.sealing import CHECKSUM, check_seal, file_checksum, seal
from mekd_plugin.training.checkpoint import save_weights
from mekd_plugin.training.export import export_onnx
from mekd_plugin.version import __version__

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Predictions", "SavedStudent", "load_student", "save_student"]

_ABOUT, _WEIGHTS, _ONNX = "student.json", "student.safetensors", "student.onnx"
_FORMAT = 1
_TORCHVISION = "torchvision:"


class Predictions(NamedTuple):
    """What a student says about N images.

    Attributes:
        labels: classes ``(N,)``, int64.
        probabilities: ``(N, C)``, each row sums to 1.
        names: the classes' names; None where they are not known.
    """

    labels: Tensor
    probabilities: Tensor
    names: list[str] | None


class SavedStudent(NamedTuple):
    """A student that was read from a folder.

    Attributes:
        network: images ``(N, channels, height, width)`` in the value range -> logits ``(N, C)``: a module in
            evaluation mode, or a session of ONNX Runtime.
        about: what ``student.json`` says: ``image_shape``, ``value_range``, ``classes``, ``signature``, ``held_out``.
    """

    network: Callable[[Tensor], Any]
    about: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of what it takes."""
        channels, height, width = self.about["image_shape"]
        return channels, height, width

    def predict(
        self, images: Tensor | str | Path | Iterable[str | Path | Image.Image], *, batch_size: int = 256
    ) -> Predictions:
        """Classes, probabilities and names of ``images``.

        Args:
            images: ``(N, channels, height, width)`` in the value range that the student was trained in; or a folder, a
                file, or a list of files or PIL images, which are turned upright and brought to the student's size,
                channels and value range.
            batch_size: images at a time.

        Raises:
            InputError: a tensor of another shape, or outside the value range.
            DataMissing: a file is missing, or is no image.
        """
        shape, (low, high) = self.image_shape, self.about["value_range"]
        if isinstance(images, Tensor):
            given = images
        else:
            given = (read_images(images, self.image_shape) + 1) * ((high - low) / 2) + low
        if given.dim() != 4 or tuple(given.shape[1:]) != shape or not len(given):
            raise InputError(
                f"images of shape {tuple(given.shape)}: expected (N, {', '.join(map(str, shape))}); files and PIL "
                "images are brought to that size"
            )
        slack = 1e-4 * (high - low)
        if not (given.min() >= low - slack and given.max() <= high + slack):
            raise InputError(
                f"images with values from {float(given.min()):.4g} to {float(given.max()):.4g}: this student takes "
                f"{low:g} to {high:g}"
            )
        if isinstance(self.network, nn.Module):
            logits = predict(self.network, given, batch_size=batch_size)
        else:
            logits = torch.cat([torch.as_tensor(self.network(part)) for part in given.split(batch_size)])
        labels, classes = logits.argmax(dim=1), self.about["classes"]
        names = None if classes is None else [classes[label] for label in labels.tolist()]
        return Predictions(labels, logits.float().softmax(dim=1), names)


def save_student(
    student: nn.Module,
    directory: str | Path,
    *,
    image_shape: tuple[int, int, int],
    value_range: tuple[float, float],
    num_classes: int,
    classes: Iterable[str] | None = None,
    network: str | None = None,
    onnx: bool = True,
    **about: Any,
) -> Path:
    """Write a student, and what it takes to use it, into ``directory``.

    ``student.safetensors`` holds the weights, ``student.json`` everything else, and ``student.onnx`` the network with
    its weights, where onnx is installed and the network can be exported.

    Args:
        student: images -> logits ``(n, num_classes)``.
        directory: created where missing; a student that is there already is replaced.
        image_shape: ``(channels, height, width)``.
        value_range: of the images that it takes.
        num_classes: C.
        classes: their names, in order.
        network: the student's name for :func:`mekd_plugin.networks.build`, such as ``"resnet8"``; without it
            :func:`load_student` wants the module, or uses the ONNX model.
        onnx: whether to write ``student.onnx``.
        **about: further JSON for ``student.json``.

    Returns:
        The directory.

    Raises:
        InputError: it cannot be written.
    """
    folder = writable_directory(Path(directory))
    (folder / _ONNX).unlink(missing_ok=True)
    config = {"network": network, "num_classes": num_classes, "image_shape": list(image_shape)}
    save_weights(student, folder / _WEIGHTS, config=config)
    not_exported = None if onnx else "it was not asked for"
    try:
        if onnx:
            export_onnx(student, folder / _ONNX, image_shape)
    except MissingDependency:
        not_exported = "onnx and onnxscript are not installed: pip install 'mekd-plugin[onnx]', and save again"
    except Exception as error:  # a network is the user's code, and may do what no exporter understands
        not_exported = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.200}"
    content = {
        "format": _FORMAT,
        **config,
        "module": f"{type(student).__module__}.{type(student).__qualname__}",
        "value_range": list(value_range),
        "classes": None if classes is None else list(classes),
        "preprocessing": "upright, grey (1 channel) or RGB (3), bilinear with antialiasing to height x width, "
        "0..255 to value_range",
        "not_exported": not_exported,
        "onnx_checksum": file_checksum(folder / _ONNX) if not_exported is None else None,
        **about,
        "version": __version__,
    }
    write_atomically(folder / _ABOUT, seal(content))
    return folder


def load_student(directory: str | Path, student: nn.Module | None = None) -> SavedStudent:
    """Read a student that ``result.save(directory)`` or :func:`save_student` wrote.

    No code is read from the folder: a network of this package or of torchvision is built by its name, any other one
    is handed in, or runs from ``student.onnx``.

    Args:
        directory: the folder.
        student: a module that the weights fit, where its name is not in the folder; it is filled in place.

    Raises:
        CheckpointError: the folder holds no student, a damaged one, or one that only its own module can take the
            weights of.
        MissingDependency: it can only run by ONNX Runtime, which is not installed.
    """
    folder = Path(directory)
    try:
        content = (folder / _ABOUT).read_bytes()
        about: dict[str, Any] = json.loads(content)
        check_seal(content, about[CHECKSUM])
        network, shape = about["network"], as_shape("image_shape", about["image_shape"])
        classes, names = int(about["num_classes"]), about["classes"]
        as_range("value_range", about["value_range"])
        if names is not None and len(names) != classes:
            raise ValueError(f"{len(names)} names of {classes} classes")
        if about["format"] != _FORMAT:
            raise CheckpointError(f"{folder} is of format {about['format']}: this version reads {_FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder} holds no student ({type(error).__name__}: {error}): expected a folder that result.save(DIR) "
            "wrote"
        ) from error
    known = network is not None and (network in network_names() or network.startswith(_TORCHVISION))
    if student is None and known:
        student = build(network, classes, shape)
    if student is not None:
        return SavedStudent(load_weights(student, folder / _WEIGHTS).eval(), about)
    if (folder / _ONNX).is_file():
        if file_checksum(folder / _ONNX) != about["onnx_checksum"]:
            raise DamagedFile(f"{folder / _ONNX} is not the model that was saved here: copy it again, or save anew")
        return SavedStudent(onnx_teacher(folder / _ONNX), about)
    raise CheckpointError(
        f"{folder} holds the weights of a {about.get('module')}, and no ONNX model ({about.get('not_exported')}): hand "
        "in a module that they fit, load_student(directory, student=module)"
    )
