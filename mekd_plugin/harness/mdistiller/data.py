"""Our data sets, networks and settings in mdistiller, which has no registry of data, and the edge's share of a set."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mekd_plugin.data import load
from mekd_plugin.harness.meter import Counted
from mekd_plugin.networks import build, network_names
from mekd_plugin.registry import distillers

__all__ = [
    "Datasets",
    "Logits",
    "WithFeatures",
    "add_data_and_networks",
    "first",
    "noticing",
    "settings_of",
]

Loaders = tuple[DataLoader[Any], DataLoader[Any], int, int]
"""Training ``(image, label, index)``, validation ``(image, label)``, number of training images, classes."""

TEACHER_VARIABLE = "MEKD_TEACHER"
_CIFAR = (3, 32, 32)
_SETTINGS = {
    "PRESET": "quick",
    "RESPONSES": "logits",
    "BUDGET": None,
    "REAL_FRACTION": 0.1,
    "REAL_IMAGES": None,
    "VALUE_RANGE": None,
    "VALIDATION": 0.02,
    "SEED": 0,
    "STEPS": None,
    "CACHE": None,
}
"""Of every method's node: those of ``mekd_plugin.host``, the edge's share of the data, and the batches of an epoch."""


class WithFeatures(nn.Module):
    """A network that returns what the suite's models do.

    Args:
        network: images -> logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and no features: the suite's methods that need some do not run on it."""
        return self.network(images), {}


class Logits(nn.Module):
    """The other way round: one of the suite's models as images -> logits.

    Args:
        network: images -> ``(logits, features)``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, C)``."""
        return first(self.network(images))


def first(answer: tuple[Tensor, Any]) -> Tensor:
    """The logits of one of the suite's models."""
    return answer[0]


def noticing(counted: Counted) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook of a teacher: ``counted.inner`` holds from when somebody takes out one of its features."""

    class Features(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            counted.inner = True
            return super().__getitem__(key)

    return lambda module, inputs, answer: (answer[0], Features(answer[1]))


class Datasets:
    """Stands in for the suite's ``get_dataset``: its own data sets first, ours where it knows none of that name.

    Args:
        suites_own: ``get_dataset(cfg)``.
    """

    def __init__(self, suites_own: Callable[[Any], Loaders]) -> None:
        self.suites_own = suites_own

    def __call__(self, cfg: Any) -> Loaders:
        """The loaders; our networks fit these images, and have the configuration's weights, from now on.

        Raises:
            UnknownName: neither knows ``DATASET.TYPE``. DataMissing: its files are not in ``DATASET.ROOT``.
        """
        try:
            found = self.suites_own(cfg)
        except NotImplementedError:
            found = _loaders(cfg)
        _add_networks(found[0].dataset[0][0].shape, cfg.DISTILLER.TEACHER_CHECKPOINT or None)
        return found


def settings_of(method: str) -> dict[str, Any]:
    """The node of a method: its hyperparameters, null for the preset's, and what every method has."""
    return {**dict.fromkeys(key.upper() for key in distillers().hyperparameters(method)), **_SETTINGS}


def add_data_and_networks() -> None:
    """Put them where the suite looks: again, nothing happens."""
    from mdistiller import dataset
    from mdistiller.engine.cfg import CFG

    CFG.DATASET.setdefault("ROOT", "")
    CFG.DISTILLER.setdefault("TEACHER_CHECKPOINT", os.environ.get(TEACHER_VARIABLE, ""))
    if not isinstance(dataset.get_dataset, Datasets):
        dataset.get_dataset = Datasets(dataset.get_dataset)
        _add_networks(_CIFAR, None)


def _loaders(cfg: Any) -> Loaders:
    data = load(cfg.DATASET.TYPE, cfg.DATASET.ROOT or None)
    numbers = torch.arange(len(data.train_images))
    training = TensorDataset(data.train_images, data.train_labels, numbers)
    validation = TensorDataset(data.test_images, data.test_labels)
    workers = cfg.DATASET.NUM_WORKERS
    return (
        DataLoader(training, cfg.SOLVER.BATCH_SIZE, shuffle=True, num_workers=workers),
        DataLoader(validation, cfg.DATASET.TEST.BATCH_SIZE, num_workers=workers),
        len(numbers),
        data.num_classes,
    )


def _add_networks(image_shape: tuple[int, ...], checkpoint: str | None) -> None:
    from mdistiller.models import cifar_model_dict

    for name in network_names():
        cifar_model_dict[f"mekd_{name}"] = (partial(_network, name, tuple(image_shape)), checkpoint)


def _network(name: str, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    channels, height, width = image_shape
    return WithFeatures(build(name, num_classes, (channels, height, width)))
