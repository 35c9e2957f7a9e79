"""Every registered distiller passes the contract that ships with the package."""

from pathlib import Path

import pytest

from mekd_plugin import available
from mekd_plugin.testing import DistillerContract


class TestEveryDistiller(DistillerContract):
    @pytest.fixture(autouse=True, params=available())
    def choose(self, request):
        self.method = request.param


def test_ours_are_among_them():
    """An empty parametrisation would be skipped, and stay green."""
    ours = {path.stem for path in Path(__file__).parents[1].glob("baselines/*.py")} | {"mekd"}
    assert {"kd", "mekd_bank"} < ours <= set(available())
