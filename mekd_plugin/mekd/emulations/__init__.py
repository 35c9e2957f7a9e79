"""Ways in which a generator comes to be that stands for the teacher's inverse mapping, one a file.

Read ``emulation.py`` first (what each of them takes and leaves), then ``gan.py``, the paper's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mekd_plugin.registry import unknown_name

if TYPE_CHECKING:
    from mekd_plugin.mekd.emulations.emulation import Emulation

__all__ = ["EMULATIONS", "find_emulation"]

EMULATIONS = {"gan": "mekd_plugin.mekd.emulations.gan:GAN"}


def find_emulation(name: str) -> type[Emulation]:
    """The class of an emulation.

    Raises:
        UnknownName: there is none of that name.
    """
    if name not in EMULATIONS:
        raise unknown_name("emulation", name, EMULATIONS)
    module, _, attribute = EMULATIONS[name].partition(":")
    found: type[Emulation] = getattr(import_module(module), attribute)
    return found
