"""A hosted method as a ``LightningModule``; importing this file imports Lightning.

Run with lightning 2.6::

    import lightning
    import mekd_plugin
    from mekd_plugin.integrations.lightning import HostedModule

    hosted = mekd_plugin.host(student, teacher, images, method="mekd")
    module = HostedModule(student, hosted, lambda weights: torch.optim.SGD(weights, lr=0.02, momentum=0.9))
    lightning.Trainer(max_epochs=10).fit(module)

What this relies on: ``Trainer.fit`` takes its batches from ``train_dataloader()``, anew in every epoch; it
differentiates what ``training_step(batch, index)`` returns and steps the optimiser of ``configure_optimizers()``; a
checkpoint holds the module's ``state_dict()``, its extra state included, and ``fit(module, ckpt_path=...)`` loads it
before the first batch is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from mekd_plugin.distiller import Remembered
from mekd_plugin.errors import MissingDependency, NeedsNotMet
from mekd_plugin.training.hosting import Batch, Hosted

try:
    from lightning import LightningModule
except ImportError as error:
    raise MissingDependency(
        "mekd_plugin.integrations.lightning needs lightning, which is not installed: "
        'pip install "mekd-plugin[lightning]"'
    ) from error

__all__ = ["HostedModule"]


class HostedModule(LightningModule):
    """Trains ``student`` on the rows of a hosted method, in ``Trainer.fit``.

    Its training batches are its own; what ``fit`` is given for validation are batches of ``(images, labels)``. It logs
    the loss with its parts, ``agreement`` (of the student with the teacher on the rows) and ``val_accuracy``.

    Args:
        student: images -> logits.
        hosted: the method.
        optimizer: makes from the student's weights what ``configure_optimizers`` returns: an optimiser, or Lightning's
            dictionary of one and its schedule.
        batch_size: rows a step.
        steps: batches an epoch; None shows each row of a bank once.
    """

    def __init__(
        self,
        student: nn.Module,
        hosted: Hosted,
        optimizer: Callable[[Iterable[nn.Parameter]], Any],
        *,
        batch_size: int = 64,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.players = hosted.players
        self.hosted = hosted
        self._optimizer, self._batch_size, self._steps = optimizer, batch_size, steps

    def setup(self, stage: str) -> None:
        """Refuse several processes.

        Raises:
            NeedsNotMet: Lightning would start them behind the method's back.
        """
        if self.trainer.world_size > 1:
            raise NeedsNotMet(
                f"{self.trainer.world_size} processes: Lightning starts them after the method was hosted, and each "
                "would ask the teacher for itself; use one device, or mekd_plugin.distill under accelerate launch"
            )

    def forward(self, images: Tensor) -> Tensor:
        """The student's logits."""
        logits: Tensor = self.student(images)
        return logits

    def train_dataloader(self) -> DataLoader[Batch]:
        """The rows, in the order of our own loop, going on where the last epoch ended."""
        return self.hosted.loader(self._batch_size, steps=self._steps)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The method's loss on a batch."""
        images, labels, numbers = batch
        student, rows = Remembered(self.student), self.hosted.rows(images, numbers)
        parts = self.hosted.losses(student, rows)
        agreement = (student(rows.images).argmax(dim=1) == labels).float().mean()
        scalars = {name: value.detach() for name, value in parts.items()} | {"agreement": agreement}
        self.log_dict(scalars, prog_bar=True, batch_size=len(images))
        return parts["loss"]

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Accuracy on true labels."""
        images, labels = batch
        self.log("val_accuracy", (self(images).argmax(dim=1) == labels).float().mean(), batch_size=len(images))

    def configure_optimizers(self) -> Any:
        """Of the student alone: the method steps its further players itself."""
        return self._optimizer(self.student.parameters())
