"""POT, for arrays of NumPy and PyTorch alone.

POT (``import ot``) also looks for JAX, CuPy and TensorFlow, and starts each that it finds. JAX on a GPU takes three
quarters of the free memory when it starts, and nothing here uses it. A program that wants POT with one of them, beside
this package, imports ``ot`` first or sets POT's own variable (``POT_BACKEND_DISABLE_JAX``) to an empty text.
"""

from __future__ import annotations

import os
from typing import Any

for _library in ("JAX", "CUPY", "TENSORFLOW"):
    os.environ.setdefault(f"POT_BACKEND_DISABLE_{_library}", "1")

__all__ = ["ot"]


class _POT:
    """The module ``ot``, loaded when something of it is first used: that takes a second, and most programs use none."""

    def __getattr__(self, name: str) -> Any:
        import ot  # POT reads the variables above when it is imported

        return getattr(ot, name)


ot: Any = _POT()
