"""DFMS-HL: answers to a GAN's images, made to fall into all of the student's classes (Sanyal et al. 2022).

Source: Sanyal, Addepalli, Babu, *Towards Data-Free Model Stealing in a Hard Label Setting*, CVPR 2022, and its public
code. A GAN learns to draw what its pool holds, images of another domain in the paper. The student learns the teacher's
classes of its images; then, alternately, the generator goes on learning with a further term, the entropy of the mean of
the student's probabilities, which keeps its images from falling into few classes, and the student learns its new ones.
Where the teacher tells its scores, the student learns those: DFMS-SL, of the same paper.

With ``domain="edge"`` the GAN learns the images of the edge, which stay there: what is asked about is generated, as
MEKD's is. With ``domain="other"`` it learns images that are nobody's secret.

Departures:
- rounds: a part of the queries for the images of the plain GAN, then equal parts, with ``round_steps`` steps of the GAN
  between them; the paper alternates batch by batch, and its budget is of millions of questions;
- each image is asked about once, kept, and shown to the student for the rest of its training; the paper asks about
  fresh ones, and its public code repeats a part of the older ones;
- no image of the pool itself is asked about;
- between two rounds the student takes a share of the recipe's steps, and the recipe whole after the last; the public
  code begins it anew twice before it alternates, and fine-tunes the GAN at a small weight of the entropy first;
- preset ``quick``: the discriminator and the settings of MEKD's GAN, a weight of the entropy that fits them, and
  softened answers, or smoothed labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from mekd_plugin.checks import as_number, as_one_of, as_whole
from mekd_plugin.distiller import Needs, Player, Query, Stage, Student, Training, Update
from mekd_plugin.functional import answer_loss, discriminator_loss, generator_loss
from mekd_plugin.mekd.generated import moved_to, to_range
from mekd_plugin.modes import evaluating
from mekd_plugin.networks.discriminators import small_discriminator
from mekd_plugin.networks.generators import sample_latent
from mekd_plugin.rows import ImageRows, Rows
from mekd_plugin.synthetic import SyntheticRounds, generate, generator_width, mean_class_entropy
from mekd_plugin.views import translate

__all__ = ["DFMSHL"]


class DFMSHL(SyntheticRounds):
    """The student minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))``, or the cross-entropy with hard answers.

    The generator minimises ``-log D(G(z)) - w H(mean of softmax(S(G(z))))``, the discriminator D
    ``-log D(x) - log(1 - D(G(z)))``.

    Args:
        domain: whose images the GAN learns: the ``"edge"``'s, or the ``"other"`` ones of the run's ``pool=``.
        entropy_weight: w, at least 0, from the second round on; 0 in the first, whose student knows nothing.
        generator_steps: of the GAN before the first question.
        round_steps: of the GAN before each later one, at least 1.
        average: decay of the running mean of the generator's weights, in (0, 1); None keeps the last ones.
        temperature: t, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).
        **rounds: see :class:`~mekd_plugin.synthetic.SyntheticRounds`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="either", leaves_edge="synthetic images", pool="edge", queries="rounds", asks_late=True)
    presets: ClassVar = {
        "quick": {},
        "paper": {"rounds": 20, "generator_steps": 15_600, "round_steps": 3300, "learning_rate": 2e-4}
        | {"entropy_weight": 500.0, "latent_dim": 100, "generator_width": 64, "average": None, "shift": 0}
        | {"temperature": 1.0, "smoothing": 0.0},
        "tiny": {"rounds": 2, "generator_steps": 100, "round_steps": 30, "latent_dim": 16, "batch_size": 32},
    }
    reference: ClassVar = (
        "Sanyal, Addepalli, Babu, *Towards Data-Free Model Stealing in a Hard Label Setting*, CVPR 2022"
    )

    def __init__(
        self,
        *,
        domain: str = "edge",
        entropy_weight: float = 2.0,
        rounds: int = 5,
        generator_steps: int = 2000,
        round_steps: int = 200,
        batch_size: int = 64,
        learning_rate: float = 5e-4,
        average: float | None = 0.999,
        temperature: float = 4.0,
        smoothing: float = 0.05,
        **settings: Any,
    ) -> None:
        super().__init__(
            rounds=rounds,
            generator_steps=generator_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            **settings,
        )
        self.domain: str = as_one_of("domain", domain, ("edge", "other"))
        self.entropy_weight = as_number("entropy_weight", entropy_weight, at_least=0)
        self.round_steps = as_whole("round_steps", round_steps, at_least=1)
        self.average = None if average is None else as_number("average", average, above=0, below=1)
        self.temperature = as_number("temperature", temperature, above=0)
        self.smoothing = as_number("smoothing", smoothing, at_least=0, below=1)
        if self.domain == "other":
            self.needs = replace(self.needs, pool="other domain", leaves_edge="nothing of the edge")
        self.discriminator: nn.Module | None = None

    def train_generator(
        self, round_: int, latents: Rows, images: Tensor, student: nn.Module, span: tuple[float, float]
    ) -> Iterator[Stage]:
        if round_ == 1:
            self.generator = self.new_generator()
            width = generator_width(self.generator_width, self.image_shape)
            self.discriminator = small_discriminator(self.image_shape, width=width)
        generator, discriminator, weight = self.trained(), self.discriminator, self.entropy_weight
        assert discriminator is not None

        def step(batch: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            made = generator(sample_latent(generator, len(batch)))
            shown = translate(made, self.shift)
            telling = discriminator_loss(
                discriminator(translate(batch.images, self.shift)), discriminator(shown.detach())
            )
            update({"discriminator": telling})
            loss = generator_loss(discriminator(shown))
            scalars = {"discriminator": telling.detach(), "fooling": loss.detach()}
            if round_ > 1 and weight:
                with evaluating(moved_to(student, made)):
                    probabilities = student(to_range(made, (-1.0, 1.0), span)).softmax(dim=1)
                entropy = mean_class_entropy(probabilities)
                loss = loss - weight * entropy
                scalars["entropy"] = entropy.detach()
            update({"generator": loss})
            return {"loss": loss.detach(), **scalars}

        yield Training(
            f"gan_{round_}",
            ImageRows(to_range(images, span, (-1.0, 1.0)), seed=self.seed),
            step,
            {
                "generator": Player(generator, self.adam, average=self.average),
                "discriminator": Player(discriminator, self.adam),
            },
            steps=self.generator_steps if round_ == 1 else self.round_steps,
            batch_size=self.batch_size,
            reuse=self._begun_with(span) if round_ == 1 else None,
            recordable=True,
        )

    def choose(self, latents: Rows, count: int, student: nn.Module, span: tuple[float, float]) -> Tensor:
        return generate(self.trained(), latents.images[:count], span, as_trained=False)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        matching = {"temperature": self.temperature, "smoothing": self.smoothing}
        return {"loss": answer_loss(student(rows.images), rows.answers(), **matching)}

    def _begun_with(self, span: tuple[float, float]) -> str:
        """What decides the first GAN, which runs with the same pool and seed share."""
        settings = (self.batch_size, self.learning_rate, self.average, self.shift, self.output_norm, span)
        return f"dfms_hl {self.trained().config} {settings}"
