"""Every registered distiller passes the contract that ships with the package."""

import pytest

from mekd_plugin import available
from mekd_plugin.testing import DistillerContract


class TestEveryDistiller(DistillerContract):
    @pytest.fixture(autouse=True, params=available())
    def choose(self, request):
        self.method = request.param


def test_ours_are_among_them():
    """An empty parametrisation would be skipped, and stay green."""
    assert {"mekd", "mekd_bank", "kd", "logit_mimicry", "distribution_alignment"} <= set(available())
