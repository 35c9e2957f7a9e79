"""Our data sets, networks and settings in mdistiller's words, and where it finds the teacher that it trained."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mekd_plugin.data import load
from mekd_plugin.errors import DataMissing, InputError
from mekd_plugin.harness.features import WithFeatures
from mekd_plugin.networks import build, network_names
from mekd_plugin.registry import distillers

__all__ = ["Datasets", "add_data_and_networks", "as_theirs", "node_of", "setting_of", "trained_teacher"]

Loaders = tuple[DataLoader[Any], DataLoader[Any], int, int]
"""Training ``(image, label, index)``, validation ``(image, label)``, number of training images, classes."""

TEACHER_VARIABLE = "MEKD_TEACHER"
_TRAINS_ONE = "mekd harness mdistiller -- tools/train.py --cfg configs/mdistiller/mnist/teacher.yaml"
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


def as_theirs(network: nn.Module) -> nn.Module:
    """A network that returns what the suite's models do, ``(logits, features)``; its methods that need features fail.

    Args:
        network: images -> logits.
    """
    return WithFeatures(network, _without_features)


def _without_features(logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return logits, {}


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
            UnknownName: neither knows ``DATASET.TYPE``. DataMissing: its files are not in ``DATASET.ROOT``, or the
            teacher is one of our networks and was not trained yet.
        """
        try:
            found = self.suites_own(cfg)
        except NotImplementedError:
            found = _loaders(cfg)
        checkpoint = cfg.DISTILLER.TEACHER_CHECKPOINT
        if cfg.DISTILLER.TYPE != "NONE" and cfg.DISTILLER.TEACHER in _names():
            checkpoint = trained_teacher(checkpoint)
        _add_networks(found[0].dataset[0][0].shape, checkpoint or None)
        return found


def trained_teacher(path: str) -> str:
    """The file of a teacher that the suite trained.

    The suite writes what a command line overrides into the name of the run's folder (``teacher_lenet5SOLVER.LR:0.1``),
    so a file that is not at ``path`` is looked for in such folders beside it.

    Args:
        path: ``DISTILLER.TEACHER_CHECKPOINT``, as a run without overrides has it.

    Raises:
        DataMissing: no teacher was trained. InputError: ``path`` is empty, or several such folders hold one.
    """
    if not path:
        raise InputError(
            f"DISTILLER.TEACHER_CHECKPOINT is empty: name the teacher's weights there, or in ${TEACHER_VARIABLE}; "
            f"{_TRAINS_ONE} makes some"
        )
    wanted = Path(path).expanduser()
    if wanted.is_file():
        return str(wanted)
    run = wanted.parent
    found = sorted(run.parent.glob(f"{glob.escape(run.name)}[A-Z]*:*/**/{glob.escape(wanted.name)}"))
    if not found:
        raise DataMissing(
            f"{path}, DISTILLER.TEACHER_CHECKPOINT, is not there: train the teacher first, from this same folder, with"
            f"\n  {_TRAINS_ONE}\nor name another file: DISTILLER.TEACHER_CHECKPOINT FILE at the end of the command line"
        )
    if len(found) > 1:
        raise InputError(
            f"{path} is not there, and teachers trained with other settings are {', '.join(map(str, found))}: choose "
            "one with DISTILLER.TEACHER_CHECKPOINT FILE at the end of the command line"
        )
    print(f"[mekd] mdistiller: the teacher is that of {found[0]}, which was trained with overrides", flush=True)
    return str(found[0])


def node_of(method: str) -> dict[str, Any]:
    """The node of a method: its hyperparameters, null for the preset's, and what every method has."""
    return {**dict.fromkeys(key.upper() for key in distillers().hyperparameters(method)), **_SETTINGS}


def setting_of(value: Any) -> Any:
    """A node's value as a method takes it: a mapping, for which yacs has no room, is a string of YAML.

    >>> setting_of("{steps: 800, width: 24}"), setting_of("quick"), setting_of(3000)
    ({'steps': 800, 'width': 24}, 'quick', 3000)
    """
    return yaml.safe_load(value) if isinstance(value, str) and value.startswith("{") else value


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


def _names() -> dict[str, str]:
    """Our networks by their names in the suite."""
    return {f"mekd_{name}": name for name in network_names()}


def _add_networks(image_shape: tuple[int, ...], checkpoint: str | None) -> None:
    from mdistiller.models import cifar_model_dict

    for theirs, name in _names().items():
        cifar_model_dict[theirs] = (partial(_network, name, tuple(image_shape)), checkpoint)


def _network(name: str, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    channels, height, width = image_shape
    return as_theirs(build(name, num_classes, (channels, height, width)))
