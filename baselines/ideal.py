"""IDEAL: images that the student is sure of, of every class alike, each asked about once (Zhang et al. 2023).

Source: Zhang, Chen, Lyu, *IDEAL: Query-Efficient Data-Free Learning from Black-Box Models*, ICLR 2023. In each round a
generator, begun anew, is trained on the latents of the round's images to have the student give each the class drawn for
it, and all classes alike (data generation, without a query); then the teacher is asked about the images, once each, and
the student trained on all answers so far (model distillation).

Departures:
- the entropy that is maximised is that of the mean of the batch's probabilities, which is the class balance that the
  text argues for; ``balance="each image"``, and preset ``paper``, has the public code's, of each image's own
  probabilities, divided by C;
- the images are those of the generator's last weights, not of the step of the lowest loss;
- the student sees a shift of the images while the generator learns, not crops and mirrored images: a mirrored digit is
  another one;
- between two rounds the student takes a share of the recipe's steps, and the recipe whole after the last; the paper
  trains an epoch a round;
- soft answers are learnt by the divergence that all methods have here, hard ones by smoothed cross-entropy.

The paper asks about each image once. Its public code asks about every augmented view in every epoch:
``ask_views=True`` does so too, at every step of the student, and each view counts; all rounds share the recipe then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_flag, as_number, as_one_of
from mekd_plugin.distiller import Needs, Query, Stage, Student, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.functional import answer_loss
from mekd_plugin.rows import ImageRows, Rows
from mekd_plugin.synthetic import SyntheticRounds, mean_class_entropy
from mekd_plugin.transfer import WITHOUT_BUDGET

__all__ = ["Ideal", "generation_loss"]


def generation_loss(logits: Tensor, targets: Tensor, weight: float, balance: str = "batch") -> Tensor:
    r"""What the generator minimises: the student's cross-entropy with the drawn classes, less a weighted entropy.

    .. math:: -\frac{1}{N} \sum_i \log p_{i, t_i} - \lambda H

    Args:
        logits: the student's, ``(N, C)``.
        targets: t, ``(N,)`` int64: the class drawn for each image.
        weight: lambda, at least 0.
        balance: ``"batch"``: H is the entropy of the mean of the probabilities, in nats; ``"each image"``: the mean
            over images and classes of ``-p log p``, as in the public code.
    """
    probabilities = logits.softmax(dim=1)
    if balance == "batch":
        entropy = mean_class_entropy(probabilities)
    else:
        entropy = torch.special.entr(probabilities).mean()
    return F.cross_entropy(logits, targets) - weight * entropy


class Ideal(SyntheticRounds):
    """The student minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` on the images of all rounds so far.

    Args:
        balance_weight: lambda, at least 0, of the entropy in :func:`generation_loss`.
        balance: whose entropy, ``"batch"`` or ``"each image"``.
        ask_views: ask about the batch as the student sees it, shifted, at every one of its steps: as many queries as
            the recipe has steps times its batch, beside which ``queries`` only says how many images there are.
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        **rounds: see :class:`~mekd_plugin.synthetic.SyntheticRounds`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="nothing of the edge", pool="none", queries="rounds")
    presets: ClassVar = {
        "quick": {},
        "paper": {"rounds": 100, "generator_steps": 30, "batch_size": 250, "latent_dim": 256, "generator_width": 64}
        | {"balance": "each image", "temperature": 1.0, "smoothing": 0.0},
        "tiny": {"rounds": 3, "generator_steps": 20, "batch_size": 64, "latent_dim": 16},
    }
    reference: ClassVar = (
        "Zhang, Chen, Lyu, *IDEAL: Query-Efficient Data-Free Learning from Black-Box Models*, ICLR 2023"
    )

    def __init__(
        self,
        *,
        balance_weight: float = 5.0,
        balance: str = "batch",
        ask_views: bool = False,
        temperature: float = 4.0,
        smoothing: float = 0.05,
        **rounds: Any,
    ) -> None:
        self.ask_views = as_flag("ask_views", ask_views)  # on which the fewest queries hang
        super().__init__(**rounds)
        self.balance_weight = as_number("balance_weight", balance_weight, at_least=0)
        self.balance: str = as_one_of("balance", balance, ("batch", "each image"))
        self.temperature = as_number("temperature", temperature, above=0)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)
        images = self.queries or WITHOUT_BUDGET
        if self.ask_views and images < 2 * self.rounds:
            raise InputError(
                f"queries={images}: with ask_views that many images are made, in {self.rounds} rounds of at least two: "
                f"expected at least {2 * self.rounds}, or take fewer rounds"
            )
        if self.ask_views:
            self.needs = replace(self.needs, queries="every step", in_step=True)

    def fewest_queries(self, images: int) -> int:
        return 0 if self.ask_views else super().fewest_queries(images)

    def queries_of_training(self, rows: int) -> int:
        return rows if self.ask_views else 0

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        if self.ask_views:
            yield from self._stages_with_views(teacher.value_range, images, student)
        else:
            yield from super().stages(teacher, images, student)

    def generator_losses(self, images: Tensor, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": generation_loss(logits, targets, self.balance_weight, self.balance)}

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        matching = {"temperature": self.temperature, "smoothing": self.smoothing}
        return {"loss": answer_loss(student(rows.images), rows.answers(), **matching)}

    def _stages_with_views(self, span: tuple[float, float], images: Tensor, student: nn.Module) -> Iterator[Stage]:
        """The public code's way: the images of all rounds so far, asked about anew in each batch."""
        total, pool = self.queries or WITHOUT_BUDGET, torch.empty(0, *self.image_shape)

        def step(batch: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            loss = self.losses(student, batch.answered(query(batch.images)))["loss"]
            update({"student": loss})
            return {"loss": loss.detach()}

        for round_ in range(1, self.rounds + 1):
            count = round(total * round_ / self.rounds) - len(pool)
            latents = self.latents(round_, count)
            yield from self.train_generator(round_, latents, images, student, span)
            pool = torch.cat([pool, self.choose(latents, count, student, span).to(pool.device)])
            rows = ImageRows(pool, seed=self.seed)
            yield Training(f"student_{round_}", rows, step, trains_student=True, fraction=1 / self.rounds)
