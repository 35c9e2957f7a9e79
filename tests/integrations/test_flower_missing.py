"""What the package says about Flower where it is not installed; this test runs everywhere."""

from __future__ import annotations

import sys

import pytest

from mekd_plugin.errors import MissingDependency
from mekd_plugin.integrations.flower import Federation
from mekd_plugin.testing import toy_images


class Nobody:
    """A grid without clients."""

    def get_node_ids(self):
        return []


def test_without_flower_the_command_that_gets_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(MissingDependency, match=r'pip install "mekd-plugin\[federated\]"'):
        Federation(Nobody(), 3)(toy_images(2, seed=0))
