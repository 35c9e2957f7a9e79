"""A regression decoder: the generator learns the real image behind each of a surrogate's answers, by squared error.

Images that share an answer come out as their mean, blurred: the floor that a generator with an adversary has to beat.

Sources: Yang et al., *Neural Network Inversion in Adversarial Setting via Background Knowledge Alignment*, CCS 2019;
Gong et al., *InverseNet: Augmenting Model Extraction Attacks with Training Data Inversion*, IJCAI 2021. Departure: they
ask the teacher about real images; here a surrogate answers about them at home.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mekd_plugin.distiller import Player, Query, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.mekd.emulations.conditional import Conditional, ConditionalSettings
from mekd_plugin.mekd.emulations.gan import adam
from mekd_plugin.mekd.folding import training_form
from mekd_plugin.mekd.surrogate import Surrogate
from mekd_plugin.rows import Rows

__all__ = ["Regression"]


class Regression(Conditional):
    """A generator that is led on from the GAN's to the mean image of each answer."""

    presets: ClassVar = Conditional.presets

    def __init__(self, settings: ConditionalSettings, **world: Any) -> None:
        if settings.answer_weight != ConditionalSettings.answer_weight:
            raise InputError(
                f"emulation.answer_weight={settings.answer_weight}: the regression has no such term; leave it out, or "
                "take emulation='conditional'"
            )
        super().__init__(settings, **world)

    def condition(
        self, round_: int, surrogate: Surrogate, real: Tensor, scores: Tensor, span: tuple[float, float]
    ) -> Training:
        """The stage that trains G alone, on real images and the surrogate's answers to them."""
        settings, generator = self.settings, self.generator
        if generator is None:
            raise InputError("there is no generator yet: the unconditional start comes first")
        drawn = training_form(generator)

        def step(rows: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            answers = rows.extra["answers"]
            style = torch.randn(len(rows), generator.style_dim, device=answers.device, dtype=answers.dtype)
            loss = F.mse_loss(drawn(torch.cat([answers, style], dim=1)), rows.images)
            update({"generator": loss})
            return {"loss": loss.detach()}

        players = {"generator": Player(generator, adam(settings.learning_rates[0]), average=settings.average)}
        return Training(
            f"regression_{round_}",
            self.answered_images(real, scores),
            step,
            players,
            steps=self.steps_of_a_round,
            batch_size=settings.batch_size,
            recordable=True,
        )
