"""What a method is in KD_Lib: a distiller whose ``train_student`` is KD_Lib's own, on rows that the method brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.meter import meter
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.harness.features import Logits, logits_of
from mekd_plugin.harness.guests import open_guest
from mekd_plugin.harness.row_loader import RowLoader, draw_edge_images
from mekd_plugin.registry import distillers
from mekd_plugin.training.hosting import Hosted

if TYPE_CHECKING:
    from KD_Lib.KD.common import BaseClass
else:
    BaseClass = object

__all__ = ["GuestDistiller"]


class GuestDistiller(BaseClass):
    """A method as a distiller of KD_Lib's; its further stages and its questions come first in ``train_student``.

    The teacher is only asked. ``distiller.teacher_model`` asks it too, counted apart, for ``evaluate(teacher=True)``.

    Args:
        teacher_model: images -> logits, or a tuple that begins with them; or a :class:`mekd_plugin.BlackBox`.
        student_model: likewise; trained in place.
        train_loader: of batches ``(image, label)``: its batch size is kept, its images are the edge's, and its labels
            are not looked at.
        val_loader: of labelled batches, on which KD_Lib chooses the epoch whose weights it keeps.
        optimizer_teacher: not used; None is fine.
        optimizer_student: which KD_Lib's loop steps.
        loss_fn: leave it out: the method brings its losses.
        temp: the method's hyperparameter ``temperature``, where it has one; None for its own.
        distil_weight: leave it out: the edge has no labels whose loss could be the rest.
        device: ``"cpu"`` or ``"cuda"``.
        log: as in KD_Lib.
        logdir: as in KD_Lib.
        images: the edge's unlabelled ones ``(N, channels, height, width)``; None takes those of ``train_loader``, all
            of them unless ``real_images`` or ``real_fraction`` says otherwise: in KD_Lib the loader is the user's own.
        real_images: how many of ``train_loader``'s.
        real_fraction: which part of ``train_loader``'s, in (0, 1], where ``real_images`` is None.
        seed: of everything that the method draws.
        steps: batches an epoch; None shows each row that was asked about once.
        **settings: ``responses``, ``budget``, ``num_classes`` and ``value_range`` of the boundary, and further ones of
            :func:`mekd_plugin.host`: ``directory``, ``cache``, ``preset``, ``progress``, the method's hyperparameters.

    Raises:
        InputError: a setting that cannot be used.
    """

    method: ClassVar[str]
    train_loader: Any
    teacher_model: Any

    def __init__(
        self,
        teacher_model: BlackBox | nn.Module,
        student_model: nn.Module,
        train_loader: Any,
        val_loader: Any,
        optimizer_teacher: Any,
        optimizer_student: torch.optim.Optimizer,
        loss_fn: None = None,
        temp: float | None = None,
        distil_weight: float | None = None,
        device: str = "cpu",
        log: bool = False,
        logdir: str = "./Experiments",
        *,
        images: Tensor | None = None,
        real_images: int | None = None,
        real_fraction: float = 1.0,
        seed: int = 0,
        steps: int | None = None,
        **settings: Any,
    ) -> None:
        if teacher_model is None:
            raise InputError("the teacher is None: there is nobody to ask")
        for name, given in (("loss_fn", loss_fn), ("distil_weight", distil_weight)):
            if given is not None:
                raise InputError(f"{name}={given!r}: {self.method} has its own losses and no labels; leave it out")
        if device not in ("cpu", "cuda"):
            raise InputError(f'device={device!r}: KD_Lib knows "cpu" and "cuda"')
        if temp is not None:
            if "temperature" not in distillers().hyperparameters(self.method):
                raise InputError(f"temp={temp!r}: {self.method} has no temperature; leave it out")
            settings["temperature"] = temp
        boxed = isinstance(teacher_model, BlackBox)
        loaders = train_loader, val_loader, optimizer_teacher, optimizer_student
        shown = teacher_model.as_module() if isinstance(teacher_model, BlackBox) else teacher_model
        super().__init__(shown, student_model, *loaders, device=device, log=log, logdir=logdir)
        self._asked = teacher_model
        self._settings = settings if boxed else {"answer": logits_of, **settings}
        self._at_hand = len(train_loader.dataset) if images is None else len(images)
        if images is None:
            images = draw_edge_images(
                train_loader.dataset, real_images=real_images, real_fraction=real_fraction, seed=seed
            )
        self._images, self._steps, self._seed = images, steps, seed
        if not boxed:
            self.teacher_model = meter(shown, answer=logits_of)
        self._rows: RowLoader | None = None

    @property
    def hosted(self) -> Hosted:
        """The method; ``hosted.ledger`` is what it asked.

        Raises:
            InputError: nothing was asked yet.
        """
        return self._opened().hosted

    def train_student(
        self,
        epochs: int = 10,
        plot_losses: bool = True,
        save_model: bool = True,
        save_model_pth: str = "./models/student.pt",
    ) -> None:
        """KD_Lib's ``train_student``, on the method's rows; the accuracy it prints is the agreement with the teacher.

        Args:
            epochs: of the student; a second call goes on where the first ended.
            plot_losses: as in KD_Lib.
            save_model: as in KD_Lib.
            save_model_pth: as in KD_Lib.
        """
        if self._rows is None:
            self._rows = self._open()
        rows = self._rows
        kept = self.train_loader, self.teacher_model
        self.train_loader, self.teacher_model = rows, rows.teacher
        try:
            super().train_student(epochs, plot_losses, save_model, save_model_pth)
        finally:
            self.train_loader, self.teacher_model = kept
            rows.hosted.close()

    def calculate_kd_loss(self, y_pred_student: Any, y_pred_teacher: Tensor, y_true: Tensor) -> Tensor:
        """The method's loss on the batch under way.

        Args:
            y_pred_student: logits ``(N, C)`` of the student, or a tuple that begins with them.
            y_pred_teacher: not used: the rows hold the teacher's answers.
            y_true: not used: they are the teacher's answers as well.

        Raises:
            InputError: outside ``train_student``.
        """
        return self._opened().loss(logits_of(y_pred_student))

    def train_teacher(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused.

        Raises:
            NeedsNotMet: always.
        """
        raise NeedsNotMet(
            f"{type(self).__name__} may only ask its teacher: let its owner train it, such as KD_Lib's "
            "VanillaKD(teacher, ...).train_teacher()"
        )

    def _open(self) -> RowLoader:
        hosted = open_guest(
            self.method,
            Logits(self.student_model),
            self._asked,
            self._images,
            suite="kd_lib",
            images_at_hand=self._at_hand,
            seed=self._seed,
            device=self.device.type,
            **self._settings,
        )
        rows = RowLoader(hosted, self.student_model, self.train_loader.batch_size, steps=self._steps)
        print(
            f"[mekd] kd_lib, {self.method}: {hosted.ledger}; an epoch is {len(rows)} batches of the method's own "
            "rows, the accuracy on them is the student's agreement with the teacher, and it stays in train mode, "
            "which KD_Lib's own distillers leave after their first epoch",
            flush=True,
        )
        return rows

    def _opened(self) -> RowLoader:
        if self._rows is None:
            raise InputError(f"{type(self).__name__} has asked nothing yet: call train_student")
        return self._rows
