"""InverseNet: real images chosen twice, then images that a decoder draws for the teacher's answers (Gong et al. 2021).

Source: Gong et al., *InverseNet: Augmenting Model Extraction Attacks with Training Data Inversion*,
IJCAI 2021, in three rounds of questions, which take 45, 45 and 10 % of the budget: a core set of the images; those of
which the student trained on it is most confident, measured by the distance to its decision boundary; and images that an
inverse of the teacher, a decoder from truncated answers to images, draws for confident answers. The shares, the
truncation to one class, the rate 1e-3 and the confidences 0.8 to 1 are those of a public re-implementation (mebench).

Departures:
- where the edge has fewer images than are to choose from, views of them are candidates too, a query each;
- the distance is the first step of DeepFool (Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016) towards the runner-up alone;
- the decoder learns from the answers of both rounds before it; what it draws is varied by small affine maps, and by
  mixing two images of one class;
- the core set looks at images brought down to 8x8 pixels;
- the student of a round goes on from that of the round before, and takes the recipe whole in the last one;
- hard answers are learnt by smoothed cross-entropy;
- preset ``quick`` softens the answers, as it does for every method; ``paper`` does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.distiller import Distiller, Inverse, Needs, Player, Query, Stage, Student, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.functional import answer_loss
from mekd_plugin.mekd.generated import to_range
from mekd_plugin.mekd.health import Health, generator_health
from mekd_plugin.modes import evaluating
from mekd_plugin.networks.generators import Generator
from mekd_plugin.prediction import reference_of
from mekd_plugin.responses import ScoreNormalisation
from mekd_plugin.rounds import as_shares, candidates, fewest_in_rounds, rounds_of
from mekd_plugin.rows import Rows
from mekd_plugin.selection import coarse, k_center
from mekd_plugin.transfer import as_queries, number_of_queries
from mekd_plugin.views import affine, mixup

__all__ = ["InverseNet", "TruncatedInverse", "boundary_distance", "truncated"]

_AT_A_TIME = 1024
_LEAST_CONFIDENT = 0.8
_BATCH = 64
_HARD_SCALE = 20.0  # of a hard answer, of which a softmax makes a certainty


def truncated(probabilities: Tensor, keep: int = 1) -> Tensor:
    """The ``keep`` largest of each row's probabilities ``(N, C)``, and 0 for the others.

    >>> truncated(torch.tensor([[0.2, 0.7, 0.1]])).tolist()
    [[0.0, 0.699999988079071, 0.0]]
    """
    values, index = probabilities.topk(keep, dim=1)
    return torch.zeros_like(probabilities).scatter(1, index, values)


def boundary_distance(student: nn.Module, images: Tensor) -> Tensor:
    r"""How far each image is from the student's boundary between its first two classes, to first order:

    .. math:: (f_1(x) - f_2(x)) / \|\nabla_x (f_1(x) - f_2(x))\|_2

    Args:
        student: images -> logits f; it is asked in evaluation mode, and its mode is put back.
        images: ``(N, channels, height, width)``.

    Returns:
        ``(N,)``, at least 0, on the images' device.
    """
    device, parts = reference_of(student).device, []
    with evaluating(student), torch.enable_grad():
        for part in images.split(_AT_A_TIME):
            shown = part.to(device).detach().requires_grad_()
            first, second = student(shown).topk(2, dim=1).values.unbind(dim=1)
            (gradient,) = torch.autograd.grad((first - second).sum(), shown)
            steepness = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
            parts.append(((first - second) / steepness).detach())
    return torch.cat(parts).to(images.device)


class TruncatedInverse(nn.Module):
    """The decoder as the teacher's inverse: scores ``(N, C)`` -> images ``(N, channels, height, width)`` in [-1, 1].

    Args:
        decoder: truncated probabilities -> images.
        keep: how many classes of an answer it is told.
    """

    def __init__(self, decoder: Generator, keep: int) -> None:
        super().__init__()
        self.decoder, self.keep = decoder, keep

    def forward(self, scores: Tensor) -> Tensor:
        images: Tensor = self.decoder(truncated(scores.softmax(dim=1), self.keep))
        return images


class InverseNet(Distiller):
    """Minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` on real images and on those of an inverse; of hard
    answers, the cross-entropy.

    Args:
        shares: of the queries, of the core set, the confident images and the decoded ones, positive; brought to a sum
            of 1.
        candidates: real images and views to choose from for each question about them, at least 1.
        keep: how many classes of an answer the decoder is told, from 1 to C, the others being truncated to 0.
        decoder_steps: its training steps, of 64 answered images each; at least 1.
        decoder_learning_rate: of its Adam, positive.
        decoder_width: channels of its last hidden layer, at least 1.
        student_share: the student's steps before the last round, as a part of the recipe's, on top of it; above 0.
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        queries: in all, at least 2; None takes what the teacher's budget leaves, or, without a budget, as many as there
            are images.
        **world: see :class:`~mekd_plugin.distiller.Distiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="real images", queries="rounds")
    presets: ClassVar = {
        "quick": {},
        "paper": {"candidates": 4.0, "temperature": 1.0, "smoothing": 0.0, "decoder_width": 64},
        "tiny": {"decoder_steps": 40, "decoder_width": 4},
    }
    reference: ClassVar = (
        "Gong et al., *InverseNet: Augmenting Model Extraction Attacks with Training Data Inversion*, IJCAI 2021"
    )

    def __init__(
        self,
        *,
        shares: Sequence[float] = (0.45, 0.45, 0.1),
        candidates: float = 2.0,
        keep: int = 1,
        decoder_steps: int = 1000,
        decoder_learning_rate: float = 1e-3,
        decoder_width: int = 32,
        student_share: float = 0.4,
        temperature: float = 4.0,
        smoothing: float = 0.05,
        queries: int | None = None,
        **world: Any,
    ) -> None:
        super().__init__(**world)
        self.shares = as_shares("shares", shares)
        if len(self.shares) != 3:
            raise InputError(f"shares={shares!r}: expected three, of core set, confident images and decoded images")
        self.candidates = as_number("candidates", candidates, at_least=1)
        self.keep = as_whole("keep", keep, at_least=1, at_most=self.num_classes)
        self.decoder_steps = as_whole("decoder_steps", decoder_steps, at_least=1)
        self.decoder_learning_rate = as_number("decoder_learning_rate", decoder_learning_rate, above=0)
        self.decoder_width = as_whole("decoder_width", decoder_width, at_least=1)
        self.student_share = as_number("student_share", student_share, above=0)
        self.temperature = as_number("temperature", temperature, above=0)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)
        self.queries = as_queries(queries)
        self._decoder: Generator | None = None
        self._health: Health | None = None

    def fewest_queries(self, images: int) -> int:
        return fewest_in_rounds(self.shares)

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        size, span = (
            number_of_queries(teacher, "transfer_set", self.queries, otherwise=len(images)),
            teacher.value_range,
        )
        core, confident, last = rounds_of(size, self.shares, student_share=self.student_share)
        pool = candidates(images, round(confident.until * self.candidates), self.seed, fill=span[0])
        bank, free = Bank("transfer_set"), torch.ones(len(pool), dtype=torch.bool, device=pool.device)
        chosen = k_center(coarse(pool), core.until)
        yield core.asking(bank, Rows(pool[chosen]))
        free[chosen[: len(bank)]] = False
        yield self.align(core.student, bank.order(self.seed), student, fraction=core.fraction)
        rest = pool[free]
        farthest = boundary_distance(student, rest).argsort(descending=True, stable=True)
        yield confident.asking(bank, Rows(rest[farthest[: confident.until - len(bank)]]))
        yield self.align(confident.student, bank.order(self.seed), student, fraction=confident.fraction)
        yield self._invert(bank, span)
        begin = len(bank)
        decoded = self._decoded(last.until - begin)
        yield last.asking(bank, Rows(to_range(decoded, (-1.0, 1.0), span).to(images)))
        if len(bank) > begin:
            health = generator_health(bank.rows()[begin:], images)
            self._health = replace(health, warnings=[])  # which speak of how MEKD trains its own
        yield self.align(last.student, bank.order(self.seed), student, fraction=last.fraction)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        matching = {"temperature": self.temperature, "smoothing": self.smoothing}
        return {"loss": answer_loss(student(rows.images), rows.answers(), **matching)}

    def inverse(self) -> Inverse | None:
        if self._decoder is None:
            return None
        generator = TruncatedInverse(self._decoder, self.keep).eval().requires_grad_(False)
        normalisation = ScoreNormalisation.by_temperature(1.0)
        return Inverse(generator, normalisation, style_dim=0, hard_scale=_HARD_SCALE, drawn_for="answers")

    def report(self) -> dict[str, Any]:
        return {} if self._health is None else {"generator": self._health.as_record()}

    def _invert(self, bank: Bank, span: tuple[float, float]) -> Training:
        """The stage that trains the decoder by squared error on the bank's rows; it asks nothing."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed * 1_000_003)
            decoder = self._decoder = Generator(self.num_classes, self.image_shape, width=self.decoder_width)

        def step(rows: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            told = truncated(rows.answers().scores(hard_scale=_HARD_SCALE).softmax(dim=1), self.keep)
            loss = F.mse_loss(decoder(told), to_range(rows.images, span, (-1.0, 1.0)))
            update({"decoder": loss})
            return {"loss": loss.detach()}

        players = {"decoder": Player(decoder, partial(Adam, lr=self.decoder_learning_rate))}
        rows = bank.order(self.seed)
        return Training("inversion", rows, step, players, steps=self.decoder_steps, batch_size=_BATCH, recordable=True)

    @torch.no_grad()
    def _decoded(self, count: int) -> Tensor:
        """``count`` images in [-1, 1] for confident answers, each class as often as any other, each image varied."""
        assert self._decoder is not None
        rng, decoder = torch.Generator().manual_seed(self.seed * 1_000_003 + 1), self._decoder.eval()
        labels = torch.arange(count) % self.num_classes
        sure = _LEAST_CONFIDENT + (1 - _LEAST_CONFIDENT) * torch.rand(2, count, 1, generator=rng)
        wanted = F.one_hot(labels, self.num_classes) * sure
        drawn = decoder(wanted.flatten(0, 1).to(reference_of(decoder))).cpu()
        settings: dict[str, Any] = {"degrees": 15, "scale": (0.8, 1.2), "translate": 0.1 * self.image_shape[2]}
        one, other = affine(drawn, **settings, rng=rng).chunk(2)
        return mixup(one, other, torch.rand(count, generator=rng))
