"""Tells a user's function from another one of the same name, so that a run is not gone on with by other code."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from types import CodeType
from typing import Any

__all__ = ["described_function"]


def described_function(function: Callable[..., Any]) -> str:
    """Its name and a hash of what it does, such as ``"models.take_scores:5f0c1d2e"``, the same in every process.

    Line numbers and the name of the file do not count. What it reads from elsewhere, globals and other functions, is
    not looked at; nor is the code of what is not written in Python, which goes by its name alone.
    """
    if isinstance(function, functools.partial):
        return f"{described_function(function.func)}({_plain(function.args)}, {_plain(function.keywords)})"
    inner = getattr(function, "__func__", function)  # of a method
    code = getattr(inner, "__code__", None)
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    name = f"{named.__module__}.{named.__qualname__}"
    return name if code is None else f"{name}:{_digest(code, inner.__defaults__, inner.__kwdefaults__)}"


def _digest(code: CodeType, *defaults: Any) -> str:
    digest = hashlib.sha256()

    def add(part: CodeType) -> None:
        constants = [value for value in part.co_consts if not isinstance(value, CodeType)]
        # A set's order is another in every process.
        told = [sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value) for value in constants]
        digest.update(repr((part.co_code, part.co_names, part.co_varnames, part.co_freevars, told)).encode())
        for value in part.co_consts:
            if isinstance(value, CodeType):
                add(value)

    add(code)
    digest.update(repr([_plain(value) for value in defaults]).encode())
    return digest.hexdigest()[:8]


def _plain(value: Any) -> Any:
    """A default as it looks in every process; of an object, whose text holds its place in memory, the type."""
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return type(value).__qualname__ if " at 0x" in repr(value) else repr(value)
