"""The paper's emulation, deprivatisation: a GAN on the edge's images whose latent has a coordinate for each class.

Source: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR 2024.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam

from mekd_plugin.blackbox.backends import identity_of
from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_one_of, as_whole
from mekd_plugin.distiller import Player, Query, Stage, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.functional import discriminator_loss, generator_loss
from mekd_plugin.mekd.emulations.emulation import Emulation
from mekd_plugin.mekd.folding import fold, training_form
from mekd_plugin.mekd.generated import to_range
from mekd_plugin.networks.discriminators import Discriminator, paper_discriminator, small_discriminator
from mekd_plugin.networks.generators import PAPER_BN_EPS, Generator, sample_latent
from mekd_plugin.responses import Response, ScoreNormalisation
from mekd_plugin.rows import ImageRows, Rows, RowSource
from mekd_plugin.views import translate

__all__ = ["GAN", "GANSettings", "adam", "deprivatization", "response_strength"]


@dataclass(frozen=True)
class GANSettings:
    """How the GAN is built and trained.

    Attributes:
        steps: of both players.
        batch_size: real images, and generated ones, per step.
        learning_rates: Adam's, of the generator and of the discriminator.
        average: decay of the running mean of the generator's weights, in (0, 1); None keeps the last ones.
        shift: pixels of the random translation before the discriminator.
        discriminator: ``"small"`` (does not see the batch) or ``"paper"``.
        discriminator_width: channels of the small one's first layer; None as for the generator.
        generator_width: channels of the generator's last hidden layer; None takes as many as the longer side of the
            images has pixels, from 16 to 64.
        generator_eps: epsilon of its batch norms.
        style_dim: coordinates of latent noise beside the C scores.
        response_weight: w_im; above 0 the teacher is asked about ``batch_size`` images at every step, so it is left
            out, with a warning, where there is a budget.

    Raises:
        InputError: a value cannot be used.
    """

    steps: int = 2500
    batch_size: int = 64
    learning_rates: tuple[float, float] = (5e-4, 5e-4)
    average: float | None = 0.999
    shift: int = 1
    discriminator: Literal["small", "paper"] = "small"
    discriminator_width: int | None = None
    generator_width: int | None = None
    generator_eps: float = 1e-5
    style_dim: int = 54
    response_weight: float = 0.0

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "steps": as_whole("emulation.steps", self.steps, at_least=1),
            "batch_size": as_whole("emulation.batch_size", self.batch_size, at_least=2),
            "shift": as_whole("emulation.shift", self.shift, at_least=0),
            "discriminator": as_one_of("emulation.discriminator", self.discriminator, ("small", "paper")),
            "generator_eps": as_number("emulation.generator_eps", self.generator_eps, above=0),
            "style_dim": as_whole("emulation.style_dim", self.style_dim, at_least=0),
            "response_weight": as_number("emulation.response_weight", self.response_weight, at_least=0),
        }
        rates = self.learning_rates
        if not isinstance(rates, tuple | list) or len(rates) != 2:
            raise InputError(f"emulation.learning_rates={rates!r}: expected two numbers, generator and discriminator")
        checked["learning_rates"] = tuple(as_number("emulation.learning_rates", rate, above=0) for rate in rates)
        if self.average is not None:
            checked["average"] = as_number("emulation.average", self.average, above=0, below=1)
        for name in ("discriminator_width", "generator_width"):
            if getattr(self, name) is not None:
                checked[name] = as_whole(f"emulation.{name}", getattr(self, name), at_least=1)
        for name, value in checked.items():
            object.__setattr__(self, name, value)


class GAN(Emulation):
    """An unconditional GAN whose latent has a coordinate for each class, so that scores can be fed to it later."""

    Settings = GANSettings
    presets: ClassVar = {
        "quick": {},
        "paper": {
            "steps": 18_800,
            "average": None,
            "shift": 0,
            "discriminator": "paper",
            "generator_width": 64,
            "generator_eps": PAPER_BN_EPS,
            "style_dim": 0,
            "response_weight": 0.5,
            "learning_rates": (2e-4, 2e-4),
        },
        "tiny": {"steps": 300, "learning_rates": (1e-3, 1e-3), "generator_width": 16, "discriminator_width": 16},
    }
    settings: GANSettings

    def __init__(self, settings: GANSettings, **world: Any) -> None:
        super().__init__(settings, **world)
        self.generator: Generator | None = None
        channels = min(64, max(16, *self.image_shape[1:]))
        self.generator_width = settings.generator_width or channels
        self.discriminator_width = settings.discriminator_width or channels
        with torch.device("meta"):  # images that are too small are refused here, without drawing a random number
            self.new_generator()
            self._new_discriminator()

    @property
    def queries(self) -> Literal["once", "every step"]:
        """``"every step"`` if w_im has the teacher asked in stage 1."""
        return "every step" if self.settings.response_weight else "once"

    @property
    def style_dim(self) -> int:
        """The generator's own, which a previously trained one brings with it."""
        return self.settings.style_dim if self.generator is None else self.generator.style_dim

    @property
    def normalisation(self) -> ScoreNormalisation | None:
        """The generator's own, if it was conditioned on answers; an unconditional one has seen none."""
        return None if self.generator is None else self.generator.normalisation

    def stages(self, teacher: BlackBox, images: Tensor, bank: Bank, size: int) -> Iterator[Stage]:
        """The one stage ``deprivatization``."""
        settings, span = self.settings, teacher.value_range
        self.generator = self.new_generator()
        self.discriminator = self._new_discriminator()
        yield deprivatization(
            self.generator,
            self.discriminator,
            ImageRows(to_range(images, span, (-1.0, 1.0)), seed=self.seed),
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rates=settings.learning_rates,
            average=settings.average,
            shift=settings.shift,
            response_weight=self._weight_within(teacher),
            answerable=lambda generated: to_range(generated, (-1.0, 1.0), span),
            reuse=f"{self.generator.config} {settings.discriminator} {self.discriminator_width} "
            f"{settings.batch_size} {settings.learning_rates} {settings.average} {settings.shift} {span}",
        )

    def adopt(self, generator: nn.Module) -> None:
        """Use a previously trained generator of this package.

        Raises:
            InputError: it is some other module, or was made for other classes or images.
        """
        if not isinstance(generator, Generator):
            raise InputError(
                f"generator={type(generator).__name__}: expected a mekd_plugin.networks.Generator, or the file of one"
            )
        wanted, given = (self.num_classes, self.image_shape), (generator.num_classes, generator.image_shape)
        if wanted != given:
            raise InputError(
                f"the generator was made for {given[0]} classes and images of {given[1]}, and this run has {wanted[0]} "
                f"classes and images of {wanted[1]}: take the generator of a run like this one, or leave it out"
            )
        self.generator = generator

    def frozen(self) -> nn.Module:
        """The generator, folded; its scale is open, since N(0, I) stands for no score in particular."""
        if self.generator is None:
            raise InputError("there is no generator yet: run stage 1, or call freeze(generator)")
        return fold(self.generator)

    def digest(self) -> str | None:
        """A hash of the generator's weights."""
        return None if self.generator is None else identity_of(self.generator).describe()

    def new_generator(self) -> Generator:
        """An untrained generator of these settings."""
        settings = self.settings
        return Generator(
            self.num_classes,
            self.image_shape,
            style_dim=settings.style_dim,
            width=self.generator_width,
            eps=settings.generator_eps,
        )

    def _new_discriminator(self) -> Discriminator:
        if self.settings.discriminator == "paper":
            return paper_discriminator(self.image_shape)
        return small_discriminator(self.image_shape, width=self.discriminator_width)

    def _weight_within(self, teacher: BlackBox) -> float:
        settings = self.settings
        if settings.response_weight and teacher.ledger.budget is not None:
            warnings.warn(
                f"emulation.response_weight={settings.response_weight} would ask about "
                f"{settings.steps * settings.batch_size:,} images in stage 1; there is a query budget, so stage 1 asks "
                "nothing",
                stacklevel=2,
            )
            return 0.0
        return settings.response_weight


def response_strength(response: Response) -> Tensor:
    """The size of the teacher's strongest response to each image, ``(N,)`` in (0, 1]: its highest probability.

    A reading of the paper, whose text says that samples to which the teacher responds strongly weigh more; the index of
    the highest response, which the public code multiplies in, is a name and not a size. A hard response is 1.
    """
    if not response.soft:
        return torch.ones_like(response.values, dtype=torch.get_default_dtype())
    return response.scores().softmax(dim=1).amax(dim=1)


def deprivatization(
    generator: Generator,
    discriminator: nn.Module,
    rows: RowSource,
    *,
    steps: int,
    batch_size: int,
    learning_rates: tuple[float, float],
    average: float | None,
    shift: int,
    response_weight: float,
    reuse: str,
    answerable: Callable[[Tensor], Tensor] = lambda generated: generated,
) -> Training:
    """The stage that trains ``generator`` against ``discriminator`` on real images.

    One generated batch serves both players: D learns to tell it from real images, then G to pass the D that just
    learned. Updating both at once would save a pass of D, and left the generated images measurably farther from the
    real ones. Real and generated images go through D apart, as in the paper, whose batch norms would mix them.

    Args:
        generator: G.
        discriminator: D, images -> logits ``(N,)``.
        rows: the edge's real images, in [-1, 1].
        steps: of both players.
        batch_size: real images, and generated ones, per step.
        learning_rates: Adam's, of G and D; betas (0.5, 0.999).
        average: decay of the running mean of G's weights; None keeps the last ones.
        shift: pixels of the random translation that real and generated images go through before D.
        response_weight: w_im; above 0 every generated image is sent to the teacher.
        reuse: see :class:`Training`.
        answerable: generated images, in [-1, 1], as the teacher takes them.
    """
    draw = training_form(generator)

    def step(batch: Rows, update: Update, query: Query) -> dict[str, Tensor]:
        fake = draw(sample_latent(generator, len(batch)))
        strength = None
        if response_weight:
            strength = response_weight * response_strength(query(answerable(fake.detach().to(batch.images.dtype))))
        shown = translate(fake, shift)
        telling = discriminator_loss(discriminator(translate(batch.images, shift)), discriminator(shown.detach()))
        update({"discriminator": telling})
        passing = generator_loss(discriminator(shown), strength)
        update({"generator": passing})
        return {"loss": passing.detach(), "discriminator": telling.detach()}

    return Training(
        "deprivatization",
        rows,
        step,
        players={
            "generator": Player(generator, adam(learning_rates[0]), average=average),
            "discriminator": Player(discriminator, adam(learning_rates[1])),
        },
        steps=steps,
        batch_size=batch_size,
        reuse=None if response_weight else reuse,
        recordable=not response_weight,
    )


def adam(learning_rate: float) -> Callable[..., Adam]:
    """What makes the optimiser of either player."""
    return partial(Adam, lr=learning_rate, betas=(0.5, 0.999))
