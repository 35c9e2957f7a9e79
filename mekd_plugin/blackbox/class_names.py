"""Answers of a service that names its classes, in the order in which the student counts them."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mekd_plugin.errors import InputError, TeacherAnswerError

__all__ = ["as_class_names", "digest_of_names", "in_order"]


def as_class_names(classes: Any) -> tuple[str, ...]:
    """``classes`` as names, of which each stands for its place.

    Raises:
        InputError: fewer than two, one that is no text or is there twice.
    """
    if isinstance(classes, str) or not isinstance(classes, Sequence) or len(classes) < 2:
        raise InputError(f'classes={classes!r}: expected at least two names in order, such as ["cat", "dog"]')
    for index, name in enumerate(classes):
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"classes[{index}]={name!r}: expected the name of a class, a text")
    if repeated := sorted({name for name in classes if list(classes).count(name) > 1}):
        raise InputError(f"classes: {', '.join(map(repr, repeated))} is there more than once: give each class one name")
    return tuple(classes)


def digest_of_names(classes: Sequence[str]) -> str:
    """Tells names in one order from others."""
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()[:8]


def in_order(classes: Sequence[str], answer: Callable[[Any], Any] | None = None) -> Callable[[Any], Any]:
    """What turns a service's answer into one that the boundary takes.

    Args:
        classes: names, in order.
        answer: takes the names or scores out of what the service returns; None where it returns nothing else.

    Returns:
        A function. It makes class indices ``(N,)`` of N names, and scores ``(N, C)`` of N mappings from names to
        scores, where a class that is left out has 0; anything else passes as it is. Its error is
        :class:`~mekd_plugin.errors.TeacherAnswerError`, for a name that is not among ``classes``.
    """
    places = {name: place for place, name in enumerate(classes)}

    def place_of(name: Any) -> int:
        if name in places:
            return places[name]
        closest = difflib.get_close_matches(str(name), places, n=1)
        hint = f"did you mean {closest[0]!r}? " if closest else ""
        raise TeacherAnswerError(
            f"the teacher answers with class {name!r}, which is not among classes=: {hint}Known: "
            f"{', '.join(map(repr, list(places)[:10]))}{', ...' if len(places) > 10 else ''}; add it there"
        )

    def take(returned: Any) -> Any:
        told = returned if answer is None else answer(returned)
        if isinstance(told, np.ndarray) and told.dtype.kind in "UO":
            told = told.tolist()
        if not isinstance(told, list | tuple) or not told:
            return told
        if all(isinstance(one, str) for one in told):
            return torch.tensor([place_of(name) for name in told])
        if all(isinstance(one, Mapping) for one in told):
            scores = torch.zeros(len(told), len(places), dtype=torch.float64)
            for row, one in enumerate(told):
                for name, score in one.items():
                    scores[row, place_of(name)] = float(score)
            return scores
        return told

    return take
