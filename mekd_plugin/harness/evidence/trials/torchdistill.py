"""torchdistill: its box, as ``configs/torchdistill/METHOD.yaml`` has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import RandomSampler, SequentialSampler, TensorDataset

from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.torchdistill import SUITE, train

__all__ = ["COMMANDS", "train_section", "trial"]

COMMANDS = """
```sh
# image_classification.py is in examples/torchdistill/ of the suite's repository; its wheel leaves it out.
mekd teacher lenet5 --out teacher.safetensors --steps 600
python image_classification.py --config configs/torchdistill/mekd.yaml --device cpu
```
"""
_EPOCHS = 10


def trial(method: str, problem: ReferenceProblem, directory: Path) -> Trial:
    """Train ``method`` by the flow of the suite's script."""
    SUITE.register()
    digits = problem.data
    labels = torch.full((len(problem.images),), -100)
    config: dict[str, Any] = {
        "datasets": {
            "edge": TensorDataset(problem.images, labels),
            "validation": TensorDataset(digits.train_images, digits.train_labels),
            "test": TensorDataset(digits.test_images, digits.test_labels),
        },
        "models": {"student_model": {"dst_ckpt": str(directory / "student.pt")}},
        "train": train_section(method, problem, directory / "run"),
        "test": {"test_data_loader": _loader("test", SequentialSampler, 256)},
    }
    settings = config["train"]["teacher"]["auxiliary_model_wrapper"]["kwargs"]
    settings["cache"] = None if problem.cache is None else str(problem.cache)
    lines: list[str] = []
    box, accuracy = train(problem.teacher, problem.student(), config, say=lines.append)
    hosted = box.mekd.hosted
    command = f"image_classification.py --config configs/torchdistill/{method}.yaml, its flow re-stated in train()"
    tried = Trial(accuracy, hosted.players.steps, hosted.ledger.as_record(), command, lines[-3:])
    hosted.close()
    return tried


def train_section(method: str, problem: ReferenceProblem, directory: Path) -> dict[str, Any]:
    """The ``train:`` of the method's config."""
    kwargs = {
        "responses": "logits",
        "budget": problem.budget,
        "seed": problem.seed,
        "directory": str(directory),
        "steps_per_epoch": problem.steps // _EPOCHS,
        **problem.settings.get(method, {}),
    }
    optimizer = {"lr": problem.learning_rate, "momentum": 0.9}
    return {
        "log_freq": 50,
        "num_epochs": _EPOCHS,
        "train_data_loader": _loader("edge", RandomSampler, problem.batch_size),
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
    """The ``train:`` of the method's config."""
    kwargs = {"batch_size": batch_size, "num_workers": 0}
    return {"dataset_id": dataset, "sampler": {"class_or_func": sampler}, "kwargs": kwargs}
