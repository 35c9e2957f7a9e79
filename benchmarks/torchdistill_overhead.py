"""What our adapter costs inside torchdistill, a step, over the same loss written straight into a torchdistill loop.

    python benchmarks/torchdistill_overhead.py [--quick]

Both arms are torchdistill's own ``DistillationBox`` with SGD on a ResNet-8, over the very same batches of the very same
bank. Product: ``auxiliary_model_wrapper: METHOD`` and ``BlackBoxLoss``. Straightforward: a registered loss that holds
the mathematics and nothing else, on batches that were laid out in advance, which is faster than any data loader;
a third arm takes the same rows from torchdistill's own loader, as a user without us would.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from measuring import Arm, environment, finish
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler, TensorDataset
from torchdistill.core.distillation import get_distillation_box
from torchdistill.core.interfaces.registry import register_forward_proc_func
from torchdistill.losses.registry import register_mid_level_loss

from mekd_plugin.functional import kd_divergence
from mekd_plugin.harness.torchdistill import SUITE
from mekd_plugin.mekd.folding import fold
from mekd_plugin.networks import build
from mekd_plugin.networks.generator_files import load_generator
from mekd_plugin.rows import Rows

CLASSES, SHAPE, BATCH, SCALE = 10, (1, 16, 16), 64, 4.0
METHODS: dict[str, dict[str, Any]] = {
    "logit_mimicry": {},
    "mekd": {
        "emulation": "gan",
        "surrogate": None,
        "emulation_settings": {"steps": 20},
        "latent_temperature": SCALE,
    },
}
Losses = Callable[[Tensor, dict[str, Tensor]], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps; nothing is kept")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    SUITE.register()
    record = {
        "benchmark": f"steps of batch {BATCH} inside torchdistill, ResNet-8, {SHAPE[1]}x{SHAPE[2]}, one thread",
        "environment": environment(),
        "timings": {method: timings(method, settings, 20 if quick else 600) for method, settings in METHODS.items()},
    }
    finish("torchdistill_overhead", record, keep=not quick)


def timings(method: str, settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Milliseconds of a step, wall-clock and processor time, and what the product's costs beyond the others'.

    The arms take turns, a step each, so that a busy spell hits all; a median over many single steps leaves those out
    in which another program came between.
    """
    with tempfile.TemporaryDirectory() as directory:
        taking = arms(method, settings, directory)
        clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in taking}
        for turn in range(rounds + 5):
            for name, step in taking.items():
                wall, processor = time.perf_counter(), time.process_time()
                step(1)
                taken = time.perf_counter() - wall, time.process_time() - processor
                if turn >= 5:  # the first steps warm up
                    clocks[name].append(taken)
    found: dict[str, Any] = {"steps": rounds}
    for index, clock in enumerate(("wall", "processor")):
        middle = {name: 1000 * statistics.median(pair[index] for pair in pairs) for name, pairs in clocks.items()}
        found[clock] = {
            "milliseconds_a_step": {name: round(value, 3) for name, value in middle.items()},
            "overhead": {
                name: round(middle["product"] / value - 1, 4) for name, value in middle.items() if name != "product"
            },
        }
    return found


def arms(method: str, settings: dict[str, Any], directory: str) -> dict[str, Arm]:
    """Product, straightforward, and straightforward with torchdistill's own loader, on one bank."""
    box = make_box(teacher_config(method, {"budget": 1000, "directory": directory, **settings}))
    box.pre_epoch_process(epoch=0)
    loader, hosted, student = box.train_data_loader, box.mekd.hosted, box.student_model
    rows = [hosted.rows(images, supplement["rows"]) for images, _, supplement in loader]
    batches = [(part.images, part.answers().labels, columns(part)) for part in rows]
    losses = straight_losses(method, directory)
    ours, theirs = hosted.losses(student, rows[0])["loss"], losses(student(batches[0][0]), batches[0][2])
    if not torch.isclose(ours, theirs, rtol=1e-4):
        raise SystemExit(f"the arms do not compute the same loss ({ours} and {theirs}): their speeds mean nothing")
    straight = make_box(straight_config(losses), batches)
    usual = make_box(straight_config(losses), batches)
    return {
        "product": arm(box, loader),
        "straightforward": arm(straight, batches),
        "straightforward, torchdistill's loader": arm(usual, usual.train_data_loader),
    }


def columns(rows: Rows) -> dict[str, Tensor]:
    return {"scores": rows.answers().scores(), **rows.extra}


def straight_losses(method: str, directory: str) -> Losses:
    """The method's mathematics, on the student's logits and a batch's columns."""
    if method == "logit_mimicry":
        return lambda logits, row: (logits - logits.mean(1, keepdim=True) - row["scores"]).square().mean()
    generator = fold(load_generator(f"{directory}/generator.safetensors"))

    def losses(logits: Tensor, row: dict[str, Tensor]) -> Tensor:
        centred = logits - logits.mean(1, keepdim=True)
        images = generator(torch.cat([centred / SCALE, row["style"]], dim=1))
        return kd_divergence(logits, row["scores"], 4.0) + 0.3 * (images - row["target"]).abs().mean()

    return losses


@register_forward_proc_func
def straight_answers(model: nn.Module, images: Tensor, targets: Any = None, supp_dict: Any = None) -> Any:
    return supp_dict


@register_mid_level_loss
class StraightLoss(nn.Module):
    def __init__(self, losses: Losses) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, student_io_dict: Any, teacher_io_dict: Any, targets: Any = None) -> Tensor:
        return self.losses(student_io_dict["."]["output"], teacher_io_dict["."]["output"])


class Columns(Dataset[Any]):
    """The rows of ``batches`` one by one."""

    def __init__(self, batches: list[Any]) -> None:
        self.images, self.labels = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
        self.columns = {name: torch.cat([batch[2][name] for batch in batches]) for name in batches[0][2]}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.labels[index], {name: column[index] for name, column in self.columns.items()}


def teacher_config(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    wrapper = {"key": method, "kwargs": settings}
    return {
        "teacher": {"forward_proc": "forward_batch_supp_dict", "auxiliary_model_wrapper": wrapper},
        "pre_epoch_process": "mekd_student",
        "criterion": criterion("BlackBoxLoss", {}),
        "train_data_loader": loader_config("edge"),
    }


def straight_config(losses: Losses) -> dict[str, Any]:
    return {
        "teacher": {"forward_proc": "straight_answers", "requires_grad": False},
        "criterion": criterion("StraightLoss", {"losses": losses}),
        "train_data_loader": {**loader_config("rows"), "requires_supp": False},
    }


def criterion(key: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    terms = {"term": {"criterion": {"key": key, "kwargs": kwargs}, "weight": 1.0}}
    return {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}}


def loader_config(dataset: str) -> dict[str, Any]:
    kwargs = {"batch_size": BATCH, "drop_last": True}
    return {"dataset_id": dataset, "sampler": {"class_or_func": RandomSampler}, "kwargs": kwargs}


def make_box(config: dict[str, Any], batches: list[Any] | None = None) -> Any:
    """A box with a student of the same first weights."""
    edge = TensorDataset(torch.rand(200, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.zeros(200))
    sets = {"edge": edge, "rows": None if batches is None else Columns(batches)}
    config = {
        **config,
        "num_epochs": 1,
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.01, "momentum": 0.9}},
    }
    networks = build("lenet5", CLASSES, SHAPE, seed=0), build("resnet8", CLASSES, SHAPE, seed=1)
    return get_distillation_box(*networks, sets, config, torch.device("cpu"), None, False, 1)


def arm(box: Any, loader: Iterable[Any]) -> Arm:
    """Steps as torchdistill's scripts take them, over one epoch after another."""
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))

    def run(steps: int) -> None:
        for images, targets, supplement in itertools.islice(epochs, steps):
            box.post_forward_process(loss=box.forward_process(images, targets, supplement))

    return run


if __name__ == "__main__":
    main()
