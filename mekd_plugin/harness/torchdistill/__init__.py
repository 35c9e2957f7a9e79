"""torchdistill: our methods by its own decorators, in its own ``DistillationBox``.

Tried: 1.1.5 from PyPI, and the image-classification script of its repository at 3e4373c. A config names this file
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
  rows, lie in the optimiser's state, and so does a resumed run find them.

What a user gets, by key. Teachers: every method's name, with ``responses``, ``budget``, ``directory``, ``seed``, ...
and its hyperparameters as ``kwargs``. Loss: ``BlackBoxLoss``. Pre-epoch: ``mekd_student``; ``mekd_stage`` for a stage
of the method's own, with ``mekd_no_forward`` and ``mekd_no_update``. Data: ``mekd_images``, ``mekd_synthesised``,
``mekd_bank`` with ``mekd_answers``. Networks: ``mekd_network``. See ``configs/torchdistill/``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler, SequentialSampler, TensorDataset

from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.suite import Suite
from mekd_plugin.registry import available

__all__ = ["SUITE", "Torchdistill", "train"]

_EPOCHS = 10


class Torchdistill(Suite):
    """The suite; see above."""

    name = "torchdistill"
    package = "torchdistill"
    distribution = "torchdistill"
    tested = ("1.1.5",)
    install = "pip install 'mekd-plugin[torchdistill]'"
    drives_stages = True

    def register(self) -> list[str]:
        from mekd_plugin.harness.torchdistill import data, parts  # noqa: F401 (importing registers)

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

        DistillationBox.setup_teacher_student_models, DistillationBox.forward_process = set_up, forward
        try:
            with counted.stage("evaluation"):
                yield
        finally:
            DistillationBox.setup_teacher_student_models, DistillationBox.forward_process = kept

    def trial(self, method: str, world: ReferenceProblem, directory: Path) -> Trial:
        """As ``configs/torchdistill/METHOD.yaml`` has it."""
        self.register()
        digits = world.data
        labels = torch.full((len(world.images),), -100)
        config: dict[str, Any] = {
            "datasets": {
                "edge": TensorDataset(world.images, labels),
                "validation": TensorDataset(digits.train_images, digits.train_labels),
                "test": TensorDataset(digits.test_images, digits.test_labels),
            },
            "models": {"student_model": {"dst_ckpt": str(directory / "student.pt")}},
            "train": _training(method, world, directory / "run"),
            "test": {"test_data_loader": _loader("test", SequentialSampler, 256)},
        }
        settings = config["train"]["teacher"]["auxiliary_model_wrapper"]["kwargs"]
        settings["cache"] = None if world.cache is None else str(world.cache)
        lines: list[str] = []
        box, accuracy = train(world.teacher, world.student(), config, say=lines.append)
        hosted = box.mekd.hosted
        command = f"image_classification.py --config configs/torchdistill/{method}.yaml, its flow re-stated in train()"
        trial = Trial(accuracy, hosted.players.steps, hosted.ledger.as_record(), command, lines[-3:])
        hosted.close()
        return trial


def train(
    teacher: nn.Module,
    student: nn.Module,
    config: Mapping[str, Any],
    *,
    start_epoch: int = 0,
    say: Callable[[str], None] = print,
) -> tuple[Any, float]:
    """Train and test as torchdistill's image-classification script does on a CPU, which its wheel leaves out.

    Args:
        teacher: images -> logits.
        student: trained; in the end it has the weights of the epoch that was best in validation.
        config: that the script would read; ``models.student_model.src_ckpt`` and ``dst_ckpt`` are its checkpoints.
        start_epoch: the script's ``--start_epoch``.
        say: gets the script's lines.

    Returns:
        The box, and the student's accuracy in [0, 1] on the test set.
    """
    from torchdistill.common.file_util import check_if_exists
    from torchdistill.common.main_util import load_ckpt, save_ckpt
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.datasets.util import build_data_loader

    device, sets, files = torch.device("cpu"), config["datasets"], config["models"]["student_model"]
    box = get_distillation_box(teacher, student, sets, config["train"], device, None, False, 1)
    optimizer, schedule, best = box.optimizer, box.lr_scheduler, 0.0
    if check_if_exists(files.get("src_ckpt")):
        load_ckpt(files["src_ckpt"], model=student)
        best, _ = load_ckpt(files["src_ckpt"], optimizer=optimizer, lr_scheduler=schedule)
    for epoch in range(start_epoch, box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        for images, targets, supplement in box.train_data_loader:
            loss = box.forward_process(images.to(device), targets.to(device), supplement)
            box.post_forward_process(loss=loss)
        accuracy = _accuracy(student, box.val_data_loader)
        say(f"epoch {epoch}: loss {loss.item():.4f}, validation {100 * accuracy:.2f} %")
        if accuracy > best:
            best = accuracy
            save_ckpt(student, optimizer, schedule, best, None, files["dst_ckpt"])
        box.post_epoch_process()
    box.clean_modules()
    load_ckpt(files["dst_ckpt"], model=student, strict=True)
    loader = config["test"]["test_data_loader"]
    tested = _accuracy(student, build_data_loader(sets[loader["dataset_id"]], loader, False))
    say(f"test {100 * tested:.2f} %")
    return box, tested


@torch.inference_mode()
def _accuracy(student: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> float:
    student.eval()
    right = [student(images).argmax(dim=1) == labels for images, labels in loader]
    return float(torch.cat(right).double().mean())


def _training(method: str, world: ReferenceProblem, directory: Path) -> dict[str, Any]:
    kwargs = {
        "responses": "logits",
        "budget": world.budget,
        "seed": world.seed,
        "directory": str(directory),
        "steps_per_epoch": world.steps // _EPOCHS,
        **world.settings.get(method, {}),
    }
    optimizer = {"lr": world.learning_rate, "momentum": 0.9}
    return {
        "log_freq": 50,
        "num_epochs": _EPOCHS,
        "train_data_loader": _loader("edge", RandomSampler, world.batch_size),
        "val_data_loader": _loader("validation", SequentialSampler, 256),
        "teacher": {
            "forward_proc": "forward_batch_supp_dict",
            "requires_grad": False,
            "auxiliary_model_wrapper": {"key": method, "kwargs": kwargs},
        },
        "student": {"forward_proc": "forward_batch_only"},
        "pre_epoch_process": "mekd_student",
        "optimizer": {"key": "SGD", "kwargs": optimizer},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"method": {"criterion": {"key": "BlackBoxLoss", "kwargs": {}}, "weight": 1.0}}},
        },
    }


def _loader(dataset: str, sampler: Any, batch_size: int) -> dict[str, Any]:
    kwargs = {"batch_size": batch_size, "num_workers": 0}
    return {"dataset_id": dataset, "sampler": {"class_or_func": sampler}, "kwargs": kwargs}


SUITE = Torchdistill()
if SUITE.version() is not None:  # torchdistill's own door: what a config names under `dependencies:` is imported
    SUITE.register()
