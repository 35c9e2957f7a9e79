"""Records of runs that nobody ran, with numbers that a reader can check by eye."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mekd_plugin.records import Queries, RunRecord, Seconds


def _record(method: str = "kd", seed: int = 0, **changes: Any) -> RunRecord:
    settings: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "dataset": "digits",
        "teacher": "resnet20",
        "student": "resnet8",
        "responses": "soft",
        "status": "finished",
        "signature": f"{method}|seed:{seed}",
        "key": f"{method}-{seed}",
        "teacher_accuracy": 0.99,
        "student_accuracy": 0.95,
        "best_test_accuracy": 0.96,
        "agreement": 0.94,
        "queries": Queries({"ask": 5000}, 5000, 4990, 0),
        "budget": 5000,
        "real_images": 125,
        "split": "teacher's training set",
        "pool": "edge",
        "leaves_edge": "real images",
        "price": 7.5,
        "steps": 2000,
        "seconds": Seconds(10.0, 50.0),
        "peak_memory_mb": 500.0,
        "test_images": 540,
        "curve": [{"step": step, "accuracy": 0.95 - 0.8 / step, "agreement": 0.9} for step in (1, 500, 1000, 2000)],
    }
    return RunRecord(**(settings | changes))


@pytest.fixture
def record() -> Callable[..., RunRecord]:
    return _record
