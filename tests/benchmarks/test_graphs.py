"""Steps without the loop: the same numbers as the steps that they stand for."""

import torch
from graphs import bare_steps
from torch import nn
from torch.optim import SGD

from mekd_plugin.blackbox import BlackBox
from mekd_plugin.distiller import Player, Training
from mekd_plugin.rows import ImageRows, Shard
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.stepping import Stepper

BATCH, STEPS, RECIPE = 8, 4, Recipe()


def problem() -> tuple[nn.Module, Training, dict[str, Player]]:
    """A network that learns to tell an image's mean, from other images at every step."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))
    images = torch.randn(64, 1, 8, 8)

    def step(rows, update, query):
        loss = (network(rows.images).flatten() - rows.images.mean(dim=(1, 2, 3))).square().mean()
        update({"network": loss})
        return {"loss": loss.detach()}

    players = {"network": Player(network, lambda weights: SGD(weights, lr=0.1, momentum=0.9))}
    return network, Training("telling", ImageRows(images, seed=0), step, players=players), players


def test_bare_steps_take_one_batch_after_another():
    network, stage, players = problem()
    bare_steps(stage, players, RECIPE, "cpu", batch=BATCH, recorded=False)(STEPS)
    found = network.state_dict()

    network, stage, players = problem()
    stepper = Stepper.prepare(stage, players, Processes.join("cpu"), RECIPE)
    nobody = BlackBox(network, "logits", 2)
    for index in range(STEPS):
        stepper.take(stage.rows.batch(index, BATCH, Shard()), nobody)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(found[name], value)
