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
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.checks import as_seed, as_shape, as_whole
from mekd_plugin.errors import NeedsNotMet
from mekd_plugin.responses import Response, ScoreNormalisation
from mekd_plugin.rows import Rows, RowSource

__all__ = [
    "Asking",
    "Distiller",
    "Inverse",
    "Needs",
    "Player",
    "Query",
    "Remembered",
    "Stage",
    "Student",
    "Training",
    "Update",
]

Student = Callable[[Tensor], Tensor]
"""Images ``(N, channels, height, width)`` -> logits ``(N, C)``: a module, or what a suite passes in its place."""


@dataclass(frozen=True)
class Needs:
    """What a method asks of the world, as data: checked before any training, and printed by ``mekd list --needs``.

    Attributes:
        responses: ``"soft"`` (scores of every class), ``"hard"`` (a class index), or ``"either"``.
        leaves_edge: what is sent to the teacher: ``"real images"``, ``"mixtures"`` of them, ``"synthetic images"`` made
            from what they taught a generator, or ``"nothing of the edge"``.
        pool: where its images come from: ``"edge"`` (the edge's unlabelled images), ``"other domain"`` (images of
            another kind, which are nobody's secret) or ``"none"``.
        queries: ``"once"`` (all of them before the student trains), ``"every step"`` or ``"rounds"``.
        in_step: whether the student's step is the method's own, since it asks within it or updates the student more
            than once: a host's loop cannot run such a step.
        asks_late: whether something long is trained before its first question; a teacher that is a function is then
            asked about one made-up image first, so that an answer of no use is found at once.
        gradients: whether it differentiates through the teacher; only a :class:`~mekd_plugin.blackbox.WhiteBox` can
            serve such a method.
        host_sync: why a step needs the host, for a method that cannot run on torch's meta device; else empty.
    """

    responses: Literal["soft", "hard", "either"]
    leaves_edge: Literal["real images", "mixtures", "synthetic images", "nothing of the edge"]
    pool: Literal["edge", "other domain", "none"] = "edge"
    queries: Literal["once", "every step", "rounds"] = "once"
    in_step: bool = False
    asks_late: bool = False
    gradients: bool = False
    host_sync: str = ""


class Inverse(NamedTuple):
    """A generator that stands for the teacher's inverse mapping.

    Attributes:
        generator: frozen, latents ``(N, C + style_dim)`` -> images ``(N, channels, height, width)`` in [-1, 1]; the
            first C coordinates stand for class scores, the others are noise of N(0, I).
        normalisation: what makes centred scores such coordinates.
        style_dim: how many coordinates there are beside them.
        hard_scale: the score that a hard response gives to its class, where there are no ``hard_scores``.
        drawn_for: what its first C coordinates were when it drew what was sent: ``"noise"`` of N(0, I), or
            ``"answers"`` like the teacher's to real images.
        hard_scores: ``(C, C)``, centred: row c has the scores that a hard response c stands for. A generator that was
            fitted to soft scores draws poorly for a one-hot vector, which is like none of them. None for one that was
            not.
    """

    generator: nn.Module
    normalisation: ScoreNormalisation
    style_dim: int
    hard_scale: float
    drawn_for: Literal["noise", "answers"] = "noise"
    hard_scores: Tensor | None = None

    def scores(self, response: Response) -> Tensor:
        """Centred scores ``(N, C)`` of answers, soft or hard, which ``normalisation`` makes coordinates."""
        return response.scores(hard_scale=self.hard_scale, hard_scores=self.hard_scores)


@dataclass
class Player:
    """One network that a stage trains.

    Attributes:
        module: the network; the loop moves and saves it.
        optimizer: makes its optimiser from its parameters; None for one that its stage fits without gradients, as
            expectation-maximisation does.
        schedule: makes a learning-rate schedule, stepped once per step; None keeps the rate constant.
        average: decay of an exponential moving average of the weights (buffers too), in (0, 1); the loop keeps it and
            puts the averaged weights into ``module`` when the stage ends. None keeps the last weights.
    """

    module: nn.Module
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    average: float | None = None


class Update(Protocol):
    """The loop's backward-and-step, handed to a stage's step, which may call it as often as it likes."""

    def __call__(self, losses: Mapping[str, Tensor]) -> None:
        """Differentiate each player's own loss with respect to its own weights, all of them, then step every optimiser.

        The gradients are all taken before any weight changes, so players may share a forward pass. Schedules advance
        once per step of the stage, however many updates it makes.
        """


class Query(Protocol):
    """The way to the teacher, handed to a stage's step, which may ask as often as it likes."""

    def __call__(self, images: Tensor) -> Response:
        """The teacher's answers to ``images`` ``(N, channels, height, width)``, counted for the stage."""


@dataclass
class Training:
    """A stage that trains players on rows.

    Attributes:
        name: the stage's, unique within the run; also the name of its queries in the ledger.
        rows: where its batches come from.
        step: ``step(rows, update, query) -> {"loss": scalar, ...}``: computes losses, calls ``update`` (with several
            players at once, or with one after another) and, where it needs fresh answers, ``query``; returns scalars
            (tensors, never ``.item()``) to log.
        players: networks that the method brings, by name (a generator, a critic).
        trains_student: whether the player ``"student"`` takes part, with the optimiser and schedule of the run's
            recipe, which are not a method's business.
        steps: how many; None takes the recipe's number of student steps.
        fraction: part of the recipe's steps that this stage takes where ``steps`` is None. A method in rounds has
            several such stages; those of the student are cut out of one line, so that no step is lost to rounding.
        batch_size: rows per step; None takes the recipe's.
        reuse: a line with everything that decides the outcome of a stage that asks nothing, besides the images and the
            seed; a loop that has such an outcome may load it instead of training. None: never reused.
        by_losses: whether ``step`` does what :meth:`Distiller.losses` and :meth:`Distiller.player_losses` say and
            nothing besides, so that a host's loop can take it; :meth:`Distiller.align` sets it.
        recordable: whether every step is the same computation on other rows of one shape: ``step`` asks nothing, looks
            at no tensor from the host, makes none there, and keeps nothing in Python from one step to the next (in a
            tensor it may). A loop may then record one step, as a CUDA graph, and replay it.
    """

    name: str
    rows: RowSource
    step: Callable[[Rows, Update, Query], dict[str, Tensor]]
    players: dict[str, Player] = field(default_factory=dict)
    trains_student: bool = False
    steps: int | None = None
    fraction: float = 1.0
    batch_size: int | None = None
    reuse: str | None = None
    by_losses: bool = False
    recordable: bool = False


@dataclass
class Asking:
    """A stage that asks: fills ``bank`` with the answers to ``size`` rows.

    Attributes:
        name: the stage's; also the name of its queries in the ledger.
        bank: where the rows are kept.
        draw: ``draw(start, stop) -> rows`` to ask about, a pure function of the range.
        size: rows of the bank when it is full.
        label: asks in the method's own way, ``label(teacher, rows) -> response`` (a search that spends many queries per
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
        seed: the seed of everything the method draws itself.

    A subclass's ``__init__`` takes keyword-only hyperparameters, each with a default, hands ``**world`` on to
    ``super().__init__`` and stores the others under their own names: a run's signature reads them there.
    """

    needs: Needs
    """What the class needs by default; an instance whose settings need something else has its own."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {}, "paper": {}}
    """Hyperparameters by preset: ``quick`` is sized for a CPU and a small budget, ``paper`` follows the source;
    ``fast`` and ``thorough``, where they are left out, are ``quick`` with another training recipe; an optional
    ``tiny`` is for tests on 8x8 images."""
    inapplicable: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters of a base class that this one refuses; no list names them."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Hyperparameters of earlier versions, and what to write instead; using one is an error that says so."""
    reference: ClassVar[str] = ""
    """Where the method is from, as ``Authors, *Title*, Venue Year``; `mekd list --needs` and README show it."""

    def __init__(self, *, num_classes: int, image_shape: tuple[int, int, int], seed: int = 0) -> None:
        self.num_classes = as_whole("num_classes", num_classes, at_least=2)
        self.image_shape = as_shape("image_shape", image_shape)
        self.seed = as_seed("seed", seed)

    def check(self, teacher: BlackBox) -> None:
        """Refuse a teacher that cannot give what this method needs.

        Raises:
            NeedsNotMet: the method differentiates through the teacher, or needs another kind of response.
        """
        name = type(self).__name__
        if self.needs.gradients and not isinstance(teacher, WhiteBox):
            raise NeedsNotMet(
                f"{name} differentiates through the teacher, and this teacher can only be asked; it is a white-box "
                "reference, not a source-blind method: hand it a mekd_plugin.blackbox.WhiteBox, or say --white-box"
            )
        kind = "hard" if teacher.responses == "hard" else "soft"
        if self.needs.responses not in (kind, "either"):
            raise NeedsNotMet(
                f"{name} needs {self.needs.responses} responses, and this teacher answers {teacher.responses!r}; "
                "`mekd list --needs` shows which methods take what"
            )

    def check_budget(self, budget: int | None, images: int) -> None:
        """Refuse a query budget with which this method cannot work.

        Args:
            budget: of the teacher; None for no limit.
            images: how many the method draws from.

        Raises:
            NeedsNotMet: it is below :meth:`fewest_queries`, which the message says.
        """
        fewest = self.fewest_queries(images)
        if budget is not None and budget < fewest:
            raise NeedsNotMet(
                f"{type(self).__name__} needs at least {fewest:,} queries, and the query budget is {budget:,}: raise "
                "it, or choose settings that ask less"
            )

    def fewest_queries(self, images: int) -> int:
        """The smallest query budget with which the method, as it is set, can work; 0 where any will do.

        A run with a smaller one is refused before anything is asked, and a benchmark shows it as not applicable.

        Args:
            images: how many the method draws from; 0 where ``needs.pool`` is ``"none"``.
        """
        return 0

    def queries_of_training(self, rows: int) -> int:
        """How many questions the student's own stages ask when the recipe gives them ``rows`` rows in all.

        0 where they learn from answers that are there already. A loop of ours refuses a smaller budget before anything
        is trained or asked.
        """
        return 0

    def check_training(self, budget: int | None, steps: int, batch_size: int) -> None:
        """Refuse a query budget that does not last until the student is trained.

        Args:
            budget: of the teacher; None for no limit.
            steps: the student's.
            batch_size: rows of a step, on all processes together.

        Raises:
            NeedsNotMet: it is below :meth:`queries_of_training`, which the message says.
        """
        needed = self.queries_of_training(steps * batch_size)
        if budget is not None and budget < needed:
            raise NeedsNotMet(
                f"{type(self).__name__} asks anew at every step of the student: {steps:,} steps of {batch_size:,} rows "
                f"are {needed:,} queries, and the query budget is {budget:,}. Raise it, train for fewer steps, or "
                "choose settings that ask once"
            )

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        """The stages in order, lazily: each is asked for when the one before it is finished.

        Args:
            teacher: a teacher that can only be asked; a :class:`~mekd_plugin.blackbox.WhiteBox` where
                ``needs.gradients`` says so.
            images: those of the pool that ``needs.pool`` names, unlabelled, ``(N, channels, height, width)``, in the
                teacher's value range; N is 0 where it is ``"none"``.
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
        """The usual last stage: the student, and the method's further players, learn from ``rows``.

        Args:
            name: the stage's.
            rows: answered ones.
            student: the one that learns.
            **settings: further ones of :class:`Training`, such as ``fraction`` for a round.
        """

        def step(batch: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            forward = Remembered(student)
            parts = self.losses(forward, batch)
            others = self.player_losses(forward, batch)
            update({"student": parts["loss"], **others})
            agreement = forward(batch.images).argmax(dim=1) == batch.answers().labels
            detached = {key: value.detach() for key, value in {**parts, **others}.items()}
            return {**detached, "agreement": agreement.float().mean()}

        recordable = not self.needs.host_sync
        usual = {"players": self.players(), "trains_student": True, "by_losses": True, "recordable": recordable}
        settings = {**usual, **settings}
        return Training(name, rows, step, **settings)


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
