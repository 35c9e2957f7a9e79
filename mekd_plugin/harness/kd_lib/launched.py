"""``KD_Lib.KD`` imports names that current libraries no longer have: what stands in while it is imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from mekd_plugin.errors import MissingDependency
from mekd_plugin.harness.stand_ins import modules_replaced

__all__ = ["importable"]


class _Gone(ModuleType):
    """A module from which anything can be imported, and nothing used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise MissingDependency(f"KD_Lib's text part needs {self.__name__}.{name} of its time, which is gone")

        return type(name, (), {"__init__": refuse})


@contextmanager
def importable() -> Iterator[None]:
    """Within it ``KD_Lib.KD`` can be imported; says so."""
    with modules_replaced({name: _Gone(name) for name in ("transformers", "torchtext", "torchtext.legacy")}):
        yield
    print(
        "[mekd] KD_Lib.KD was imported without transformers.AdamW and torchtext.legacy, which are gone: all of it but "
        "the text part (BERT2LSTM) can be used",
        flush=True,
    )
