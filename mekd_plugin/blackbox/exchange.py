"""Questions and answers: intend, ask, check, keep, settle, in this order whatever happens in between."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mekd_plugin.blackbox.answers import Precision, as_tensor, check_response, precise
from mekd_plugin.blackbox.backends import Ask, Call
from mekd_plugin.blackbox.canary import STAGE, Canary
from mekd_plugin.blackbox.degradation import Degradation
from mekd_plugin.blackbox.images import never_compiled
from mekd_plugin.blackbox.journal import Journal
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.blackbox.patience import RateLimit, Retry, teacher_errors
from mekd_plugin.errors import InputError, NeedsNotMet, Refused, TeacherUnavailable, TooManyAtOnce
from mekd_plugin.responses import Kind, Response

__all__ = ["Exchange"]


@dataclass(frozen=True, eq=False)
class _Question:
    """Images that are asked about at once, and what for; whether the rest of a larger question follows."""

    images: Tensor
    fingerprints: Tensor
    stage: str
    evaluation: bool
    call: Call | None
    goes_on: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> _Question:
        """The part about its first ``count`` images."""
        if count >= len(self):
            return self
        return replace(self, images=self.images[:count], fingerprints=self.fingerprints[:count], goes_on=True)

    def after(self, count: int) -> _Question:
        """The part about all but its first ``count`` images."""
        return replace(self, images=self.images[count:], fingerprints=self.fingerprints[count:])


class _Answered(NamedTuple):
    """A question's answer, and its number in the ledger; it is yet to be kept."""

    response: Response
    serial: int


class _Open(NamedTuple):
    """A question that a thread asks: when it is done, and what has been answered of it, a request at a time."""

    future: Future[None]
    answered: deque[tuple[_Question, _Answered]]


class _Stopped(BaseException):
    """Another question has failed, and this one is not to be asked any more."""


@dataclass(eq=False)
class Exchange:
    """What passes between a method and a teacher.

    Attributes:
        kind: of the answers.
        precision: of probabilities.
        ledger: counts the images.
        batch_size: images sent at a time.
        retry: how often a batch is asked about; None once.
        rate_limit: how fast; None as fast as can be.
        concurrent: questions that are open at the same time, each in a thread of its own.
        canary: a few questions to be asked again in a later life; None where nobody looks for a changed teacher.
        num_classes: C; None until the first scores reveal it.
        journal: keeps the answers; None where no directory does.
        degradation: what happens to answers before they are kept.
        degradation_seed: of its noise.
    """

    kind: Kind
    precision: Precision
    ledger: Ledger
    batch_size: int
    retry: Retry | None = None
    rate_limit: RateLimit | None = None
    num_classes: int | None = None
    journal: Journal | None = None
    degradation: Degradation = Degradation()
    degradation_seed: int = 0
    concurrent: int = 1
    canary: Canary | None = None
    _batches: int = 0
    _at_most: int | None = None  # images of one request, as far as the teacher has said
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, ask: Ask) -> None:
        """Put ``ask`` in place, where no attribute leads to it."""
        _ASKS[self] = ask

    def known_classes(self) -> int:
        """C.

        Raises:
            InputError: not declared, and nothing was asked yet that tells it.
        """
        if self.num_classes is None:
            raise InputError("the teacher's num_classes is not known before its first answer: give num_classes=")
        return self.num_classes

    @never_compiled
    def ask(
        self,
        images: Tensor,
        fingerprints: Tensor,
        stage: str,
        *,
        evaluation: bool = False,
        call: Call | None = None,
    ) -> Response:
        """The answers to ``images``, in questions of ``batch_size``; every process asks as many, some of them empty."""
        with self.ledger.in_turn():
            own = range(0, len(images), self.batch_size)
            prints = [fingerprints[start : start + self.batch_size] for start in own]
            ahead = 0 if self.journal is None else self.journal.kept(prints, stage, self.kind, evaluation)
            everyone = self.ledger.peers.gather(torch.tensor([[len(images), ahead]]))
            asked, kept = everyone.sum(dim=0).tolist()
            if not evaluation:  # refused as a whole, before its first part is sent
                self.ledger.check_budget(asked - kept, stage)
            starts = range(0, int(everyone[:, 0].max()), self.batch_size)
            parts = [slice(start, start + self.batch_size) for start in starts]
            questions = [_Question(images[part], fingerprints[part], stage, evaluation, call) for part in parts]
            # Several processes count in step, which threads of theirs would not.
            one_request = len(questions) < 2 and self._at_most is None
            one_by_one = self.concurrent == 1 or one_request or self.ledger.peers.world > 1
            answers = chain.from_iterable(map(self._ask_one, questions)) if one_by_one else self._ask_many(questions)
            return Response(torch.cat([answer.values for answer in answers]), self.kind, self.known_classes())

    def _ask_one(self, question: _Question) -> Iterator[Response]:
        """The answers of an interrupted life; or those of as many attempts as are allowed, kept as they come."""
        while True:
            told = self._kept(question)
            if told is None:
                self._check_teacher(question)
                told = self._keep(*self._ask_first(question), last=True)
            yield told
            question = question.after(len(told))
            if not len(question):
                return

    def _ask_many(self, questions: list[_Question]) -> Iterator[Response]:
        """The answers in the order of the questions, of which up to ``concurrent`` are open at the same time.

        They are kept in that order too. After an error nothing new is sent; what was open is waited for, and its
        answers are kept as early ones.
        """
        stop = threading.Event()
        is_open: deque[_Open] = deque()
        waiting = deque(questions)
        with ThreadPoolExecutor(self.concurrent, thread_name_prefix="asking a teacher") as pool:
            try:
                while waiting:
                    while is_open and (len(is_open) == self.concurrent or self._has_early()):
                        yield from self._come_in(is_open)
                    question = waiting.popleft()
                    told = self._kept(question) if not is_open else None
                    if told is not None:
                        yield told
                        done = len(told)
                    else:
                        if not is_open:
                            self._check_teacher(question)
                        part, answered = self._part(question), deque[tuple[_Question, _Answered]]()
                        is_open.append(_Open(pool.submit(self._ask_all, part, answered, stop), answered))
                        done = len(part)
                    if done < len(question):
                        waiting.appendleft(question.after(done))
                while is_open:
                    yield from self._come_in(is_open)
            finally:  # nothing is open any more, or there was an error
                stop.set()
                wait([future for future, _ in is_open])
                for part, answer in chain.from_iterable(answered for _, answered in is_open):
                    if self.journal is not None:
                        self._keep(part, answer, early=True)

    def _come_in(self, is_open: deque[_Open]) -> Iterator[Response]:
        """The answers that are next, once there are any; an error at once, whosever turn it is."""
        if not is_open[0].future.done():
            wait([future for future, _ in is_open if not future.done()], return_when=FIRST_COMPLETED)
        for future, _ in is_open:
            if future.done():
                future.result()
        while is_open and is_open[0].future.done():
            is_open[0].future.result()  # it may have failed meanwhile
            while is_open[0].answered:
                yield self._keep(*is_open[0].answered.popleft())
            is_open.popleft()

    def _ask_all(
        self, question: _Question, answered: deque[tuple[_Question, _Answered]], stop: threading.Event
    ) -> None:
        """Ask in a thread; what came before an error is in ``answered`` too."""
        while len(question):
            answered.append(self._ask_first(question, stop))
            question = question.after(len(answered[-1][0]))

    def _ask_first(self, question: _Question, stop: threading.Event | None = None) -> tuple[_Question, _Answered]:
        """The answers to as much of a question as the teacher takes at a time, and which part that is."""
        while True:
            part = self._part(question)
            try:
                return part, self._attempts(part, stop)
            except TooManyAtOnce as error:
                self._learn_limit(error, len(part))

    def _part(self, question: _Question) -> _Question:
        """As much of a question as goes into one request, and not what was answered early."""
        if self.ledger.peers.world > 1:
            return question  # which count in step: see _answer_in_parts
        with self._counting:
            count = len(question) if self._at_most is None else min(len(question), self._at_most)
            if self.journal is not None and self.journal.has_early:
                about = question.stage, self.kind, question.evaluation
                count = min(count, self.journal.early_from(question.fingerprints, *about))
        return question.first(count)

    def _learn_limit(self, error: TooManyAtOnce, sent: int) -> None:
        """Ask about fewer images at a time.

        Raises:
            TooManyAtOnce: the same again, where that would not be fewer.
        """
        if not 0 < error.limit < sent:
            raise error
        with self._counting:
            self._at_most = min(error.limit, self._at_most or error.limit)

    def _has_early(self) -> bool:
        return self.journal is not None and self.journal.has_early

    def _kept(self, question: _Question) -> Response | None:
        """What the journal holds of it."""
        journal = self.journal
        stage, evaluation = question.stage, question.evaluation
        kept = None if journal is None else journal.replay(question.fingerprints, stage, self.kind, evaluation)
        if kept is None:
            return None
        # Other processes may have to ask: all take part in counting.
        self.ledger.intend(question.fingerprints[:0], stage, evaluation=evaluation)
        self.ledger.settle()
        self.num_classes = kept.num_classes
        return kept.to(question.images.device)

    def _check_teacher(self, question: _Question) -> None:
        """Before the first new question of a later life: does the teacher still answer as it did?"""
        if self.canary is None or not self.canary.due or not len(question.images) or self.ledger.peers.world > 1:
            return

        def ask_again(images: Tensor, fingerprints: Tensor) -> Response:
            told: list[Tensor] = []
            again = _Question(images.to(question.images.device), fingerprints, STAGE, True, question.call)
            while len(again):
                part, (response, serial) = self._ask_first(again.first(self.batch_size))
                self.ledger.settle(serial)
                told.append(response.values)
                again = again.after(len(part))
            return Response(torch.cat(told), self.kind, self.known_classes())

        self.canary.look(ask_again)

    def _attempts(self, question: _Question, stop: threading.Event | None = None) -> _Answered:
        with self._counting:
            self._batches += 1
            batch = self._batches

        def attempt() -> _Answered:
            if stop is not None and stop.is_set():
                raise _Stopped
            return self._attempt(question, batch)

        if self.retry is None:
            return attempt()
        if self.ledger.peers.world > 1:
            raise NeedsNotMet(
                "retry= in a run of several processes, which count in step: an attempt of one alone would stop all of "
                "them. Use one process, or leave retry= out and resume the run after an error"
            )
        return self.retry(attempt, stop=stop)

    def _attempt(self, question: _Question, batch: int) -> _Answered:
        """Intend, ask, check; what was refused is taken back. Keeping and settling come in the order of asking."""
        images, stage = question.images, question.stage
        answer = self._answer if self.ledger.peers.world == 1 else self._answer_in_parts
        if self.rate_limit is not None and len(images):
            self.rate_limit.wait(self.ledger.peers.world)
        with self._counting:
            serial = self.ledger.intend(question.fingerprints, stage, evaluation=question.evaluation, in_turn=True)
        where = f"asking the teacher about batch {batch} ({len(images):,} images for {stage!r})"
        try:
            with teacher_errors(where, self._what_is_kept, len(images)):
                return _Answered(answer(images, question.fingerprints, question.call, batch), serial)
        except Refused:
            with self._counting:
                self.ledger.take_back(serial)
            raise
        except BaseException:
            with self._counting:
                self.ledger.leave(serial)
            raise

    def _keep(self, question: _Question, answered: _Answered, *, early: bool = False, last: bool = False) -> Response:
        """Keep an answer and settle its question: the ``last`` one that was announced, where none other is open."""
        response, serial = answered
        with self._counting:
            if self.journal is not None:
                prints, stage = question.fingerprints, question.stage
                flags = {"evaluation": question.evaluation, "early": early, "goes_on": question.goes_on}
                self.journal.append(response, prints, stage, serial, **flags)
            if last:
                self.ledger.settle()
            else:
                self.ledger.settle(serial)
            if self.canary is not None and self.journal is not None and not question.evaluation:
                self.canary.remember(question.images, question.fingerprints, response)
        _LOGGER.debug("%s: %d images answered for %r; %s", self.kind, len(question.images), question.stage, self.ledger)
        return response

    def _what_is_kept(self) -> str:
        with self._counting:
            kept = "no directory keeps the answers before it" if self.journal is None else f"kept: {self.journal}"
            return f"{kept}; {self.ledger}"

    def _answer_in_parts(self, images: Tensor, fingerprints: Tensor, call: Call | None, batch: int) -> Response:
        """The answer of as many requests as the teacher wants, where several processes count a question in step.

        Raises:
            TeacherUnavailable: one was refused after others were answered: all images of the question count.
        """
        told: list[Tensor] = []
        start = 0
        while start < len(images) or not told:
            part = slice(start, start + min(len(images), self._at_most or len(images)))
            try:
                told.append(self._answer(images[part], fingerprints[part], call, batch).values)
                start += len(told[-1])
            except TooManyAtOnce as error:
                self._learn_limit(error, len(images[part]))
            except Refused as error:
                if not told:
                    raise
                raise TeacherUnavailable(
                    f"{error}: {start:,} of {len(images):,} images were answered before, so all of them count"
                ) from error
        return Response(torch.cat(told), self.kind, self.known_classes())

    def _answer(self, images: Tensor, fingerprints: Tensor, call: Call | None, batch: int) -> Response:
        if not len(images):
            shape, dtype = ((0,), torch.int64) if self.kind == "hard" else ((0, self.known_classes()), None)
            return Response(torch.empty(shape, dtype=dtype, device=images.device), self.kind, self.known_classes())
        # The teacher gets a copy: a layer that works in place must not reach the caller's images.
        ask = _ASKS[self]
        answered = ask(images.clone()) if call is None else ask(images.clone(), call)
        answer = as_tensor(answered, len(images), batch).to(images.device)
        computed_in = answer.dtype if answer.is_floating_point() else torch.float32
        if answer.is_floating_point():
            answer = answer.to(precise(images.dtype))
        response = check_response(
            answer,
            self.kind,
            self.num_classes,
            batch,
            precision=self.precision,
            computed_in=computed_in,
        )
        self.num_classes = response.num_classes
        return self.degradation(response, fingerprints, self.degradation_seed)


_LOGGER = logging.getLogger(__name__)

_ASKS: WeakKeyDictionary[Exchange, Ask] = WeakKeyDictionary()
"""The ways to ask, away from the objects that methods are handed."""
