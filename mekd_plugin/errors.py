"""The errors that this package raises, one base class for all of them.

Every message names the value that was wrong, what was expected and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DamagedFile",
    "DataMissing",
    "InputError",
    "MekdError",
    "MissingDependency",
    "NeedsNotMet",
    "QueryBudgetExceeded",
    "Refused",
    "RefusedForGood",
    "ReplayDiverged",
    "TeacherAnswerError",
    "TeacherChanged",
    "TeacherUnavailable",
    "TooManyAtOnce",
    "UnknownName",
]


class MekdError(Exception):
    """Base class of every error that this package raises on purpose."""


class InputError(MekdError, ValueError):
    """A value that the caller handed in cannot be used."""


class TeacherAnswerError(MekdError):
    """The teacher answered something that cannot be a response to the images sent."""


class TeacherChanged(MekdError):
    """A teacher answers a question of an earlier life otherwise than it did then."""


class TeacherUnavailable(MekdError, ConnectionError, TimeoutError):
    """The teacher did not answer in time, or could not be reached; the images may have arrived, so they count.

    Attributes:
        retry_after: seconds that the service asks to wait before the next attempt; None where it did not say.
    """

    retry_after: float | None = None


class Refused(TeacherUnavailable):
    """A service says that it did no work (503, 429, connection refused): the images do not count.

    A function that asks a service raises it; whoever raises it vouches for that.
    """


class RefusedForGood(Refused):
    """A service did no work, and would not at another attempt: the balance is exhausted, the credentials are wrong.

    No :class:`~mekd_plugin.blackbox.Retry` asks again.
    """


class TooManyAtOnce(RefusedForGood):
    """A service takes fewer images at a time than it was asked about, and did no work.

    A function that asks a service raises it, with what the service takes; the boundary then asks about so many at a
    time, and counts and keeps each of these requests by itself.

    Attributes:
        limit: the most images of one request, from 1.
    """

    def __init__(self, message: str, limit: int = 1) -> None:
        super().__init__(message)
        self.limit = limit


class QueryBudgetExceeded(MekdError):
    """Asking would pass the query budget; raised *before* anything is sent."""


class NeedsNotMet(MekdError):
    """A method needs what the teacher or the data cannot give; raised before any training."""


class UnknownName(MekdError, LookupError):
    """A name that no registry knows."""


class ReplayDiverged(MekdError):
    """A resumed run asks about other images than it did before it was interrupted."""


class CheckpointError(MekdError):
    """A file that should hold weights or a run's state cannot be used."""


class DamagedFile(CheckpointError):
    """A file was emptied, cut off or changed since it was written."""


class DataMissing(MekdError, FileNotFoundError):
    """A data set's files are not where they were looked for."""


class MissingDependency(MekdError, ImportError):
    """An optional package is not installed."""
