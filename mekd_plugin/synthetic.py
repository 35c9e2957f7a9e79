"""Methods without an image to ask about: a generator makes those that the student's state, or the teacher's, calls for.

:class:`SyntheticRounds` trains a generator by the student as it stands, which costs no query; asks about its images,
each once; and trains the student on all answers so far; then again. Methods whose generator learns by asking stand on
:class:`~mekd_plugin.synthetic_steps.SyntheticSteps`. How a generator is trained is the method's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_flag, as_number, as_whole
from mekd_plugin.distiller import Distiller, Player, Query, Stage, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.mekd.generated import moved_to, to_range
from mekd_plugin.modes import evaluating, mode_kept
from mekd_plugin.networks.generators import Generator, NoiseGenerator
from mekd_plugin.prediction import reference_of
from mekd_plugin.rounds import rounds_of
from mekd_plugin.rows import FixedRows, Rows
from mekd_plugin.transfer import WITHOUT_BUDGET, as_queries, number_of_queries
from mekd_plugin.views import translate

__all__ = [
    "SyntheticDistiller",
    "SyntheticRounds",
    "generate",
    "generator_width",
    "mean_class_entropy",
]

_PART = 256  # images drawn at a time


def generator_width(wanted: int | None, image_shape: tuple[int, int, int]) -> int:
    """Channels of a generator's last hidden layer: ``wanted``, or as many as the longer side has pixels, 16 to 64."""
    return wanted or min(64, max(16, *image_shape[1:]))


def mean_class_entropy(probabilities: Tensor) -> Tensor:
    r"""The entropy of the mean of rows of probabilities, in nats, in [0, log C]: how evenly they fall into classes.

    .. math:: -\sum_c \bar p_c \log \bar p_c, \qquad \bar p = \frac{1}{N} \sum_i p_i

    Args:
        probabilities: ``(N, C)``, in [0, 1], each row summing to 1.

    Returns:
        a scalar.

    >>> round(mean_class_entropy(torch.eye(4)).item(), 4)  # log 4
    1.3863
    """
    entropy: Tensor = torch.special.entr(probabilities.mean(dim=0)).sum()
    return entropy


@torch.no_grad()
def generate(generator: nn.Module, latents: Tensor, span: tuple[float, float], *, as_trained: bool) -> Tensor:
    """Images in the value range ``span``, on the generator's device; the generator stays as it is.

    Args:
        generator: latents -> images in [-1, 1].
        latents: ``(N, d)``.
        span: smallest and largest pixel value.
        as_trained: whether its batch norms look at the images drawn together, as they did in its training; a generator
            of few steps has no running statistics to speak of. Else it is in evaluation mode.
    """
    place, drawn = reference_of(generator).device, []
    parts = torch.tensor_split(latents, max(1, math.ceil(len(latents) / _PART)))  # no small remainder to be normed by
    with mode_kept(generator):
        generator.train(as_trained)
        for part in parts:
            statistics = {name: buffer.clone() for name, buffer in generator.named_buffers()}
            drawn.append(functional_call(generator, statistics, (part.to(place),)))
    return to_range(torch.cat(drawn), (-1.0, 1.0), span)


class SyntheticDistiller(Distiller):
    """Base of the methods that train a generator on noise: its network, and the settings that all of them have.

    Args:
        queries: images asked about in all, at least 2; None takes what the teacher's budget leaves (5,000 without a
            budget).
        batch_size: images per step of the generator, at least 2.
        latent_dim: coordinates of noise that the generator is fed, at least 1; C where there are more classes.
        generator_width: channels of its last hidden layer, at least 1; None takes as many as the longer side of the
            images has pixels, from 16 to 64.
        **world: see :class:`~mekd_plugin.distiller.Distiller`.

    Raises:
        InputError: a value cannot be used.
    """

    output_norm: bool = True
    """Whether the generator has a batch norm without weights before tanh."""

    def __init__(
        self,
        *,
        queries: int | None = None,
        batch_size: int = 128,
        latent_dim: int = 64,
        generator_width: int | None = None,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        self.queries = as_queries(queries)
        self.batch_size = as_whole("batch_size", batch_size, at_least=2)
        self.latent_dim = max(as_whole("latent_dim", latent_dim, at_least=1), self.num_classes)
        self.generator_width = (
            None if generator_width is None else as_whole("generator_width", generator_width, at_least=1)
        )

    def check_settings(self, fewest: str) -> None:
        """Refuse images that the generator cannot draw, and too few queries; for the end of a base's ``__init__``.

        Args:
            fewest: what ``fewest_queries`` are made of, and how they could be fewer, for the message.

        Raises:
            InputError: one of the two.
        """
        with torch.device("meta"):
            self.new_generator()
        if self.queries is not None and self.queries < self.fewest_queries(0):
            raise InputError(f"queries={self.queries}: expected at least {self.fewest_queries(0):,}, {fewest}")

    def new_generator(self) -> Generator:
        """An untrained generator of the method's settings."""
        width = generator_width(self.generator_width, self.image_shape)
        if self.output_norm:
            world = {"num_classes": self.num_classes, "image_shape": self.image_shape}
            return NoiseGenerator(self.latent_dim, width=width, **world)
        style_dim = self.latent_dim - self.num_classes
        return Generator(self.num_classes, self.image_shape, style_dim=style_dim, width=width)


class SyntheticRounds(SyntheticDistiller):
    """Base of the methods that ask in rounds about the images of a generator that the student trains.

    Args:
        rounds: in how many parts they are asked about, at least 1.
        generator_steps: of the generator, in each round; at least 1.
        student_share: steps of the students of all rounds but the last together, as a part of the recipe's, on top of
            it; at least 0. In the last round the student takes the recipe's steps.
        learning_rate: of the generator's Adam, positive.
        shift: pixels of the shift at which the student sees an image while the generator learns, at least 0.
        output_norm: whether the generator has a batch norm without weights before tanh, as DFME's; it gives contrast
            from the first step on, and takes away backgrounds that are all black.
        **settings: see :class:`SyntheticDistiller`.

    Raises:
        InputError: a value cannot be used.
    """

    def __init__(
        self,
        *,
        rounds: int = 10,
        generator_steps: int = 100,
        student_share: float = 1.0,
        learning_rate: float = 1e-3,
        shift: int = 1,
        output_norm: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.rounds = as_whole("rounds", rounds, at_least=1)
        self.generator_steps = as_whole("generator_steps", generator_steps, at_least=1)
        self.student_share = as_number("student_share", student_share, at_least=0)
        self.output_norm = as_flag("output_norm", output_norm)
        self.learning_rate = as_number("learning_rate", learning_rate, above=0)
        self.shift = as_whole("shift", shift, at_least=0)
        self.generator: Generator | None = None
        self.check_settings(f"two for each of {self.rounds} rounds; or take fewer rounds")

    def fewest_queries(self, images: int) -> int:
        """Two a round."""
        return 2 * self.rounds

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        """In each round those of ``train_generator``, then ``bank``, then the student's."""
        size = number_of_queries(teacher, "bank", self.queries, otherwise=WITHOUT_BUDGET)
        bank, span = Bank("bank"), teacher.value_range
        rounds = min(self.rounds, size // 2)  # a budget that others have spent from may leave fewer
        for round_ in rounds_of(size, [1.0] * rounds, student_share=self.student_share):
            count = round_.until - len(bank)
            latents = self.latents(round_.number, count)
            yield from self.train_generator(round_.number, latents, images, student, span)
            yield round_.asking(bank, Rows(self.choose(latents, count, student, span)))
            if round_.fraction:
                yield self.align(round_.student, bank.order(self.seed), student, fraction=round_.fraction)

    def train_generator(
        self, round_: int, latents: Rows, images: Tensor, student: nn.Module, span: tuple[float, float]
    ) -> Iterator[Stage]:
        """The stages that train the generator; they ask nothing. By default it begins anew, on the round's own latents.

        Args:
            round_: from 1.
            latents: of ``latents``.
            images: those of the method's pool, in ``span``.
            student: as it stands.
            span: the teacher's value range.
        """
        self.generator = generator = self.new_generator()

        def step(batch: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            made = generator(batch.images)
            shown = translate(to_range(made, (-1.0, 1.0), span), self.shift, fill=span[0])
            with evaluating(moved_to(student, made)):
                parts = self.generator_losses(made, student(shown), batch.extra["target"])
            update({"generator": parts["loss"]})
            return {name: part.detach() for name, part in parts.items()}

        players = {"generator": Player(generator, self.adam)}
        rows = FixedRows(latents, seed=self.seed)
        yield Training(
            f"generator_{round_}",
            rows,
            step,
            players,
            steps=self.generator_steps,
            batch_size=self.batch_size,
            recordable=True,
        )

    def generator_losses(self, images: Tensor, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``{"loss": what the generator minimises, ...its named parts}``.

        Args:
            images: made, ``(N, channels, height, width)`` in [-1, 1].
            logits: the student's to a shift of them, ``(N, C)``.
            targets: the class drawn for each, ``(N,)``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its generator minimises")

    def choose(self, latents: Rows, count: int, student: nn.Module, span: tuple[float, float]) -> Tensor:
        """The images to ask about, ``(count, channels, height, width)`` in ``span``; arguments as above."""
        return generate(self.trained(), latents.images[:count], span, as_trained=True)

    def trained(self) -> Generator:
        """The generator of the round under way."""
        assert self.generator is not None
        return self.generator

    def latents(self, round_: int, count: int) -> Rows:
        """The latents of a round's images, N(0, I), and the column ``target``: a class for each, all equally often."""
        rng = self.draws(round_)
        classes = torch.arange(count) % self.num_classes
        noise = torch.randn(count, self.latent_dim, generator=rng)
        return Rows(noise, extra={"target": classes[torch.randperm(count, generator=rng)]})

    def draws(self, round_: int) -> torch.Generator:
        """A source of random numbers, on the CPU, that the seed and the round decide."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + round_)

    def adam(self, weights: Iterable[nn.Parameter]) -> Optimizer:
        """The optimiser of the generator, and of what is trained beside it."""
        return Adam(weights, lr=self.learning_rate, betas=(0.5, 0.999))
