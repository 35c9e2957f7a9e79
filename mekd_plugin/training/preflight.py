"""What would fail only after the budget is spent, tried beforehand: on a copy of the student, without a question."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mekd_plugin.distiller import Player
from mekd_plugin.errors import InputError, MekdError
from mekd_plugin.training.checkpoint import load_weights_into, save_weights
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.trained_player import TrainedPlayer

__all__ = ["preflight", "trainable_copy"]

_IMAGES = 4


def trainable_copy(student: nn.Module) -> nn.Module | None:
    """A copy of ``student`` with weights of its own; None where there is none, as of a traced module."""
    try:
        trial = copy.deepcopy(student)
    except Exception:  # a student is the user's code, and may raise anything
        return None
    return trial if all(weight.is_leaf for weight in trial.parameters()) else None


def preflight(
    student: nn.Module,
    recipe: Recipe,
    processes: Processes,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    value_range: tuple[float, float],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Take one training step's forward and backward pass with a copy of ``student``, and save and load it once.

    The student, its batch-norm statistics and every random state stay as they are.

    Args:
        student: images -> logits ``(n, num_classes)``, in training mode too.
        recipe: whose optimiser and schedule are made.
        processes: where it will train.
        image_shape: ``(channels, height, width)``.
        num_classes: C.
        value_range: that of the images.
        dtype: that of the images.

    Raises:
        InputError: the student cannot be trained, or its trained weights could not be kept.
    """
    name = type(student).__name__
    trial = trainable_copy(student)
    if trial is None:  # it may still be trained: it is tried when its turn comes
        return
    with processes.own_randomness(), torch.enable_grad():
        player = Player(trial, recipe.make_optimizer, lambda optimizer: recipe.make_schedule(optimizer, recipe.steps))
        trained = TrainedPlayer.prepare(player, processes.device, channels_last=recipe.channels_last)
        low, high = value_range
        images = low + (high - low) * torch.rand(_IMAGES, *image_shape, device=processes.device, dtype=dtype)
        try:
            logits = trained.module(images)
        except Exception as error:  # a student is the user's code, and may raise anything
            raise InputError(
                f"the student {name} fails in training mode on images {tuple(images.shape)} of {dtype}: {error}; it "
                "is to be trained on such images"
            ) from error
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (_IMAGES, num_classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"in training mode the student {name} returns {found}: expected logits ({_IMAGES}, {num_classes}) as "
                "in evaluation mode; switch auxiliary outputs off (such as aux_logits=False)"
            )
        if not torch.isfinite(logits).all():
            raise InputError(
                f"the student {name} returns NaN or infinite logits before it is trained: look at its weights"
            )
        if not logits.requires_grad:
            raise InputError(
                f"the student {name} returns logits without a gradient to its weights: nothing would train"
            )
        torch.autograd.backward(logits.float().square().mean(), inputs=trained.weights)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.safetensors"
            save_weights(trial, path)
            load_weights_into(trial, load_file(path), origin=str(path))
    except MekdError as error:
        raise InputError(f"the weights of the student {name} cannot be kept and loaded again: {error}") from error
    except Exception as error:
        raise InputError(
            f"the state of the student {name} cannot be kept ({type(error).__name__}: {error}): expected a state_dict "
            "of tensors; a get_extra_state that returns anything else has to go"
        ) from error
