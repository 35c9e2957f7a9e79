"""The contract of every registered distiller on one device, the tests' own way: pytest benchmarks/contract_on_device.py

``MEKD_DEVICE`` names the device (default ``cuda``). A run that resumes must be the undisturbed one to the bit, so torch
is asked for deterministic sums; it warns where it has none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from mekd_plugin import available
from mekd_plugin.testing import DistillerContract, ToyTeacher
from mekd_plugin.training.recording import Recorder

DEVICE = os.environ.get("MEKD_DEVICE", "cuda")


class TestOnDevice(DistillerContract):
    device = DEVICE

    @pytest.fixture(autouse=True, params=available())
    def choose(self, request: pytest.FixtureRequest) -> None:
        self.method = request.param  # type: ignore[misc]  # of the class, but one object a test

    @pytest.fixture(autouse=True)
    def here(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Sums in a fixed order; and what a test computes, it computes on the device."""
        torch.use_deterministic_algorithms(True, warn_only=True)
        on_gpu = torch.device(DEVICE).type == "cuda"
        before = allocations() if on_gpu else 0
        yield
        torch.use_deterministic_algorithms(False)
        if on_gpu and "meta" not in request.node.name:
            assert allocations() > before, f"nothing was computed on {DEVICE}"

    def test_recorded_it_ends_where_it_ends_unrecorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Steps that a GPU replays compute what the steps compute."""
        segments = []
        close = Recorder.close
        monkeypatch.setattr(Recorder, "close", lambda recorder: (segments.append(recorder.segments), close(recorder)))
        recorded = self._distill(ToyTeacher()).student.state_dict()
        if torch.device(DEVICE).type == "cuda" and not self._needs().host_sync:
            assert any(segments), f"no step of {self.method} was recorded"
        monkeypatch.setattr("mekd_plugin.training.loop.WORTH_RECORDING", float("inf"))
        for name, value in self._distill(ToyTeacher()).student.state_dict().items():
            torch.testing.assert_close(recorded[name], value, msg=lambda text, name=name: f"{name}: {text}")


def allocations() -> int:
    """How often memory of the GPU was given out so far."""
    return int(torch.cuda.memory_stats(DEVICE).get("allocation.all.allocated", 0))


def test_ours_are_among_them() -> None:
    """An empty parametrisation would be skipped, and stay green."""
    assert {"mekd", "kd", "logit_mimicry", "distribution_alignment"} <= set(available())
