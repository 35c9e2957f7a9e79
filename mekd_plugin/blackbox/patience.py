"""How long a teacher is waited for, how often it is asked again, and how fast: inside the boundary, so all counts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import tenacity

from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.errors import (
    InputError,
    MekdError,
    Refused,
    RefusedForGood,
    TeacherAnswerError,
    TeacherUnavailable,
)

__all__ = ["RateLimit", "Retry", "teacher_errors", "within"]

_LONGEST_WAIT = 60.0
_LONGEST_TOLD = 3600.0  # what a service may ask to wait; a run that has to wait longer is better resumed
_LONGEST_TURN = 86_400.0  # seconds between two batches
T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """How often a batch is asked about before its error is raised. Every attempt counts, unless it was refused.

    Attributes:
        attempts: in all, from 1.
        wait: seconds before the second attempt, 0 to 60; each further one waits twice as long, a minute at most. Where
            the service says how long (``Retry-After``), it is waited for so long at least, up to an hour.
        jitter: the largest share by which a wait is made longer at random, 0 to 1, so that many who wait do not come
            back at once. The numbers are drawn apart, so a run's random numbers are what they are without it.
        on: exceptions that another attempt may cure: of the teacher's own client too, such as ``httpx.HTTPError``.

    Raises:
        InputError: a value that is none of these.
    """

    attempts: int = 3
    wait: float = 1.0
    on: type[Exception] | tuple[type[Exception], ...] = TeacherUnavailable
    jitter: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "attempts", as_whole("attempts", self.attempts, at_least=1, strict=True))
        object.__setattr__(self, "wait", as_number("wait", self.wait, at_least=0, at_most=_LONGEST_WAIT, strict=True))
        object.__setattr__(self, "jitter", as_number("jitter", self.jitter, at_least=0, at_most=1, strict=True))
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        if not kinds or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise InputError(f"on={self.on!r}: expected an exception class, or a tuple of them")

    def __call__(self, attempt: Callable[[], T], *, stop: threading.Event | None = None) -> T:
        """What the first ``attempt`` that succeeds returns, or the last one's error; ``stop`` ends a wait."""

        def pause(seconds: float) -> None:
            if stop is None:
                time.sleep(seconds)
            else:
                stop.wait(seconds)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=self._seconds,
            retry=tenacity.retry_if_exception(self._may_be_cured),
            sleep=pause,
            reraise=True,
        )
        return retrying(attempt)

    def _may_be_cured(self, error: BaseException) -> bool:
        told = getattr(error, "retry_after", None)
        return isinstance(error, self.on) and not isinstance(error, RefusedForGood) and (told or 0) <= _LONGEST_TOLD

    def _seconds(self, state: tenacity.RetryCallState) -> float:
        seconds: float = tenacity.wait_exponential(multiplier=self.wait, max=_LONGEST_WAIT)(state)
        if self.jitter:
            seconds *= 1 + self.jitter * _APART.random()
        error = None if state.outcome is None else state.outcome.exception()
        return max(seconds, getattr(error, "retry_after", None) or 0.0)


@dataclass
class RateLimit:
    """At most so many batches per second; several black boxes may share one, to share the service's limit.

    Attributes:
        per_second: batches, attempts of the same one included; a number above 0. A batch waits a day at most.
        burst: how many may go at once after a pause, the size of the token bucket; from 1.

    Raises:
        InputError: it is not such a number.
    """

    per_second: float
    burst: int = 1
    _next: float = field(default=0.0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.per_second = as_number("per_second", self.per_second, above=0, strict=True)
        self.burst = as_whole("burst", self.burst, at_least=1, of="batches", strict=True)

    def wait(self, processes: int = 1) -> None:
        """Wait for a turn; ``processes`` that ask at the same time share the rate."""
        with self._lock:
            now = time.monotonic()
            saved = (self.burst - 1) / self.per_second  # what a full bucket lets go ahead of the even rate
            even = max(now, min(self._next, now + _LONGEST_TURN + saved))
            self._next = even + processes / self.per_second
        time.sleep(max(0.0, even - saved - now))


def within(seconds: float, ask: Callable[..., Any]) -> Callable[..., Any]:
    """``ask``, given up after ``seconds``. Python cannot end a call: it goes on in its thread, unheeded."""

    def ask_in_time(*given: Any, **named: Any) -> Any:
        answered: list[Any] = []
        failed: list[BaseException] = []

        def call() -> None:
            try:
                answered.append(ask(*given, **named))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=call, daemon=True, name="asking a teacher")
        thread.start()
        thread.join(seconds)
        if failed:
            raise failed[0]
        if not answered:
            raise TimeoutError(f"no answer within timeout={seconds:g} seconds")
        return answered[0]

    return ask_in_time


_APART = random.Random()  # noqa: S311 (a wait, no secret; and none of the generators that a run draws from)


@contextmanager
def teacher_errors(where: str, kept: Callable[[], str], images: int) -> Iterator[None]:
    """Have a teacher's errors say where they struck, and what is kept.

    Being out of reach becomes :class:`TeacherUnavailable`, which is still a ``ConnectionError`` and a ``TimeoutError``;
    a connection that was refused becomes :class:`Refused` where one image was asked about: of several, a function may
    have sent some before. An exit becomes an error like others. All other exceptions stay what they are, with a note.
    """
    try:
        yield
    except MekdError as error:
        error.add_note(f"{where}; {kept()}")
        raise
    except ConnectionRefusedError as error:
        if images > 1:
            raise TeacherUnavailable(
                f"{where}, a connection was refused ({error}). Whether others before it were not is not known, so the "
                f"images count; a function that knows it raises errors.Refused; {kept()}"
            ) from error
        raise Refused(f"{where}, the connection was refused ({error}): nothing was sent; {kept()}") from error
    except (ConnectionError, TimeoutError) as error:
        raise TeacherUnavailable(
            f"{where}, the teacher was out of reach ({type(error).__name__}: {error}). Whether the images arrived is "
            f"not known, so they count; {kept()}"
        ) from error
    except SystemExit as error:
        raise TeacherAnswerError(
            f"{where}, it raised SystemExit({error.code!r}): a teacher answers or raises an error, it does not end the "
            f"process that asks; {kept()}"
        ) from error
    except Exception as error:
        error.add_note(f"{where}; {kept()}")
        raise
