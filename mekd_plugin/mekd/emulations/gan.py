"""Stage 1 of MEKD, deprivatisation: a GAN whose generator emulates the inverse mapping of the teacher.

Source: Ma et al., *Aligning Logits Generatively for Principled Black-Box Knowledge Distillation*, CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from mekd_plugin.distiller import Player, Training, Update
from mekd_plugin.functional import discriminator_loss, generator_loss
from mekd_plugin.mekd.folding import training_form
from mekd_plugin.networks.generators import Generator, sample_latent
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, RowSource
from mekd_plugin.views import translate

__all__ = ["Health", "deprivatization", "generator_health", "response_strength"]


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
        batch_size: real images, and generated ones, a step.
        learning_rates: Adam's, of G and D; betas (0.5, 0.999).
        average: decay of the running mean of G's weights; None keeps the last ones.
        shift: pixels of the random translation that real and generated images go through before D.
        response_weight: w_im; above 0 every generated image is sent to the teacher.
        reuse: see :class:`Training`.
        answerable: generated images, in [-1, 1], as the teacher takes them.
    """
    draw = training_form(generator)

    def judge(real: Tensor, fake: Tensor, update: Update, strength: Tensor | None) -> dict[str, Tensor]:
        shown = translate(fake, shift)
        telling = discriminator_loss(discriminator(translate(real, shift)), discriminator(shown.detach()))
        update({"discriminator": telling})
        passing = generator_loss(discriminator(shown), strength)
        update({"generator": passing})
        return {"loss": passing.detach(), "discriminator": telling.detach()}

    def step(batch: Rows, update: Update) -> dict[str, Tensor]:
        if batch.asked is None:
            return judge(batch.images, draw(sample_latent(generator, len(batch))), update, None)
        strength = response_weight * response_strength(batch.asked.answers())
        return judge(batch.images, batch.asked.extra["generated"], update, strength)

    def ask(batch: Rows) -> Rows:
        generated = draw(sample_latent(generator, len(batch)))
        return Rows(answerable(generated.detach()), extra={"generated": generated})

    return Training(
        "deprivatization",
        rows,
        step,
        players={
            "generator": Player(generator, _adam(learning_rates[0]), average=average),
            "discriminator": Player(discriminator, _adam(learning_rates[1])),
        },
        steps=steps,
        batch_size=batch_size,
        ask=ask if response_weight else None,
        reuse=reuse,
    )


def _adam(learning_rate: float) -> Callable[..., Adam]:
    return partial(Adam, lr=learning_rate, betas=(0.5, 0.999))


@dataclass(frozen=True)
class Health:
    """How good a generator is for distillation, from answers that were bought anyway.

    Attributes:
        class_shares: share of each class among the teacher's answers to generated images.
        confidence: the teacher's mean highest probability; None for hard responses.
        distance_to_real: median distance (root mean square a pixel) from a generated image to its nearest real one.
        real_to_real: the same from a real image to its nearest other real one: what a held-out image would have.
        warnings: what is wrong and what to change.
    """

    class_shares: list[float]
    confidence: float | None
    distance_to_real: float
    real_to_real: float
    warnings: list[str]

    def as_record(self) -> dict[str, Any]:
        return asdict(self)


def generator_health(generated: Rows, real: Tensor, *, most: int = 1000) -> Health:
    """Judge a generator by the bank it filled.

    Args:
        generated: rows of generated images and the teacher's answers.
        real: the edge's images ``(N, channels, height, width)``, N at least 2.
        most: images of each kind that distances are computed on.
    """
    response = generated.answers()
    shares = torch.bincount(response.labels.cpu(), minlength=response.num_classes) / len(response)
    confidence = float(response.scores().softmax(dim=1).amax(dim=1).mean()) if response.soft else None
    known = real[:most].flatten(1)
    made = generated.images[:most].to(known).flatten(1)
    scale = known.shape[1] ** 0.5
    nearest_made = torch.cdist(made, known).amin(dim=1).median() / scale
    between = torch.cdist(known, known).fill_diagonal_(float("inf"))
    nearest_real = between.amin(dim=1).median() / scale
    health = Health(shares.tolist(), confidence, float(nearest_made), float(nearest_real), [])
    health.warnings.extend(_complaints(health, made, scale))
    return health


def _complaints(health: Health, made: Tensor, scale: float) -> list[str]:
    complaints = []
    fair = 1 / len(health.class_shares)
    missing = [str(label) for label, share in enumerate(health.class_shares) if share < 0.1 * fair]
    if missing:
        complaints.append(
            f"the generator hardly draws class {', '.join(missing)} (under a tenth of an equal share of its images): "
            "train stage 1 for more steps (gan_steps), give it more latent noise (style_dim), or more real images"
        )
    spread = float(torch.cdist(made[:200], made[:200]).median()) / scale
    if spread < 0.3 * health.real_to_real:
        complaints.append(
            "the generator draws nearly the same image again and again (mode collapse): use preset 'quick', whose "
            "discriminator does not see the batch, more real images, or fewer steps"
        )
    if health.distance_to_real < 0.5 * health.real_to_real:
        complaints.append(
            "generated images lie closer to single real images than real images lie to each other: the generator may "
            "copy them, and what leaves the edge may not be private; use fewer gan_steps or more real images"
        )
    elif health.distance_to_real > 3 * health.real_to_real:
        complaints.append(
            "generated images look like none of the real ones: train stage 1 for more steps (gan_steps), or lower its "
            "learning rates"
        )
    return complaints
