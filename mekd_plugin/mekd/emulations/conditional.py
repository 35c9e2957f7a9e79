"""A conditional GAN: the generator learns which image the teacher answers how, from a surrogate's answers at home.

In rounds: ask about a first part of the queries, teach a surrogate by the answers, have it answer about the real images
at home, go on with the GAN conditioned on those answers, and ask the rest about images drawn for wanted answers. The
conditioning costs no query and shows no real image to anybody.

Sources: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR 2024 (G as the
teacher's inverse); Miyato and Koyama, *cGANs with Projection Discriminator*, ICLR 2018 (D(x, y)). The rounds, and the
surrogate in the classifier's place, are ours; a relative is T-ACGAN of Nguyen et al., *Label-Only Model Inversion
Attacks via Knowledge Transfer*, NeurIPS 2023, whose class head learns from the answers to generated images alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_one_of, as_whole
from mekd_plugin.distiller import Asking, Player, Query, Stage, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.functional import discriminator_loss, generator_loss, kd_divergence
from mekd_plugin.mekd.emulations.gan import GAN, GANSettings, adam
from mekd_plugin.mekd.folding import training_form
from mekd_plugin.mekd.generated import generated_rows, to_range
from mekd_plugin.mekd.surrogate import Surrogate, surrogate_network, teach_surrogate
from mekd_plugin.mekd.wanted import WantedAnswers
from mekd_plugin.networks.discriminators import ProjectionDiscriminator
from mekd_plugin.prediction import predict
from mekd_plugin.responses import ScoreNormalisation, centre_scores
from mekd_plugin.rows import Rows, RowSource, Shard, ShuffledIndices
from mekd_plugin.views import translate

__all__ = ["Conditional", "ConditionalSettings"]


@dataclass(frozen=True)
class ConditionalSettings(GANSettings):
    """How the conditional GAN is trained; ``steps`` are those of its unconditional start.

    Attributes:
        conditioning_steps: of both players, conditioned, in all rounds together.
        rounds: how often the teacher is asked: once about images drawn at random, then about wanted answers.
        first_share: part of the queries that go to the first round, in (0, 1); the others share the rest equally.
        answer_weight: weight of the divergence between a wanted answer and the surrogate's to the image drawn for it.
        choice: which answers are wanted: those to real images as they come (``"random"``), all classes alike
            (``"balanced"``), or the more unsure ones the more often (``"uncertain"``).
        mixed: share of wanted answers that are mixtures of two, in [0, 1].
        surrogate: network of the surrogate; see :func:`~mekd_plugin.mekd.surrogate.surrogate_network`.
        surrogate_steps: its training steps in each round.
        consistency: weight of its consistency on real images.

    Raises:
        InputError: a value cannot be used.
    """

    conditioning_steps: int = 1000
    rounds: int = 2
    first_share: float = 0.3
    answer_weight: float = 0.1
    choice: Literal["random", "balanced", "uncertain"] = "random"
    mixed: float = 0.5
    surrogate: str = "wide"
    surrogate_steps: int = 1500
    consistency: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.response_weight:
            raise InputError(
                f"emulation.response_weight={self.response_weight}: the conditional emulation asks in rounds, never "
                "within a step; leave it 0, or take emulation='gan'"
            )
        checked: dict[str, Any] = {
            "conditioning_steps": as_whole("emulation.conditioning_steps", self.conditioning_steps, at_least=1),
            "rounds": as_whole("emulation.rounds", self.rounds, at_least=2),
            "first_share": as_number("emulation.first_share", self.first_share, above=0, below=1),
            "answer_weight": as_number("emulation.answer_weight", self.answer_weight, at_least=0),
            "choice": as_one_of("emulation.choice", self.choice, ("random", "balanced", "uncertain")),
            "mixed": as_number("emulation.mixed", self.mixed, at_least=0, at_most=1),
            "surrogate_steps": as_whole("emulation.surrogate_steps", self.surrogate_steps, at_least=1),
            "consistency": as_number("emulation.consistency", self.consistency, at_least=0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


class Conditional(GAN):
    """A GAN that is conditioned, round by round, on a surrogate's answers about the real images at home."""

    Settings = ConditionalSettings
    presets: ClassVar = {
        "quick": {"steps": 1500},
        "tiny": {
            **GAN.presets["tiny"],
            "steps": 200,
            "conditioning_steps": 100,
            "surrogate_steps": 100,
        },
    }
    needs_answers = True
    settings: ConditionalSettings

    def __init__(self, settings: ConditionalSettings, **world: Any) -> None:
        super().__init__(settings, **world)
        self._wanted: WantedAnswers | None = None
        self._projection: ProjectionDiscriminator | None = None
        with torch.device("meta"):
            self._new_surrogate(0)

    @property
    def normalisation(self) -> ScoreNormalisation | None:
        """That of the answers that the generator was conditioned on."""
        return None if self.generator is None else self.generator.normalisation

    def stages(self, teacher: BlackBox, images: Tensor, bank: Bank, size: int) -> Iterator[Stage]:
        """``deprivatization``; then ``bank``, ``surrogate_1`` and ``conditioning_1``, and so on, round by round."""
        settings, span = self.settings, teacher.value_range
        yield from super().stages(teacher, images, bank, size)
        real = to_range(images, span, (-1.0, 1.0))
        self._projection = ProjectionDiscriminator(self.discriminator, self.num_classes)
        for round_ in range(1, settings.rounds):
            yield Asking("bank", bank, partial(self._draw, span=span), self._rows_by(round_, size), grows=True)
            surrogate = Surrogate(self._new_surrogate(round_))
            yield teach_surrogate(
                f"surrogate_{round_}",
                surrogate,
                bank,
                images,
                steps=settings.surrogate_steps,
                consistency=settings.consistency,
                hard_scale=self.hard_scale,
                seed=self.seed,
                fill=span[0],
            )
            surrogate.eval().requires_grad_(False)
            scores = centre_scores(predict(surrogate, images).clone())
            self._condition_on(scores)
            yield self._conditioning(f"conditioning_{round_}", surrogate, real, scores, span)

    def draw(self, start: int, stop: int) -> Tensor:
        """Latents of wanted answers; of N(0, I) as long as there are none."""
        latent = super().draw(start, stop)
        if self._wanted is None or self.normalisation is None:
            return latent
        scores = self._wanted.draw(start, stop)
        return torch.cat([self.normalisation(scores), latent[:, self.num_classes :].to(scores)], dim=1)

    def _rows_by(self, round_: int, size: int) -> int:
        """Rows of the bank after a round."""
        settings = self.settings
        rest = (1 - settings.first_share) * (round_ - 1) / (settings.rounds - 1)
        return max(2, round(size * (settings.first_share + rest)))

    def _condition_on(self, scores: Tensor) -> None:
        settings = self.settings
        assert self.generator is not None
        self.generator.normalise(ScoreNormalisation.of(scores))
        self._wanted = WantedAnswers(scores, choice=settings.choice, mixed=settings.mixed, seed=self.seed)

    def _draw(self, start: int, stop: int, *, span: tuple[float, float]) -> Rows:
        generator = self.frozen()
        device = next(generator.parameters()).device
        return generated_rows(generator, self.draw(start, stop).to(device), self.num_classes, span)

    def _new_surrogate(self, round_: int) -> nn.Module:
        seed = self.seed * 1_000_003 + round_
        return surrogate_network(self.settings.surrogate, self.num_classes, self.image_shape, seed)

    def _answered_images(self, real: Tensor, scores: Tensor) -> RowSource:
        assert self._wanted is not None and self.normalisation is not None
        return _AnsweredImages(real, scores, self.normalisation, self._wanted, self.seed)

    @property
    def _steps_of_a_round(self) -> int:
        return max(1, round(self.settings.conditioning_steps / (self.settings.rounds - 1)))

    def _conditioning(
        self, name: str, surrogate: Surrogate, real: Tensor, scores: Tensor, span: tuple[float, float]
    ) -> Training:
        """The stage that trains G and D, both told the answers; the surrogate judges what G draws for one."""
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
            answered = kd_divergence(surrogate(to_range(fake, (-1.0, 1.0), span)), wanted, 1.0)
            update({"generator": passing + settings.answer_weight * answered})
            return {"loss": passing.detach(), "discriminator": telling.detach(), "divergence": answered.detach()}

        players = {
            "generator": Player(generator, adam(settings.learning_rates[0]), average=settings.average),
            "discriminator": Player(discriminator, adam(settings.learning_rates[1])),
        }
        rows = self._answered_images(real, scores)
        return Training(name, rows, step, players, steps=self._steps_of_a_round, batch_size=settings.batch_size)


class _AnsweredImages:
    """Real images with the surrogate's answers as the generator takes them, and as many wanted answers beside them."""

    def __init__(
        self, images: Tensor, scores: Tensor, normalisation: ScoreNormalisation, wanted: WantedAnswers, seed: int
    ) -> None:
        self._images, self._answers = images, normalisation(scores).to(images.device)
        self._normalisation, self._wanted, self._seed = normalisation, wanted, seed
        self._order = ShuffledIndices(len(images), seed)

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        chosen = self._order.batch(step, size, shard).to(self._images.device)
        rng = torch.Generator().manual_seed(self._seed * 1_000_003 + step * shard.world + shard.rank)
        wanted = self._wanted.sample(size, rng)
        extra = {"answers": self._answers[chosen], "wanted": wanted, "coordinates": self._normalisation(wanted)}
        device = self._images.device
        return Rows(self._images[chosen], extra={name: column.to(device) for name, column in extra.items()})
