"""The training steps that a notebook writes out by hand, on torch's meta device: ready for a GPU, shown without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext
import pytest
import torch
from torch import nn

from mekd_plugin.mekd.folding import fold
from mekd_plugin.networks.discriminators import small_discriminator
from mekd_plugin.networks.generators import Generator
from mekd_plugin.testing import NoHost

TEXT = Path(__file__).parents[2] / "tutorials" / "02_inside_mekd.py"
SHAPE = (1, 16, 16)


@pytest.fixture(scope="module")
def cells() -> dict[str, Any]:
    """What the notebook's imports and its cells tagged ``training-step`` define."""
    code = [cell for cell in jupytext.read(TEXT).cells if cell.cell_type == "code"]
    found: dict[str, Any] = {}
    for cell in [code[0], *(cell for cell in code if "training-step" in cell.metadata.get("tags", []))]:
        exec(cell.source, found)
    return found


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    # Adam keeps its step count on the host, which is torch's business and no copy of ours.
    return torch.optim.SGD(module.parameters(), lr=0.1)


def test_the_generator_s_step(cells) -> None:
    generator = Generator(10, SHAPE, style_dim=54, width=8).to("meta")
    discriminator = small_discriminator(SHAPE, width=8).to("meta")
    optimisers = {"generator": sgd(generator), "discriminator": sgd(discriminator)}
    real = torch.empty(32, *SHAPE, device="meta")
    with NoHost():
        losses = cells["generator_step"](generator, discriminator, optimisers, real)
    assert losses.shape == (2,) and losses.device.type == "meta"
    assert all(weight.grad is not None for weight in generator.parameters())


def test_the_student_s_step(cells) -> None:
    frozen = fold(Generator(10, SHAPE, style_dim=54, width=8)).to("meta")
    student = nn.Sequential(nn.Flatten(), nn.Linear(256, 10)).to("meta")
    sizes = {"images": (64, *SHAPE), "scores": (64, 10), "style": (64, 54), "target": (64, *SHAPE), "scale": ()}
    batch = {name: torch.empty(size, device="meta") for name, size in sizes.items()}
    with NoHost():
        loss = cells["student_step"](student, sgd(student), frozen, batch, (0.3, 1.0))
    assert loss.dim() == 0 and loss.device.type == "meta"
    assert all(weight.grad is not None for weight in student.parameters())
    assert all(weight.grad is None for weight in frozen.parameters())
