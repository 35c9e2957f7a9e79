"""How much of a run with large images its plan rehearses, counted in rows; never in seconds."""

from typing import ClassVar

import torch
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.distiller import Asking, Distiller, Needs, Training
from mekd_plugin.mekd.folding import fold
from mekd_plugin.modes import rehearsing
from mekd_plugin.networks.generators import Generator
from mekd_plugin.rows import ImageRows, Rows


class Watched(Distiller):
    """Fills a bank, then asks in each step about its whole batch and one image more."""

    needs = Needs(responses="either", leaves_edge="real images", queries="every step")
    drawn: ClassVar = []
    batches: ClassVar = []

    def stages(self, teacher, images, student):
        def draw(start, stop):
            self.drawn.append(stop - start)
            return Rows(images[torch.arange(start, stop) % len(images)])

        def step(rows, update, query):
            self.batches.append(len(rows))
            query(torch.cat([rows.images, rows.images[:1]]))
            loss = student(rows.images).square().mean()
            update({"student": loss})
            return {"loss": loss.detach()}

        yield Asking("bank", mekd.Bank(), draw, 600)
        yield Training("student", ImageRows(images, seed=0), step, trains_student=True)


def foreseen(size, method=Watched):
    Watched.drawn, Watched.batches = [], []
    student = nn.Sequential(nn.AvgPool2d(size // 8), nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    teacher = mekd.BlackBox(lambda images: torch.zeros(len(images), 4), "logits", 4)
    recipe = mekd.Recipe(steps=1000, batch_size=64)
    return mekd.plan(student, teacher, 2 * torch.rand(8, 3, size, size) - 1, method, recipe=recipe, device="cpu")


def test_of_large_images_ten_rows_are_rehearsed_and_all_are_foretold():
    plan = foreseen(128)
    assert sum(Watched.drawn) == 4 and Watched.batches == [2, 4]
    assert plan.queries == {"bank": 600, "student": 65_000}
    assert plan.extrapolated and str(plan).endswith(" s, extrapolated from a small batch")


class Whole:
    """All rows at every step, whatever the size of a batch."""

    def __init__(self, images):
        self.images = images

    def batch(self, step, size, shard):
        return Rows(self.images)


class SeesAll(Distiller):
    """Looks at all it has in each of its steps, and asks about it."""

    needs = Needs(responses="either", leaves_edge="real images", queries="every step")

    def stages(self, teacher, images, student):
        def step(rows, update, query):
            query(rows.images)
            loss = student(rows.images).square().mean()
            update({"student": loss})
            return {"loss": loss.detach()}

        yield Training("student", Whole(images), step, trains_student=True)


def test_a_step_that_sees_all_rows_is_not_extrapolated_from_its_batch():
    plan = foreseen(128, SeesAll)
    assert not plan.extrapolated and plan.queries == {"student": 8_000}


def test_small_images_are_rehearsed_in_batches_of_their_size():
    plan = foreseen(32)
    assert sum(Watched.drawn) == 128 and Watched.batches == [64] * 5
    assert plan.queries == {"bank": 600, "student": 65_000}
    assert not plan.extrapolated and "extrapolated" not in str(plan)


def test_a_generator_folded_in_a_rehearsal_has_the_right_shapes_alone():
    torch.manual_seed(0)
    generator = Generator(3, (1, 16, 16), style_dim=2, width=4)
    with rehearsing():
        rehearsed = fold(generator)
    folded = fold(generator)
    shapes = {name: value.shape for name, value in folded.state_dict().items()}
    assert {name: value.shape for name, value in rehearsed.state_dict().items()} == shapes
    assert not torch.equal(rehearsed.layers[0].weight, folded.layers[0].weight)
