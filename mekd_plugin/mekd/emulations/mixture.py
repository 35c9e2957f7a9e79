"""A mixture of Gaussians over the real images' principal components: a generator in seconds, without an adversary.

Fitted to the images alone first; after the first round of questions jointly to the images and a surrogate's answers
about them, so that what to draw for a wanted answer is known in closed form.

Sources: see ``networks/mixtures.py``. As MEKD's generator it is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.backends import identity_of
from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.distiller import Player, Query, Stage, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.mekd.emulations.in_rounds import FAR, InRounds, RoundSettings
from mekd_plugin.mekd.generated import to_range
from mekd_plugin.mekd.health import Advice
from mekd_plugin.mekd.surrogate import Surrogate
from mekd_plugin.networks.mixtures import MixtureGenerator
from mekd_plugin.responses import ScoreNormalisation
from mekd_plugin.rows import Rows, Shard

__all__ = ["Mixture", "MixtureSettings"]

_ANSWERS = 2000  # drawn from a mixture that was taken over, to stand for those to real images


@dataclass(frozen=True)
class MixtureSettings(RoundSettings):
    """How the mixture is fitted.

    Attributes:
        components: K; None takes one for every 60 images, or for every C where there are more classes, 2 to 30.
        coordinates: principal components that it draws; None takes 60, or a third of the images where that is less.
        steps: of expectation-maximisation, for each fit.
        floor: variance that every direction keeps in every component, as a part of the images' mean variance along a
            coordinate: the larger, the farther what is drawn lies from single images.
        nearness: s in (0, 1], to draw around single real images: the noise behind one is turned towards fresh noise
            until a part s of it is fresh. Near 0 draws the real images themselves, so the less is private; None draws
            from the whole mixture.

    Raises:
        InputError: a value cannot be used.
    """

    components: int | None = None
    coordinates: int | None = None
    steps: int = 40
    floor: float = 0.03
    nearness: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checked: dict[str, Any] = {
            "steps": as_whole("emulation.steps", self.steps, at_least=1),
            "floor": as_number("emulation.floor", self.floor, above=0),
        }
        if self.nearness is not None:
            checked["nearness"] = as_number("emulation.nearness", self.nearness, above=0, at_most=1)
        for name in ("components", "coordinates"):
            if getattr(self, name) is not None:
                checked[name] = as_whole(f"emulation.{name}", getattr(self, name), at_least=1)
        for name, value in checked.items():
            object.__setattr__(self, name, value)


class Mixture(InRounds):
    """A mixture of Gaussians, conditioned on answers by joint fit."""

    Settings = MixtureSettings
    presets: ClassVar = {
        "quick": {},
        "fast": {"surrogate_steps": 500},
        "thorough": {"surrogate_steps": 2500},
        "tiny": {"steps": 20, "surrogate_steps": 100},
    }
    advice = Advice(
        closer="give the mixture more coordinates (emulation.coordinates)",
        richer="more components (emulation.components)",
        freer="raise emulation.apart, or emulation.floor",
    )
    settings: MixtureSettings

    def __init__(self, settings: MixtureSettings, **world: Any) -> None:
        super().__init__(settings, **world)
        self.generator: MixtureGenerator | None = None
        self._coordinates = settings.coordinates or 60

    @property
    def style_dim(self) -> int:
        """Noise for the coordinates, and one that picks the component."""
        return (self._coordinates if self.generator is None else self.generator.coordinates) + 1

    @property
    def normalisation(self) -> ScoreNormalisation | None:
        """That of the answers that it was fitted to."""
        return None if self.generator is None else self.generator.normalisation

    def normalise(self, normalisation: ScoreNormalisation) -> None:
        self._fitted().normalise(normalisation)

    def begin(self, teacher: BlackBox, images: Tensor, bank: Bank, size: int) -> Iterator[Stage]:
        """The one stage ``mixture``."""
        real = to_range(images, teacher.value_range, (-1.0, 1.0))
        self.generator = self._new_generator(len(real))
        self.generator.look_at(real, self.seed)
        yield self._fit("mixture", self.generator.encode(real), None)

    def condition(
        self, round_: int, surrogate: Surrogate, real: Tensor, scores: Tensor, span: tuple[float, float]
    ) -> Training:
        """The stage ``mixture_with_answers_N``."""
        generator = self._fitted()
        assert generator.normalisation is not None
        answers = generator.normalisation(scores)
        return self._fit(f"mixture_with_answers_{round_}", generator.encode(real), answers)

    def _propose(self, start: int, stop: int, attempt: int) -> Tensor:
        near = self.settings.nearness
        if near is None:
            return super()._propose(start, stop, attempt)
        generator, real = self._fitted(), self._real
        if real is None:
            raise InputError(
                f"emulation.nearness={near}: the generator was fitted by another run, and no real images are known to "
                "draw around: leave it out, or leave generator= out"
            )
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + start + attempt * FAR)
        chosen = torch.randint(len(real), (stop - start,), generator=rng)
        answers = torch.randn(stop - start, self.num_classes, generator=rng)
        if self.normalisation is not None:
            answers = self.normalisation(self.wanted.scores[chosen])
        points = generator.encode(real[chosen.to(real.device)])
        latent = generator.invert(points, answers.to(points), rng).cpu()
        noise = latent[:, self.num_classes : -1]
        fresh = torch.randn(noise.shape, generator=rng)
        latent[:, self.num_classes : -1] = (1 - near**2) ** 0.5 * noise + near * fresh
        return latent

    def adopt(self, generator: nn.Module) -> None:
        """Use a previously fitted mixture.

        Raises:
            InputError: it is some other module, or was made for other classes or images.
        """
        if not isinstance(generator, MixtureGenerator):
            raise InputError(
                f"generator={type(generator).__name__}: emulation 'mixture' expects the generator.safetensors of a run "
                "of its own; for a network take emulation='gan'"
            )
        wanted, given = (self.num_classes, self.image_shape), (generator.num_classes, generator.image_shape)
        if wanted != given:
            raise InputError(
                f"the mixture was made for {given[0]} classes and images of {given[1]}, and this run has {wanted[0]} "
                f"classes and images of {wanted[1]}: take one of a run like this one, or leave it out"
            )
        self.generator = generator
        if self._wanted is None and self.normalisation is not None:
            rng = torch.Generator().manual_seed(self.seed)
            self.want(self.normalisation.undone(generator.sample_answers(_ANSWERS, rng)))

    def frozen(self) -> nn.Module:
        """The mixture: there is nothing in it that a gradient could train."""
        return self._fitted().eval()

    def digest(self) -> str | None:
        """A hash of the mixture."""
        return None if self.generator is None else identity_of(self.generator).describe()

    def _fitted(self) -> MixtureGenerator:
        if self.generator is None:
            raise InputError("there is no generator yet: run stage 1, or call freeze(generator)")
        return self.generator

    def _new_generator(self, count: int) -> MixtureGenerator:
        settings = self.settings
        if count < 6:
            raise InputError(f"{count} images: emulation 'mixture' needs at least 6")
        # As many images a component as there are classes, whose covariances it has: they take its time and memory.
        components = settings.components or min(30, max(2, count // max(60, self.num_classes)))
        coordinates = settings.coordinates or min(60, count // 3, math.prod(self.image_shape))
        return MixtureGenerator(self.num_classes, self.image_shape, components=components, coordinates=coordinates)

    def _fit(self, name: str, points: Tensor, answers: Tensor | None) -> Training:
        generator, floor = self._fitted(), self.settings.floor

        def step(rows: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            likelihood = generator.improve(rows.images, rows.extra.get("answers"), floor)
            return {"loss": -likelihood}

        players = {"generator": Player(generator, None)}
        steps = self.settings.steps
        return Training(name, _All(points, answers), step, players, steps=steps, batch_size=max(2, len(points)))


class _All:
    """Every point at every step, in every process: expectation-maximisation looks at all."""

    def __init__(self, points: Tensor, answers: Tensor | None) -> None:
        self._rows = Rows(points, extra={} if answers is None else {"answers": answers.to(points)})

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        return self._rows
