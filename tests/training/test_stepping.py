"""One step of a stage, whoever draws the batches."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from mekd_plugin.blackbox import BlackBox
from mekd_plugin.distiller import Player, Training
from mekd_plugin.rows import ImageRows, Rows
from mekd_plugin.testing import CLASSES, ToyTeacher
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.stepping import Stepper


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_what_follows_an_update_sees_the_weights_that_it_moved(precision):
    """A generator is to pass the discriminator that just learned."""
    torch.manual_seed(0)
    network, images = nn.Linear(4, 4), torch.randn(8, 4)
    seen = []

    def step(rows, update, query):
        update({"network": network(rows.images).square().mean()})
        seen.append(network(rows.images).detach())
        return {}

    players = {"network": Player(network, lambda weights: SGD(weights, lr=1.0))}
    stage = Training("moving", ImageRows(images, seed=0), step, players=players)
    stepper = Stepper.prepare(stage, players, Processes.join("cpu"), Recipe(precision=precision))
    stepper.take(Rows(images), BlackBox(ToyTeacher(), "logits", CLASSES))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        torch.testing.assert_close(seen[0], network(images).detach())
