"""Accuracies that others have published, to be shown beside a benchmark's own rows and never among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mekd_plugin.checks import as_one_of, as_whole
from mekd_plugin.errors import InputError

__all__ = ["FILE", "PublishedResult", "published_for", "published_results", "read_published"]

FILE = Path(__file__).with_suffix(".yaml")
"""The numbers, and how an entry is written; it is part of the package."""

_REQUIRED = ("source", "where", "dataset", "method", "accuracy", "protocol")
_PRINTED = re.compile(r"(about )?\d{1,2}(\.\d+)?( ± \d+(\.\d+)?)?")


class PublishedResult(NamedTuple):
    """One number that somebody has published.

    Attributes:
        source: authors, title, venue and year.
        where: the table, figure or file that it was read in.
        dataset: as this package calls it.
        method: as the source calls it.
        accuracy: on the test set, per cent, as the source prints it: ``"98.42"``, ``"88.9 ± 1.1"`` or ``"about 94"``.
        protocol: what keeps the source's numbers from being compared with a run of this package, beside what other
            attributes tell.
        teacher: network; None where it is not known here.
        teacher_accuracy: as ``accuracy``; None where it is not known here.
        student: network; None where it is not known here.
        responses: ``"soft"`` or ``"hard"``; None where it is not known here.
        images: at home; None where it is not known here.
        queries: in all stages, as the source says; None where it does not.
        differs: what keeps this one from being compared, beside ``protocol``; often empty.
    """

    source: str
    where: str
    dataset: str
    method: str
    accuracy: str
    protocol: str
    teacher: str | None = None
    teacher_accuracy: str | None = None
    student: str | None = None
    responses: str | None = None
    images: int | None = None
    queries: int | None = None
    differs: str = ""


@cache
def published_results() -> tuple[PublishedResult, ...]:
    """All that the package knows, in the order of its file."""
    return tuple(read_published(FILE.read_text(), FILE.name))


def published_for(dataset: str, responses: str) -> list[PublishedResult]:
    """What concerns a table of this data set and kind of answers; often nothing.

    Args:
        dataset: of the records; of ``"A to B"`` the edge's, which the student is tested on.
        responses: of the records; numbers whose kind of answers is not known belong to any.
    """
    tested = dataset.rpartition(" to ")[2]
    if tested.startswith("imagefolder:"):
        tested = Path(tested.removeprefix("imagefolder:")).name.lower()
    kind = "hard" if responses == "hard" else "soft"
    return [one for one in published_results() if one.dataset == tested and one.responses in (None, kind)]


def read_published(text: str, name: str) -> list[PublishedResult]:
    """The numbers of a YAML text: a list of entries, each with what its rows share.

    Args:
        text: YAML.
        name: what messages call it.

    Raises:
        InputError: an entry or a row is not of the form that the package's own file explains; it is named.
    """
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list):
        raise InputError(f"{name}: expected a list of entries, each with its source and its rows")
    results: list[PublishedResult] = []
    for number, entry in enumerate(entries, start=1):
        place = f"{name}, entry {number}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("rows"), list) or not entry["rows"]:
            raise InputError(f"{place}: expected names and values, one of them `rows`, a list of at least one row")
        shared = {key: value for key, value in entry.items() if key != "rows"}
        for index, row in enumerate(entry["rows"], start=1):
            if not isinstance(row, Mapping):
                raise InputError(f"{place}, row {index}: expected names and values, got {row!r}")
            called = f"{place}, row {index} ({row.get('method', 'without a method')})"
            results.append(_checked({**shared, **row}, called))
    return results


def _checked(values: dict[str, Any], place: str) -> PublishedResult:
    unknown = sorted(str(key) for key in values.keys() - set(PublishedResult._fields))
    if unknown:
        raise InputError(f"{place}: unknown {', '.join(unknown)}; expected {', '.join(PublishedResult._fields)}")
    if missing := [key for key in _REQUIRED if not values.get(key)]:
        raise InputError(f"{place}: {', '.join(missing)} is missing; an entry or a row says it")
    for key, value in values.items():
        if value is None and key not in _REQUIRED:
            continue
        if key in ("images", "queries"):
            as_whole(f"{place}: {key}", value, at_least=0, strict=True)
        elif not isinstance(value, str):
            raise InputError(f'{place}: {key}={value!r}: expected a text; numbers of a source in quotes, "98.40"')
        elif key in ("accuracy", "teacher_accuracy") and not _PRINTED.fullmatch(value):
            raise InputError(f"{place}: {key}={value!r}: expected per cent as printed: 98.42, 88.9 ± 1.1 or about 94")
        elif key == "responses":
            as_one_of(f"{place}: {key}", value, ("soft", "hard"))
    return PublishedResult(**values)
