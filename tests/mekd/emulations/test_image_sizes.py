"""Images of any size: what upsamples by 2 draws a larger one and cuts its middle out."""

from __future__ import annotations

import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.networks.generator_files import load_generator
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

TINY = {
    "gan": {"steps": 2, "generator_width": 4, "discriminator_width": 4, "batch_size": 4},
    "conditional": {"steps": 2, "conditioning_steps": 2, "surrogate_steps": 2},
    "regression": {"steps": 2, "conditioning_steps": 2, "surrogate_steps": 2},
    "latent_inverse": {"steps": 2, "classifier_steps": 2, "mapping_steps": 2, "width": 8},
    "mixture": {"components": 2, "coordinates": 4, "surrogate_steps": 2},
}
SMALL = {"generator_width": 4, "discriminator_width": 4, "batch_size": 4}


def bars(height, width):
    """The toy's images, enlarged to ``(24, 1, height, width)``."""
    return torch.nn.functional.interpolate(toy_images(24, seed=1), size=(height, width))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("size", [(30, 30), (31, 17), (28, 28)], ids=str)
@pytest.mark.parametrize(("emulation", "mode"), [*((name, "bank") for name in TINY), ("gan", "fresh")])
def test_every_emulation_draws_images_of_any_size(tmp_path, emulation, mode, size):
    settings = TINY[emulation] if emulation == "mixture" else {**SMALL, **TINY[emulation]}
    fresh = {"latent_temperature": 2.0} if mode == "fresh" else {"surrogate_steps": 2}
    teacher = ToyTeacher()
    result = mekd.distill(
        toy_student(),
        mekd.BlackBox(teacher, "logits", CLASSES, budget=40),
        bars(*size),
        "mekd",
        mode=mode,
        emulation=emulation,
        emulation_settings=settings,
        recipe=Recipe(steps=2, batch_size=8),
        validation=0.0,
        directory=tmp_path,
        device="cpu",
        progress=False,
        **fresh,
    )
    assert result.ledger.total == (16 if mode == "fresh" else 40)
    assert {tuple(batch.shape[1:]) for batch in teacher.asked} == {(1, *size)}
    generator = load_generator(tmp_path / "generator.safetensors")
    with torch.no_grad():
        assert generator(torch.randn(3, generator.latent_dim)).shape == (3, 1, *size)
