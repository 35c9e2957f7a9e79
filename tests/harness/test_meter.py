"""The meter under a suite's own methods."""

from __future__ import annotations

import torch
from torch import nn

from mekd_plugin.harness.meter import Counted


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, images):
        flat = images.flatten(1)
        return self.layer(flat), flat


def test_counts_every_image_and_every_stage():
    counted, teacher = Counted(), nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    counted.watch(teacher)
    counted.watch(teacher)  # a suite that hands the same teacher over twice
    images = torch.randn(5, 1, 2, 2)
    with torch.no_grad():
        plain = teacher(images)
        with counted.stage("evaluation"):
            teacher(images[:2])
    assert torch.equal(plain, teacher[1](images.flatten(1)))
    assert counted.ledger.by_stage == {"training": 5, "evaluation": 2}
    assert counted.ledger.distinct == 5
    assert "beyond" not in str(counted)


def test_says_what_no_black_box_could_give():
    counted, teacher = Counted(), Features()
    counted.watch(teacher)
    with torch.no_grad():
        teacher(torch.randn(2, 1, 2, 2))
    assert counted.inner and not counted.differentiated
    teacher(torch.randn(2, 1, 2, 2, requires_grad=True))
    assert counted.differentiated
    assert "features" in str(counted) and "gradients" in str(counted)


def test_a_suite_may_say_where_the_answer_is():
    counted, teacher = Counted(), Features()
    counted.watch(teacher, answer=lambda out: out[0])
    with torch.no_grad():
        teacher(torch.randn(2, 1, 2, 2))
    assert counted.ledger.total == 2 and not counted.inner


def test_images_named_by_keyword_are_counted():
    counted, teacher = Counted(), Features()
    counted.watch(teacher)
    with torch.no_grad():
        teacher(images=torch.randn(3, 1, 2, 2))
    assert counted.ledger.total == 3


def test_a_function_can_be_counted():
    counted = Counted()
    counted.count(torch.randn(7, 1, 2, 2))
    assert counted.ledger.by_stage == {"training": 7}
