"""DAFL: a generator trained through the teacher to draw what it answers surely and strongly (Chen et al. 2019).

**White-box**: the generator's gradient comes through the teacher, and its features are looked at. A black box refuses
it; it stands in a table as a reference only, marked, with ``--white-box``.

Source: Chen, Wang, Xu, Yang, Liu, Shi, Xu, Xu, Tian, *Data-Free Learning of Student Networks*, ICCV 2019. The generator
minimises ``L_oh + alpha L_a + beta L_ie``: the cross-entropy of the teacher's answers with their own arg max, the
strength of its features, and how unevenly its answers fall into classes.

Departures:
- generator and student take turns: the generator's loss does not know the student, so it is trained first, and the
  student learns, by every method's recipe, from the answers to all images that the generator drew on the way. The paper
  steps both at once;
- each image counts as a query, once, though the teacher is gone through a second time for its gradient: of the budget
  the generator gets as many steps as its batches go into it, and fewer than ten are refused;
- the features are what the teacher's last linear layer takes, and the scores where it has none;
- evenness is counted in nats; public code takes the logarithm to base 10, so the same beta weighs 2.3 times as
  heavily here;
- a batch norm before tanh in place of behind it, so that images stay in the teacher's range;
- preset ``quick``: batches of 32 in place of 512, a lower rate than the paper's, and the divergence at the temperature
  that all methods have here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.checks import as_number
from mekd_plugin.distiller import Needs, Player, Query, Student, Update
from mekd_plugin.functional import kd_divergence
from mekd_plugin.mekd.generated import moved_to, to_range
from mekd_plugin.modes import evaluating
from mekd_plugin.replay import Replay
from mekd_plugin.rows import Rows
from mekd_plugin.synthetic import mean_class_entropy
from mekd_plugin.synthetic_steps import Step, SyntheticSteps

__all__ = ["DAFL", "generator_losses"]


def generator_losses(logits: Tensor, features: Tensor) -> dict[str, Tensor]:
    r"""The three terms of the generator's loss, each to be minimised.

    .. math:: L_{oh} = -\frac{1}{N} \sum_i \log \max_c p_{ic}, \quad
        L_a = -\frac{1}{N d} \sum_{ik} |f_{ik}|, \quad
        L_{ie} = \sum_c \bar p_c \log \bar p_c

    Args:
        logits: the teacher's, ``(N, C)``.
        features: the teacher's, ``(N, d)``.

    Returns:
        ``one_hot``, ``activation`` and ``evenness``, scalars. (The paper divides the second by N alone; the mean, as in
        its public code, does not depend on how wide the teacher is.)
    """
    return {
        "one_hot": F.cross_entropy(logits, logits.argmax(dim=1)),
        "activation": -features.abs().mean(),
        "evenness": -mean_class_entropy(logits.softmax(dim=1)),
    }


class DAFL(SyntheticSteps):
    """The student minimises ``t^2 KL(softmax(y_T / t) || softmax(y_S / t))`` on the images of the generator's training.

    Args:
        activation_weight: alpha, at least 0.
        evenness_weight: beta, at least 0.
        temperature: t, positive.
        **settings: see :class:`~mekd_plugin.synthetic_steps.SyntheticSteps`.

    Raises:
        InputError: a value cannot be used.
    """

    needs = Needs(
        responses="soft", leaves_edge="nothing of the edge", pool="none", queries="every step", gradients=True
    )
    presets: ClassVar = {
        "quick": {},
        "paper": {"batch_size": 512, "generator_rate": 0.2, "latent_dim": 100, "generator_width": 64}
        | {"temperature": 1.0},
        "tiny": {"batch_size": 16, "latent_dim": 16, "activation_weight": 1.0},
    }
    reference: ClassVar = "Chen et al., *Data-Free Learning of Student Networks*, ICCV 2019"

    def __init__(
        self,
        *,
        batch_size: int = 32,
        activation_weight: float = 0.1,
        evenness_weight: float = 5.0,
        generator_rate: float = 1e-2,
        temperature: float = 4.0,
        **settings: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, generator_rate=generator_rate, **settings)
        self.activation_weight = as_number("activation_weight", activation_weight, at_least=0)
        self.evenness_weight = as_number("evenness_weight", evenness_weight, at_least=0)
        self.temperature = as_number("temperature", temperature, above=0)

    def losses(self, student: Student, rows: Rows) -> dict[str, Tensor]:
        return {"loss": kd_divergence(student(rows.images), rows.answers().scores(), self.temperature)}

    def generator_step(
        self, teacher: BlackBox, generator: nn.Module, student: nn.Module, replay: Replay
    ) -> tuple[Step, Mapping[str, Player]]:
        assert isinstance(teacher, WhiteBox)
        module, span = teacher.module, teacher.value_range

        def step(batch: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            images = to_range(generator(batch.images), (-1.0, 1.0), span)
            replay.keep(images.detach(), query(images.detach()))
            # The question is what counts, and what a resumed run is answered from; this is the same once more, with
            # the gradient that no black box gives.
            with evaluating(moved_to(module, images)):
                terms = generator_losses(*_answers_and_features(module, images))
            loss = (
                terms["one_hot"]
                + self.activation_weight * terms["activation"]
                + self.evenness_weight * terms["evenness"]
            )
            update({"generator": loss})
            return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}

        return step, {}


def _answers_and_features(teacher: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's logits, and what its last linear layer was given, or the logits again; both with their gradient."""
    seen: list[Tensor] = []
    linear = [part for part in teacher.modules() if isinstance(part, nn.Linear)][-1:]
    handles = [part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for part in linear]
    try:
        logits: Tensor = teacher(images)
    finally:
        for handle in handles:
            handle.remove()
    return logits, (seen[-1] if seen else logits).flatten(1)
