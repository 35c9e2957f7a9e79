"""Methods whose generator learns by asking at every step; then the student learns what was answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Adam

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_whole
from mekd_plugin.distiller import Player, Query, Stage, Training, Update
from mekd_plugin.replay import Replay
from mekd_plugin.rows import NoiseRows, Rows
from mekd_plugin.synthetic import SyntheticDistiller
from mekd_plugin.transfer import WITHOUT_BUDGET, number_of_queries

__all__ = ["Step", "SyntheticSteps", "covered"]

Step = Callable[[Rows, Update, Query], dict[str, Tensor]]
"""What :class:`~mekd_plugin.distiller.Training` does at each step."""
_FEWEST_STEPS = 10


def covered(teacher: BlackBox, count: int) -> bool:
    """Whether ``count`` further questions are within the budget, those that a resumed run has answers to included.

    A stage that asks at every step plans to spend the budget to its end. Where answers were lost, they count, and the
    last steps go without.
    """
    remaining = teacher.ledger.remaining
    ahead = 0 if teacher.journal is None else teacher.journal.images_ahead
    return remaining is None or count <= remaining + ahead


class SyntheticSteps(SyntheticDistiller):
    """Base of the methods whose generator learns by asking at every step; then the student learns what was answered.

    Of the budget the generator gets as many steps as its questions go into it; fewer than ten are refused, since it
    would not have learnt anything.

    Args:
        generator_rate: of the generator's Adam, positive.
        memory: answered images that are kept for the student, the last ones; at least 2.
        **settings: see :class:`~mekd_plugin.synthetic.SyntheticDistiller`.

    Raises:
        InputError: a value cannot be used.
    """

    stage: ClassVar[str] = "generator"
    """The name of the generator's stage."""
    steps_are: ClassVar[str] = "steps"
    """What a message calls its steps."""

    def __init__(self, *, generator_rate: float = 1e-3, memory: int = 20_000, **settings: Any) -> None:
        super().__init__(**settings)
        self.generator_rate = as_number("generator_rate", generator_rate, above=0)
        self.memory = as_whole("memory", memory, at_least=2)
        self.check_settings(f"ten {self.steps_are}")

    @property
    def questions(self) -> int:
        """Images that a step asks about."""
        return self.batch_size

    @property
    def kept(self) -> int:
        """Images of a step that are kept for the student."""
        return self.questions

    def fewest_queries(self, images: int) -> int:
        """Ten steps of the generator."""
        return _FEWEST_STEPS * self.questions

    def generator_step(
        self, teacher: BlackBox, generator: nn.Module, student: nn.Module, replay: Replay
    ) -> tuple[Step, Mapping[str, Player]]:
        """What a step does, its latents as the batch's images; and the players beside ``"generator"``.

        Args:
            teacher: as the run holds it; the step asks by its own ``query``.
            generator: latents ``(N, latent_dim)`` -> images in [-1, 1].
            student: the run's, not trained in this stage.
            replay: where the step keeps what the student is to learn.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how its generator learns")

    def stages(self, teacher: BlackBox, images: Tensor, student: nn.Module) -> Iterator[Stage]:
        size = number_of_queries(teacher, self.stage, self.queries, otherwise=WITHOUT_BUDGET)
        steps = max(1, size // self.questions)
        capacity = min(self.memory, steps * self.kept)
        replay = Replay(capacity, self.image_shape, teacher.responses, self.num_classes, seed=self.seed)
        generator = self.new_generator()
        step, others = self.generator_step(teacher, generator, student, replay)

        def step_within_budget(batch: Rows, update: Update, query: Query) -> dict[str, Tensor]:
            if not covered(teacher, self.questions):
                return {"loss": batch.images.new_zeros(())}
            return step(batch, update, query)

        players = {
            "generator": Player(generator, partial(Adam, lr=self.generator_rate)),
            **others,
            "replay": Player(replay, None),
        }
        rows = NoiseRows(self.latent_dim, seed=self.seed)
        yield Training(self.stage, rows, step_within_budget, players, steps=steps, batch_size=self.batch_size)
        yield self.align("student", replay, student)
