"""``KD_Lib.KD`` imports what current libraries have no longer: stand-ins, while it is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from mekd_plugin.errors import MissingDependency

__all__ = ["stand_ins"]


class _Gone(ModuleType):
    """A module of which anything can be imported, and nothing used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise MissingDependency(f"KD_Lib's text part needs {self.__name__}.{name} of its time, which is gone")

        return type(name, (), {"__init__": refuse})


@contextmanager
def stand_ins() -> Iterator[None]:
    """Within it ``KD_Lib.KD`` can be imported; says so."""
    names = ("transformers", "torchtext", "torchtext.legacy")
    kept = {name: sys.modules.get(name) for name in names}
    sys.modules.update({name: _Gone(name) for name in names})
    try:
        yield
    finally:
        for name, module in kept.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
    print(
        "[mekd] KD_Lib.KD was imported without transformers.AdamW and torchtext.legacy, which are gone: all of it but "
        "the text part (BERT2LSTM) can be used",
        flush=True,
    )
