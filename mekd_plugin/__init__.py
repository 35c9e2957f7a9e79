"""Black-box knowledge distillation: a teacher that can only be asked, a meter, MEKD and its baselines.

    import mekd_plugin as mekd

    teacher = mekd.BlackBox(model, responses="hard", num_classes=10, budget=50_000)
    result = mekd.distill(student, teacher, images, method="mekd")

``mekd.data``, ``mekd.networks``, ``mekd.functional``, ``mekd.transport``, ``mekd.errors`` and others are namespaces and
need no further import.

To read the code, begin with ``distiller.py`` (what a method is) and ``blackbox/`` (the teacher), then ``training/``
(the loop), ``mekd/`` and ``baselines/`` (the methods). ``bench/`` compares methods, ``harness/`` and ``integrations/``
take them into other people's loops, ``transport/`` looks at what came out, and ``cli.py`` is the command line.

Names are resolved when they are first used, so importing the package, and listing its methods, loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mekd_plugin.version import __version__

if TYPE_CHECKING:
    from mekd_plugin import (
        blackbox,
        data,
        errors,
        functional,
        networks,
        plotting,
        responses,
        testing,
        transfer,
        transport,
        views,
    )
    from mekd_plugin.adaptation import adapt
    from mekd_plugin.bench.api import benchmark, load_records
    from mekd_plugin.blackbox.bank import Bank
    from mekd_plugin.blackbox.meter import meter
    from mekd_plugin.blackbox.patience import RateLimit, Retry
    from mekd_plugin.blackbox.teacher import BlackBox
    from mekd_plugin.distiller import Asking, Distiller, Needs, Player, Training
    from mekd_plugin.harness import register
    from mekd_plugin.prediction import predict
    from mekd_plugin.registry import available, create
    from mekd_plugin.rows import Rows
    from mekd_plugin.training.evaluation import accuracy
    from mekd_plugin.training.plan import plan
    from mekd_plugin.training.recipe import Recipe
    from mekd_plugin.training.run import distill, host
    from mekd_plugin.training.saved_student import load_student
    from mekd_plugin.training.supervised import train_teacher

__all__ = [
    "Asking",
    "Bank",
    "BlackBox",
    "Distiller",
    "Needs",
    "Player",
    "RateLimit",
    "Recipe",
    "Retry",
    "Rows",
    "Training",
    "__version__",
    "accuracy",
    "adapt",
    "available",
    "blackbox",
    "benchmark",
    "create",
    "data",
    "distill",
    "errors",
    "functional",
    "host",
    "load_records",
    "load_student",
    "meter",
    "networks",
    "plan",
    "plotting",
    "predict",
    "register",
    "responses",
    "testing",
    "train_teacher",
    "transfer",
    "transport",
    "views",
]

_HOMES = {
    "Asking": "mekd_plugin.distiller",
    "Bank": "mekd_plugin.blackbox.bank",
    "BlackBox": "mekd_plugin.blackbox.teacher",
    "Distiller": "mekd_plugin.distiller",
    "Needs": "mekd_plugin.distiller",
    "Player": "mekd_plugin.distiller",
    "RateLimit": "mekd_plugin.blackbox.patience",
    "Recipe": "mekd_plugin.training.recipe",
    "Retry": "mekd_plugin.blackbox.patience",
    "Rows": "mekd_plugin.rows",
    "Training": "mekd_plugin.distiller",
    "accuracy": "mekd_plugin.training.evaluation",
    "adapt": "mekd_plugin.adaptation",
    "available": "mekd_plugin.registry",
    "benchmark": "mekd_plugin.bench.api",
    "create": "mekd_plugin.registry",
    "distill": "mekd_plugin.training.run",
    "host": "mekd_plugin.training.run",
    "load_records": "mekd_plugin.bench.api",
    "load_student": "mekd_plugin.training.saved_student",
    "meter": "mekd_plugin.blackbox.meter",
    "plan": "mekd_plugin.training.plan",
    "predict": "mekd_plugin.prediction",
    "register": "mekd_plugin.harness",
    "train_teacher": "mekd_plugin.training.supervised",
}
_NAMESPACES = {
    "blackbox",
    "data",
    "errors",
    "functional",
    "networks",
    "plotting",
    "responses",
    "testing",
    "transfer",
    "transport",
    "views",
}


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_NAMESPACES})
