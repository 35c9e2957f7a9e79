"""A conditional GAN: the generator learns which image the teacher answers how, from a surrogate's answers at home.

The unconditional GAN comes first; between the rounds of questions it goes on with both players told the answers, and
the surrogate judges whether what G draws for an answer gets it.

Sources: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR 2024 (G as the
teacher's inverse); Miyato and Koyama, *cGANs with Projection Discriminator*, ICLR 2018 (D(x, y)). The rounds, and the
surrogate in the classifier's place, are ours; a relative is T-ACGAN of Nguyen et al., *Label-Only Model Inversion
Attacks via Knowledge Transfer*, NeurIPS 2023, whose class head learns from the answers to generated images alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.distiller import Player, Query, Stage, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.functional import discriminator_loss, generator_loss, kd_divergence
from mekd_plugin.mekd.emulations.gan import GAN, GANSettings, adam
from mekd_plugin.mekd.emulations.in_rounds import InRounds, RoundSettings
from mekd_plugin.mekd.folding import training_form
from mekd_plugin.mekd.generated import moved_to, to_range
from mekd_plugin.mekd.surrogate import Surrogate
from mekd_plugin.mekd.wanted import WantedAnswers
from mekd_plugin.networks.discriminators import ProjectionDiscriminator
from mekd_plugin.responses import ScoreNormalisation
from mekd_plugin.rows import Rows, RowSource, Shard, ShuffledIndices
from mekd_plugin.views import translate

__all__ = ["Conditional", "ConditionalSettings"]


@dataclass(frozen=True)
class ConditionalSettings(RoundSettings, GANSettings):
    """How the conditional GAN is trained; ``steps`` are those of its unconditional start.

    Attributes:
        conditioning_steps: of both players, conditioned, in all rounds together.
        answer_weight: weight of the divergence between a wanted answer and the surrogate's to the image drawn for it.

    Raises:
        InputError: a value cannot be used.
    """

    steps: int = 1500
    conditioning_steps: int = 1000
    answer_weight: float = 0.1

    def __post_init__(self) -> None:
        GANSettings.__post_init__(self)
        super().__post_init__()
        if self.response_weight:
            raise InputError(
                f"emulation.response_weight={self.response_weight}: the conditional emulation asks in rounds, never "
                "within a step; leave it 0, or take emulation='gan'"
            )
        checked: dict[str, Any] = {
            "conditioning_steps": as_whole("emulation.conditioning_steps", self.conditioning_steps, at_least=1),
            "answer_weight": as_number("emulation.answer_weight", self.answer_weight, at_least=0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


class Conditional(InRounds, GAN):
    """A GAN that is conditioned, round by round, on a surrogate's answers about the real images at home."""

    Settings = ConditionalSettings
    presets: ClassVar = {
        "quick": {},
        "tiny": {**GAN.presets["tiny"], "steps": 200, "conditioning_steps": 100, "surrogate_steps": 100},
    }
    settings: ConditionalSettings

    def __init__(self, settings: ConditionalSettings, **world: Any) -> None:
        super().__init__(settings, **world)
        self._projection: ProjectionDiscriminator | None = None

    def normalise(self, normalisation: ScoreNormalisation) -> None:
        assert self.generator is not None
        self.generator.normalise(normalisation)

    def begin(self, teacher: BlackBox, images: Tensor, bank: Bank, size: int) -> Iterator[Stage]:
        """The one stage ``deprivatization``."""
        yield from GAN.stages(self, teacher, images, bank, size)
        self._projection = ProjectionDiscriminator(self.discriminator, self.num_classes)

    def answered_images(self, real: Tensor, scores: Tensor) -> RowSource:
        """Real images with the columns ``answers``, ``wanted`` and ``coordinates`` (the wanted, normalised)."""
        assert self.normalisation is not None
        return _AnsweredImages(real, scores, self.normalisation, self.wanted, self.seed)

    @property
    def steps_of_a_round(self) -> int:
        """Steps of each conditioning stage."""
        return max(1, round(self.settings.conditioning_steps / (self.settings.rounds - 1)))

    def condition(
        self, round_: int, surrogate: Surrogate, real: Tensor, scores: Tensor, span: tuple[float, float]
    ) -> Training:
        """The stage ``conditioning_N``: G and D, both told the answers; the surrogate judges what G draws for one."""
        settings, generator, discriminator = self.settings, self.generator, self._projection
        assert generator is not None and discriminator is not None
        drawn = training_form(generator)

        def step(rows: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            wanted, coordinates = rows.extra["wanted"], rows.extra["coordinates"]
            style = torch.randn(len(rows), generator.style_dim, device=wanted.device, dtype=wanted.dtype)
            fake = drawn(torch.cat([coordinates, style], dim=1))
            shown = translate(fake, settings.shift)
            known = discriminator(translate(rows.images, settings.shift), rows.extra["answers"])
            telling = discriminator_loss(known, discriminator(shown.detach(), coordinates))
            update({"discriminator": telling})
            passing = generator_loss(discriminator(shown, coordinates), None)
            answers = moved_to(surrogate, fake)(to_range(fake, (-1.0, 1.0), span))
            answered = kd_divergence(answers, wanted, 1.0)
            update({"generator": passing + settings.answer_weight * answered})
            return {"loss": passing.detach(), "discriminator": telling.detach(), "divergence": answered.detach()}

        players = {
            "generator": Player(generator, adam(settings.learning_rates[0]), average=settings.average),
            "discriminator": Player(discriminator, adam(settings.learning_rates[1])),
        }
        return Training(
            f"conditioning_{round_}",
            self.answered_images(real, scores),
            step,
            players,
            steps=self.steps_of_a_round,
            batch_size=settings.batch_size,
            recordable=True,
        )


class _AnsweredImages:
    """Real images with the surrogate's answers as the generator takes them, and as many wanted answers beside them."""

    def __init__(
        self, images: Tensor, scores: Tensor, normalisation: ScoreNormalisation, wanted: WantedAnswers, seed: int
    ) -> None:
        self._images, self._answers = images, normalisation(scores).to(images.device)
        self._normalisation, self._wanted, self._seed = normalisation, wanted, seed
        self._order = ShuffledIndices(len(images), seed)

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        chosen = self._order.batch(step, size, shard, self._images.device)
        rng = torch.Generator().manual_seed(self._seed * 1_000_003 + step * shard.world + shard.rank)
        wanted = self._wanted.sample(size, rng)
        extra = {"answers": self._answers[chosen], "wanted": wanted, "coordinates": self._normalisation(wanted)}
        device = self._images.device
        return Rows(self._images[chosen], extra={name: column.to(device) for name, column in extra.items()})
