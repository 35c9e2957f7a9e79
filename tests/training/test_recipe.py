import pytest
import torch
from torch import nn

from mekd_plugin.training.recipe import Recipe


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["one_cycle", "multistep", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_every_schedule_serves_exactly_its_steps(optimizer, schedule, steps):
    recipe = Recipe(steps=steps, optimizer=optimizer, schedule=schedule, learning_rate=0.1)
    made = recipe.make_optimizer(nn.Linear(2, 2).parameters())
    plan = recipe.make_schedule(made, steps)
    rates = []
    for _ in range(steps):
        rates.append(made.param_groups[0]["lr"])
        made.step()
        plan.step()
    assert max(rates) <= 0.1 + 1e-12 and all(rate > 0 for rate in rates)


def test_the_papers_rate_falls_at_a_third_and_two_thirds():
    recipe = Recipe.preset("paper", steps=9)
    made = recipe.make_optimizer([torch.zeros(1, requires_grad=True)])
    plan = recipe.make_schedule(made, 9)
    rates = []
    for _ in range(9):
        rates.append(round(made.param_groups[0]["lr"], 6))
        made.step()
        plan.step()
    assert rates == [0.1] * 3 + [0.01] * 3 + [0.001] * 3
