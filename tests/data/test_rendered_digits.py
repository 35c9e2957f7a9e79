from __future__ import annotations

import pytest
import torch

from mekd_plugin.data import load
from mekd_plugin.data.rendered_digits import _glyphs, rendered_digits
from mekd_plugin.errors import UnknownName
from mekd_plugin.networks import build
from mekd_plugin.training.evaluation import accuracy
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.supervised import train_teacher


def test_the_seed_decides_and_the_global_state_has_no_part_in_it() -> None:
    first, labels = (part.clone() for part in rendered_digits(60, color=True, size=32, seed=3))
    rendered_digits.cache_clear()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again, same = rendered_digits(60, color=True, size=32, seed=3)
    assert torch.equal(first, again) and torch.equal(labels, same) and torch.equal(state, torch.get_rng_state())
    other, _ = rendered_digits(60, color=True, size=32, seed=4)
    assert not torch.equal(first, other)
    assert first.shape == (60, 3, 32, 32) and first.dtype == torch.uint8 and labels.bincount().tolist() == [6] * 10


def test_both_sizes_show_the_same_digits() -> None:
    for color in (False, True):
        large, labels = rendered_digits(60, color=color, size=32, seed=0)
        small, same = rendered_digits(60, color=color, size=16, seed=0)
        assert torch.equal(labels, same) and small.shape == (60, 3 if color else 1, 16, 16)
        halved = torch.nn.functional.avg_pool2d(large.float(), 2)
        assert (halved - small.float()).abs().mean() < 1.5  # what clamping noise and rounding to whole levels do


def test_ink_stands_out_from_paper_and_colours_differ() -> None:
    grey, _ = rendered_digits(200, color=False, size=32, seed=0)
    brightest, darkest = grey.flatten(1).max(dim=1).values.int(), grey.flatten(1).min(dim=1).values.int()
    assert (brightest - darkest > 60).all() and grey.float().mean() < 110  # light on dark
    color, _ = rendered_digits(200, color=True, size=32, seed=0)
    spread = color.float().flatten(2).mean(dim=2)
    assert (spread.max(dim=1).values - spread.min(dim=1).values).mean() > 30
    assert 90 < color.float().mean() < 165  # light on dark and dark on light


def test_every_glyph_is_drawn_and_no_two_digits_of_a_font_are_the_same() -> None:
    glyphs = _glyphs()
    assert glyphs.shape[1] == 10 and (glyphs.flatten(2).mean(dim=2) > 0.02).all()
    for font in glyphs.flatten(2):
        distance = torch.cdist(font, font) + 100 * torch.eye(10)
        assert distance.min() > 5


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("rendered_digits", (1, 32, 32)), ("rendered_digits:16", (1, 16, 16)),
        ("rendered_digits:color", (3, 32, 32)), ("rendered_digits:16:color", (3, 16, 16)),
    ],
)  # fmt: skip
def test_names_say_colour_and_size(name, shape, monkeypatch) -> None:
    monkeypatch.setattr("mekd_plugin.data.datasets._RENDERED_IMAGES", (50, 20))
    data = load(name)
    assert data.image_shape == shape and data.name == name and data.num_classes == 10
    assert len(data.train_labels) == 50 and len(data.test_labels) == 20
    assert data.train_images.min() >= -1 and data.train_images.max() <= 1 and data.train_images.dtype == torch.float32
    assert not torch.equal(data.train_images[:20], data.test_images)


def test_another_name_is_refused() -> None:
    for name in ("rendered_digits:colour", "rendered_digits:16:32", "rendered_digits:color:color", "rendered_digits:"):
        with pytest.raises(UnknownName, match="unknown data set .*: expected rendered_digits, rendered_digits:color"):
            load(name)


@pytest.mark.parametrize("network", ["lenet5", "resnet20"])
def test_a_network_learns_them(network) -> None:
    size = 16 if network == "resnet20" else 32
    (images, labels), (unseen, truth) = (
        rendered_digits(count, color=False, size=size, seed=seed) for seed, count in ((0, 2000), (1, 300))
    )
    images, unseen = images.float() / 127.5 - 1, unseen.float() / 127.5 - 1
    module = build(network, 10, (1, size, size), seed=0)
    steps = {"lenet5": 150, "resnet20": 60}[network]
    train_teacher(module, images, labels, num_classes=10, recipe=Recipe(steps=steps), device="cpu", progress=False)
    assert accuracy(module, unseen, truth) > 0.6
