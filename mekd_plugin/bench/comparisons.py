"""Comparisons that are declared before anything runs: which two labels, by which number of a record.

The numbers are worked out in ``statistics.py``; this module is read by the command line, so it imports nothing large.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from mekd_plugin.errors import InputError
from mekd_plugin.records import Queries, RunRecord, Seconds
from mekd_plugin.registry import distillers, unknown_name

__all__ = ["ACCURACY", "GENERATOR", "MOST", "Comparison", "declared", "resolved", "value_of"]

ACCURACY = "student_accuracy"
"""What is compared unless a comparison says otherwise."""

MOST = 4
"""Comparisons of a panel: each one more makes all of them harder to pass (Holm), and a grid has many pairs."""

GENERATOR = (
    *("class_match", "score_error", "coverage", "expected_coverage", "audited"),
    *("confidence", "distance_to_real", "real_to_real", "neighbour_agreement"),
)
"""Numbers of a record's ``generator``: what an audit finds, and what a generator's health is told by."""

_FORM = "ROW:OTHER, ROW:OTHER:METRIC, or {a: LABEL, b: LABEL, metric: student_accuracy}"
_PARTS: Mapping[str, type] = {"queries": Queries, "seconds": Seconds}


@dataclass(frozen=True)
class Comparison:
    """Two rows of a table, seed by seed.

    Attributes:
        a: label of a row.
        b: label of the row that it is compared with; the difference is ``a`` less ``b``.
        metric: any number of a record, by its key in ``record.json``; dots lead into nested ones, such as
            ``"generator.class_match"`` or ``"queries.total"``.

    Raises:
        InputError: a label is compared with itself, or no record has such a number.
    """

    a: str
    b: str
    metric: str = ACCURACY

    def __post_init__(self) -> None:
        if self.a == self.b:
            raise InputError(f"comparison of {self.a} with itself: expected two labels")
        _check_metric(self.metric)

    @property
    def identity(self) -> tuple[frozenset[str], str]:
        """The same for a pair in either order."""
        return frozenset((self.a, self.b)), self.metric


def declared(values: Any) -> tuple[Comparison, ...]:
    """Comparisons as a YAML file, the command line or Python gives them: a list, or a single one.

    Raises:
        InputError: one is not of that form, the same pair comes twice, or there are more than :data:`MOST`.
    """
    items: Iterable[Any]
    if isinstance(values, str):
        items = [part.strip() for part in values.split(",")]
    else:
        items = values if isinstance(values, list | tuple) else [values]
    found = tuple(_one(item) for item in items)
    _refuse_too_many(found)
    return found


def resolved(comparisons: Sequence[Comparison], labels: Iterable[str]) -> list[Comparison]:
    """The same with an alias of a method replaced by the name that its row has.

    Raises:
        UnknownName: no row has such a label. InputError: the same pair comes twice, under an alias.
    """
    known = set(labels)
    found = [replace(one, a=_label(one.a, known), b=_label(one.b, known)) for one in comparisons]
    _refuse_too_many(found)
    return found


def value_of(record: RunRecord, metric: str) -> float | None:
    """The number of a record that ``metric`` names; None where it has none."""
    found: Any = record.to_json()
    for part in metric.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found)


def _one(item: Any) -> Comparison:
    if isinstance(item, Comparison):
        return item
    if isinstance(item, str):
        parts = [part.strip() for part in item.split(":")]
        if len(parts) not in (2, 3) or not all(parts):
            raise InputError(f"comparison {item!r}: expected {_FORM}")
        return Comparison(*parts)
    known = {field.name for field in fields(Comparison)}
    if not isinstance(item, Mapping) or not {"a", "b"} <= set(item) <= known:
        raise InputError(f"comparison {item!r}: expected {_FORM}")
    return Comparison(**{name: str(value) for name, value in item.items()})


def _refuse_too_many(comparisons: Sequence[Comparison]) -> None:
    seen = set[tuple[frozenset[str], str]]()
    for one in comparisons:
        if one.identity in seen:
            raise InputError(
                f"comparison {one.a}:{one.b} of {one.metric} is there twice: the two would be corrected for each other"
            )
        seen.add(one.identity)
    if len(comparisons) > MOST:
        raise InputError(
            f"{len(comparisons)} comparisons: expected at most {MOST}, those that the benchmark is made for; the "
            "others can be read off the intervals of the table"
        )


def _check_metric(metric: str) -> None:
    head, _, rest = metric.partition(".")
    kinds = {field.name: str(field.type) for field in fields(RunRecord)}
    numbers = [name for name, kind in kinds.items() if kind.startswith(("float", "int"))]
    if head in _PARTS:
        known = [field.name for field in fields(_PARTS[head])]
        if rest.partition(".")[0] not in known:
            raise unknown_name("number of a record", metric, [f"{head}.{name}" for name in known])
    elif not (head == "generator" and rest in GENERATOR) and metric not in numbers:
        nested = [f"{name}.{field.name}" for name, kind in _PARTS.items() for field in fields(kind)]
        nested += [f"generator.{name}" for name in GENERATOR]
        raise unknown_name("number of a record", metric, [*numbers, *nested])


def _label(name: str, known: set[str]) -> str:
    if name in known:
        return name
    registry = distillers()
    aliases = {alias: entry.name for entry in registry.entries() for alias in entry.aliases}
    if aliases.get(name) in known:
        return aliases[name]
    raise unknown_name("label of a comparison", name, known)
