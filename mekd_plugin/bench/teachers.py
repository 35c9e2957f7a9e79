"""Teachers by name: trained here and cached, read from a file, or a user's function."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mekd_plugin.bench.grid import RunSpec, kind_of_teacher
from mekd_plugin.blackbox.onnx_file import onnx_teacher
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.data.datasets import ImageData
from mekd_plugin.data.splits import EdgeSplit
from mekd_plugin.errors import CheckpointError, InputError, UnknownName
from mekd_plugin.files import writable_directory
from mekd_plugin.networks import build, load_weights
from mekd_plugin.responses import Kind, Response, resolve_kind
from mekd_plugin.training.checkpoint import load_state, save_state, save_weights
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.signature import tensor_digest
from mekd_plugin.training.supervised import train_teacher
from mekd_plugin.version import __version__

__all__ = [
    "EvaluationAnswers",
    "LabelledImages",
    "PreparedTeacher",
    "cache_directory",
    "classes_of_file",
    "evaluation_answers",
    "load_teacher",
    "name_of_teacher",
    "prepare_teacher",
    "trained_teacher",
]

CACHE_VARIABLE = "MEKD_CACHE"
_SEED = 0
"""One teacher for all students: it is not what a benchmark varies."""


@dataclass(frozen=True)
class LabelledImages:
    """What a teacher is trained on: images ``(N, channels, height, width)``, labels ``(N,)`` from 0."""

    images: Tensor
    labels: Tensor
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width


def cache_directory() -> Path:
    """``$MEKD_CACHE``, or the platform's directory for what can be made again."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("mekd-plugin", appauthor=False))


def load_teacher(name: str, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module | Callable[..., Any]:
    """A teacher that needs no training here.

    Args:
        name: a ``.safetensors`` file that says its network, as `mekd teacher` writes them; ``NETWORK@WEIGHTS``;
            ``FILE.onnx``; or ``package.module:function``, images -> answers.
        num_classes: that of the data.
        image_shape: that of the data.

    Raises:
        CheckpointError: the file is missing, or is for other classes or image sizes. UnknownName: there is no such
            function.
    """
    kind = kind_of_teacher(name)
    if kind == "onnx":
        return onnx_teacher(name, threads=torch.get_num_threads())
    if kind == "function":
        module, _, attribute = name.partition(":")
        try:
            function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # importing runs anybody's code
            raise UnknownName(
                f"teacher {name!r}: {type(error).__name__}: {error}; expected package.module:function, on PYTHONPATH"
            ) from error
        if not callable(function) or not _takes_images(function):
            how = " that does not take images" if callable(function) else ""
            raise InputError(
                f"teacher {name!r} is a {type(function).__name__}{how}: expected a function, images (N, channels, "
                "height, width) -> answers"
            )
        return function
    network, _, path = name.rpartition("@")
    if not network:
        config = _config(Path(path))
        network = config["network"]
        found = (config["num_classes"], tuple(config["image_shape"]))
        if found != (num_classes, image_shape):
            raise CheckpointError(
                f"{path} is a teacher of {found[0]} classes for images of {found[1]}, and the data has {num_classes} "
                f"and {image_shape}; name the data set that it was trained for"
            )
    return load_weights(build(network, num_classes, image_shape), path)


def trained_teacher(
    network: str,
    data: LabelledImages,
    *,
    steps: int,
    device: str = "cpu",
    progress: bool = False,
    directory: Path | None = None,
) -> tuple[nn.Module, Path]:
    """A network trained on ``data``, and its file in the cache; trained once for all benchmarks on this machine.

    Args:
        network: a name of ``mekd_plugin.networks``.
        data: labelled training images.
        steps: how many, of the students' own default recipe.
        device: where to train.
        progress: whether to draw a progress bar.
        directory: the cache's; default :func:`cache_directory`.
    """
    recipe = Recipe(steps=steps)
    decides = {
        "network": network,
        "images": tensor_digest(data.images),
        "labels": tensor_digest(data.labels),
        "num_classes": data.num_classes,
        "recipe": asdict(recipe),
        "seed": _SEED,
        "device": device.partition(":")[0],
        "threads": torch.get_num_threads(),
        "version": __version__,
        "torch": torch.__version__,
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    place = directory or cache_directory()
    try:
        folder = writable_directory(place / "teachers")
    except InputError as error:
        raise InputError(f"{error}; ${CACHE_VARIABLE} names where trained teachers are kept") from error
    readable = network.replace(":", "-").replace("/", "-")
    path = folder / f"{readable}-{digest}.safetensors"

    def untrained() -> nn.Module:
        return build(network, data.num_classes, data.image_shape, seed=_SEED)

    # Runs side by side want the same teacher: the first trains it, the others wait and read it.
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            try:
                return load_weights(untrained(), path).eval(), path
            except CheckpointError:
                path.unlink()
        trained = train_teacher(
            untrained(),
            data.images,
            data.labels,
            num_classes=data.num_classes,
            recipe=recipe,
            seed=_SEED,
            device=device,
            progress=progress,
        )
        config = {"network": network, "num_classes": data.num_classes, "image_shape": list(data.image_shape)}
        save_weights(trained, path, config=config)
    # Read again: training leaves another memory format, which rounds differently, and a later run only has the file.
    return load_weights(untrained(), path).eval(), path


class PreparedTeacher(NamedTuple):
    """A run's teacher, which nobody has asked yet.

    Attributes:
        teacher: trained or read.
        name: tells it from others among the kept answers.
        identity: what a run's black box calls it; None for a module, which is known by its weights. What looks at the
            images on their way would otherwise be taken for the teacher.
    """

    teacher: nn.Module | Callable[..., Any]
    name: str
    identity: str | None


def prepare_teacher(
    spec: RunSpec, data: ImageData, split: EdgeSplit, *, device: str = "cpu", progress: bool = False
) -> PreparedTeacher:
    """The teacher of a run, trained or read; it is asked nothing.

    Args:
        spec: the run's settings.
        data: its data set.
        split: which images the teacher is trained on, and which the edge holds.
        device: where a module works.
        progress: whether to draw a progress bar.
    """
    teacher: nn.Module | Callable[..., Any]
    if spec.teacher_steps is not None:
        rows = split.teacher_indices
        labelled = LabelledImages(data.train_images[rows], data.train_labels[rows], data.num_classes)
        teacher, path = trained_teacher(
            spec.teacher, labelled, steps=spec.teacher_steps, device=device, progress=progress
        )
        name = path.name
    else:
        teacher = load_teacher(spec.teacher, num_classes=data.num_classes, image_shape=data.image_shape)
        name = f"{spec.teacher} {spec.teacher_digest}"
    if isinstance(teacher, nn.Module):
        return PreparedTeacher(teacher.to(device), name, None)
    return PreparedTeacher(teacher, name, name_of_teacher(spec))


def name_of_teacher(spec: RunSpec) -> str:
    """What the black boxes of a benchmark call a teacher that is not a module: its name, and the hash of its file."""
    return f"{spec.teacher} {spec.teacher_digest or ''}".strip()


class EvaluationAnswers(NamedTuple):
    """What a teacher answers on the test images.

    Attributes:
        labels: their classes ``(N,)``.
        asked: how many images were sent for that.
        response: the answers whole; None where only the classes were kept.
    """

    labels: Tensor
    asked: int
    response: Response | None = None


def evaluation_answers(
    teacher: nn.Module | Callable[..., Any],
    images: Tensor,
    *,
    name: str,
    responses: str,
    classes: int,
    folder: Path,
    whole: bool = False,
) -> EvaluationAnswers:
    """What the teacher answers about the test images, asked once for all runs and kept in ``folder``.

    They serve the evaluation only, so no budget counts them. Every batch that was answered is kept at once: where the
    teacher fails, the next attempt continues from there.

    Args:
        teacher: the one that is asked.
        images: ``(N, channels, height, width)``.
        name: distinguishes the teacher from others.
        responses: what it answers.
        classes: C.
        folder: the one with all teachers' answers.
        whole: whether the answers whole are needed: where another kind of them, or an earlier version, left only the
            classes, the teacher is asked once more.
    """
    kind = resolve_kind(responses)
    identity = hashlib.sha256(f"{name}\n{tensor_digest(images)}".encode()).hexdigest()[:16]
    path = writable_directory(folder) / f"answers-{identity}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        kept: dict[str, Any] = {"asked": 0}
        if path.exists():
            try:
                kept = load_state(path)
                told = EvaluationAnswers(kept["labels"], int(kept["asked"]), _whole(kept, kind, classes))
                if told.response is not None or not whole:
                    return told
            except (CheckpointError, KeyError, TypeError):
                path.unlink()
                kept = {"asked": 0}
        box = BlackBox(teacher, responses, classes, identity=None if isinstance(teacher, nn.Module) else name)
        box.keep(folder / f"asked-{identity}-{kind}")  # a kind's own: what one asked is no answer to another
        try:
            response = box.evaluate(images).to("cpu")
        finally:
            box.release()
        kept |= {"labels": response.labels, "asked": kept["asked"] + box.ledger.evaluation}
        kept |= {kind: response.values} if response.soft else {}
        save_state(path, kept)
    return EvaluationAnswers(kept["labels"], kept["asked"], response)


def _whole(kept: Mapping[str, Any], kind: Kind, classes: int) -> Response | None:
    """The kept answers of one kind, which for hard ones are the classes."""
    name = "labels" if kind == "hard" else kind
    return Response(kept[name], kind, classes) if name in kept else None


def _takes_images(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(torch.empty(0))
    except ValueError:  # written in C, without a signature
        return True
    except TypeError:
        return False
    return True


def classes_of_file(path: Path) -> int:
    """How many classes a teacher knows, by its own file.

    Raises:
        CheckpointError: there is no such file, or it does not say.
    """
    return int(_config(path)["num_classes"])


def _config(path: Path) -> Mapping[str, Any]:
    try:
        with safe_open(path, framework="pt") as stream:
            config: Mapping[str, Any] = json.loads((stream.metadata() or {})["config"])
            return {name: config[name] for name in ("network", "num_classes", "image_shape")}
    except FileNotFoundError as error:
        raise CheckpointError(f"no teacher at {path}: expected a file that `mekd teacher` wrote") from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not say which network it holds: name it, as in resnet20@{path}, or let `mekd teacher` import "
            "it"
        ) from error
