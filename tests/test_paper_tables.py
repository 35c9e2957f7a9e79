"""The GPU hours of the guide: what they are counted from, and that the page has the ones that are counted today."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from mekd_plugin import registry
from mekd_plugin.flags import read_yaml

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "docs" / "paper_tables.py"))


def test_the_page_is_what_the_script_writes() -> None:
    """After a change: ``python docs/paper_tables.py``."""
    assert SCRIPT["PAGE"].read_text() == SCRIPT["written"]()


def test_each_table_of_the_paper_has_its_command() -> None:
    text = SCRIPT["PAGE"].read_text()
    for path in (ROOT / "configs" / "paper").glob("*.yaml"):
        assert f"mekd bench --config configs/paper/{path.name}" in text and f"| `{path.stem}` |" in text
        assert (read_yaml(path).get("edge_dataset") or read_yaml(path)["dataset"]) in SCRIPT["DATA"]


def test_operations_are_two_for_each_weight_and_position() -> None:
    with torch.device("meta"):
        linear, images = nn.Linear(4, 5), torch.empty(3, 4)
        convolution, pixels = nn.Conv2d(2, 7, 3, padding=1), torch.empty(3, 2, 8, 8)
    assert SCRIPT["counted"](linear, images, learning=False) == 2 * 4 * 5
    assert SCRIPT["counted"](linear, images, learning=True) == 2 * (2 * 4 * 5), "the first layer passes nothing back"
    assert SCRIPT["counted"](convolution, pixels, learning=False) == 2 * 7 * 2 * 9 * 64


def test_hours_are_operations_and_a_little_for_each_step() -> None:
    assumed, work = SCRIPT["ASSUMED"], SCRIPT["Work"]
    assert work(assumed.peak * assumed.share * 3600, 0).hours == pytest.approx(1)
    assert work(0, 3600 / assumed.a_step).hours == pytest.approx(1)
    assert work(1, 2).plus(3, 4) == work(4, 6)


def test_the_papers_mode_asks_as_often_as_is_said_everywhere() -> None:
    method = registry.create("mekd", preset="paper", num_classes=10, image_shape=(1, 32, 32))
    assert SCRIPT["questions"](method) == 16_563_200


def test_a_question_at_every_step_costs_more_than_a_bank() -> None:
    row = SCRIPT["row_of"](ROOT / "configs" / "paper" / "mnist.yaml")
    assert row.runs == 54 and row.queries == 54 * 60_000 and row.work.steps > 54 * 120_000
    assert row.fresh.operations > row.work.operations / row.runs
