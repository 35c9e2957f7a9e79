"""The flow of torchdistill's image-classification script, which its wheel leaves out, for a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["train"]


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
