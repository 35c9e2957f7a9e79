"""What is diagnosed: a student, the teacher it learnt from, and what the method left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin.bench.audit import draw_images, latents_of
from mekd_plugin.bench.privacy import Selected, strangers_to
from mekd_plugin.bench.run_inputs import Place, edge_of, learnt_by_teacher, load_data, recipe_of
from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.bench.teachers import patience_for, prepare_teacher
from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Distiller, Inverse
from mekd_plugin.errors import CheckpointError, InputError
from mekd_plugin.networks import build, load_weights
from mekd_plugin.prediction import predict_with_features
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows
from mekd_plugin.training.run import host
from mekd_plugin.transport.estimators.exact import EXACT_POINTS

__all__ = ["Subject", "open_run", "siblings"]


@dataclass
class Subject:
    """A student to look at. In Python, and from inside a suite, it can be filled by hand.

    Attributes:
        name: for titles.
        method: the one that trained the student, as it was at the end.
        student: images -> logits.
        teacher: asked for the diagnosis only, on a ledger of its own.
        edge: the images that the method had, ``(N, channels, height, width)`` in the teacher's value range.
        held_out: other images of the same distribution.
        strangers: images of the distribution from which the edge's own were drawn, and that it does not hold, for the
            attack on what was sent; None takes ``held_out``.
        rows: what the student learnt from, answered; None where nothing is kept.
        snapshots: the student's weights over its training, by step.
        others: further students by name, each with its snapshots: those of other methods, or settings, on the same
            images.
        points: images of each kind that are looked at, 1 to 5,000, between which transport is still solved exactly.
        seed: the seed of what is drawn.
        place: the copy of the run that ``rows`` may be mapped to.
    """

    name: str
    method: Distiller
    student: nn.Module
    teacher: BlackBox
    edge: Tensor
    held_out: Tensor
    rows: Rows | None = None
    snapshots: Mapping[int, nn.Module] = field(default_factory=dict)
    others: Mapping[str, Mapping[int, nn.Module]] = field(default_factory=dict)
    points: int = 1000
    seed: int = 0
    place: TemporaryDirectory[str] | None = None
    strangers: Selected | Tensor | None = None

    def __post_init__(self) -> None:
        _check_points(self.points)

    @property
    def ledger(self) -> Ledger:
        """What the diagnosis asked."""
        return self.teacher.ledger

    @cached_property
    def real(self) -> Tensor:
        """The held-out images that are looked at."""
        return self.held_out[: self.points]

    @cached_property
    def real_answers(self) -> Response:
        """The teacher's answers to them."""
        return self.teacher.query(self.real, stage="held-out images")

    @cached_property
    def edge_answers(self) -> Response:
        """The teacher's answers to the edge's images that are looked at."""
        return self.teacher.query(self.edge[: self.points], stage="edge's images")

    @cached_property
    def inverse(self) -> Inverse | None:
        """The method's generator, where it has one."""
        return self.method.inverse()

    @cached_property
    def latent(self) -> Tensor:
        """New latents ``(points, C + style_dim)`` of the generator, as it draws: of noise, or of answers."""
        rng, inverse = torch.Generator().manual_seed(self.seed + 1), self.require_inverse()
        noise = torch.randn(self.points, self.method.num_classes + inverse.style_dim, generator=rng)
        if inverse.drawn_for == "noise":
            return noise
        scores = self.scores(self.edge_answers)
        chosen = torch.randint(len(scores), (self.points,), generator=rng)
        return latents_of(inverse, scores[chosen], noise[:, self.method.num_classes :])

    @cached_property
    def generated(self) -> Tensor:
        """Their images, in the teacher's value range."""
        return self.draw(self.latent)

    @cached_property
    def generated_answers(self) -> Response:
        """The teacher's answers to them."""
        return self.teacher.query(self.generated, stage="generated images")

    def draw(self, latent: Tensor) -> Tensor:
        """Images of latents, in the teacher's value range."""
        return draw_images(self.require_inverse(), latent, self.teacher.value_range)

    def scores(self, response: Response) -> Tensor:
        """Centred class scores ``(N, C)`` of answers; a hard one has the scores that it stands for in the inverse."""
        return response.scores() if self.inverse is None else self.inverse.scores(response)

    def latent_of(self, scores: Tensor, style: Tensor | None = None) -> Tensor:
        """Latents ``(N, C + style_dim)`` of centred scores; if no style is given, one is drawn for each row."""
        inverse = self.require_inverse()
        if style is None:
            rng = torch.Generator().manual_seed(self.seed + 2)
            style = torch.randn(len(scores), inverse.style_dim, generator=rng)
        return latents_of(inverse, scores, style)

    def features(self, images: Tensor) -> Tensor:
        """What the student's last linear layer is given, ``(N, d)``; its logits where it has no such layer."""
        return predict_with_features(self.student, images)[1]

    def require_rows(self) -> Rows:
        """What the student learnt from.

        Raises:
            CheckpointError: nothing of it is kept.
        """
        if self.rows is None:
            raise CheckpointError(f"{self.name} kept nothing of what was sent: this question is about that")
        return self.rows

    def require_inverse(self) -> Inverse:
        """The method's generator.

        Raises:
            CheckpointError: it has none.
        """
        if self.inverse is None:
            raise CheckpointError(f"{self.name} has no generator: this question is about one")
        return self.inverse


def open_run(directory: Path, *, points: int = 1000, budget: int | None = None) -> Subject:
    """The subject of a finished run of ``mekd bench`` or ``mekd distill``; nothing in its directory is changed.

    Args:
        directory: the run's.
        points: images of each kind to look at.
        budget: questions that the diagnosis may ask.

    Raises:
        CheckpointError: it holds no finished run. InputError: ``points`` is out of range.
    """
    _check_points(points)
    kept = RunSpec.of_run(directory)
    spec, data_root = kept.located()
    student_file = directory / "student.safetensors"
    if not student_file.is_file():
        raise CheckpointError(f"{directory} holds a run that is not finished: go on with it first, with --resume")
    place = Place(str(directory), data_root=data_root)
    data = load_data(spec, place)
    split = edge_of(spec, data)
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.threads)  # with another number of threads a teacher trained here comes out different
    try:
        prepared = prepare_teacher(kept.spec, learnt_by_teacher(spec, place, data), split, found_as=spec.teacher)
    finally:
        torch.set_num_threads(threads)
    # A benchmark names its teachers, and `mekd distill` leaves that to the black box.
    known_as = prepared.identity if directory.resolve().parent.name == "runs" else None

    def boundary(limit: int | None) -> BlackBox:
        return BlackBox(
            prepared.teacher,
            spec.responses,
            data.num_classes,
            budget=limit,
            identity=known_as,
            answers=spec.answers,
            answers_seed=spec.seed,
            teacher_size=spec.teacher_size,
            **patience_for(spec.teacher),
        )

    def network(path: Path) -> nn.Module:
        return load_weights(build(spec.student, data.num_classes, data.image_shape), path).eval()

    student = network(student_file)
    copy = TemporaryDirectory()
    guest = host(
        student,
        boundary(spec.query_budget),
        split.images,
        spec.method,
        preset=spec.preset,
        recipe=recipe_of(spec),
        seed=spec.seed,
        directory=_copied(directory, copy),
        resume=True,
        device="cpu",  # where transport is solved
        validation=spec.validation,
        progress=False,
        **spec.hyperparameters,
    )
    for name, player in guest.players.networks.items():
        load_weights(player, directory / f"{name}.safetensors")
    guest.close()
    source = guest.stage.rows
    return Subject(
        name=f"{_label(spec)} on {spec.dataset}, seed {spec.seed}",
        method=guest.method,
        student=student,
        teacher=boundary(budget),
        edge=split.images,
        held_out=data.test_images,
        strangers=strangers_to(split.indices, data.train_images, data.test_images),
        rows=source.rows()[: source.asked] if isinstance(source, Bank) else None,
        snapshots={step: network(path) for step, path in _snapshots(directory)},
        others={
            name: {step: network(path) for step, path in _snapshots(folder)} for name, folder in siblings(directory)
        },
        points=points,
        seed=spec.seed,
        place=copy,
    )


def siblings(directory: Path) -> Iterator[tuple[str, Path]]:
    """Finished runs beside a run that differ in the method and its settings alone: the label that tables use, and the
    directory.
    """
    spec, _ = RunSpec.of_run(directory).located()
    for folder in sorted(directory.parent.iterdir()):
        if (
            folder == directory
            or not (folder / "spec.json").is_file()
            or not (folder / "student.safetensors").is_file()
        ):
            continue
        other, _ = RunSpec.of_run(folder).located()
        if _label(other) != _label(spec) and replace(other, **_of_the_method(spec)) == spec:
            yield _label(other), folder


def _check_points(points: int) -> None:
    if not 1 <= points <= EXACT_POINTS:
        raise InputError(f"points={points}: expected 1 to {EXACT_POINTS:,}")


def _label(spec: RunSpec) -> str:
    """What tables call the run."""
    return spec.label or spec.method


def _of_the_method(spec: RunSpec) -> dict[str, Any]:
    """The settings that may differ where two methods had the same images, teacher, student, seed and recipe."""
    names = ("label", "method", "method_digest", "hyperparameters", "pool_dataset", "white_box", "adapt")
    return {name: getattr(spec, name) for name in names}


def _copied(directory: Path, place: TemporaryDirectory[str]) -> Path:
    """A copy of a run to replay: replaying writes columns and ledgers."""
    ignored = shutil.ignore_patterns("snapshots", "figures", "tensorboard", "*.html")
    return Path(shutil.copytree(directory, Path(place.name) / "run", ignore=ignored))


def _snapshots(directory: Path) -> Iterator[tuple[int, Path]]:
    for path in sorted((directory / "snapshots").glob("step-*.safetensors")):
        yield int(path.stem.removeprefix("step-")), path
