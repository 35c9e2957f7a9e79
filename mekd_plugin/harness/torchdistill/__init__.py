"""torchdistill: our methods by its own decorators, in its own ``DistillationBox``.

Tried: 1.1.5 from PyPI, and the image-classification script of its repository at 3e4373c. A config names this package
under ``dependencies:``, which registers everything; nothing of torchdistill is changed. Its contract, as far as we rely
on it:

- ``teacher.auxiliary_model_wrapper.key`` is looked up and called with ``teacher_model=``, ``device=``, ``device_ids=``,
  ``distributed=`` and the config's ``kwargs``; an ``AuxiliaryModelWrapper``'s ``secondary_forward`` gets the teacher's
  I/O dict after the forward pass, and a mid-level loss gets that dict after the student's;
- ``pre_epoch_process`` is set on the class ``DistillationBox`` and called as ``box.pre_epoch_process(epoch=)`` before
  each epoch, and only then is ``box.train_data_loader`` iterated, for batches ``(images, targets, supp_dict)``;
- ``box.forward_process(images, targets, supp_dict)`` returns the loss, ``box.post_forward_process(loss=)``
  differentiates it and steps the box's one optimiser;
- a box of several stages makes its wrapper and its optimiser anew in each;
- a checkpoint holds the student, its optimiser and its schedule. A method's further players, and its place among the
  rows, lie in the optimiser's state, where a resumed run finds them.

What a user gets, by key. Teachers: every method's name, with ``responses``, ``budget``, ``directory``, ``seed``, ...,
``pool: {dataset_id: ID}`` and its hyperparameters as ``kwargs``. Loss: ``BlackBoxLoss``. Pre-epoch: ``mekd_student``;
``mekd_stage`` for a stage of the method's own, with ``mekd_no_forward`` and ``mekd_no_update``. Data: ``mekd_images``,
``mekd_synthesised``, ``mekd_bank`` with ``mekd_answers``. Networks: ``mekd_network``. See ``configs/torchdistill/``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.stand_ins import replaced
from mekd_plugin.harness.suite import Suite
from mekd_plugin.harness.torchdistill.launched import train
from mekd_plugin.registry import available

__all__ = ["SUITE", "Torchdistill", "train"]


class Torchdistill(Suite):
    """torchdistill's registries, and its ``DistillationBox``."""

    name = "torchdistill"
    package = "torchdistill"
    distribution = "torchdistill"
    tested = ("1.1.5",)
    install = "pip install 'mekd-plugin[torchdistill]'"
    next_step = (
        "name mekd_plugin.harness.torchdistill under dependencies: of your YAML, and a method as the key of "
        "teacher.auxiliary_model_wrapper, as configs/torchdistill/mekd.yaml does"
    )
    drives_stages = True

    def register(self) -> list[str]:
        from mekd_plugin.harness.torchdistill import data, keys  # noqa: F401 (importing registers)

        return available()

    @contextmanager
    def metered(self, counted: Counted) -> Iterator[None]:
        """What a ``DistillationBox`` asks while it trains; what a script asks besides is ``"evaluation"``."""
        from torchdistill.core.distillation import DistillationBox

        kept = DistillationBox.setup_teacher_student_models, DistillationBox.forward_process

        def set_up(box: Any, *args: Any, **kwargs: Any) -> None:
            kept[0](box, *args, **kwargs)
            original = box.org_teacher_model
            # A redesigned teacher is another module, made of the original's parts.
            counted.watch(original if original in box.teacher_model.modules() else box.teacher_model)

        def forward(box: Any, *args: Any, **kwargs: Any) -> Any:
            with counted.stage("training"):
                return kept[1](box, *args, **kwargs)

        with (
            replaced(DistillationBox, "setup_teacher_student_models", set_up),
            replaced(DistillationBox, "forward_process", forward),
            counted.stage("evaluation"),
        ):
            yield


SUITE = Torchdistill()
if SUITE.version() is not None:  # torchdistill's own door: what a config names under `dependencies:` is imported
    SUITE.register()
