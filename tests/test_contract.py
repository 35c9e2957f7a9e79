"""Every registered distiller passes the contract that ships with the package."""

from pathlib import Path

import pytest

from baselines.kd import KD
from mekd_plugin import available
from mekd_plugin.testing import DistillerContract


class TestEveryDistiller(DistillerContract):
    @pytest.fixture(autouse=True, params=available())
    def choose(self, request):
        self.method = request.param


class Counting(KD):
    """Weighs its loss by how often it was asked for."""

    times = 0

    def losses(self, student, rows):
        self.times += 1
        return {"loss": self.times * super().losses(student, rows)["loss"]}


def test_a_loss_that_counts_in_python_is_found():
    class Contract(DistillerContract):
        distiller = Counting

    with pytest.raises(AssertionError, match="keeps something from one step to the next"):
        Contract().test_needs_say_where_it_can_be_a_guest()


def test_ours_are_among_them():
    """An empty parametrisation would be skipped, and stay green."""
    ours = {path.stem for path in Path(__file__).parents[1].glob("baselines/*.py")} | {"mekd"}
    assert {"kd", "mekd_bank"} < ours <= set(available())
