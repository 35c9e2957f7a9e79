"""A hosted method in Hugging Face's ``Trainer``; importing this file imports transformers.

Run with transformers 5.23, for image classification models: ``model(pixel_values=images).logits``::

    import mekd_plugin
    from mekd_plugin.integrations.transformers import HostedTrainer, Logits

    hosted = mekd_plugin.host(Logits(model), teacher, images, method="mekd")
    HostedTrainer(model, TrainingArguments("output", max_steps=1000), hosted=hosted).train()

A teacher of theirs is ``BlackBox(Logits(teacher), "logits", ...)``.

What this relies on: the ``Trainer`` takes batches from ``get_train_dataloader()``, calls
``compute_loss(model, inputs, return_outputs=, num_items_in_batch=)`` once a batch, in training and evaluation, divides
by the number of accumulated batches where ``model_accepts_loss_kwargs`` is false, and calls ``on_save`` when
``checkpoint-STEP`` is written. Its ``compute_loss_func`` would not do, since it gets the model's output without the
images, and a method may look at the student elsewhere.

Seen in 5.23.0, with a plain ``Trainer`` too: resuming a ViT restores some of its weights only, and warns of missing
keys; a ResNet and a ConvNext are restored whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mekd_plugin.distiller import Remembered
from mekd_plugin.errors import CheckpointError, MissingDependency, NeedsNotMet
from mekd_plugin.training.hosting import Batch, Hosted

try:
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint
except ImportError as error:
    raise MissingDependency(
        "mekd_plugin.integrations.transformers needs transformers, which is not installed: "
        'pip install "mekd-plugin[transformers]"'
    ) from error

__all__ = ["HostedTrainer", "Logits"]

_PLAYERS = "mekd_players.pt"
_NUMBERS = "row_numbers"


class Logits(nn.Module):
    """An image classification model of transformers as a module from images to logits.

    Args:
        model: whose output has ``logits``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C)``."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


class HostedTrainer(Trainer):
    """Trains ``model`` on the rows of a hosted method; everything else is the ``Trainer``'s.

    ``train_dataset`` is not used. Evaluation takes the model's own loss on ``eval_dataset``, with its true labels. A
    checkpoint also holds the state of the method's further players and the place in the order of the rows, from which
    a resumed run goes on: ``args.ignore_data_skip`` is set, since nothing is left to skip.

    Args:
        model: the student.
        args: of the ``Trainer``.
        hosted: the method.
        steps: batches an epoch; None shows each row of a bank once.
        **settings: further ones of the ``Trainer``.

    Raises:
        NeedsNotMet: there are several processes.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments | None = None,
        *,
        hosted: Hosted,
        steps: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, args, **settings)
        if self.args.world_size > 1:
            raise NeedsNotMet(
                f"{self.args.world_size} processes: the Trainer would give each of them a part of every batch of rows; "
                "use one device, or mekd_plugin.distill under accelerate launch"
            )
        self.hosted = hosted
        self._steps = steps
        self.args.ignore_data_skip = True
        self.model_accepts_loss_kwargs = False  # a mean over the batch, which the Trainer divides when it accumulates
        self.add_callback(_KeepPlayers(hosted))

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """The rows, in the order of our own loop, going on where the last epoch ended."""
        loader = self.hosted.loader(self.args.train_batch_size, steps=self._steps)
        loader.collate_fn = _as_inputs
        return loader

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The method's loss on its own rows, the model's own on anything else."""
        if _NUMBERS not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        rows = self.hosted.rows(inputs["pixel_values"], inputs[_NUMBERS])
        student = Remembered(Logits(model))
        loss = self.hosted.losses(student, rows)["loss"]
        return (loss, {"logits": student(rows.images)}) if return_outputs else loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **settings: Any) -> Any:
        """As the ``Trainer``'s, the method's players restored as well.

        Raises:
            CheckpointError: the checkpoint was not written by a :class:`HostedTrainer`.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(str(self.args.output_dir)) or True
        if isinstance(resume_from_checkpoint, str):
            path = Path(resume_from_checkpoint) / _PLAYERS
            if not path.is_file():
                raise CheckpointError(f"{path} is missing: expected a checkpoint that a HostedTrainer wrote")
            self.hosted.players.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return super().train(resume_from_checkpoint, *args, **settings)


class _KeepPlayers(TrainerCallback):
    """Writes the players beside the model of a checkpoint."""

    def __init__(self, hosted: Hosted) -> None:
        self._hosted = hosted

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.save(
            self._hosted.players.state_dict(), Path(args.output_dir) / f"checkpoint-{state.global_step}" / _PLAYERS
        )


def _as_inputs(batch: Batch) -> dict[str, Tensor]:
    images, _, numbers = batch
    return {"pixel_values": images, _NUMBERS: numbers}
