"""Each configuration of the repository is one that `mekd bench` takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mekd_plugin.bench.grid import expand
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.flags import read_yaml

CONFIGS = Path(__file__).parents[2] / "configs"
OURS = sorted(
    path
    for folder in ("ablations", "field", "paper", "privacy", "races", "tuning")
    for path in (CONFIGS / folder).glob("*.yaml")
)


EVERY = [*OURS, *sorted(CONFIGS.glob("*.yaml"))]


@pytest.mark.parametrize("path", EVERY, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_configuration_is_a_grid_of_runs(path) -> None:
    specs = expand(BenchConfig.from_mapping(read_yaml(path)), device="cpu")
    assert len({spec.key for spec in specs}) == len(specs) > 1
