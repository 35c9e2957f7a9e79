"""FS-BBT: mixtures of a few images, and further images of a conditional autoencoder (Nguyen et al. 2022).

Source: Nguyen, Gupta, Do, Venkatesh, *Black-box Few-shot Knowledge Distillation*, ECCV 2022: mix-up of the few images,
a conditional variational autoencoder (CVAE) of them whose condition is the teacher's class, the teacher's answers to
all mixtures and to images decoded for each class, and a student that learns those answers, of batches that are mixed
once more in its training, answers and all, which costs no question. Settings are those of the public code for MNIST:
ratios of Beta(1, 1), mixtures at ratios below 0.05 or above 0.95 replaced by decoded images, codes half of N(0, I) and
half uniform in [-3, 3], encoder 256-128-64 and decoder 64-128-256.

Departures:
- preset ``quick`` sends mixtures and decoded images alone. The autoencoder's conditions are then the classes that the
  student, taught by the mixtures' answers, gives to the images at home. The paper, and preset ``paper``, asks about the
  images themselves too (``originals``), and its conditions are the teacher's;
- it trains after either round of questions therefore, and by the whole recipe after the second; the paper's trains
  once;
- what else moves an image in training, besides the mixing, is the recipe's business, as for every method;
- the share of decoded images is a setting; 0.1 is what Beta(1, 1) leaves outside those ratios;
- any size of image: encoder and decoder see it as one vector, as the public code has it for MNIST; a longer code in
  preset ``quick``, and answers softened, as they are for every method.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import scipy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_flag, as_number, as_whole
from mekd_plugin.distiller import Distiller, Needs, Player, Query, Stage, Student, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.functional import answer_loss
from mekd_plugin.mekd.generated import to_range
from mekd_plugin.prediction import predict, reference_of
from mekd_plugin.rounds import fewest_in_rounds, rounds_of
from mekd_plugin.rows import Rows, RowSource, Shard, ShuffledIndices
from mekd_plugin.transfer import WITHOUT_BUDGET, as_queries, number_of_queries
from mekd_plugin.views import mixup

__all__ = ["CVAE", "FSBBT", "MixedRows", "cvae_loss"]

_REACH = 3.0  # codes that are not of N(0, I) are uniform between -3 and 3


def cvae_loss(images: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""What the autoencoder minimises, mean over images:

    .. math:: -\sum_d \big(x_d \log \hat x_d + (1 - x_d) \log(1 - \hat x_d)\big)
        - \frac{1}{2} \sum_k \big(1 + \log \sigma_k^2 - \mu_k^2 - \sigma_k^2\big)

    Args:
        images: x, ``(N, D)`` in [0, 1].
        decoded: logits of :math:`\hat x`, ``(N, D)``.
        mean: of the code, ``(N, K)``.
        log_variance: of the code, ``(N, K)``.

    Source: Kingma, Welling, *Auto-Encoding Variational Bayes*, ICLR 2014, appendix B for the second sum. With a
    condition: Sohn, Lee, Yan, *Learning Structured Output Representation using Deep Conditional Generative Models*,
    NeurIPS 2015.
    """
    reconstruction = F.binary_cross_entropy_with_logits(decoded, images, reduction="none").sum(dim=1)
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)
    return (reconstruction + divergence).mean()


class CVAE(nn.Module):
    """A conditional variational autoencoder of images as vectors.

    Args:
        num_classes: C.
        image_shape: ``(channels, height, width)``.
        code_dim: K, coordinates of the code.
    """

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int], code_dim: int) -> None:
        super().__init__()
        pixels = math.prod(image_shape)
        self.image_shape, self.num_classes, self.code_dim = image_shape, num_classes, code_dim
        self.encoder = _layers(pixels + num_classes, 256, 128, 64, 2 * code_dim)
        self.decoder = _layers(code_dim + num_classes, 64, 128, 256, pixels)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the pixels, decoded from a random code; and the code's mean and logarithm of variance."""
        condition = F.one_hot(labels, self.num_classes).to(images)
        mean, log_variance = self.encoder(torch.cat([images.flatten(1), condition], dim=1)).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(torch.cat([code, condition], dim=1)), mean, log_variance

    @torch.no_grad()
    def decode(self, code: Tensor, labels: Tensor) -> Tensor:
        """Images ``(N, channels, height, width)`` in [0, 1] of codes ``(N, K)`` and classes ``(N,)``."""
        condition = F.one_hot(labels, self.num_classes).to(code)
        pixels: Tensor = self.decoder(torch.cat([code, condition], dim=1)).sigmoid()
        return pixels.view(-1, *self.image_shape)


class FSBBT(Distiller):
    r"""Minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` on mixtures of images and on decoded ones.

    With ``mix_answers`` the student sees mixtures of two answered images each, and learns the answers to both:

    .. math:: \lambda L(s, y) + (1 - \lambda) L(s, y'), \qquad s = S\big(\lambda x + (1 - \lambda) x'\big)

    with one ratio a batch, uniform in [0, 1): up to a constant the divergence from the mixture of both answers.

    Args:
        originals: whether the images themselves are asked about first, as far as the first round's questions go, and
            before any mixture; they leave the edge then.
        decoded_share: part of the queries that ask about decoded images, in (0, 1).
        beta: of the ratios' distribution Beta(beta, beta), positive.
        margin: how far a ratio stays from 0 and 1, in (0, 0.5): nearer to them a mixture is an image of the edge.
        code_dim: coordinates of the autoencoder's code, at least 1.
        cvae_steps: its training steps, of 64 images each; at least 1.
        cvae_learning_rate: of its Adam, positive.
        mix_answers: whether the student's batches are mixed.
        student_share: the student's steps before the second round, as a part of the recipe's, on top of it; at least 0,
            and above 0 without ``originals``.
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        queries: in all, at least 2; None takes what the teacher's budget leaves (5,000 without a budget).
        **world: see :class:`~mekd_plugin.distiller.Distiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="mixtures", queries="rounds")
    presets: ClassVar = {
        "quick": {},
        "paper": {"originals": True, "code_dim": 2, "temperature": 1.0, "smoothing": 0.0, "student_share": 0.0},
        "tiny": {"cvae_steps": 60, "code_dim": 4},
    }
    reference: ClassVar = "Nguyen, Gupta, Do, Venkatesh, *Black-box Few-shot Knowledge Distillation*, ECCV 2022"

    def __init__(
        self,
        *,
        originals: bool = False,
        decoded_share: float = 0.1,
        beta: float = 1.0,
        margin: float = 0.05,
        code_dim: int = 8,
        cvae_steps: int = 2000,
        cvae_learning_rate: float = 1e-3,
        mix_answers: bool = True,
        student_share: float = 0.3,
        temperature: float = 4.0,
        smoothing: float = 0.05,
        queries: int | None = None,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        self.originals = as_flag("originals", originals)
        self.decoded_share = as_number("decoded_share", decoded_share, above=0, below=1)
        self.beta = as_number("beta", beta, above=0)
        self.margin = as_number("margin", margin, above=0, below=0.5)
        self.code_dim = as_whole("code_dim", code_dim, at_least=1)
        self.cvae_steps = as_whole("cvae_steps", cvae_steps, at_least=1)
        self.cvae_learning_rate = as_number("cvae_learning_rate", cvae_learning_rate, above=0)
        self.mix_answers = as_flag("mix_answers", mix_answers)
        self.student_share = as_number("student_share", student_share, at_least=0)
        self.temperature = as_number("temperature", temperature, above=0)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)
        self.queries = as_queries(queries)
        if not self.originals and not self.student_share:
            raise InputError(
                "student_share=0 leaves nobody to say the class of an image at home: give the student steps before the "
                "second round, or ask about the images themselves, originals=True"
            )
        if self.originals:
            self.needs = replace(self.needs, leaves_edge="real images")
        if not self.student_share:
            self.needs = replace(self.needs, queries="once")

    @property
    def _shares(self) -> list[float]:
        return [1 - self.decoded_share, self.decoded_share]

    def fewest_queries(self, images: int) -> int:
        return fewest_in_rounds(self._shares)

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        size, span = (
            number_of_queries(teacher, "transfer_set", self.queries, otherwise=WITHOUT_BUDGET),
            teacher.value_range,
        )
        first, last = rounds_of(size, self._shares, student_share=self.student_share)
        bank, rng = Bank("transfer_set"), torch.Generator().manual_seed(self.seed * 1_000_003)
        known = images[
            torch.randperm(len(images), generator=rng)[: first.until if self.originals else 0].to(images.device)
        ]
        mixed = self._mixtures(images, first.until - len(known), rng)
        yield first.asking(bank, Rows(torch.cat([known, mixed])))
        if first.fraction:
            yield self.align(first.student, self._order(bank), student, fraction=first.fraction)
        if len(known):
            seen, labels = known, bank.response[: len(known)].labels
        else:
            seen, labels = images, predict(student, images).argmax(dim=1)
        autoencoder = self._autoencoder()
        yield self._fit(autoencoder, _Labelled(to_range(seen, span, (0.0, 1.0)), labels.to(images.device), self.seed))
        decoded = self._decoded(autoencoder, last.until - len(bank), rng)
        yield last.asking(bank, Rows(to_range(decoded, (0.0, 1.0), span).to(images)))
        yield self.align(last.student, self._order(bank), student, fraction=last.fraction)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        matching = {"temperature": self.temperature, "smoothing": self.smoothing}
        logits, answers = student(rows.images), rows.answers()
        loss = answer_loss(logits, answers, **matching)
        if "ratio" not in rows.extra:
            return {"loss": loss}
        other = replace(answers, values=rows.extra["other"])
        ratio = rows.extra["ratio"][0]
        return {"loss": ratio * loss + (1 - ratio) * answer_loss(logits, other, **matching)}

    def _order(self, bank: Bank) -> RowSource:
        """The bank's rows for the student, mixed if they are to be."""
        rows = bank.order(self.seed)
        return MixedRows(rows, seed=self.seed) if self.mix_answers else rows

    def _mixtures(self, images: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """Mixtures of ``count`` pairs at random, their ratios of Beta(beta, beta) within the margins."""
        one = torch.randint(len(images), (count,), generator=rng)
        other = (one + torch.randint(1, len(images), (count,), generator=rng)) % len(images)
        low, high = scipy.stats.beta.cdf([self.margin, 1 - self.margin], self.beta, self.beta)
        uniform = low + (high - low) * torch.rand(count, generator=rng, dtype=torch.float64)
        ratio = torch.from_numpy(scipy.stats.beta.ppf(uniform.numpy(), self.beta, self.beta)).to(images)
        return mixup(images[one.to(images.device)], images[other.to(images.device)], ratio)

    def _autoencoder(self) -> CVAE:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed * 1_000_003)
            return CVAE(self.num_classes, self.image_shape, self.code_dim)

    def _fit(self, autoencoder: CVAE, rows: RowSource) -> Training:
        """The stage that trains the autoencoder on images at home; it asks nothing."""

        def step(batch: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            decoded, mean, log_variance = autoencoder(batch.images, batch.extra["labels"])
            loss = cvae_loss(batch.images.flatten(1), decoded, mean, log_variance)
            update({"autoencoder": loss})
            return {"loss": loss.detach()}

        player = Player(autoencoder, partial(Adam, lr=self.cvae_learning_rate))
        players, steps = {"autoencoder": player}, self.cvae_steps
        return Training("autoencoder", rows, step, players, steps=steps, batch_size=64, recordable=True)

    def _decoded(self, autoencoder: CVAE, count: int, rng: torch.Generator) -> Tensor:
        """``count`` decoded images in [0, 1], each class as often as any other."""
        normal = torch.randn(count, self.code_dim, generator=rng)
        uniform = _REACH * (2 * torch.rand(count, self.code_dim, generator=rng) - 1)
        code = torch.where(torch.rand(count, 1, generator=rng) < 0.5, normal, uniform)
        labels = torch.arange(count) % self.num_classes
        place = reference_of(autoencoder).device
        return autoencoder.decode(code.to(place), labels.to(place))


class MixedRows:
    """Answered rows, each image mixed with another of its batch at one ratio, which is uniform in [0, 1).

    The answer stays that to the row's own image; beside it stand the columns ``other``, the values of the answer to the
    image mixed in, and ``ratio``, the share of the own one.

    Args:
        rows: the source of the rows.
        seed: of order and ratio; a batch depends only on it, the step and the process.
    """

    def __init__(self, rows: RowSource, *, seed: int) -> None:
        self._rows, self._seed = rows, seed

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        rows = self._rows.batch(step, size, shard)
        rng = torch.Generator().manual_seed(self._seed * 1_000_003 + step * shard.world + shard.rank)
        ratio = torch.rand((), generator=rng).expand(len(rows)).to(rows.images)
        other = rows[torch.randperm(len(rows), generator=rng).to(rows.images.device)]
        images = mixup(rows.images, other.images, ratio)
        return replace(rows, images=images, extra={**rows.extra, "other": other.answers().values, "ratio": ratio})


class _Labelled:
    """Images with the column ``labels``, in shuffled order."""

    def __init__(self, images: Tensor, labels: Tensor, seed: int) -> None:
        self._rows, self._order = Rows(images, extra={"labels": labels}), ShuffledIndices(len(images), seed)

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        return self._rows[self._order.batch(step, size, shard, self._rows.images.device)]


def _layers(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, ReLU between them."""
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
