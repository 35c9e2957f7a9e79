"""What torchdistill's configs find under our keys while a student is trained: teachers to ask, and their loss.

Importing this file registers it, by torchdistill's own decorators. How the parts work together, with ``box`` the
``DistillationBox``:

- ``train.teacher.auxiliary_model_wrapper`` puts a :class:`BlackBoxTeacher` in the place of ``box.teacher_model``;
- ``train.pre_epoch_process`` makes the method a guest of the box at its first epoch: the edge's images are those of
  the box's train loader, which is then replaced by one over the method's rows. Their numbers travel in ``supp_dict``;
- ``train.teacher.forward_proc: forward_batch_supp_dict`` hands them to the teacher, which asks nothing more;
- :class:`BlackBoxLoss` gets the student's own output, and the method's losses by way of the teacher's I/O dict.

torchdistill keeps process functions on the class, so a box uses those of the box that was set up last.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torchdistill.common.module_util import check_if_wrapped
from torchdistill.core.interfaces.pre_epoch_proc import default_pre_epoch_process_with_teacher
from torchdistill.core.interfaces.registry import (
    register_forward_proc_func,
    register_post_forward_proc_func,
    register_pre_epoch_proc_func,
)
from torchdistill.losses.registry import register_mid_level_loss
from torchdistill.models.registry import register_auxiliary_model_wrapper

from mekd_plugin.errors import InputError
from mekd_plugin.harness.torchdistill.guest import LOSSES, BlackBoxTeacher
from mekd_plugin.registry import available

__all__ = ["BlackBoxLoss", "no_forward", "no_update", "stage_epoch", "student_epoch"]

for _name in available():
    register_auxiliary_model_wrapper(key=_name)(partial(BlackBoxTeacher, _name))


@register_mid_level_loss
class BlackBoxLoss(nn.Module):
    """What a method's student minimises, or what the method's own stage reports.

    Args:
        student_module_path: of the student's logits, as in torchdistill's ``KDLoss``.
        student_module_io: of the student's logits, as in torchdistill's ``KDLoss``.
    """

    def __init__(self, student_module_path: str = ".", student_module_io: str = "output") -> None:
        super().__init__()
        self.path, self.io = student_module_path, student_module_io

    def forward(
        self, student_io_dict: dict[str, Any], teacher_io_dict: dict[str, Any], targets: Any = None, **kwargs: Any
    ) -> Tensor:
        """The loss of the batch that the teacher was just shown.

        Raises:
            InputError: the teacher is not one of ours.
        """
        if LOSSES not in teacher_io_dict:
            raise _no_method()
        losses: dict[str, Tensor] = teacher_io_dict[LOSSES]["losses"](student_io_dict[self.path][self.io])
        return losses["loss"]


@register_pre_epoch_proc_func(key="mekd_student")
def student_epoch(box: Any, epoch: int | None = None, **kwargs: Any) -> None:
    """An epoch that trains the student; at the first one, what comes before it is trained and asked."""
    _enter(box, student=True)
    default_pre_epoch_process_with_teacher(box, epoch=epoch, **kwargs)


@register_pre_epoch_proc_func(key="mekd_stage")
def stage_epoch(box: Any, epoch: int | None = None, **kwargs: Any) -> None:
    """An epoch that trains the method's own networks, for a stage before the student's."""
    _enter(box, student=False)
    default_pre_epoch_process_with_teacher(box, epoch=epoch, **kwargs)


@register_forward_proc_func(key="mekd_no_forward")
def no_forward(model: nn.Module, sample_batch: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The batch as it is: a student that is not trained must not gather statistics of it."""
    return sample_batch


@register_post_forward_proc_func(key="mekd_no_update")
def no_update(box: Any, loss: Tensor, **kwargs: Any) -> None:
    """Leaves the student and its optimiser alone: in a stage of the method's own, its players took their steps."""
    box.stage_grad_count += 1


def _enter(box: Any, *, student: bool) -> None:
    teacher = getattr(box, "teacher_model", None)
    if teacher is None:
        raise InputError("pre_epoch_process mekd_student and mekd_stage need a teacher: name models.teacher_model")
    if check_if_wrapped(teacher) and isinstance(teacher.module, BlackBoxTeacher):
        raise InputError("teacher.wrapper: leave it out, a teacher that is only asked is not replicated")
    if isinstance(teacher, BlackBoxTeacher):
        teacher.enter(box, student=student)
    elif any(isinstance(loss, BlackBoxLoss) for loss, _ in getattr(box.criterion, "term_dict", {}).values()):
        raise _no_method()
    # Else it is a box of somebody else's methods, whose process functions were replaced by those of ours.


def _no_method() -> InputError:
    names = ", ".join(available())
    return InputError(
        f"BlackBoxLoss needs a method at the teacher: teacher.auxiliary_model_wrapper.key must be one of {names}"
    )
