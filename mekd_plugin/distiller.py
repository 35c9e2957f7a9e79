"""The contract between a distillation method and any training loop, ours or somebody else's.

A :class:`Distiller` says what it needs, which stages train what on which rows, and what a row costs. It never owns a
loop, a device, a file or the student's optimiser, so every loop can drive it: ``mekd_plugin.training`` or the loop of
a benchmark suite. ``mekd_plugin.testing`` holds the checks that every distiller must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, RowSource

__all__ = ["Asking", "Distiller", "Inverse", "Needs", "Player", "Remembered", "Stage", "Student", "Training", "Update"]

Student = Callable[[Tensor], Tensor]
"""Images ``(N, channels, height, width)`` -> logits ``(N, C)``: a module, or what a suite passes in its place."""


@dataclass(frozen=True)
class Needs:
    """What a method asks of the world, as data: checked before any training, and printed by ``mekd list --needs``.

    Attributes:
        responses: ``"soft"`` (scores of every class), ``"hard"`` (a class index), or ``"either"``.
        leaves_edge: what is sent to the teacher: ``"real images"``, ``"mixtures"`` of them, ``"synthetic images"``.
        pool: where its images come from: ``"edge"`` (the edge's unlabelled images) or ``"none"``.
        queries: ``"once"`` (a bank, filled before the student trains), ``"every step"`` or ``"rounds"``.
        in_step: whether it asks inside the student's step, which a host's loop cannot carry.
        gradients: whether it differentiates through the teacher; a black box refuses such a method.
        host_sync: why a step needs the host, for a method that cannot run on torch's meta device; else empty.
    """

    responses: Literal["soft", "hard", "either"]
    leaves_edge: Literal["real images", "mixtures", "synthetic images"]
    pool: Literal["edge", "none"] = "edge"
    queries: Literal["once", "every step", "rounds"] = "once"
    in_step: bool = False
    gradients: bool = False
    host_sync: str = ""


class Inverse(NamedTuple):
    """A generator that stands for the teacher's inverse mapping, as a method trained it.

    Attributes:
        generator: latents ``(N, C + style_dim)`` -> images ``(N, channels, height, width)`` in [-1, 1]; trained on
            N(0, I), of which the first C coordinates stand for class scores.
        scale: what centred scores are divided by to be such coordinates.
        style_dim: how many coordinates there are beside them.
        hard_scale: the score that a hard response stands for.
    """

    generator: Callable[[Tensor], Tensor]
    scale: float
    style_dim: int
    hard_scale: float


@dataclass
class Player:
    """One network that a stage trains.

    Attributes:
        module: the network; the loop moves and saves it.
        optimizer: makes its optimiser from its parameters.
        schedule: makes a learning-rate schedule, stepped once a step; None keeps the rate constant.
        average: decay of an exponential moving average of the weights (buffers too), in (0, 1); the loop keeps it and
            puts the averaged weights into ``module`` when the stage ends. None keeps the last weights.
    """

    module: nn.Module
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    average: float | None = None


class Update(Protocol):
    """The loop's backward-and-step, handed to a stage's step."""

    def __call__(self, losses: Mapping[str, Tensor]) -> None:
        """Differentiate each player's own loss by that player's own weights, all of them, then step every optimiser.

        The gradients are all taken before any weight changes, so players may share a forward pass.
        """


@dataclass
class Training:
    """A stage that trains players on rows.

    Attributes:
        name: of the stage, unique within the run; also the name of its queries in the ledger.
        rows: where its batches come from.
        step: ``step(rows, update) -> {"loss": scalar, ...}``: computes losses, calls ``update`` (with several players
            at once, or with one after another), returns scalars (tensors, never ``.item()``) to log.
        players: networks that the method brings, by name (a generator, a critic).
        trains_student: whether the player ``"student"`` takes part, with the optimiser and schedule of the run's
            recipe, which are no method's business.
        steps: how many; None takes the recipe's number of student steps.
        fraction: part of ``steps`` that this stage takes where ``steps`` is None (a method in rounds has several).
        batch_size: rows a step; None takes the recipe's.
        ask: for a step that needs fresh answers: ``ask(rows) -> rows`` whose images the loop sends to the teacher;
            the step then finds them, answered, in ``rows.asked``.
        reuse: a line with everything that decides this stage's outcome besides the images and the seed; a loop that
            has such an outcome may load it instead of training. None: never reused.
    """

    name: str
    rows: RowSource
    step: Callable[[Rows, Update], dict[str, Tensor]]
    players: dict[str, Player] = field(default_factory=dict)
    trains_student: bool = False
    steps: int | None = None
    fraction: float = 1.0
    batch_size: int | None = None
    ask: Callable[[Rows], Rows] | None = None
    reuse: str | None = None


@dataclass
class Asking:
    """A stage that asks: fills ``bank`` with the answers to ``size`` rows.

    Attributes:
        name: of the stage; also the name of its queries in the ledger.
        bank: where the rows are kept.
        draw: ``draw(start, stop) -> rows`` to ask about, a pure function of the range.
        size: rows of the bank when it is full.
        label: asks in the method's own way, ``label(teacher, rows) -> response`` (a search that spends many queries a
            row); None sends each image once.
        grows: whether a later stage asks for more rows of this bank, which then holds none out for validation yet.
    """

    name: str
    bank: Bank
    draw: Callable[[int, int], Rows]
    size: int
    label: Callable[[BlackBox, Rows], Response] | None = None
    grows: bool = False


Stage = Training | Asking


class Distiller:
    """Base class of every method; subclass it, name it in the entry-point group ``mekd.distillers``, and it is known.

    Args:
        num_classes: C, at least 2.
        image_shape: ``(channels, height, width)`` of the images that teacher and student take.
        seed: of everything the method draws itself.

    A subclass's ``__init__`` takes keyword-only hyperparameters, each with a default, and only stores them.
    """

    needs: Needs
    """Of the class, as it is by default; an instance whose settings need something else says so in its own."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {}, "paper": {}}
    """Hyperparameters by preset: ``quick`` is sized for a CPU and a small budget, ``paper`` follows the source, and an
    optional ``tiny`` is for tests on 8x8 images."""

    def __init__(self, *, num_classes: int, image_shape: tuple[int, int, int], seed: int = 0) -> None:
        if num_classes < 2:
            raise InputError(f"num_classes={num_classes}: expected at least 2 classes")
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise InputError(f"image_shape={tuple(image_shape)}: expected (channels, height, width), each at least 1")
        channels, height, width = image_shape
        self.num_classes, self.image_shape, self.seed = num_classes, (channels, height, width), seed

    def check(self, teacher: BlackBox) -> None:
        """Refuse a teacher that cannot give what this method needs.

        Raises:
            NeedsNotMet: the method differentiates through the teacher, or needs another kind of response.
        """
        name = type(self).__name__
        if self.needs.gradients:
            raise NeedsNotMet(
                f"{name} differentiates through the teacher, and this teacher can only be asked; "
                "it is a white-box reference, not a source-blind method"
            )
        kind = "hard" if teacher.responses == "hard" else "soft"
        if self.needs.responses not in (kind, "either"):
            raise NeedsNotMet(
                f"{name} needs {self.needs.responses} responses, and this teacher answers {teacher.responses!r}; "
                "`mekd list --needs` shows which methods take what"
            )

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        """The stages in order, lazily: each is asked for when the one before it is finished.

        Args:
            teacher: can only be asked.
            images: the edge's unlabelled images ``(N, channels, height, width)``, in the teacher's value range.
            student: the network to train, as it stands when a stage is asked for.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say its stages")

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        """``{"loss": what the student minimises, ...its named parts}`` on answered rows; no side effect."""
        raise NotImplementedError(f"{type(self).__name__} does not say its losses")

    def player_losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        """The loss of each further player of the student's stage (a critic), by name; none moves the student."""
        return {}

    def players(self) -> dict[str, Player]:
        """The further players of the student's stage, by name."""
        return {}

    def inverse(self) -> Inverse | None:
        """The generator that emulates the teacher's inverse, once it is trained; None for a method that has none."""
        return None

    def report(self) -> dict[str, Any]:
        """What the method has to say when it is done, as JSON; ``"warnings"`` is a list of sentences for the user."""
        return {}

    def align(self, name: str, rows: RowSource, student: nn.Module, **settings: Any) -> Training:
        """The usual last stage: the student, and the method's further players, learn from ``rows``."""

        def step(batch: Rows, update: Update) -> dict[str, Tensor]:
            forward = Remembered(student)
            parts = self.losses(forward, batch)
            others = self.player_losses(forward, batch)
            update({"student": parts["loss"], **others})
            agreement = forward(batch.images).argmax(dim=1) == batch.answers().labels
            detached = {key: value.detach() for key, value in {**parts, **others}.items()}
            return {**detached, "agreement": agreement.float().mean()}

        return Training(name, rows, step, players=self.players(), trains_student=True, **settings)


class Remembered:
    """A student that runs once for each tensor of images: the losses of several players share its forward pass."""

    def __init__(self, student: Student) -> None:
        self._student = student
        self._seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, images: Tensor) -> Tensor:
        for known, logits in self._seen:
            if known is images:
                return logits
        logits = self._student(images)
        self._seen.append((images, logits))
        return logits
