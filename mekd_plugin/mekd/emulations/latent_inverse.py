"""An inverse in latent space: a trained generator stays as it is, and a map finds the latent for an answer.

The bank holds latents and the teacher's answers to their images: ``c(z)`` learns the answers, and ``M(y, e) -> z``
learns to be answered ``y`` by it, close to its own noise e. G(M(y, e)) is the inverse, seconds after G is trained and
without a further query.

Sources: Nie et al., *Controllable and Compositional Generation with Latent-Space Energy-Based Models* (LACE), NeurIPS
2021 (a classifier in a frozen generator's latent space); the map in the place of their sampler is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

from mekd_plugin.blackbox.backends import identity_of
from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_one_of, as_whole
from mekd_plugin.distiller import Asking, Player, Query, Stage, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.functional import kd_divergence
from mekd_plugin.mekd.emulations.gan import GAN, GANSettings
from mekd_plugin.mekd.folding import fold
from mekd_plugin.mekd.generated import generated_rows, moved_to
from mekd_plugin.mekd.wanted import Choice, WantedAnswers
from mekd_plugin.networks.generators import Generator
from mekd_plugin.networks.latent_maps import LatentClassifier, MappedGenerator
from mekd_plugin.prediction import reference_of
from mekd_plugin.responses import ScoreNormalisation
from mekd_plugin.rows import Rows, RowSource, Shard

__all__ = ["LatentInverse", "LatentInverseSettings"]

_BATCH = 256
_RATE = 2e-3


@dataclass(frozen=True)
class LatentInverseSettings(GANSettings):
    """How the map is trained; the other settings are those of the generator's GAN.

    Attributes:
        classifier_steps: of c, of 256 rows each.
        mapping_steps: of M, of 256 wanted answers each.
        width: of the hidden layers of both.
        nearness_to_noise: weight of the squared distance between M(y, e) and e, a sum over coordinates.
        prior_weight: weight of the distance of the first two moments of M(y, e) to those of N(0, I).
        first_share: part of the queries that go to latents drawn at random, in (0, 1); c learns from their answers,
            and the rest goes to images for wanted answers.
        choice: which answers are wanted; see :class:`~mekd_plugin.mekd.wanted.WantedAnswers`.
        mixed: share of wanted answers that are mixtures of two, in [0, 1].

    Raises:
        InputError: a value cannot be used.
    """

    classifier_steps: int = 1000
    mapping_steps: int = 1500
    width: int = 256
    nearness_to_noise: float = 0.02
    prior_weight: float = 1.0
    first_share: float = 0.3
    choice: Choice = "balanced"
    mixed: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.response_weight:
            raise InputError(
                f"emulation.response_weight={self.response_weight}: this emulation learns from the bank's answers, and "
                "asks nothing within a step; leave it 0, or take emulation='gan'"
            )
        checked: dict[str, Any] = {
            "classifier_steps": as_whole("emulation.classifier_steps", self.classifier_steps, at_least=1),
            "mapping_steps": as_whole("emulation.mapping_steps", self.mapping_steps, at_least=1),
            "width": as_whole("emulation.width", self.width, at_least=1),
            "nearness_to_noise": as_number("emulation.nearness_to_noise", self.nearness_to_noise, at_least=0),
            "prior_weight": as_number("emulation.prior_weight", self.prior_weight, at_least=0),
            "first_share": as_number("emulation.first_share", self.first_share, above=0, below=1),
            "choice": as_one_of("emulation.choice", self.choice, ("random", "balanced", "uncertain")),
            "mixed": as_number("emulation.mixed", self.mixed, at_least=0, at_most=1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


class LatentInverse(GAN):
    """A GAN whose generator is frozen, behind a map from answers to its latents."""

    Settings = LatentInverseSettings
    presets: ClassVar = {
        "quick": {},
        "tiny": {**GAN.presets["tiny"], "classifier_steps": 100, "mapping_steps": 100, "width": 64},
    }
    needs_answers = True
    settings: LatentInverseSettings

    def __init__(self, settings: LatentInverseSettings, **world: Any) -> None:
        super().__init__(settings, **world)
        self.inverse: MappedGenerator | None = None
        self._wanted: WantedAnswers | None = None

    @property
    def style_dim(self) -> int:
        """All of the generator's latent: the noise e that M starts from."""
        if self.inverse is not None:
            return self.inverse.style_dim
        return self.num_classes + super().style_dim

    @property
    def normalisation(self) -> ScoreNormalisation | None:
        """That of the answers that the map was trained for."""
        return None if self.inverse is None else self.inverse.normalisation

    def stages(self, teacher: BlackBox, images: Tensor, bank: Bank, size: int) -> Iterator[Stage]:
        """``deprivatization``; ``bank``, a first part of it; ``latent_classifier`` and ``mapping``."""
        yield from super().stages(teacher, images, bank, size)
        assert self.generator is not None
        self.generator.eval().requires_grad_(False)
        first = max(2, round(self.settings.first_share * size))
        yield Asking("bank", bank, partial(self._draw, span=teacher.value_range), first, grows=True)
        yield from self._learn(bank)

    def adopt(self, generator: nn.Module) -> None:
        """Use a previously trained inverse, map and generator.

        Raises:
            InputError: it is some other module, or was made for other classes or images.
        """
        if not isinstance(generator, MappedGenerator):
            raise InputError(
                f"generator={type(generator).__name__}: emulation 'latent_inverse' expects the generator.safetensors "
                "of a run of its own, a map and a generator"
            )
        assert isinstance(generator.generator, Generator)
        super().adopt(generator.generator)
        self.inverse = generator

    def frozen(self) -> nn.Module:
        """The map and the generator, folded."""
        if self.inverse is None or self.generator is None:
            raise InputError("there is no generator yet: run stage 1, or call freeze(generator)")
        return self.inverse.frozen_before(fold(self.generator))

    def digest(self) -> str | None:
        """A hash of the weights of both."""
        return None if self.inverse is None else identity_of(self.inverse).describe()

    @property
    def drawn_for(self) -> Literal["noise", "answers"]:
        return "noise" if self.normalisation is None else "answers"

    def want(self, scores: Tensor) -> None:
        """Take answers like these for the wanted ones."""
        self._wanted = WantedAnswers(scores, choice="random", mixed=0.0, seed=self.seed)

    def draw(self, start: int, stop: int) -> Tensor:
        """Coordinates of wanted answers, and noise.

        Raises:
            InputError: the map is another run's, and nobody said for which answers.
        """
        if self.inverse is not None and self._wanted is None:
            raise InputError(
                "this generator draws for wanted answers, and without the bank of its run none are known: give bank= "
                "beside generator="
            )
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + start)
        noise = torch.randn(stop - start, self.style_dim, generator=rng)
        if self._wanted is None or self.normalisation is None:
            scores = torch.randn(stop - start, self.num_classes, generator=rng)
            return torch.cat([scores, noise], dim=1)
        return torch.cat([self.normalisation(self._wanted.draw(start, stop)).to(noise), noise], dim=1)

    def _draw(self, start: int, stop: int, *, span: tuple[float, float]) -> Rows:
        """Images of random latents, each of which is its row's own noise: M leaves it as it is where it can."""
        assert self.generator is not None
        latent = self.draw(start, stop)[:, self.num_classes :].to(reference_of(self.generator).device)
        made = generated_rows(fold(self.generator), latent, self.num_classes, span)
        return Rows(made.images, extra={"style": latent})

    def _learn(self, bank: Bank) -> Iterator[Stage]:
        """Teach c by the bank's answers, then M by c, without any question."""
        settings, generator = self.settings, self.generator
        assert generator is not None
        scores = bank.response.scores(hard_scale=self.hard_scale)
        normalisation = ScoreNormalisation.of(scores)
        wanted = WantedAnswers(scores, choice=settings.choice, mixed=settings.mixed, seed=self.seed)
        classifier = LatentClassifier(generator.latent_dim, self.num_classes, settings.width)
        inverse = MappedGenerator(generator, width=settings.width)
        inverse.normalise(normalisation)

        def classify(rows: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            loss = kd_divergence(
                classifier(rows.extra["style"]), rows.answers().scores(hard_scale=self.hard_scale), 1.0
            )
            update({"classifier": loss})
            return {"loss": loss.detach()}

        players = {"classifier": _player(classifier, settings.classifier_steps)}
        rows: RowSource = bank.order(self.seed)
        yield Training(
            "latent_classifier",
            rows,
            classify,
            players,
            steps=settings.classifier_steps,
            batch_size=_BATCH,
            recordable=True,
        )
        classifier.requires_grad_(False).eval()

        def find(rows: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            asked = rows.images
            latent, noise = inverse.latent(asked), asked[:, self.num_classes :]
            answered = kd_divergence(moved_to(classifier, latent)(latent), rows.extra["wanted"], 1.0)
            near = (latent - noise).square().mean()
            deviation = latent.mean(dim=0).square().mean() + (latent.std(dim=0) - 1).square().mean()
            loss = answered + settings.nearness_to_noise * latent.shape[1] * near + settings.prior_weight * deviation
            update({"generator": loss})
            parts = {"divergence": answered, "to_noise": near, "deviation": deviation}
            return {"loss": loss.detach(), **{name: part.detach() for name, part in parts.items()}}

        rows = _WantedLatents(wanted, normalisation, generator.latent_dim, self.seed)
        players = {"generator": _player(inverse, settings.mapping_steps)}
        yield Training("mapping", rows, find, players, steps=settings.mapping_steps, batch_size=_BATCH, recordable=True)
        self.inverse, self._wanted = inverse, wanted


class _WantedLatents:
    """Rows of ``[coordinates of a wanted answer, noise]``, with the answer's scores as the column ``wanted``."""

    def __init__(self, wanted: WantedAnswers, normalisation: ScoreNormalisation, noise_dim: int, seed: int) -> None:
        self._wanted, self._normalisation, self._noise_dim, self._seed = wanted, normalisation, noise_dim, seed

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        rng = torch.Generator().manual_seed(self._seed * 1_000_003 + step * shard.world + shard.rank)
        scores = self._wanted.sample(size, rng)
        noise = torch.randn(size, self._noise_dim, generator=rng).to(scores)
        return Rows(torch.cat([self._normalisation(scores), noise], dim=1), extra={"wanted": scores})


def _player(module: nn.Module, steps: int) -> Player:
    return Player(
        module,
        lambda weights: Adam(weights, lr=_RATE),
        lambda optimizer: OneCycleLR(optimizer, max_lr=_RATE, total_steps=max(steps, 2)),
    )
