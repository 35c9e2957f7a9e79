"""POT, for arrays of NumPy and PyTorch alone.

POT (``import ot``) also looks for JAX, CuPy and TensorFlow, and starts each that it finds. JAX on a GPU takes three
quarters of the free memory when it starts, and nothing here uses it. A program that wants POT with one of them, beside
this package, imports ``ot`` first or sets POT's own variable (``POT_BACKEND_DISABLE_JAX``) to an empty text.
"""

from __future__ import annotations

import os

for _library in ("JAX", "CUPY", "TENSORFLOW"):
    os.environ.setdefault(f"POT_BACKEND_DISABLE_{_library}", "1")

import ot  # noqa: E402  # POT reads these variables when it is imported

__all__ = ["ot"]
