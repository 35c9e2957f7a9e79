"""A student as a folder that travels: weights, an ONNX model, and what it takes to ask it about images and files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.onnx_file import onnx_teacher
from mekd_plugin.checks import as_range, as_shape
from mekd_plugin.errors import CheckpointError, DamagedFile, InputError, MissingDependency
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.image_files import read_images, upright_images
from mekd_plugin.networks import build, load_weights, network_names
from mekd_plugin.prediction import predict
from mekd_plugin.sealing import CHECKSUM, check_seal, file_checksum, seal
from mekd_plugin.training.checkpoint import save_weights
from mekd_plugin.training.edge_profile import EdgeProfile, profile_onnx
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
        about: what ``student.json`` says: ``image_shape``, ``value_range``, ``classes``, ``transform``, ``signature``,
            ``held_out``, ...
        directory: the folder.
    """

    network: Callable[[Tensor], Any]
    about: dict[str, Any]
    directory: Path

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of what it takes."""
        channels, height, width = self.about["image_shape"]
        return channels, height, width

    def __repr__(self) -> str:
        about, (low, high) = self.about, self.about["value_range"]
        names = "" if about["classes"] is None else f": {', '.join(about['classes'])}"
        through = [name for name, _ in about.get("transform") or ()]
        steps = f"; files go through {', '.join(through)}" if through else ""
        lines = [
            f"{about['network'] or about['module']}, images {self.image_shape} in [{low:g}, {high:g}]{steps}",
            f"{about['num_classes']} classes{names}",
        ]
        if (told := about.get("held_out")) is not None:
            share, low, high = (100 * told[name] for name in ("value", "low", "high"))
            lines.append(
                f"agrees with its teacher on {share:.1f} % [{low:.1f}, {high:.1f}] of {told['images']:,} "
                f"held-out {told['on']}"
            )
        return "\n".join(lines)

    def predict(
        self, images: Tensor | str | Path | Iterable[str | Path | Image.Image], *, batch_size: int = 256
    ) -> Predictions:
        """Classes, probabilities and names of ``images``.

        Args:
            images: ``(N, channels, height, width)`` in the value range that the student was trained in; or a folder, a
                file, or a list of files or PIL images, which are turned upright, made grey or RGB, and go through the
                ``transform`` that was saved with the student; without one they are brought to its size and value range.
            batch_size: images at a time.

        Raises:
            InputError: a tensor of another shape, or outside the value range.
            DataMissing: a file is missing, or is no image.
        """
        given = self.prepare(images)
        if isinstance(self.network, nn.Module):
            logits = predict(self.network, given, batch_size=batch_size)
        else:
            logits = torch.cat([torch.as_tensor(self.network(part)) for part in given.split(batch_size)])
        labels, classes = logits.argmax(dim=1), self.about["classes"]
        names = None if classes is None else [classes[label] for label in labels.tolist()]
        return Predictions(labels, logits.float().softmax(dim=1), names)

    def profile(
        self,
        images: Tensor | str | Path | Iterable[str | Path | Image.Image] | None = None,
        *,
        threads: int = 1,
        repeats: int = 30,
        int8: str | Path | None = None,
    ) -> EdgeProfile:
        """Size, speed and agreement of the student's ONNX model, in float32 and in int8, on this machine.

        Args:
            images: as for :meth:`predict`, on which both forms are compared; None takes noise, and says so.
            threads: that an operator may use.
            repeats: timed runs.
            int8: where to write the quantised model; None keeps none.

        Raises:
            MissingDependency: onnxruntime or onnx is not installed.
            CheckpointError: the folder's ONNX model is damaged, or there is none and the student cannot be exported.
        """
        low, high = self.about["value_range"]
        given = None if images is None else self.prepare(images)
        model = _onnx_model(self.directory, self.about)
        with tempfile.TemporaryDirectory() as place:
            if model is None:  # it was saved without one
                model = self._exported(Path(place) / _ONNX)
            return profile_onnx(
                model, self.image_shape, (low, high), given, threads=threads, repeats=repeats, int8=int8
            )

    def _exported(self, path: Path) -> Path:
        try:
            assert isinstance(self.network, nn.Module)  # without a module the folder had a model to load
            return export_onnx(self.network, path, self.image_shape)
        except MissingDependency:
            raise
        except Exception as error:  # a network is the user's code, and may do what no exporter understands
            raise CheckpointError(
                f"{self.directory} holds no {_ONNX}, which a profile runs, and the student cannot be exported "
                f"({_reason(error)})"
            ) from error

    def prepare(self, images: Tensor | str | Path | Iterable[str | Path | Image.Image]) -> Tensor:
        """What the network is given for ``images``, see :meth:`predict`, checked."""
        shape, (low, high) = self.image_shape, self.about["value_range"]
        if isinstance(images, Tensor):
            given = images
        elif (steps := self.about.get("transform")) is not None:
            from mekd_plugin.training.image_transforms import transform_of  # loads torchvision, which takes a second

            through, made = transform_of(steps), []
            for image in upright_images(images, shape[0]):
                try:
                    made.append(through(image).clamp(low, high))  # sharp edges overshoot where they are resized
                except (AttributeError, RuntimeError, TypeError, ValueError) as error:
                    raise CheckpointError(
                        f"the student's transform fails on an image of {image.width}x{image.height} ({error}): save "
                        "the student anew"
                    ) from error
                if tuple(made[-1].shape) != shape:
                    raise InputError(
                        f"the student's transform makes {tuple(made[-1].shape)} of an image of {image.width}x"
                        f"{image.height}, and the student takes {shape}: crop it to the student's proportions first"
                    )
            given = torch.stack(made)
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
        return given


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
    transform: Any = None,
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
        transform: what the images of files went through before the student was trained on them, a pipeline of
            ``torchvision.transforms`` such as ``Compose([Resize(256), CenterCrop(224), ToTensor(), Normalize(mean,
            std)])``; files that it is asked about will go through the same. It is kept as plain values. None scales
            files to height and width, and 0..255 to ``value_range``.
        **about: further JSON for ``student.json``.

    Returns:
        The directory.

    Raises:
        InputError: it cannot be written, or the transform cannot be kept, or does not make what the student takes.
    """
    steps = None
    if transform is not None:
        from mekd_plugin.training.image_transforms import check_transform, steps_of  # loads torchvision

        steps = steps_of(transform)
        check_transform(steps, image_shape, value_range)
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
        not_exported = _reason(error)
    content = {
        "format": _FORMAT,
        **config,
        "module": f"{type(student).__module__}.{type(student).__qualname__}",
        "value_range": list(value_range),
        "classes": None if classes is None else list(classes),
        "preprocessing": "upright, grey (1 channel) or RGB (3), "
        + ("bilinear with antialiasing to height x width, 0..255 to value_range" if steps is None else "transform"),
        "transform": steps,
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
        return SavedStudent(load_weights(student, folder / _WEIGHTS).eval(), about, folder)
    if (model := _onnx_model(folder, about)) is not None:
        return SavedStudent(onnx_teacher(model), about, folder)
    raise CheckpointError(
        f"{folder} holds the weights of a {about.get('module')}, and no ONNX model ({about.get('not_exported')}): hand "
        "in a module that they fit, load_student(directory, student=module)"
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]:.200}"


def _onnx_model(folder: Path, about: dict[str, Any]) -> Path | None:
    """The folder's ONNX model; None where there is none.

    Raises:
        DamagedFile: it is not the one that was saved.
    """
    model = folder / _ONNX
    if not model.is_file():
        return None
    if file_checksum(model) != about["onnx_checksum"]:
        raise DamagedFile(f"{model} is not the model that was saved here: copy it again, or save anew")
    return model
