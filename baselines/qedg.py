"""QEDG: hard labels of images near the student's class boundaries, asked where it is unsure (Pei et al. 2025).

Source: Pei et al., *Exploring Query Efficient Data Generation Towards Data-Free Model Stealing in Hard Label Setting*,
AAAI 2025, and its public code. In each round a generator, begun anew, is trained on latents of its own by three terms:
the student's cross-entropy with drawn classes, the spread of its probabilities (so that it is not sure of the images),
and the likeness of images drawn for the same class. Only those images are asked about of which the student is at most
``threshold`` sure; where it errs on an answered image, its loss weighs more.

Departures:
- a round asks about an equal share of the queries: of ``candidates`` times as many images the first unsure ones, then,
  where they are too few, the least sure of the others. The public code asks about the unsure ones of a batch and goes
  on until the budget is spent, so that nobody can say how many rounds there will be;
- the images are those of the generator's last weights, not of the step of the lowest loss, and are asked about as they
  are, not as one more augmented view; the student sees a shift of them while the generator
  learns, not flips and quarter turns;
- the public code asks about the whole test set after every round, for its choice of the best student; nothing of that
  kind is asked here;
- the generator's Adam has the momenta of torch's default, as in the public code;
- between two rounds the student takes a share of the recipe's steps, and the recipe whole after the last; the public
  code trains 20 epochs a round, and 50 times 20 more after the last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from mekd_plugin.checks import as_number
from mekd_plugin.distiller import Needs, Student
from mekd_plugin.mekd.generated import to_range
from mekd_plugin.prediction import predict
from mekd_plugin.rows import Rows
from mekd_plugin.synthetic import SyntheticRounds, generate

__all__ = ["QEDG", "same_class_likeness", "unsure_first", "weighted_cross_entropy"]


def same_class_likeness(images: Tensor, targets: Tensor) -> Tensor:
    r"""The cosines between all pairs of images drawn for the same class, summed, for each image of the batch.

    .. math:: \frac{1}{N} \sum_{i < j,\; t_i = t_j} \frac{x_i \cdot x_j}{\|x_i\| \|x_j\|}

    Args:
        images: ``(N, channels, height, width)`` in [0, 1], where no cosine is negative.
        targets: t, ``(N,)`` int64.

    Returns:
        a scalar, at least 0.
    """
    directions = F.normalize(images.flatten(1), dim=1)
    alike = (targets[:, None] == targets[None, :]).to(directions).triu(diagonal=1)
    return (directions @ directions.T * alike).sum() / len(images)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, wrong_weight: float) -> Tensor:
    """Cross-entropy, mean over images, those counted ``wrong_weight`` times on which the student names another class.

    Args:
        logits: the student's, ``(N, C)``.
        labels: the teacher's, ``(N,)`` int64.
        wrong_weight: at least 0; 1 is the plain cross-entropy.
    """
    weights = torch.where(logits.argmax(dim=1) == labels, 1.0, wrong_weight)
    return (weights * F.cross_entropy(logits, labels, reduction="none")).mean()


def unsure_first(probabilities: Tensor, count: int, threshold: float) -> Tensor:
    """Which images to ask about: the first of which the student is at most ``threshold`` sure, then the least sure.

    Args:
        probabilities: the student's, ``(N, C)``.
        count: how many, at most N.
        threshold: of the largest probability, in (0, 1].

    Returns:
        ``(count,)`` int64, no row twice: unsure ones in their order, then the others, the least sure one first.
    """
    largest = probabilities.amax(dim=1)
    return torch.where(largest <= threshold, 0.0, largest).argsort(stable=True)[:count]


class QEDG(SyntheticRounds):
    """The student minimises :func:`weighted_cross_entropy` with the teacher's classes, of scores the arg max.

    Args:
        sureness_weight: of the deviation of the student's probabilities over the classes, mean over images; at least 0.
        likeness_weight: of :func:`same_class_likeness`, at least 0.
        threshold: the largest probability up to which an image is asked about, in (0, 1].
        candidates: how many images are made for each that is asked about, at least 1.
        wrong_weight: of images that the student gets wrong, at least 0.
        batch_size: images per step of the generator; the likeness is a sum over pairs, and grows with it.
        **rounds: see :class:`~mekd_plugin.synthetic.SyntheticRounds`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="nothing of the edge", pool="none", queries="rounds")
    presets: ClassVar = {
        "quick": {},
        "paper": {"rounds": 20, "latent_dim": 512, "generator_width": 64},
        "tiny": {"rounds": 3, "generator_steps": 20, "batch_size": 64, "latent_dim": 16, "learning_rate": 0.01}
        | {"sureness_weight": 1.0, "likeness_weight": 1.0, "wrong_weight": 1.5},
    }
    reference: ClassVar = (
        "Pei et al., *Exploring Query Efficient Data Generation Towards Data-Free Model Stealing in Hard Label "
        "Setting*, AAAI 2025"
    )

    def __init__(
        self,
        *,
        sureness_weight: float = 10.0,
        likeness_weight: float = 0.1,
        threshold: float = 0.7,
        candidates: float = 2.0,
        wrong_weight: float = 2.0,
        batch_size: int = 256,
        **rounds: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **rounds)
        self.sureness_weight = as_number("sureness_weight", sureness_weight, at_least=0)
        self.likeness_weight = as_number("likeness_weight", likeness_weight, at_least=0)
        self.threshold = as_number("threshold", threshold, above=0, at_most=1)
        self.candidates = as_number("candidates", candidates, at_least=1)
        self.wrong_weight = as_number("wrong_weight", wrong_weight, at_least=0)

    def latents(self, round_: int, count: int) -> Rows:
        return super().latents(round_, round(self.candidates * count))

    def adam(self, weights: Iterable[nn.Parameter]) -> Optimizer:
        return Adam(weights, lr=self.learning_rate)

    def generator_losses(self, images: Tensor, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        sureness = logits.softmax(dim=1).std(dim=1).mean()
        likeness = same_class_likeness(to_range(images, (-1.0, 1.0), (0.0, 1.0)), targets)
        loss = F.cross_entropy(logits, targets) + self.sureness_weight * sureness + self.likeness_weight * likeness
        return {"loss": loss, "sureness": sureness, "likeness": likeness}

    def choose(self, latents: Rows, count: int, student: nn.Module, span: tuple[float, float]) -> Tensor:
        made = generate(self.trained(), latents.images, span, as_trained=True)
        probabilities = predict(student, made).softmax(dim=1)
        return made[unsure_first(probabilities, count, self.threshold)]

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        return {"loss": weighted_cross_entropy(student(rows.images), rows.answers().labels, self.wrong_weight)}
