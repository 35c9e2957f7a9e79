"""Questions and answers: intend, ask, check, keep, settle, in this order whatever happens in between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mekd_plugin.blackbox.answers import Precision, as_tensor, check_response, precise
from mekd_plugin.blackbox.backends import Ask, Call
from mekd_plugin.blackbox.canary import STAGE, Canary
from mekd_plugin.blackbox.degradation import Degradation
from mekd_plugin.blackbox.journal import Journal
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.blackbox.patience import RateLimit, Retry, teacher_errors
from mekd_plugin.errors import InputError, NeedsNotMet, Refused
from mekd_plugin.responses import Kind, Response

__all__ = ["Exchange"]


@dataclass(frozen=True, eq=False)
class _Question:
    """Images that are asked about at once, and what for."""

    images: Tensor
    fingerprints: Tensor
    stage: str
    evaluation: bool
    call: Call | None


class _Answered(NamedTuple):
    """A question's answer, and its number in the ledger; it is yet to be kept."""

    response: Response
    serial: int


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

    @torch.compiler.disable  # a query is not part of a graph
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
            one_by_one = self.concurrent == 1 or len(questions) < 2 or self.ledger.peers.world > 1
            answers = map(self._ask_one, questions) if one_by_one else self._ask_many(questions)
            return Response(torch.cat([answer.values for answer in answers]), self.kind, self.known_classes())

    def _ask_one(self, question: _Question) -> Response:
        """The answers of an interrupted life; or those of as many attempts as are allowed."""
        kept = self._kept(question)
        if kept is None:
            self._check_teacher(question)
            kept = self._keep(question, self._attempts(question), last=True)
        return kept

    def _ask_many(self, questions: list[_Question]) -> Iterator[Response]:
        """The answers in the order of the questions, of which up to ``concurrent`` are open at the same time.

        They are kept in that order too. After an error nothing new is sent; what was open is waited for, and its
        answers are kept as early ones.
        """
        stop = threading.Event()
        is_open: dict[_Question, Future[_Answered]] = {}
        with ThreadPoolExecutor(self.concurrent, thread_name_prefix="asking a teacher") as pool:
            try:
                for question in questions:
                    while is_open and (len(is_open) == self.concurrent or self._has_early()):
                        yield from self._come_in(is_open)
                    kept = self._kept(question) if not is_open else None
                    if kept is not None:
                        yield kept
                        continue
                    if not is_open:
                        self._check_teacher(question)
                    is_open[question] = pool.submit(self._attempts, question, stop)
                while is_open:
                    yield from self._come_in(is_open)
            finally:  # nothing is open any more, or there was an error
                stop.set()
                wait(is_open.values())
                for question, future in is_open.items():
                    if future.exception() is None and self.journal is not None:
                        self._keep(question, future.result(), early=True)

    def _come_in(self, is_open: dict[_Question, Future[_Answered]]) -> Iterator[Response]:
        """The answers that are next, once there are any; an error at once, whosever turn it is."""
        if not next(iter(is_open.values())).done():
            wait([future for future in is_open.values() if not future.done()], return_when=FIRST_COMPLETED)
        failed = [question for question, future in is_open.items() if future.done() and future.exception() is not None]
        if failed:
            is_open.pop(failed[0]).result()
        while is_open and next(iter(is_open.values())).done():
            question = next(iter(is_open))
            yield self._keep(question, is_open.pop(question).result())

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
            told = []
            batches = zip(images.split(self.batch_size), fingerprints.split(self.batch_size), strict=True)
            for batch, prints in batches:
                again = _Question(batch.to(question.images.device), prints, STAGE, True, question.call)
                response, serial = self._attempts(again)
                self.ledger.settle(serial)
                told.append(response.values)
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
        if self.rate_limit is not None and len(images):
            self.rate_limit.wait(self.ledger.peers.world)
        with self._counting:
            serial = self.ledger.intend(question.fingerprints, stage, evaluation=question.evaluation, in_turn=True)
        where = f"asking the teacher about batch {batch} ({len(images):,} images for {stage!r})"
        try:
            with teacher_errors(where, self._what_is_kept):
                return _Answered(self._answer(images, question.fingerprints, question.call, batch), serial)
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
                self.journal.append(response, prints, stage, serial, evaluation=question.evaluation, early=early)
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
