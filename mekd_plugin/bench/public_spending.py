"""What public code really asks its teacher, to be marked where its data set is shown."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

__all__ = ["PublicSpending", "public_spending"]

_ANY = ("soft", "probabilities", "hard")


class PublicSpending(NamedTuple):
    """What one public repository's documented run asks.

    Attributes:
        name: what a figure calls it.
        code: the repository on GitHub that was read.
        dataset: of that run, as this package calls it.
        asked: images sent, all stages, views and repeats included.
        said: what its paper or its README says.
        how: how ``asked`` was counted: arithmetic on the code's defaults.
        responses: kinds that it works with.
    """

    name: str
    code: str
    dataset: str
    asked: int
    said: str
    how: str
    responses: tuple[str, ...] = _ANY


def public_spending(dataset: str, responses: str) -> list[PublicSpending]:
    """What concerns a panel of this data set and kind of responses, in order of what is asked; often nothing."""
    found = [one for one in _every() if one.dataset == dataset and responses in one.responses]
    return sorted(found, key=lambda one: one.asked)


@cache
def _every() -> list[PublicSpending]:
    entries = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return [PublicSpending(**{**entry, "responses": tuple(entry.get("responses", _ANY))}) for entry in entries]
