"""Questions and answers: intend, ask, check, keep, settle, in this order whatever happens in between."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mekd_plugin.blackbox.answers import Precision, as_tensor, check_response, precise
from mekd_plugin.blackbox.backends import Ask, Call
from mekd_plugin.blackbox.degradation import Degradation
from mekd_plugin.blackbox.journal import Journal
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.blackbox.patience import RateLimit, Retry, teacher_errors
from mekd_plugin.errors import InputError, NeedsNotMet, Refused
from mekd_plugin.responses import Kind, Response

__all__ = ["Exchange"]


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
    _batches: int = 0

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

            def answers(part: slice) -> Tensor:
                return self._question(images[part], fingerprints[part], stage, evaluation, call).values

            return Response(torch.cat([answers(part) for part in parts]), self.kind, self.known_classes())

    def _question(
        self, images: Tensor, fingerprints: Tensor, stage: str, evaluation: bool, call: Call | None
    ) -> Response:
        """The answers of an interrupted life; or those of as many attempts as are allowed."""
        kept = None if self.journal is None else self.journal.replay(fingerprints, stage, self.kind, evaluation)
        if kept is not None:
            # Other processes may have to ask: all take part in counting.
            self.ledger.intend(fingerprints[:0], stage, evaluation=evaluation)
            self.ledger.settle()
            self.num_classes = kept.num_classes
            return kept.to(images.device)
        self._batches += 1

        def attempt() -> Response:
            return self._attempt(images, fingerprints, stage, evaluation, call)

        if self.retry is None:
            return attempt()
        if self.ledger.peers.world > 1:
            raise NeedsNotMet(
                "retry= in a run of several processes, which count in step: an attempt of one alone would stop all of "
                "them. Use one process, or leave retry= out and resume the run after an error"
            )
        return self.retry(attempt)

    def _attempt(
        self, images: Tensor, fingerprints: Tensor, stage: str, evaluation: bool, call: Call | None
    ) -> Response:
        """Intend, ask, check, keep, settle; what was refused is taken back instead."""
        if self.rate_limit is not None and len(images):
            self.rate_limit.wait(self.ledger.peers.world)
        serial = self.ledger.intend(fingerprints, stage, evaluation=evaluation)
        where = f"asking the teacher about batch {self._batches} ({len(images):,} images for {stage!r})"
        try:
            with teacher_errors(where, self._what_is_kept):
                response = self._answer(images, fingerprints, call)
        except Refused:
            self.ledger.take_back()
            raise
        if self.journal is not None:
            self.journal.append(response, fingerprints, stage, serial, evaluation=evaluation)
        self.ledger.settle()
        _LOGGER.debug("%s: %d images answered for %r; %s", self.kind, len(images), stage, self.ledger)
        return response

    def _what_is_kept(self) -> str:
        kept = "no directory keeps the answers before it" if self.journal is None else f"kept: {self.journal}"
        return f"{kept}; {self.ledger}"

    def _answer(self, images: Tensor, fingerprints: Tensor, call: Call | None) -> Response:
        if not len(images):
            shape, dtype = ((0,), torch.int64) if self.kind == "hard" else ((0, self.known_classes()), None)
            return Response(torch.empty(shape, dtype=dtype, device=images.device), self.kind, self.known_classes())
        # The teacher gets a copy: a layer that works in place must not reach the caller's images.
        ask = _ASKS[self]
        answered = ask(images.clone()) if call is None else ask(images.clone(), call)
        answer = as_tensor(answered, len(images), self._batches).to(images.device)
        computed_in = answer.dtype if answer.is_floating_point() else torch.float32
        if answer.is_floating_point():
            answer = answer.to(precise(images.dtype))
        response = check_response(
            answer,
            self.kind,
            self.num_classes,
            self._batches,
            precision=self.precision,
            computed_in=computed_in,
        )
        self.num_classes = response.num_classes
        return self.degradation(response, fingerprints, self.degradation_seed)


_LOGGER = logging.getLogger(__name__)

_ASKS: WeakKeyDictionary[Exchange, Ask] = WeakKeyDictionary()
"""The ways to ask, away from the objects that methods are handed."""
