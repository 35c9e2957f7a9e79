"""The boundary: a teacher that can only be asked, by counted, checked queries.

Hiding a teacher inside one process is a guard against mistakes, not security: a method cannot reach a gradient, a
feature or a parameter through this object or its answers. Code that digs through private names of this module will find
the model, and so will hooks that it registers for every module of the process, torch's function and dispatch modes, its
profiler, and Python's own means of looking at all objects, frames and threads. Images go in as plain tensors, and
tracing is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from mekd_plugin.blackbox.answers import Precision, precise
from mekd_plugin.blackbox.backends import (
    Ask,
    Call,
    Declared,
    Identity,
    answer_on_meta,
    check_teacher,
    identity_of,
    make_backend,
    place_of,
)
from mekd_plugin.blackbox.canary import Canary
from mekd_plugin.blackbox.class_names import as_class_names, digest_of_names, in_order
from mekd_plugin.blackbox.degradation import FULL, Degradation
from mekd_plugin.blackbox.exchange import Exchange
from mekd_plugin.blackbox.image_hashes import image_hashes
from mekd_plugin.blackbox.images import Outgoing, check_images, gradient_image, plain_tensor, refuse_tracing
from mekd_plugin.blackbox.journal import Journal
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.blackbox.meter import TeacherModule
from mekd_plugin.blackbox.patience import RateLimit, Retry, within
from mekd_plugin.checks import as_device, as_number, as_one_of, as_path, as_range, as_seed, as_size, as_whole
from mekd_plugin.code_digest import described_function
from mekd_plugin.errors import CheckpointError, InputError
from mekd_plugin.files import writable_directory
from mekd_plugin.responses import Kind, Response, resolve_kind

__all__ = ["BlackBox"]

_LONGEST_WAIT = 86_400.0
"""Seconds; a thread cannot be waited for without end."""
_MOST_AT_ONCE = 64


class BlackBox:
    """A teacher behind a boundary.

    Args:
        teacher: ``nn.Module``, function from images to answers (tensor or NumPy array), or ``onnx_teacher(path)``.
        responses: what it answers: ``"logits"`` (or ``"soft"``), ``"probabilities"`` or ``"hard"``; never guessed. Hard
            responses are class indices, or the arg max of scores taken inside the boundary.
        num_classes: C; for a module it may be left out, and is then learnt from its first scores.
        budget: images that may be sent in all; None for no limit.
        value_range: smallest and largest pixel value that the teacher takes.
        batch_size: images sent at a time; also the most answers that are lost when the process is killed.
        quantize: ``"uint8"`` rounds images to the 256 levels of ``value_range`` first, as an upload would.
        device: moves a module there, and sends a function its images there; None leaves both where they are.
        answer: takes the scores or labels out of what the teacher returns, such as ``lambda out: out["logits"]``; None
            where it returns nothing else.
        ledger: that of another black box, to share its budget; ``budget`` is then left out.
        identity: the teacher's name, such as its model's version; a run is resumed only with a teacher of the same
            name. None takes a hash of a module's weights or of an ONNX file, and the name of a function, which tells
            little.
        retry: how to ask again when no answer came; each attempt counts, within the budget. None raises the first
            error.
        rate_limit: how many batches are sent per second at most; may be shared with other black boxes.
        timeout: seconds to wait for a function's answer; after that its images count as uncertain. Python cannot end
            the call, which goes on in a thread of its own, and its answer is dropped.
        rounding: decimals that a service rounds or truncates its probabilities to.
        top_k: how many of the largest probabilities a service returns, with 0 for all other classes.
        answers: what is done to answers before anybody sees them, as an API does that defends itself: ``"full"``,
            ``"rounded:2"``, ``"top1"``, ``"topk:3"`` or ``"noisy:0.1"``; see
            :class:`~mekd_plugin.blackbox.Degradation`. Only what is left is kept, and a teacher that
            answers otherwise is another one to a run and to a bank.
        answers_seed: of the noise of ``"noisy:..."``.
        teacher_size: ``(height, width)``, or the side of a square, that the teacher wants where images are of another
            size: the last thing before an image is sent, it is brought to this size, bilinearly with antialiasing, and
            clamped to ``value_range``. Everything else is in the images' own size: what is counted, the bank, what a
            generator draws, the student. :meth:`as_sent` makes from the bank's images what was sent. A teacher that is
            sent another size is another one to a run and to a bank. None sends images as they are.
        classes: names of the classes in order, for a service that answers with those: N names where ``responses`` is
            ``"hard"``, or N mappings from names to scores. They go with a student that is saved.
        concurrent: batches that are asked about at the same time, 1 to 64, of a function. Answers come and are kept in
            the order of asking; a killed process loses up to so many batches.
        cost_per_1000: price of 1,000 images, in any currency.
        cost_limit: the most that a student may cost, in that currency: no image is sent beyond it, but for evaluations,
            as with ``budget``. Where both are given the smaller number of images holds.
        on_drift: what to do where a resumed run's teacher answers other than it did: ``"error"``, ``"warn"``, or
            ``"ignore"``, which does not look. To find out, four images of the first life are asked about again, once,
            before anything new is; they count as an evaluation, for the stage ``"canary"``. None means ``"error"`` for
            a service (:mod:`mekd_plugin.blackbox.remote`) and ``"ignore"`` for anything else.

    With ``rounding`` or ``top_k`` the probabilities do not sum to 1. What is missing is spread evenly over the classes
    answered as 0, so that every method and loss can use the answer. Left at 0, a class would be called impossible, and
    the logarithm of that is infinite.

    Raises:
        InputError: an argument is missing or cannot be used.
        NeedsNotMet: ``answers`` cannot be done to such responses.
    """

    def __init__(
        self,
        teacher: nn.Module | Callable[[Tensor], Any],
        responses: str | None = None,
        num_classes: int | None = None,
        *,
        budget: int | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        batch_size: int = 256,
        quantize: str | None = None,
        device: torch.device | str | None = None,
        answer: Callable[[Any], Any] | None = None,
        ledger: Ledger | None = None,
        identity: str | None = None,
        retry: Retry | None = None,
        rate_limit: RateLimit | None = None,
        timeout: float | None = None,
        rounding: int | None = None,
        top_k: int | None = None,
        answers: str = FULL,
        answers_seed: int = 0,
        teacher_size: int | tuple[int, int] | None = None,
        classes: Sequence[str] | None = None,
        concurrent: int = 1,
        cost_per_1000: float | None = None,
        cost_limit: float | None = None,
        on_drift: str | None = None,
    ) -> None:
        if isinstance(teacher, BlackBox):
            raise InputError("the teacher is a BlackBox already: use it as it is")
        check_teacher(teacher)
        if responses is None:
            raise InputError(
                'responses= is missing: say what the teacher returns, "logits" (or "soft"), "probabilities" or "hard"; '
                "it is never guessed"
            )
        self._classes = None if classes is None else as_class_names(classes)
        if self._classes is not None:
            if num_classes not in (None, len(self._classes)):
                raise InputError(f"num_classes={num_classes}, and classes= names {len(self._classes)}: leave one out")
            num_classes = len(self._classes)
        if num_classes is None and not isinstance(teacher, nn.Module):
            raise InputError("num_classes= is missing: a function does not tell how many classes its answers are about")
        if ledger is not None and budget is not None:
            raise InputError(f"budget={budget} and ledger= are both given: a shared ledger brings its own budget")
        if ledger is not None and not isinstance(ledger, Ledger):
            raise InputError(f"ledger={ledger!r}: expected that of another black box, box.ledger, or None")
        if answer is not None and not callable(answer):
            raise InputError(
                f"answer={answer!r}: expected a function of what the teacher returns, such as lambda out: out[0]"
            )
        if quantize not in (None, "uint8"):
            raise InputError(f'quantize={quantize!r}: expected "uint8" or None')
        for name, given, kind in (("retry", retry, Retry), ("rate_limit", rate_limit, RateLimit)):
            if given is not None and not isinstance(given, kind):
                raise InputError(f"{name}={given!r}: expected a {kind.__name__}(...) or None")
        self._kind = resolve_kind(responses)
        size = None if teacher_size is None else as_size("teacher_size", teacher_size)
        self._outgoing = Outgoing(as_range("value_range", value_range), quantize is not None, size)
        self._lock: FileLock | None = None
        self._quantize, self._answer = quantize, None if answer is None else described_function(answer)
        self._stage = "query"
        self._price = None if cost_per_1000 is None else as_number("cost_per_1000", cost_per_1000, at_least=0)
        budget, bought_with = _affordable(budget, self._price, cost_limit, shared=ledger is not None)
        at_a_time = as_whole("batch_size", batch_size, at_least=1, of="images", strict=True)
        declared = Declared.of(teacher)
        if declared.value_range not in (None, self.value_range):
            raise InputError(
                f"value_range={self.value_range}, and the teacher sends images in {declared.value_range}: give both "
                "the same"
            )
        default = "error" if declared.remote else "ignore"
        self._on_drift = as_one_of("on_drift", default if on_drift is None else on_drift, ("error", "warn", "ignore"))
        concurrent = as_whole("concurrent", concurrent, at_least=1, at_most=_MOST_AT_ONCE, of="batches", strict=True)
        if concurrent > 1 and isinstance(teacher, nn.Module):
            raise InputError(f"concurrent={concurrent} of a module: expected it of a function that asks a service")
        self._exchange = Exchange(
            self._kind,
            Precision(self._kind, rounding, top_k),
            Ledger(budget, bought_with=bought_with) if ledger is None else ledger,
            at_a_time if declared.images_a_call is None else min(at_a_time, declared.images_a_call),
            retry,
            rate_limit,
            degradation=Degradation.parse(answers),
            degradation_seed=as_seed("answers_seed", answers_seed),
            concurrent=concurrent,
        )
        self._exchange.degradation.check(self._kind)
        if num_classes is not None:
            self.expect_classes(num_classes)
        place = as_device("device", device)
        named = answer if self._classes is None else in_order(self._classes, answer)
        ask = make_backend(teacher, place, named)
        if size is not None:
            ask = _resizing(ask, self._outgoing)
        if timeout is not None:
            if isinstance(teacher, nn.Module):
                raise InputError(
                    f"timeout={timeout} of a module: expected it of a function, which may wait for a service"
                )
            ask = within(as_number("timeout", timeout, above=0, at_most=_LONGEST_WAIT, strict=True), ask)
        self._exchange.begin(ask)
        _HIDDEN[self] = _Hidden(
            self._degraded(identity_of(teacher, identity)),
            lambda: place_of(teacher, place),
            isinstance(teacher, nn.Module),
            declared.recorded,
            lambda shape: answer_on_meta(teacher, shape, answer) if isinstance(teacher, nn.Module) else None,
            declared.as_sent,
        )

    @property
    def responses(self) -> Kind:
        """What the teacher answers: ``"logits"``, ``"probabilities"`` or ``"hard"``."""
        return self._kind

    @property
    def num_classes(self) -> int:
        """C.

        Raises:
            InputError: it was not declared, and no answer has told it yet.
        """
        return self._exchange.known_classes()

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Their names, in order; None where they were not declared."""
        return self._classes

    @property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest pixel value that the teacher takes."""
        return self._outgoing.value_range

    @property
    def teacher_size(self) -> tuple[int, int] | None:
        """``(height, width)`` to which images are brought before they are sent; None sends them as they are."""
        return self._outgoing.size

    @property
    def batch_size(self) -> int:
        """Images sent at a time."""
        return self._exchange.batch_size

    @property
    def declarations(self) -> str:
        """What was declared about images and answers, such as ``"rounding=2 top_k=5"``; empty if nothing was."""
        precision = self._exchange.precision
        declared: dict[str, object] = {"rounding": precision.rounding, "top_k": precision.top_k}
        declared |= {"quantize": self._quantize, "answer": self._answer}
        return " ".join(f"{name}={value}" for name, value in declared.items() if value is not None)

    @property
    def identity(self) -> str:
        """Tells this teacher from any other: its declared name, a hash of its present weights or of its file, or the
        name of a function; with what is done to its answers, such as ``"... answers=rounded:2"``.
        """
        return _HIDDEN[self].identity.describe()

    @property
    def answers(self) -> str:
        """What is done to answers before anybody sees them, such as ``"rounded:2"``; ``"full"`` for nothing."""
        return str(self._exchange.degradation)

    @property
    def cost_per_1000(self) -> float | None:
        """Price of 1,000 images; None where it was not said."""
        return self._price

    @property
    def cost(self) -> float | None:
        """What all images that were sent cost, those of evaluations among them; None without ``cost_per_1000``."""
        sent = self.ledger.total + self.ledger.evaluation
        return None if self._price is None else sent * self._price / 1000

    @property
    def ledger(self) -> Ledger:
        """What was asked, by stage, and what is left of the budget."""
        return self._exchange.ledger

    @property
    def journal(self) -> Journal | None:
        """The answers since the last checkpoint; None without a directory."""
        return self._exchange.journal

    def expect_classes(self, num_classes: int) -> None:
        """Declare the number of classes if it was left out.

        Raises:
            InputError: fewer than 2, or another number was declared or learnt before.
        """
        num_classes = as_whole("num_classes", num_classes, at_least=2, strict=True)
        if self._exchange.num_classes not in (None, num_classes):
            raise InputError(
                f"num_classes={num_classes}: this teacher answers about {self._exchange.num_classes} classes"
            )
        self._exchange.degradation.check(self._kind, num_classes)
        self._exchange.num_classes = num_classes

    def query(self, images: Tensor, *, stage: str | None = None) -> Response:
        """Ask about images; each one counts, even if it was asked about before.

        A resumed run gets the answers to the questions of its first life from the journal, and they do not count again.

        Args:
            images: ``(N, channels, height, width)``, floating point, within ``value_range``, on any device.
            stage: under which they are counted; None for that of :meth:`asking_for`, or ``"query"``.

        Returns:
            N responses on the images' device, without gradient. Scores have the images' dtype, or float32 if that is
            more precise.

        Raises:
            InputError: the images are not as described.
            QueryBudgetExceeded: they would exceed the budget; nothing was sent.
            TeacherAnswerError: the answer is not of the declared kind.
            TeacherUnavailable: no answer came, or not in time; ``Refused`` if the service says that it did no work, in
                which case the images do not count. Any other error of the teacher is raised unchanged, with a note.
            NeedsNotMet: the code is being traced.
            ReplayDiverged: a resumed run asks other questions than it did in its first life.
        """
        return self._query(images, self._stage if stage is None else stage, self.value_range)

    def evaluate(self, images: Tensor, *, stage: str = "evaluation") -> Response:
        """Ask about images to find out how good a student is, as :meth:`query` does.

        They count as ``ledger.evaluation``, outside the budget, and the journal keeps them like all others. The errors
        are those of :meth:`query`, except for the budget.
        """
        return self._query(images, stage, self.value_range, evaluation=True)

    def as_sent(self, images: Tensor) -> Tensor:
        """``images`` as they reach the teacher: rounded by ``quantize``, brought to ``teacher_size``, compressed by a
        service's upload.
        """
        sent = self._outgoing.resized(self._outgoing.rounded(images))
        as_sent = _HIDDEN[self].as_sent
        return sent if as_sent is None else as_sent(sent)

    def as_kept(self, images: Tensor) -> Tensor:
        """``images`` as a bank keeps them: as they reach the teacher; with ``teacher_size`` in their own size, from
        which :meth:`as_sent` makes what reaches it.
        """
        return self.as_sent(images) if self.teacher_size is None else self._outgoing.rounded(images)

    def probe(self, image_shape: tuple[int, int, int]) -> None:
        """Ask a teacher that is not a module about one image, to see whether its answers can be used.

        The image is a smooth gradient, not a real one; it counts under the stage ``"probe"``, once in a run. A module
        is not asked, since it can be checked without a question, nor are answers on record, which it is not among. Of
        several processes the first one asks.

        Args:
            image_shape: ``(channels, height, width)``.

        Raises:
            InputError: this is no shape of an image. All errors of :meth:`query`.
        """
        if not self.is_probed:
            return
        image = gradient_image(image_shape, self.value_range)
        if self._exchange.journal is not None and self._exchange.journal.first:
            return  # asked before the last checkpoint
        if self._exchange.ledger.peers.rank:
            self.sit_out(stage="probe")
        else:
            self.query(image, stage="probe")

    @property
    def is_module(self) -> bool:
        """Whether the teacher is a torch module, which can be checked without a question."""
        return _HIDDEN[self].is_module

    @property
    def is_probed(self) -> bool:
        """Whether :meth:`probe` finds out anything: not of a module, nor of answers that are on record."""
        return not (_HIDDEN[self].is_module or _HIDDEN[self].is_recorded)

    def foresee(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Check, without a question, that a module takes such images and answers about so many classes.

        A function is not checked, nor is a module that cannot run on torch's meta device.

        Args:
            image_shape: ``(channels, height, width)``.
            num_classes: the expected C.

        Raises:
            InputError: the module does not take such images, or answers about another number of classes.
        """
        channels, *size = image_shape
        height, width = self.teacher_size or size
        answer = _HIDDEN[self].foresee((channels, height, width))
        if isinstance(answer, Tensor) and answer.dim() == 2 and answer.shape[1] != num_classes:
            raise InputError(
                f"the teacher answers about {answer.shape[1]} classes, and {num_classes} are expected "
                "(num_classes=, or the student's outputs): they must be equal"
            )

    def sit_out(self, *, stage: str) -> None:
        """Take part, with no image, in a question that the other processes of the run ask.

        The journal counts it as a question, so that its position is the same in every process.
        """
        self._exchange.ask(torch.empty(0), torch.empty(0, dtype=torch.int64), stage)

    @contextmanager
    def asking_for(self, stage: str) -> Iterator[None]:
        """Within it, queries without a stage of their own are counted under ``stage``."""
        before, self._stage = self._stage, stage
        try:
            yield
        finally:
            self._stage = before

    def as_module(self) -> TeacherModule:
        """The teacher as a module for any script: calling it is a query, under the stage ``"module"`` or that of
        ``TeacherModule.stage``.

        It returns plain tensors ``(N, C)``: logits, probabilities, or one-hot vectors for hard responses. The value
        range of the images is not checked, except where ``teacher_size`` clamps them to it.
        """

        def answer(images: Tensor, call: Call, stage: str) -> Tensor:
            response = self._query(images, stage, None if self.teacher_size is None else self.value_range, call=call)
            if response.soft:
                return response.values
            return nn.functional.one_hot(response.values, response.num_classes).to(precise(images.dtype))

        return TeacherModule(answer, self._exchange.ledger, _HIDDEN[self].place)

    def keep(self, directory: str | Path | None, rank: int = 0, *, at_least: int = 0) -> None:
        """Begin or resume a run whose counts and answers are kept in ``directory``; None keeps them in memory.

        What was asked before counts under the stage ``"earlier runs"``. A run of several processes sets
        ``ledger.peers`` first, and all processes call this together.

        Args:
            directory: the run's.
            rank: this process's.
            at_least: how many images had been sent according to the run's checkpoints and metrics. If the ledger's file
                knows of fewer, it was damaged: the difference counts under ``"lost from the ledger"``, with a warning.

        Raises:
            InputError: the directory cannot be written.
            CheckpointError: a file of the run is damaged, or holds another teacher's answers; or another process keeps
                its own there. Of this process, another black box that does is released.
        """
        self.release()
        if directory is None:
            self._exchange.ledger.attach(None)
            return
        self._exchange.ledger.check_process()
        identity = _HIDDEN[self].identity
        directory = as_path("directory", directory)
        self._hold(writable_directory(directory).resolve() / f"ledger-{rank}.lock")
        journal = Journal(directory / f"journal-{rank}.bin", identity.describe())
        found = self._exchange.ledger.attach(directory, rank, journal=journal, at_least=at_least)
        self._exchange.journal = journal
        if self._on_drift != "ignore" and self._exchange.ledger.peers.world == 1:
            self._exchange.canary = Canary(directory / "canary.safetensors", strict=self._on_drift == "error")
        if found and not identity.certain and not self._exchange.ledger.peers.rank:
            warnings.warn(
                f"the run in {directory} is resumed with a teacher known by its name alone, {identity.describe()}, "
                "which does not tell whether it is the one that answered before. Say which model it is with identity=",
                stacklevel=2,
            )

    def release(self) -> None:
        """Close the files in the directory; what was counted stays counted."""
        if self._exchange.journal is not None:
            self._exchange.journal.close()
        self._exchange.journal = self._exchange.canary = None
        self._exchange.ledger.detach()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _hold(self, path: Path) -> None:
        """Keep other processes from counting in the same files; the system lets go when this one ends.

        Raises:
            CheckpointError: another process has them.
        """
        if (earlier := _KEEPING.get(path)) is not None:
            earlier.release()
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise CheckpointError(
                f"another process keeps what it asks in {path.parent}: wait for it, stop it, or name another directory"
            ) from error
        self._lock, _KEEPING[path] = lock, self

    def _query(
        self,
        images: Tensor,
        stage: str,
        value_range: tuple[float, float] | None,
        *,
        evaluation: bool = False,
        call: Call | None = None,
    ) -> Response:
        refuse_tracing()
        images = plain_tensor(images)
        check_images(images, value_range)
        # What compresses images on their way gets them as they are, and is known to do so alike every time.
        prints = image_hashes(self.as_kept(images))
        sent = self._outgoing.rounded(images)
        response: Response = self._exchange.ask(sent, prints, stage, evaluation=evaluation, call=call)
        return response

    def _degraded(self, identity: Identity) -> Identity:
        """``identity``, with what is done to images and answers: names in another order are other answers."""
        if self.teacher_size is not None:
            bare, (height, width) = identity.describe, self.teacher_size
            identity = identity._replace(describe=lambda: f"{bare()} teacher_size={height}x{width}")
        if self._classes is not None:
            plain, names = identity.describe, digest_of_names(self._classes)
            identity = identity._replace(describe=lambda: f"{plain()} names={names}")
        rule = self._exchange.degradation.rule
        if rule == FULL:
            return identity
        seed = f" answers_seed={self._exchange.degradation_seed}" if rule == "noisy" else ""
        return identity._replace(describe=lambda: f"{identity.describe()} answers={self.answers}{seed}")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise InputError(
            "a BlackBox cannot be pickled, since that would hand out its teacher: save its answers, a Bank, instead"
        )

    def __repr__(self) -> str:
        classes = "?" if self._exchange.num_classes is None else self._exchange.num_classes
        return f"BlackBox(responses={self._kind!r}, num_classes={classes}, {self._exchange.ledger})"


def _affordable(
    budget: int | None, price: float | None, limit: float | None, *, shared: bool
) -> tuple[int | None, str]:
    """The number of images that budget and money allow, and the limit in money where that is the lower one.

    Raises:
        InputError: a limit without a price, or beside a shared ledger.
    """
    if limit is None:
        return budget, ""
    limit = as_number("cost_limit", limit, at_least=0)
    if not price:
        raise InputError(f"cost_limit={limit:g} without a price: say what 1,000 images cost, cost_per_1000=1.5")
    if shared:
        raise InputError(f"cost_limit={limit:g} and ledger= are both given: a shared ledger brings its own budget")
    if budget is not None:
        budget = as_whole("budget", budget, at_least=0, of="images", otherwise="None for no limit", strict=True)
    images = int(limit / price * 1000 * (1 + 1e-12))
    return (images, f"cost_limit={limit:g}") if budget is None or images < budget else (budget, "")


def _resizing(ask: Ask, outgoing: Outgoing) -> Ask:
    """``ask`` about resized images."""
    return lambda images, *call: ask(outgoing.resized(images), *call)


class _Hidden(NamedTuple):
    identity: Identity
    place: Callable[[], tuple[torch.device, torch.dtype]]
    is_module: bool
    is_recorded: bool
    foresee: Callable[[tuple[int, int, int]], Any]
    as_sent: Callable[[Tensor], Tensor] | None


_HIDDEN: WeakKeyDictionary[BlackBox, _Hidden] = WeakKeyDictionary()
"""The teachers, away from the objects that methods are handed."""
_KEEPING: WeakValueDictionary[Path, BlackBox] = WeakValueDictionary()
"""The black boxes of this process that keep files, by the lock on them."""
