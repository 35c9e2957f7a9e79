"""Teachers by name: trained here and cached, read from a file, or a user's function."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CellType
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.bench.teacher_names import kind_of_teacher
from mekd_plugin.blackbox import remote
from mekd_plugin.blackbox.backends import NameAlone, identity_of
from mekd_plugin.blackbox.onnx_file import onnx_teacher
from mekd_plugin.blackbox.patience import Retry
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.code_digest import described_function
from mekd_plugin.data.datasets import ImageData
from mekd_plugin.data.splits import EdgeSplit
from mekd_plugin.errors import CheckpointError, InputError, UnknownName
from mekd_plugin.files import CACHE_VARIABLE, cache_directory, writable_directory
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
    "cached_as",
    "classes_of_file",
    "evaluation_answers",
    "load_teacher",
    "patience_for",
    "prepare_teacher",
    "trained_teacher",
]

TOKEN_VARIABLE = "MEKD_TEACHER_TOKEN"  # noqa: S105 (the variable's name)


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


def cached_as(network: str) -> str:
    """How the files of trained networks of that name begin, below ``teachers`` of the cache."""
    return network.replace(":", "-").replace("/", "-")


def load_teacher(name: str, *, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module | Callable[..., Any]:
    """A teacher that needs no training here.

    Args:
        name: a ``.safetensors`` file that says its network, as `mekd teacher` writes them; ``NETWORK@WEIGHTS``;
            ``FILE.onnx``; ``http(s)://HOST/v2/models/NAME``, whose metadata are read; ``recorded:DIR``; or
            ``package.module:function``, images -> answers.
        num_classes: that of the data.
        image_shape: of the images that reach it.

    Raises:
        CheckpointError: the file is missing, or is for other classes or image sizes. UnknownName: there is no such
            function. Refused: no service answers there.
    """
    kind = kind_of_teacher(name)
    if kind in ("service", "recorded"):
        return _remote(name, num_classes, image_shape)
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
                f"and {image_shape}; name the data set that it was trained for, or what it takes, --teacher-size"
            )
    return load_weights(build(network, num_classes, image_shape), path)


def patience_for(name: str) -> dict[str, Any]:
    """Settings of the black box around a teacher: of a service it is asked again after an error."""
    return {"retry": Retry(attempts=5, jitter=0.5)} if kind_of_teacher(name) == "service" else {}


def _remote(
    name: str, num_classes: int, image_shape: tuple[int, int, int]
) -> remote.InferenceTeacher | remote.RecordedTeacher:
    """A service by its URL, or recorded answers, that fit the data."""
    found: remote.InferenceTeacher | remote.RecordedTeacher
    shape: tuple[int, ...] | None
    if kind_of_teacher(name) == "service":
        token = TOKEN_VARIABLE if os.environ.get(TOKEN_VARIABLE) else None
        found = remote.open_inference_teacher(name, token_from=token)
        shape = found.image_shape
    else:
        found = remote.recorded_teacher(name.removeprefix("recorded:"))
        shape = None if found.images is None else tuple(found.images.shape[1:])
    fits = shape is None or all(size in (-1, own) for size, own in zip(shape, image_shape, strict=True))
    if not fits or found.num_classes not in (None, num_classes):
        raise CheckpointError(
            f"{name} answers about {found.num_classes} classes and images of {shape}, and the data has {num_classes} "
            f"and {image_shape}; name the data set that it is for, or scale, --image-size or --teacher-size"
        )
    return found


def trained_teacher(
    network: str,
    data: LabelledImages,
    *,
    steps: int,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
    directory: Path | None = None,
) -> tuple[nn.Module, Path]:
    """A network trained on ``data``, and its file in the cache; trained once for all benchmarks on this machine.

    Args:
        network: a name of ``mekd_plugin.networks``.
        data: labelled training images.
        steps: how many, of the students' own default recipe.
        seed: of its first weights, and of the order and augmentation of the images.
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
        "seed": seed,
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
    path = folder / f"{cached_as(network)}-{digest}.safetensors"

    def untrained() -> nn.Module:
        return build(network, data.num_classes, data.image_shape, seed=seed)

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
            seed=seed,
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
        name: tells it from others among the kept answers; of a function, by its code, too, so that one that was edited
            is asked anew.
        identity: what a run's black box calls it; None for a module, which is known by its weights. What looks at the
            images on their way would otherwise be taken for the teacher. A :class:`NameAlone` where it does not tell
            whether the teacher is still the same, as of a plain function.
    """

    teacher: nn.Module | Callable[..., Any]
    name: str
    identity: str | None


def prepare_teacher(
    spec: RunSpec,
    data: ImageData,
    split: EdgeSplit,
    *,
    device: str = "cpu",
    progress: bool = False,
    found_as: str | None = None,
    cache: Path | None = None,
) -> PreparedTeacher:
    """The teacher of a run, trained or read; it is asked nothing.

    Args:
        spec: the run's settings.
        data: what a teacher that is trained here learns.
        split: which images the teacher is trained on, and which the edge holds.
        device: where a module works.
        progress: whether to draw a progress bar.
        found_as: the name under which this machine finds a teacher's file; None for the spec's own.
        cache: where trained teachers are kept; None for :func:`mekd_plugin.files.cache_directory`.
    """
    teacher: nn.Module | Callable[..., Any]
    if spec.teacher_steps is not None:
        labelled = LabelledImages(data.train_images, data.train_labels, data.num_classes)
        if split.disjoint:
            rows = split.teacher_indices
            labelled = LabelledImages(data.train_images[rows], data.train_labels[rows], data.num_classes)
        teacher, path = trained_teacher(
            spec.teacher,
            labelled,
            steps=spec.teacher_steps,
            seed=spec.teacher_seed,
            device=device,
            progress=progress,
            directory=cache,
        )
        name = path.name
    else:
        teacher = load_teacher(
            found_as or spec.teacher, num_classes=data.num_classes, image_shape=spec.teacher_shape(data.image_shape)
        )
        kind = kind_of_teacher(spec.teacher)
        if kind == "function":
            return _someone_elses(teacher, spec.teacher, device)
        # A service says what it is, such as its model's version; a file has its digest.
        known_as = getattr(teacher, "identity", "") if kind == "service" else None
        name = f"{spec.teacher} {known_as or spec.teacher_digest}"
    if isinstance(teacher, nn.Module):
        return PreparedTeacher(teacher.to(device), name, None)
    return PreparedTeacher(teacher, name, name.removesuffix(" None"))


def _someone_elses(teacher: nn.Module | Callable[..., Any], called: str, device: str) -> PreparedTeacher:
    """What ``package.module:name`` stands for, as far as it can be told from what stands there another time."""
    teacher = teacher.to(device) if isinstance(teacher, nn.Module) else teacher
    known = identity_of(teacher)
    if known.certain:
        name = f"{called} {known.describe()}"
        return PreparedTeacher(teacher, name, None if isinstance(teacher, nn.Module) else name)
    code = hashlib.sha256(" ".join(_code_behind(teacher)).encode()).hexdigest()[:12]
    if isinstance(teacher, nn.Module):
        return PreparedTeacher(teacher, NameAlone(f"{called} {known.describe()} {code}"), NameAlone(known.describe()))
    return PreparedTeacher(teacher, NameAlone(f"{called} {code}"), NameAlone(called))


def _code_behind(teacher: Callable[..., Any]) -> Iterator[str]:
    """The functions that answer, each with a hash of its code: those of the same module that it calls or wraps, too.

    Of an object they are the methods of its class. What other modules do, and what it reads, is not looked at.
    """
    waiting, seen = [teacher], set[str]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, functools.partial):
            waiting.append(one.func)
        owner = getattr(one, "__self__", None if inspect.isroutine(one) else one)
        if owner is not None and not inspect.ismodule(owner):
            members = [member for cls in type(owner).__mro__ for _, member in sorted(vars(cls).items())]
            waiting += [member for member in members if inspect.isfunction(member)]
        described = described_function(one)
        if described in seen:
            continue
        seen.add(described)
        yield described
        inner = getattr(one, "__func__", one)
        if inspect.isfunction(inner):
            used = [inner.__globals__.get(name) for name in inner.__code__.co_names]
            used += [cell.cell_contents for cell in inner.__closure__ or () if cell != CellType()]
            waiting += [other for other in used if inspect.isfunction(other) and other.__module__ == inner.__module__]
            waiting += [inner.__wrapped__] if hasattr(inner, "__wrapped__") else []


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
    teacher_size: int | None = None,
    patience: Mapping[str, Any] = {},  # noqa: B006 (it is only read)
) -> EvaluationAnswers:
    """What the teacher answers about the test images, asked once for all runs and kept in ``folder``.

    They serve the evaluation only, so no budget counts them. Every batch that was answered is kept at once: where the
    teacher fails, the next attempt continues from there.

    Args:
        teacher: the one that is asked.
        patience: further settings of the black box, :func:`patience_for`.
        images: ``(N, channels, height, width)``.
        name: distinguishes the teacher from others.
        responses: what it answers.
        classes: C.
        folder: the one with all teachers' answers.
        whole: whether the answers whole are needed: where another kind of them, or an earlier version, left only the
            classes, the teacher is asked once more.
        teacher_size: side of the square that images are brought to before they are sent; None sends them as they are.
    """
    kind = resolve_kind(responses)
    sized = name if teacher_size is None else f"{name} teacher_size={teacher_size}"
    identity = hashlib.sha256(f"{sized}\n{tensor_digest(images)}".encode()).hexdigest()[:16]
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
        box = BlackBox(
            teacher,
            responses,
            classes,
            identity=None if isinstance(teacher, nn.Module) else name,
            teacher_size=teacher_size,
            **patience,
        )
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
