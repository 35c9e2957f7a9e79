"""Black-box knowledge distillation: a teacher that can only be asked, a meter, MEKD and its baselines.

    import mekd_plugin as mekd

    teacher = mekd.BlackBox(model, responses="hard", num_classes=10, budget=50_000)
    result = mekd.distill(student, teacher, images, method="mekd")

Names are resolved when they are first used, so that importing the package, and listing its methods, loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mekd_plugin.version import __version__

if TYPE_CHECKING:
    from mekd_plugin.blackbox.meter import meter
    from mekd_plugin.blackbox.teacher import BlackBox
    from mekd_plugin.harness import register
    from mekd_plugin.registry import available, create
    from mekd_plugin.training.plan import plan
    from mekd_plugin.training.run import distill, host

__all__ = ["BlackBox", "__version__", "available", "create", "distill", "host", "meter", "plan", "register"]

_HOMES = {
    "BlackBox": "mekd_plugin.blackbox.teacher",
    "meter": "mekd_plugin.blackbox.meter",
    "available": "mekd_plugin.registry",
    "create": "mekd_plugin.registry",
    "distill": "mekd_plugin.training.run",
    "host": "mekd_plugin.training.run",
    "register": "mekd_plugin.harness",
    "plan": "mekd_plugin.training.plan",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
