"""MEKD, mapping-emulation knowledge distillation.

Source: Ma, Xiang, Wang, Wu, Li, *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR
2024.
Stage 1 (``deprivatization.py``) trains a generator on the edge's images; stage 2 (``alignment.py``) compares the scores
of teacher and student through it::

    L = w_f * mean |G(y_S / t_g) - G(y_T / t_g)| + w_kl * t^2 * KL(softmax(y_T / t) || softmax(y_S / t))

Departures:
- ``mode="bank"``: a fixed number of generated images, asked about once; the paper (``"fresh"``) asks anew at every
  step;
- scores are centred image by image before G, which is not blind to a constant;
- the divergence is scaled by t^2, as Hinton's; the public code scales by t;
- preset ``quick``: a discriminator that sees no batch, a shift before it, averaged weights, latent noise beside the
  scores (``style_dim``), and scores divided by their own spread instead of ``t_g``, since G was trained on N(0, I).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.bank import Bank, FreshQueries
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.distiller import Asking, Distiller, Inverse, Needs, Stage, Student
from mekd_plugin.errors import InputError
from mekd_plugin.functional import kd_divergence
from mekd_plugin.mekd.alignment import image_distance, latent_from_scores, score_scale
from mekd_plugin.mekd.emulations.gan import Health, deprivatization, generator_health
from mekd_plugin.mekd.folding import FoldedGenerator, fold
from mekd_plugin.mekd.generated import FirstRows, balancing_weights, to_range
from mekd_plugin.networks.generators import (
    PAPER_BN_EPS,
    Generator,
    load_generator,
    paper_discriminator,
    sample_latent,
    small_discriminator,
)
from mekd_plugin.responses import centre_scores
from mekd_plugin.rows import ImageRows, Rows, Shard
from mekd_plugin.transfer import number_of_queries

__all__ = ["MEKD"]

_DEFAULT_BANK = 5000
_HARD_CONFIDENCE = 0.95


class MEKD(Distiller):
    """Mapping-emulation knowledge distillation.

    Args:
        mode: ``"bank"`` or ``"fresh"``.
        queries: generated images in the bank; None takes what the teacher's budget leaves (5,000 without a budget).
        generator: a trained one to use instead of stage 1, or the file of one (``generator.safetensors`` of a run).
        bank: directory of one that was filled with this ``generator`` and teacher (``banks/bank`` of a run): its rows
            cost no further query.
        gan_steps: steps of stage 1.
        gan_batch_size: real, and generated, images a step of stage 1.
        gan_learning_rates: Adam's, of the generator and of the discriminator.
        gan_average: decay of the running mean of the generator's weights; None keeps the last ones.
        gan_shift: pixels of the random translation before the discriminator.
        discriminator: ``"small"`` (sees no batch) or ``"paper"``.
        discriminator_width: channels of the small one's first layer; None as for the generator.
        generator_width: channels of the generator's last hidden layer; None takes as many as the longer side of the
            images has pixels, from 16 to 64.
        generator_eps: epsilon of its batch norms.
        style_dim: coordinates of latent noise beside the C scores.
        response_weight: w_im of stage 1; above 0 it asks the teacher ``gan_batch_size`` images at every step, so it
            is left out, with a warning, where there is a budget.
        image_weight: w_f, of the image-space term.
        divergence_weight: w_kl, of the divergence.
        temperature: t, of the divergence from soft responses.
        hard_temperature: t, of the divergence from hard ones.
        latent_temperature: t_g, by which scores are divided before G; None divides by the spread of the bank's.
        norm: of the image-space term, ``"l1"`` or ``"l2"``.
        hard_scale: the score that a hard response gives to its class; None gives the one at which a softmax over C
            classes is 95 % sure.
        balance: whether rows of rare classes are drawn more often.
        **world: see :class:`Distiller`.
    """

    needs = Needs(responses="either", leaves_edge="synthetic images")
    presets: ClassVar = {
        "quick": {},
        "paper": {
            "mode": "fresh",
            "gan_steps": 18_800,
            "gan_average": None,
            "gan_shift": 0,
            "discriminator": "paper",
            "generator_width": 64,
            "generator_eps": PAPER_BN_EPS,
            "style_dim": 0,
            "response_weight": 0.5,
            "gan_learning_rates": (2e-4, 2e-4),
            "image_weight": 1.0,
            "temperature": 5.0,
            "hard_temperature": 5.0,
            "latent_temperature": 5.0,
            "hard_scale": 1.0,
            "balance": False,
        },
        "tiny": {
            "gan_steps": 300,
            "gan_learning_rates": (1e-3, 1e-3),
            "generator_width": 16,
            "discriminator_width": 16,
        },
    }

    def __init__(
        self,
        *,
        mode: Literal["bank", "fresh"] = "bank",
        queries: int | None = None,
        generator: Generator | str | None = None,
        bank: str | None = None,
        gan_steps: int = 2500,
        gan_batch_size: int = 64,
        gan_learning_rates: tuple[float, float] = (5e-4, 5e-4),
        gan_average: float | None = 0.999,
        gan_shift: int = 1,
        discriminator: Literal["small", "paper"] = "small",
        discriminator_width: int | None = None,
        generator_width: int | None = None,
        generator_eps: float = 1e-5,
        style_dim: int = 54,
        response_weight: float = 0.0,
        image_weight: float = 0.3,
        divergence_weight: float = 1.0,
        temperature: float = 4.0,
        hard_temperature: float = 1.0,
        latent_temperature: float | None = None,
        norm: Literal["l1", "l2"] = "l1",
        hard_scale: float | None = None,
        balance: bool = False,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        if mode not in ("bank", "fresh"):
            raise InputError(f'mode={mode!r}: expected "bank" (asked once) or "fresh" (asked anew at every step)')
        if mode == "fresh" and latent_temperature is None:
            raise InputError('mode="fresh" has no bank to measure the spread of scores on: give latent_temperature')
        if discriminator not in ("small", "paper"):
            raise InputError(f'discriminator={discriminator!r}: expected "small" or "paper"')
        if bank is not None and generator is None:
            raise InputError(
                f"bank={bank!r} was drawn by a generator: give that one too, generator.safetensors of its run"
            )
        self.mode, self.queries, self.bank = mode, queries, bank
        if mode == "fresh" or response_weight:
            self.needs = replace(self.needs, queries="every step")
        self.generator = load_generator(generator) if isinstance(generator, str) else generator
        self.gan_steps, self.gan_batch_size = gan_steps, gan_batch_size
        self.gan_learning_rates, self.gan_average, self.gan_shift = gan_learning_rates, gan_average, gan_shift
        channels = min(64, max(16, *self.image_shape[1:]))
        self.discriminator, self.discriminator_width = discriminator, discriminator_width or channels
        self.generator_width, self.generator_eps = generator_width or channels, generator_eps
        self.style_dim = style_dim
        self.response_weight = response_weight
        self.image_weight, self.divergence_weight = image_weight, divergence_weight
        self.temperature, self.hard_temperature = temperature, hard_temperature
        self.latent_temperature, self.norm, self.balance = latent_temperature, norm, balance
        self.hard_scale = hard_scale or math.log(_HARD_CONFIDENCE / (1 - _HARD_CONFIDENCE) * (self.num_classes - 1))
        self.health: Health | None = None
        self._frozen: FoldedGenerator | None = None
        self._scale = latent_temperature
        self._range = (-1.0, 1.0)

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        self._range = teacher.value_range
        if self.generator is None:
            self.generator = self._new_generator()
            yield deprivatization(
                self.generator,
                self._new_discriminator(),
                ImageRows(to_range(images, self._range, (-1.0, 1.0)), seed=self.seed),
                steps=self.gan_steps,
                batch_size=self.gan_batch_size,
                learning_rates=self.gan_learning_rates,
                average=self.gan_average,
                shift=self.gan_shift,
                response_weight=self._weight_within(teacher),
                answerable=lambda generated: to_range(generated, (-1.0, 1.0), self._range),
                reuse=f"{self.generator.config} {self.discriminator} {self.discriminator_width} {self.gan_batch_size} "
                f"{self.gan_learning_rates} {self.gan_average} {self.gan_shift}",
            )
        self.freeze(self.generator)
        if self.mode == "fresh":
            fresh = FirstRows(FreshQueries(teacher, self._draw_fresh, stage="alignment"))
            yield self.align("alignment", fresh, student)
            if fresh.kept:
                self.health = generator_health(fresh.rows(), images)
            return
        bank = Bank("bank") if self.bank is None else Bank.load(self.bank)
        wanted = len(bank) if self.queries is None and len(bank) else self.queries
        size = number_of_queries(teacher, "bank", wanted, otherwise=_DEFAULT_BANK)
        yield Asking("bank", bank, self._draw, size)
        self.health = generator_health(bank.rows(), images)
        scores = bank.response.scores(hard_scale=self.hard_scale)
        if self.latent_temperature is None:
            self._scale = float(score_scale(scores))
        if self.image_weight:
            bank.add_column("target", self.targets)
        weights = balancing_weights(bank.response) if self.balance else None
        yield self.align("alignment", bank.order(self.seed, weights), student)

    def freeze(self, generator: Generator) -> None:
        """Take ``generator`` as it stands for stage 2; nothing trains it from here on."""
        self.generator, self._frozen = generator, fold(generator)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        logits = student(rows.images)
        response = rows.answers()
        scores = response.scores(hard_scale=self.hard_scale)
        temperature = self.temperature if response.soft else self.hard_temperature
        parts = {"divergence": kd_divergence(logits, scores, temperature)}
        loss = self.divergence_weight * parts["divergence"]
        if self.image_weight:
            target = rows.extra["target"] if "target" in rows.extra else self.targets(rows)
            generator = self._generator_on(logits)
            latent = latent_from_scores(centre_scores(logits), self._divisor(), rows.extra.get("style"))
            parts["image_distance"] = image_distance(generator, latent, target, norm=self.norm)
            loss = loss + self.image_weight * parts["image_distance"]
        return {"loss": loss, **parts}

    @torch.no_grad()
    def targets(self, rows: Rows) -> Tensor:
        """The teacher's images G(y_T / t_g, e), ``(N, channels, height, width)`` in [-1, 1], of answered rows."""
        scores = rows.answers().scores(hard_scale=self.hard_scale)
        generator = self._generator_on(scores)
        images: Tensor = generator(latent_from_scores(scores, self._divisor(), rows.extra.get("style")))
        return images

    def inverse(self) -> Inverse:
        return Inverse(self._generator(), self._divisor(), self.style_dim, self.hard_scale)

    def report(self) -> dict[str, Any]:
        return {} if self.health is None else {"generator": self.health.as_record(), "warnings": self.health.warnings}

    def _weight_within(self, teacher: BlackBox) -> float:
        if self.response_weight and teacher.ledger.budget is not None:
            warnings.warn(
                f"response_weight={self.response_weight} would ask about {self.gan_steps * self.gan_batch_size:,} "
                "images in stage 1; there is a query budget, so stage 1 asks nothing",
                stacklevel=2,
            )
            return 0.0
        return self.response_weight

    def _divisor(self) -> float:
        if self._scale is None:
            raise InputError("the spread of the scores is not known before the bank is filled: give latent_temperature")
        return self._scale

    def _new_generator(self) -> Generator:
        return Generator(
            self.num_classes,
            self.image_shape,
            style_dim=self.style_dim,
            width=self.generator_width,
            eps=self.generator_eps,
        )

    def _new_discriminator(self) -> nn.Module:
        if self.discriminator == "paper":
            return paper_discriminator(self.image_shape)
        return small_discriminator(self.image_shape, width=self.discriminator_width)

    @torch.no_grad()
    def _generate(self, latent: Tensor) -> Rows:
        images = to_range(self._generator_on(latent)(latent), (-1.0, 1.0), self._range)
        return Rows(images, extra={"style": latent[:, self.num_classes :]})

    def _draw(self, start: int, stop: int) -> Rows:
        frozen = self._generator()
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + start)
        latent = torch.randn(stop - start, frozen.latent_dim, generator=rng)
        return self._generate(latent.to(next(frozen.parameters()).device))

    def _draw_fresh(self, step: int, size: int, shard: Shard) -> Rows:
        return self._generate(sample_latent(self._generator(), size))

    def _generator(self) -> FoldedGenerator:
        if self._frozen is None:
            raise InputError("there is no generator yet: run stage 1, or call freeze(generator)")
        return self._frozen

    def _generator_on(self, like: Tensor) -> FoldedGenerator:
        frozen = self._generator()
        if next(frozen.parameters()).device != like.device:
            frozen.to(like.device)
        return frozen
