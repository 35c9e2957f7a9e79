"""AL: aligning the distributions of logits, adversarially (in the manner of Wang et al. 2018).

Source: Wang, Xu, Xu, Tao, *Adversarial Learning of Portable Student Networks*, AAAI 2018, whose discriminator tells the
features of teacher and student apart; behind a black box there are only scores, and the settings are those of MEKD's
comparison: critic C-512-256-1 with Adam 1e-2, t = 2, w_kl = 0.5, w_adv = 0.15.

Two players: the critic tells the teacher's scores from the student's, the student makes it fail. Each minimises its own
loss; one shared loss that both minimise would have the critic help the student.

Departure of preset ``quick``: Adam at 1e-3, at which the critic does not win at once.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Adam

from mekd_plugin.checks import as_number
from mekd_plugin.distiller import Needs, Player, Student
from mekd_plugin.functional import discriminator_loss, generator_loss, kd_divergence
from mekd_plugin.responses import centre_scores
from mekd_plugin.rows import Rows
from mekd_plugin.transfer import TransferSetDistiller

__all__ = ["DistributionAlignment"]


class DistributionAlignment(TransferSetDistiller):
    """The student minimises ``w_kl KL + w_adv (-log D(y_S))``, the critic D ``-log D(y_T) - log(1 - D(y_S))``.

    Args:
        temperature: t of the divergence, positive.
        divergence_weight: w_kl, at least 0.
        adversarial_weight: w_adv, at least 0.
        critic_learning_rate: of the critic's Adam, positive.
        queries: see :class:`TransferSetDistiller`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(responses="soft", leaves_edge="real images")
    reference: ClassVar = "Wang et al., *Adversarial Learning of Portable Student Networks*, AAAI 2018"
    presets: ClassVar = {"quick": {}, "paper": {"critic_learning_rate": 1e-2}, "tiny": {}}

    def __init__(
        self,
        *,
        temperature: float = 2.0,
        divergence_weight: float = 0.5,
        adversarial_weight: float = 0.15,
        critic_learning_rate: float = 1e-3,
        queries: int | None = None,
        **world: Any,
    ) -> None:
        super().__init__(queries=queries, **world)
        self.temperature = as_number("temperature", temperature, above=0)
        self.divergence_weight = as_number("divergence_weight", divergence_weight, at_least=0)
        self.adversarial_weight = as_number("adversarial_weight", adversarial_weight, at_least=0)
        self.critic_learning_rate = as_number("critic_learning_rate", critic_learning_rate, above=0)
        self.critic = _critic(self.num_classes)

    def players(self) -> dict[str, Player]:
        return {"critic": Player(self.critic, partial(Adam, lr=self.critic_learning_rate))}

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        logits, scores = student(rows.images), rows.answers().scores()
        divergence = kd_divergence(logits, scores, self.temperature)
        fooling = generator_loss(self.critic(centre_scores(logits)))
        loss = self.divergence_weight * divergence + self.adversarial_weight * fooling
        return {"loss": loss, "divergence": divergence, "adversarial": fooling}

    def player_losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        logits, scores = student(rows.images).detach(), rows.answers().scores()
        return {"critic": discriminator_loss(self.critic(scores), self.critic(centre_scores(logits)))}


def _critic(num_classes: int) -> nn.Module:
    """C-512-256-1, scores ``(N, C)`` -> logits ``(N,)``."""
    return nn.Sequential(
        nn.Linear(num_classes, 512),
        nn.LeakyReLU(0.2),
        nn.Linear(512, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 1),
        nn.Flatten(0),
    )
