"""MEKD, mapping-emulation knowledge distillation.

Source: Ma, Xiang, Wang, Wu, Li, *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR
2024.
Stage 1 (``emulations/``) trains a generator that stands for the teacher's inverse mapping, on the edge's images alone
or alternating with questions. The rest of the budget is spent on asking about its images. Stage 2 (``alignment.py``)
compares the scores of teacher and student through it::

    L = w_f * mean |G(y_S / t_g) - G(y_T / t_g)| + w_kl * t^2 * KL(softmax(y_T / t) || softmax(y_S / t))

Departures:
- ``mode="bank"``: a fixed number of generated images, asked about once; the paper (``"fresh"``) asks anew at every
  step;
- scores are centred image by image before G, which is not blind to a constant; but for preset ``paper`` they are then
  brought to the spread that G was made for, instead of divided by ``t_g``;
- the divergence is scaled by t^2, as Hinton's; the public code scales by t;
- presets ``quick``, ``fast`` and ``thorough``: a mixture of Gaussians in place of the GAN (``emulation="gan"`` has the
  paper's); the teacher is asked in two rounds, the second about images for wanted answers; a surrogate at home, taught
  by the answers, says what the teacher would answer to real images, which half of the student's rows are; the weight of
  the image-space term is 0.3, not 1;
- the GAN of those presets: a discriminator that sees no batch, a shift before it, averaged weights, and latent noise
  beside the scores (``style_dim``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.bank import Bank, FreshQueries
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_flag, as_number, as_one_of, as_whole
from mekd_plugin.distiller import Asking, Distiller, Inverse, Needs, Player, Stage, Student
from mekd_plugin.errors import InputError
from mekd_plugin.functional import kd_divergence
from mekd_plugin.mekd.alignment import image_distance, latent_from_scores
from mekd_plugin.mekd.emulations.emulation import Emulation, make_emulation
from mekd_plugin.mekd.generated import balancing_weights, generated_rows, moved_to
from mekd_plugin.mekd.health import Health, generator_health
from mekd_plugin.mekd.surrogate import (
    Surrogate,
    consistency_for,
    rows_at_home,
    softened,
    surrogate_network,
    teach_surrogate,
)
from mekd_plugin.networks.generator_files import load_generator
from mekd_plugin.networks.generators import Generator
from mekd_plugin.networks.latent_maps import MappedGenerator
from mekd_plugin.prediction import predict, reference_of
from mekd_plugin.replay import FirstRows, Replay
from mekd_plugin.responses import Response, ScoreNormalisation, centre_scores
from mekd_plugin.rows import Rows, Shard
from mekd_plugin.transfer import WITHOUT_BUDGET, as_queries, number_of_queries

__all__ = ["MEKD"]

_ROWS_FOR_HEALTH, _BYTES_FOR_HEALTH = 1000, 64 * 2**20
_MOST_AT_HOME = 64_000  # more than that the student of preset "quick" does not draw

_HARD_CONFIDENCE = 0.95


class MEKD(Distiller):
    """Mapping-emulation knowledge distillation.

    Args:
        mode: ``"bank"`` or ``"fresh"``.
        queries: generated images in the bank, at least 2; None takes what the teacher's budget leaves (5,000 without a
            budget).
        emulation: how the generator is obtained: a name of the entry-point group ``mekd.emulations``, or a class.
            ``"auto"`` is ``"mixture"``; ``"gan"`` with ``mode="fresh"``; or that which ``generator`` came from.
        emulation_settings: the emulation's own, by name, such as ``{"steps": 2500}``; those left out are as
            ``emulation_preset`` has them. On the command line: ``--set mekd.emulation.steps=2500``.
        emulation_preset: ``"quick"``, ``"fast"``, ``"thorough"``, ``"paper"`` or ``"tiny"``.
        generator: a trained one to use instead of stage 1, or the file of one (``generator.safetensors`` of a run).
        bank: directory of one that was filled with this ``generator`` and teacher (``banks/bank`` of a run): its rows
            cost no further query.
        trust_bank: use a bank even if it says that another teacher answered it, or that another generator drew it.
        image_weight: w_f, the weight of the image-space term, at least 0.
        divergence_weight: w_kl, the weight of the divergence, at least 0.
        temperature: t, for the divergence from soft responses, positive.
        hard_temperature: t, for the divergence from hard ones, where no surrogate makes soft ones of them; positive.
        latent_temperature: t_g, positive, by which scores are divided before G; None divides by what the emulation
            says, or else by the spread of the bank's scores. ``mode="fresh"`` takes no None.
        norm: the norm of the image-space term, ``"l1"`` or ``"l2"``.
        hard_scale: the score that a hard response gives to its class, positive; None gives the one at which a softmax
            over C classes is 95 % sure.
        balance: whether rows of rare classes are drawn more often.
        surrogate: network at home that the bank's answers teach, and whose answers about the real images at home the
            student learns beside the teacher's; see :func:`~mekd_plugin.mekd.surrogate.surrogate_network`. None
            for none, or ``"none"`` in a file whose null stands for the default; ``"auto"`` is ``"wide"``, or none with
            ``mode="fresh"``.
        surrogate_steps: its training steps, at least 1.
        consistency: weight of its consistency on real images, at least 0; None lets the number of answers decide, see
            :func:`~mekd_plugin.mekd.surrogate.consistency_for`.
        home_share: share of the student's rows that the surrogate answered, in [0, 1).
        home_views: how many views of each real image there are among them, at least 1; of many images fewer, so
            that there are no more than 64,000, or one of each.
        **world: see :class:`Distiller`.

    Raises:
        UnknownName: there is no such emulation, or surrogate. InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="synthetic images", asks_late=True)
    reference: ClassVar = "Ma et al., *Aligning Logits Generatively for Principled Black-Box KD*, CVPR 2024"
    presets: ClassVar = {
        "quick": {},
        "fast": {"emulation_preset": "fast", "surrogate_steps": 1000},
        "thorough": {"emulation_preset": "thorough", "surrogate_steps": 8000, "home_views": 20},
        "paper": {
            "mode": "fresh",
            "emulation": "gan",
            "emulation_preset": "paper",
            "surrogate": None,
            "image_weight": 1.0,
            "temperature": 5.0,
            "hard_temperature": 5.0,
            "latent_temperature": 5.0,
            "hard_scale": 1.0,
            "balance": False,
        },
        "tiny": {"emulation_preset": "tiny", "surrogate_steps": 100},
    }
    renamed: ClassVar = {
        "gan_steps": "emulation.steps",
        "gan_batch_size": "emulation.batch_size",
        "gan_learning_rates": "emulation.learning_rates",
        "gan_average": "emulation.average",
        "gan_shift": "emulation.shift",
        "discriminator": "emulation.discriminator",
        "discriminator_width": "emulation.discriminator_width",
        "generator_width": "emulation.generator_width",
        "generator_eps": "emulation.generator_eps",
        "style_dim": "emulation.style_dim",
        "response_weight": "emulation.response_weight",
    }

    def __init__(
        self,
        *,
        mode: Literal["bank", "fresh"] = "bank",
        queries: int | None = None,
        emulation: str | type[Emulation] = "auto",
        emulation_settings: Mapping[str, Any] | None = None,
        emulation_preset: str = "quick",
        generator: Generator | str | None = None,
        bank: str | None = None,
        trust_bank: bool = False,
        image_weight: float = 0.3,
        divergence_weight: float = 1.0,
        temperature: float = 4.0,
        hard_temperature: float = 1.0,
        latent_temperature: float | None = None,
        norm: Literal["l1", "l2"] = "l1",
        hard_scale: float | None = None,
        balance: bool = False,
        surrogate: str | None = "auto",
        surrogate_steps: int = 2500,
        consistency: float | None = None,
        home_share: float = 0.5,
        home_views: int = 5,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        if mode not in ("bank", "fresh"):
            raise InputError(f'mode={mode!r}: expected "bank" (asked once) or "fresh" (asked anew at every step)')
        if mode == "fresh" and latent_temperature is None:
            raise InputError('mode="fresh" has no bank to measure the spread of scores on: give latent_temperature')
        if bank is not None and generator is None:
            raise InputError(
                f"bank={bank!r} was drawn by a generator: give that one too, generator.safetensors of its run"
            )
        if surrogate == "auto":
            surrogate = "wide" if mode == "bank" else None
        elif surrogate == "none":
            surrogate = None
        if mode == "fresh" and surrogate is not None:
            raise InputError(f'surrogate={surrogate!r} learns from a bank, and mode="fresh" has none: take mode="bank"')
        if generator is not None and not isinstance(generator, str | nn.Module):
            raise InputError(f"generator={generator!r}: expected a trained Generator, or the file of one")
        self.generator = load_generator(generator) if isinstance(generator, str) else generator
        if emulation == "auto":
            emulation = _emulation_for(mode, self.generator)
        self.mode, self.queries = mode, as_queries(queries)
        self.bank, self.trust_bank = bank, as_flag("trust_bank", trust_bank)
        self.image_weight = as_number("image_weight", image_weight, at_least=0)
        self.divergence_weight = as_number("divergence_weight", divergence_weight, at_least=0)
        self.temperature = as_number("temperature", temperature, above=0)
        self.hard_temperature = as_number("hard_temperature", hard_temperature, above=0)
        self.latent_temperature = _number_or_none("latent_temperature", latent_temperature)
        self.norm, self.balance = as_one_of("norm", norm, ("l1", "l2")), as_flag("balance", balance)
        self.surrogate = surrogate
        if surrogate is not None:
            with torch.device("meta"):  # an unknown network is refused here
                self._new_surrogate()
        self.surrogate_steps = as_whole("surrogate_steps", surrogate_steps, at_least=1)
        self.consistency = None if consistency is None else as_number("consistency", consistency, at_least=0)
        self.home_share = as_number("home_share", home_share, at_least=0, below=1)
        self.home_views = as_whole("home_views", home_views, at_least=1)
        self.hard_scale = _number_or_none("hard_scale", hard_scale) or math.log(
            _HARD_CONFIDENCE / (1 - _HARD_CONFIDENCE) * (self.num_classes - 1)
        )
        self.emulation_settings, self.emulation_preset = emulation_settings, emulation_preset
        self.emulation = make_emulation(
            emulation,
            emulation_preset,
            emulation_settings,
            num_classes=self.num_classes,
            image_shape=self.image_shape,
            seed=self.seed,
            hard_scale=self.hard_scale,
        )
        if mode == "fresh" and self.emulation.needs_answers:
            raise InputError(
                f'mode="fresh" with emulation {type(self.emulation).__name__}, which learns from the bank\'s answers: '
                'take emulation="gan", or mode="bank"'
            )
        if mode == "fresh" or self.emulation.queries == "every step":
            self.needs = replace(self.needs, queries="every step")
        if self.generator is not None:
            self.needs = replace(self.needs, asks_late=False)
        self.health: Health | None = None
        self._frozen: nn.Module | None = None
        self._normalisation = (
            None if self.latent_temperature is None else ScoreNormalisation.by_temperature(self.latent_temperature)
        )
        self._range = (-1.0, 1.0)

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        self._range = teacher.value_range
        if self.generator is not None:
            self.freeze(self.generator)
        bank, size = self._bank(), 0
        if len(bank):
            self.emulation.want(self._scores(bank.response))
        if self.mode == "bank":
            wanted = len(bank) if self.queries is None and len(bank) else self.queries
            size = number_of_queries(teacher, "bank", wanted, otherwise=WITHOUT_BUDGET, held=len(bank))
        if self.generator is None:
            yield from self.emulation.stages(teacher, images, bank, size)
            self._freeze()
        if self.mode == "fresh":
            room = max(1, _BYTES_FOR_HEALTH // (4 * math.prod(self.image_shape)))
            first = Replay(
                min(_ROWS_FOR_HEALTH, room), self.image_shape, teacher.responses, self.num_classes, seed=self.seed
            )
            fresh = FirstRows(FreshQueries(teacher, self._draw_fresh, stage="alignment"), first)
            yield self.align("alignment", fresh, student, players={**self.players(), "first_rows": Player(first, None)})
            if len(first):
                self.health = generator_health(first.rows(), images, self.emulation.advice)
            return
        bank.drawn_with(self.emulation.digest())
        yield Asking("bank", bank, self._draw, size)
        self.health = generator_health(bank.rows(), images, self.emulation.advice)
        weights = balancing_weights(bank.response) if self.balance else None
        if self.surrogate is not None:
            surrogate = Surrogate(self._new_surrogate())
            yield self._teach(surrogate, bank, images, size)
            bank, weights = self._with_rows_at_home(surrogate, bank, images, weights)
        if self._normalisation is None:
            self._normalisation = ScoreNormalisation.by_spread(bank.response.scores(hard_scale=self.hard_scale))
        if self.image_weight:
            bank.add_column("target", self.targets)
        yield self.align("alignment", bank.order(self.seed, weights), student)

    def queries_of_training(self, rows: int) -> int:
        return rows if self.mode == "fresh" else 0

    def freeze(self, generator: nn.Module) -> None:
        """Use ``generator`` as it is in stage 2; nothing trains it from here on.

        Raises:
            InputError: the emulation cannot use it.
        """
        self.emulation.adopt(generator)
        self._freeze()

    def _new_surrogate(self) -> nn.Module:
        assert self.surrogate is not None
        return surrogate_network(self.surrogate, self.num_classes, self.image_shape, self.seed * 1_000_003)

    def _teach(self, surrogate: Surrogate, bank: Bank, images: Tensor, size: int) -> Stage:
        return teach_surrogate(
            "surrogate",
            surrogate,
            bank,
            images,
            steps=self.surrogate_steps,
            consistency=consistency_for(self.consistency, bank.response, size),
            hard_scale=self.hard_scale,
            seed=self.seed,
            fill=self._range[0],
        )

    def _with_rows_at_home(
        self, surrogate: Surrogate, bank: Bank, images: Tensor, weights: Tensor | None
    ) -> tuple[Bank, Tensor]:
        """The bank with rows that the surrogate answered, and the weights that give them their share."""
        own, response = bank.rows(), bank.response
        scores = response.scores()
        if not response.soft:
            scores = softened(response, centre_scores(predict(surrogate, own.images).clone()))
        views = min(self.home_views, max(1, _MOST_AT_HOME // len(images)))
        count, rng = views * len(images), torch.Generator().manual_seed(self.seed)
        style = torch.randn(count, self.emulation.style_dim, generator=rng)

        def home() -> Iterator[Rows]:
            begin = 0
            for part in rows_at_home(surrogate, images, views, seed=self.seed, fill=self._range[0]):
                yield replace(part, extra={"style": style[begin : begin + len(part)]})
                begin += len(part)

        weights = torch.ones(len(own)) if weights is None else weights.cpu()
        share = self.home_share
        weights = torch.cat([
            (1 - share) * weights / weights.sum(), torch.full((count,), share / count)
        ])  # fmt: skip
        return bank.joined(scores, home(), count), weights

    def _bank(self) -> Bank:
        if self.bank is None:
            return Bank("bank")
        return Bank.load(self.bank, drawn_by=self.emulation.digest(), trust=self.trust_bank)

    def _freeze(self) -> None:
        self._frozen = self.emulation.frozen()
        if self.latent_temperature is None:
            self._normalisation = self.emulation.normalisation

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
            latent = latent_from_scores(centre_scores(logits), self._normalisation_on(logits), rows.extra.get("style"))
            parts["image_distance"] = image_distance(generator, latent, target, norm=self.norm)
            loss = loss + self.image_weight * parts["image_distance"]
        return {"loss": loss, **parts}

    @torch.no_grad()
    def targets(self, rows: Rows) -> Tensor:
        """The teacher's images G(y_T / t_g, e), ``(N, channels, height, width)`` in [-1, 1], of answered rows."""
        scores = self._scores(rows.answers())
        generator = self._generator_on(scores)
        images: Tensor = generator(latent_from_scores(scores, self._normalisation_on(scores), rows.extra.get("style")))
        return images

    def inverse(self) -> Inverse:
        emulation = self.emulation
        return Inverse(
            self._generator(),
            self._normalised(),
            emulation.style_dim,
            self.hard_scale,
            emulation.drawn_for,
            emulation.hard_scores,
        )

    def report(self) -> dict[str, Any]:
        if self.health is None:
            return {}
        generator = {**self.health.as_record(), **self.emulation.report()}
        return {"generator": generator, "warnings": self.health.warnings}

    def _scores(self, response: Response) -> Tensor:
        """Centred scores ``(N, C)`` as the generator knows them."""
        known = None if response.soft else self.emulation.hard_scores
        return response.scores(hard_scale=self.hard_scale, hard_scores=known)

    def _normalised(self) -> ScoreNormalisation:
        if self._normalisation is None:
            raise InputError("the spread of the scores is not known before the bank is filled: give latent_temperature")
        return self._normalisation

    def _generate(self, latent: Tensor) -> Rows:
        return generated_rows(self._generator_on(latent), latent, self.num_classes, self._range)

    def _draw(self, start: int, stop: int) -> Rows:
        device = reference_of(self._generator()).device
        return self._generate(self.emulation.draw(start, stop).to(device))

    def _draw_fresh(self, step: int, size: int, shard: Shard) -> Rows:
        # Drawn by torch's own generator, on the device, as the paper's mode does: a run restores its state.
        reference = reference_of(self._generator())
        width = self.num_classes + self.emulation.style_dim
        return self._generate(torch.randn(size, width, device=reference.device, dtype=reference.dtype))

    def _generator(self) -> nn.Module:
        if self._frozen is None:
            raise InputError("there is no generator yet: run stage 1, or call freeze(generator)")
        return self._frozen

    def _normalisation_on(self, like: Tensor) -> ScoreNormalisation:
        """The normalisation, moved to the scores' device once, so that no step has to."""
        known = self._normalised()
        if isinstance(known.shift, Tensor) and known.shift.device != like.device:
            known = self._normalisation = known.to(like.device)
        return known

    def _generator_on(self, like: Tensor) -> nn.Module:
        return moved_to(self._generator(), like)


def _emulation_for(mode: str, generator: nn.Module | None) -> str:
    """The emulation that a generator came from, or the default."""
    if isinstance(generator, MappedGenerator):
        return "latent_inverse"
    if isinstance(generator, Generator):
        return "gan" if generator.normalisation is None else "conditional"
    return "gan" if mode == "fresh" else "mixture"


def _number_or_none(name: str, value: Any) -> float | None:
    return None if value is None else as_number(name, value, above=0)
