"""A method as the teacher of torchdistill's ``DistillationBox``: it can only be asked, and brings rows and losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchdistill.models.wrapper import AuxiliaryModelWrapper

from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.harness.guests import open_guest, run_to_student, stages_told
from mekd_plugin.rows import Rows
from mekd_plugin.training.hosting import Batch, Hosted
from mekd_plugin.training.players import Players

__all__ = ["LOSSES", "BlackBoxTeacher"]

LOSSES = "mekd"
"""Entry of the teacher's I/O dict in which a batch's losses lie: student's logits -> ``{"loss": ...}``."""
_GUEST = "mekd"
"""Attribute of the box in which its method lies."""
_PLAYERS: Any = "mekd_players"
"""Entry of the student optimiser's state, which torchdistill's checkpoints hold, for a method's further players."""


class BlackBoxTeacher(AuxiliaryModelWrapper):
    """A method's teacher: registered once for each method, under its name.

    Args:
        method: by name; the registered key sets it.
        teacher_model: of the config; it is not part of this module and can only be asked from here on.
        steps_per_epoch: batches; None shows each row of a bank once, or, where there is no bank, takes as many as the
            config's own train loader has.
        device: torchdistill's.
        device_ids: torchdistill's; not used.
        distributed: torchdistill's; refused when the first epoch begins.
        **settings: further ones of :func:`mekd_plugin.harness.guests.open_guest`: ``responses``, ``budget``,
            ``directory``, ``seed``, ..., and the method's hyperparameters; ``pool: {dataset_id: ID}`` names the images
            of another domain, for a method that asks about those. The stages of a config that share a method share
            them.

    Raises:
        InputError: it stands at the student.
    """

    def __init__(
        self,
        method: str,
        teacher_model: nn.Module | None = None,
        *,
        steps_per_epoch: int | None = None,
        device: torch.device | None = None,
        device_ids: list[int] | None = None,
        distributed: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        if teacher_model is None:
            raise InputError(f"auxiliary_model_wrapper {method!r} is a teacher's: move it from student: to teacher:")
        self._method, self._settings, self._steps = method, settings, steps_per_epoch
        self._teacher = (teacher_model,)  # in a tuple, so that its weights are not this module's
        self._hosted: Hosted | None = None

    def enter(self, box: Any, *, student: bool) -> None:
        """At a stage's first epoch: make the method a guest of ``box``, or go on where the stage before it ended.

        Args:
            box: the ``DistillationBox``.
            student: whether the stage trains the student; else one of the method's own stages.

        Raises:
            NeedsNotMet: the box is distributed, or the method does not fit. InputError: a setting cannot be used.
        """
        if self._hosted is not None:
            return
        if box.distributed or box.accelerator is not None:
            raise NeedsNotMet(
                "our rows go to one process in torchdistill, whose distributed mode needs several GPUs and was never "
                "tried: start one process; the student's own `wrapper: DataParallel` may use several GPUs"
            )
        guest: _Guest | None = getattr(box, _GUEST, None)
        if guest is None:
            guest = _Guest(self._open(box), self._method, self._settings)
            setattr(box, _GUEST, guest)  # the wrapper is made anew in each stage, the box stays
        elif (guest.method, guest.settings) != (self._method, self._settings):
            raise InputError(
                f"this stage's teacher is {self._method} with {self._settings}, and that of the stage before "
                f"{guest.method} with {guest.settings}: one run is one method, so give both the same (by a YAML anchor)"
            )
        elif not guest.hosted.stage.trains_student:
            with stages_told(f"torchdistill, {self._method}"):
                guest.hosted.finish_stage()
        if student:
            run_to_student(guest.hosted, suite="torchdistill", method=self._method)
            _ride(guest.hosted.players, box.optimizer)
        elif guest.hosted.stage.trains_student:
            print(f"[mekd] torchdistill, {self._method}: nothing is left to train before the student", flush=True)
        box.train_data_loader = guest.loader(box.train_data_loader, self._steps)
        self._hosted, self._box, self._trains_student = guest.hosted, box, student

    def forward(self, images: Tensor, supp_dict: dict[str, Any] | None = None) -> Tensor:
        """The teacher's scores for a batch of rows, ``(N, C)``, read and not asked; ``images`` where it has none yet.

        Raises:
            InputError: the batch is not one of the method's.
        """
        if self._hosted is None or not supp_dict or "rows" not in supp_dict:
            raise InputError(
                f"{self._method} was handed a batch without its rows: the config needs teacher.forward_proc: "
                "forward_batch_supp_dict, and pre_epoch_process: mekd_student (or mekd_stage). torchdistill keeps the "
                "latter on the class: of several boxes, set one up when the one before it is done"
            )
        rows = self._hosted.rows(images, supp_dict["rows"])
        self._losses = partial(self._step, self._hosted, rows)
        return images if rows.response is None else rows.response.scores()

    def secondary_forward(self, io_dict: dict[str, dict[str, Any]]) -> None:
        """Lay the losses of the batch that was just shown into the teacher's I/O dict."""
        io_dict[LOSSES] = {"losses": self._losses}

    def _step(self, hosted: Hosted, rows: Rows, logits: Tensor) -> dict[str, Tensor]:
        if self._trains_student:
            student = self._box.student_model
            return hosted.losses(lambda images: logits if images is rows.images else student(images), rows)
        if hosted.stage.trains_student:
            return {"loss": rows.images.new_zeros(())}
        return hosted.step(rows)

    def _open(self, box: Any) -> Hosted:
        if box.train_data_loader is None:
            raise InputError("train_data_loader is missing: its data set's images are the edge's")
        images = torch.stack([item[0] for item in box.train_data_loader.dataset])
        settings = {"device": str(box.device), **self._settings}
        if "pool" in settings:
            settings["pool"] = _images_of(box, settings["pool"])
        return open_guest(
            self._method, box.org_student_model, *self._teacher, images, suite="torchdistill", stepwise=True, **settings
        )


def _images_of(box: Any, named: Any) -> Tensor:
    """The images of the data set that ``pool:`` names as a loader's config does, by one of the keys of ``datasets:``.

    Raises:
        InputError: it does not name one of them.
    """
    known = box.dataset_dict
    if not isinstance(named, Mapping) or set(named) != {"dataset_id"} or named["dataset_id"] not in known:
        raise InputError(
            f"pool: {named!r}: expected {{dataset_id: ID}}, with one of datasets: {', '.join(map(repr, known))}"
        )
    return torch.stack([item[0] for item in known[named["dataset_id"]]])


@dataclass
class _Guest:
    """A method in a box, over all its stages."""

    hosted: Hosted
    method: str
    settings: dict[str, Any]
    batch_size: int | None = None
    batches: int = 0

    def loader(self, current: Any, steps: int | None) -> Any:
        """An epoch of the method's rows, in batches as those of ``current``, where this is not yet a loader of ours."""
        if getattr(current, "collate_fn", None) is not _as_torchdistill:
            self.batch_size = current.batch_size or getattr(current.batch_sampler, "batch_size", None)
            self.batches = len(current)
        if self.batch_size is None:
            raise InputError("train_data_loader has no batch_size: give it one, ours has as many rows a batch")
        asks_anew = self.hosted.method.needs.queries == "every step"
        if steps is None and (asks_anew or not self.hosted.stage.trains_student):
            steps = self.batches
        loader = self.hosted.loader(self.batch_size, steps=steps)
        loader.collate_fn = _as_torchdistill
        return loader


def _ride(players: Players, optimizer: torch.optim.Optimizer) -> None:
    """Have the players' state travel with the student's optimiser, through torchdistill's checkpoints.

    torch keeps what stands in an optimiser's state besides its parameters, and loads it again.
    """
    if _PLAYERS in optimizer.state:
        players.load_state_dict(optimizer.state[_PLAYERS])
    optimizer.register_state_dict_pre_hook(lambda saved: saved.state.update({_PLAYERS: players.state_dict()}))


def _as_torchdistill(batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    images, labels, numbers = batch
    return images, labels, {"rows": numbers}
