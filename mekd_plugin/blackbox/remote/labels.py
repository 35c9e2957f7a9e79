"""Labels and scores of a service as probabilities of the classes that a student is to tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.errors import InputError, TeacherAnswerError

__all__ = ["LabelMap", "labels_and_scores"]

_SLACK = 1e-3
_DECIMALS = range(2, 7)  # that scores may be rounded to; what is rounded further sums to 1 well enough


class LabelMap:
    """Which class each label of a service is, and what an answer that leaves labels out says about the others.

    What is missing from a sum of 1 belongs to the classes that were left out: that much is known of them together, and
    that none of them has more than the smallest score that was told (with ``top_k``), or than ``min_confidence``. It is
    spread evenly over them, the one distribution that says no more than that.

    Args:
        classes: the labels in the order of their class indices; or a mapping from labels to indices, where several
            labels may be one class, and their scores are added.
        top_k: how many labels an answer has at most; None where it has all.
        min_confidence: the score below which a label is left out; None where none is.

    Raises:
        InputError: fewer than two classes, an index is missing, or a label is there twice.
    """

    def __init__(
        self,
        classes: Sequence[str] | Mapping[str, int],
        *,
        top_k: int | None = None,
        min_confidence: float | None = None,
    ) -> None:
        named = classes if isinstance(classes, Mapping) else {}
        if not isinstance(classes, Mapping):
            if isinstance(classes, str) or not all(isinstance(label, str) for label in classes):
                raise InputError(f"classes={classes!r}: expected the service's labels, such as ['cat', 'dog']")
            named = {label: index for index, label in enumerate(classes)}
            if len(named) != len(classes):
                raise InputError(f"classes={list(classes)!r}: a label is there twice; map it, {{label: index}}")
        self._index = {str(label): as_whole(f"classes[{label!r}]", place, at_least=0) for label, place in named.items()}
        self.num_classes = len(set(self._index.values()))
        if self.num_classes < 2 or set(self._index.values()) != set(range(self.num_classes)):
            raise InputError(
                f"classes={classes!r}: expected labels of at least two classes, numbered from 0 without gaps"
            )
        self._top_k = None if top_k is None else as_whole("top_k", top_k, at_least=1, of="labels", strict=True)
        self._least = None
        if min_confidence is not None:
            self._least = as_number("min_confidence", min_confidence, above=0, below=1, strict=True)

    def probabilities(self, answer: Sequence[tuple[str, float]]) -> np.ndarray:
        """Of each class, ``(C,)`` float64, which sum to 1.

        The scores may miss a sum of 1 by 0.001, and by a unit of the last decimal of each score that was told.

        Raises:
            TeacherAnswerError: a label that is in no class, twice the same, or scores that are no probabilities.
        """
        found = np.zeros(self.num_classes)
        told = dict(answer)
        if unknown := [label for label in told if label not in self._index]:
            raise TeacherAnswerError(
                f"the service answered {unknown[0]!r}, which is none of its {len(self._index)} labels in classes=: add "
                "it, {label: index}, to the class that it belongs to"
            )
        if len(told) != len(answer):
            raise TeacherAnswerError(f"the service answered a label twice: {[label for label, _ in answer]}")
        for label, score in told.items():
            found[self._index[label]] += score
        if not all(np.isfinite(score) and -_SLACK <= score <= 1 + _SLACK for score in told.values()):
            raise TeacherAnswerError(f"the service answered scores {told}: expected probabilities from 0 to 1")
        missing = 1.0 - found.sum()
        left_out = [label for label in self._index if label not in told]
        classes = sorted({self._index[label] for label in left_out})
        if left_out and self._top_k is None and self._least is None:
            raise TeacherAnswerError(
                f"the service answered {len(told)} of {len(self._index)} labels: if it leaves some out, say which, "
                "top_k= or min_confidence="
            )
        most = self._most(told) * len(left_out) if left_out else 0.0
        step = _step(told.values())
        # Rounding adds to no score of 0. It may have taken from each, and from the smallest, which bounds the others.
        above = _SLACK + step * sum(score != 0 for score in told.values())
        below = _SLACK + step * (len(self._index) if self._is_full(told) else len(told))
        if missing < -above or missing > most + below or (told and not left_out and not any(told.values())):
            raise TeacherAnswerError(
                f"the service answered scores that sum to {found.sum():.4g}"
                + (f" and left out {len(left_out)} labels, which can have {most:.4g} at most" if left_out else "")
                + ": expected a sum of 1. Scores of a sigmoid, or of labels that classes= does not name, are no "
                'probabilities; BlackBox(responses="hard") takes the best label alone'
            )
        if classes:
            found[classes] += max(missing, 0.0) / len(classes)
        total: float = found.sum()
        return np.clip(found, 0.0, None) / total

    def _most(self, told: Mapping[str, float]) -> float:
        """The largest score that a label which was left out can have."""
        bounds = [1.0]
        if self._is_full(told):
            bounds.append(min(told.values()))
        elif self._least is not None:
            bounds.append(self._least)
        return min(bounds)

    def _is_full(self, told: Mapping[str, float]) -> bool:
        """Whether there was no room for another label."""
        return self._top_k is not None and len(told) >= self._top_k


def _step(scores: Iterable[float]) -> float:
    """The last decimal that ``scores`` were rounded or truncated to, as far as they show it; 0.01 to 1e-6."""
    told = np.array(list(scores))
    exact = (places for places in _DECIMALS if np.allclose(told, told.round(places), rtol=0, atol=1e-9))
    return float(10.0 ** -next(exact, _DECIMALS[-1]))


def labels_and_scores(answer: Any) -> list[tuple[str, float]]:
    """Hugging Face's form, ``[{"label": ..., "score": ...}, ...]``, which may be in a list of one.

    Raises:
        TeacherAnswerError: it is something else.
    """
    rows = answer[0] if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], list) else answer
    try:
        if not isinstance(rows, list):
            raise TypeError(f"a {type(rows).__name__}")
        return [(str(row["label"]), float(row["score"])) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise TeacherAnswerError(
            f"the service answered no labels with scores ({type(error).__name__}: {error}): expected "
            '[{"label": ..., "score": ...}]; parse= reads any other form'
        ) from error
