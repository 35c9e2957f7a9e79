"""What stands in for parts of RepDistiller while one of its scripts runs; what is expected of them stands beside SUITE.

In a launch the suite's scripts take besides:

- ``--distill`` of every method of :func:`mekd_plugin.available`, as ``mekd_kd`` where the suite has one of that name.
  ``-b`` weighs the method's loss, ``-a`` must be 0, and ``-r`` has no effect, since the edge has no labels. The
  training accuracy is the student's agreement with the teacher on the method's own rows;
- ``--mekd KEY=VALUE ...`` for it: ``budget``, ``responses`` and ``value_range`` of the boundary, ``real_images`` or
  ``real_fraction`` (0.1) of the training images for the edge, ``steps`` of an epoch, ``seed``, ``directory``,
  ``cache``, ``preset`` and the method's hyperparameters;
- ``--dataset digits``, ``mnist``, ... (files in ``$MEKD_DATA``): the suite's networks get such images as 3x32x32;
- ``--model``, ``--model_s`` ``mekd-lenet5``, ``mekd-resnet20``, ...: our networks, in images of the data set's shape.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from mekd_plugin.data import dataset_names, load
from mekd_plugin.data.datasets import ImageData
from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.files import write_atomically
from mekd_plugin.harness.features import logits_of, noticing
from mekd_plugin.harness.guests import open_guest
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.repdistiller.data import (
    CIFAR,
    ImageShape,
    Passing,
    as_cifar,
    as_theirs,
    loaders_of,
    parse_settings,
)
from mekd_plugin.harness.row_loader import RowLoader, draw_edge_images
from mekd_plugin.networks import build, network_names
from mekd_plugin.registry import available
from mekd_plugin.training.hosting import Hosted

__all__ = ["OWN_METHODS", "Launched", "distill_names"]

OWN_METHODS = (
    *("kd", "hint", "attention", "similarity", "correlation", "vid", "crd", "kdsvd", "fsp", "rkd", "pkt", "abound"),
    *("factor", "nst"),
)
"""What the suite's ``--distill`` takes by itself."""


def distill_names(taken: Sequence[str] = OWN_METHODS) -> dict[str, str]:
    """What ``--distill`` takes in a launch, and the method that it is.

    Args:
        taken: names of the suite's own.
    """
    return {f"mekd_{method}" if method in taken else method: method for method in available()}


class Launched:
    """One run of a script.

    Args:
        networks: more of them by name, in images of the data set's shape.

    Attributes:
        counted: what the teacher itself was shown: by the script (its shapes, its accuracy), and in training.
    """

    def __init__(self, networks: Mapping[str, Callable[[], nn.Module]]) -> None:
        self.counted = Counted()
        self._metered = False
        self._data: ImageData | None = None
        self._method: str | None = None
        self._settings: dict[str, Any] = {}
        self._opt = Namespace()
        self._teacher_is_next = False
        self._hosted: Hosted | None = None
        self._rows: RowLoader | None = None
        try:
            loops: Any = import_module("helper.loops")
            data: Any = import_module("dataset.cifar100")
            models: Any = import_module("models")
        except ImportError as error:
            raise MissingDependency(f"RepDistiller cannot be imported ({error}): look at $REPDISTILLER_HOME") from error
        self._train, self._validate, self._loaders = loops.train_distill, loops.validate, data.get_cifar100_dataloaders
        self._samples = data.get_cifar100_dataloaders_sample
        loops.train_distill, loops.validate = self.train_distill, self.validate
        data.get_cifar100_dataloaders, data.get_cifar100_dataloaders_sample = self.loaders, self.samples
        for name, factory in models.model_dict.items():
            models.model_dict[name] = partial(self._suites_network, factory)
        ours = {name: partial(self._our_network, partial(_built, name)) for name in network_names()}
        self._networks = {f"mekd-{name.replace('_', '-')}": make for name, make in ours.items()}
        self._networks |= {name: partial(self._our_network, partial(_made, make)) for name, make in networks.items()}
        models.model_dict.update(self._networks)

    def meter(self, counted: Counted) -> None:
        """Count with ``counted`` from now on, and notice who looks at the teacher's features."""
        self.counted, self._metered = counted, True

    def parsing(self, parse: Callable[..., Namespace]) -> Callable[..., Namespace]:
        """``ArgumentParser.parse_args`` that takes more of the suite's parsers."""

        def parse_args(parser: ArgumentParser, *args: Any, **kwargs: Any) -> Namespace:
            actions = {action.dest: action for action in parser._actions}
            if "dataset" not in actions:
                return parse(parser, *args, **kwargs)
            names = distill_names(list(actions["distill"].choices or [])) if "distill" in actions else {}
            further = {"dataset": dataset_names(), "model": self._networks, "model_s": self._networks, "distill": names}
            for option, choices in further.items():
                if option in actions:
                    actions[option].choices = [*(actions[option].choices or []), *choices]
            words = "settings of a method of mekd-plugin"
            parser.add_argument("--mekd", nargs="*", default=[], metavar="KEY=VALUE", help=words)
            opt = parse(parser, *args, **kwargs)
            self._take(opt, names)
            return opt

        return parse_args

    def _take(self, opt: Namespace, names: Mapping[str, str]) -> None:
        self._opt, self._settings = opt, parse_settings(opt.mekd)
        self._teacher_is_next = hasattr(opt, "distill")
        if opt.dataset != "cifar100":
            self._data = load(opt.dataset)
            opt.dataset = Passing(opt.dataset, "cifar100")
        distill = getattr(opt, "distill", "")
        if distill not in names:
            if self._settings:
                raise InputError(f"--mekd {opt.mekd[0]}: is for --distill {', '.join(names)} only")
            return
        if opt.path_t is None:
            raise InputError(f"--distill {distill} needs a teacher: --path_t FOLDER_NAMED_AFTER_THE_NETWORK/FILE.pth")
        if opt.alpha:
            raise InputError(f"-a {opt.alpha:g}: {distill} has no second divergence, say -a 0; -b weighs its loss")
        opt.alpha, opt.beta = 0.0, 1.0 if opt.beta is None else opt.beta
        if opt.beta <= 0:
            raise InputError(f"-b {opt.beta:g}: it weighs the loss of {distill}, expected more than 0")
        self._method, opt.distill = names[distill], Passing(distill, "kd")

    def loaders(self, batch_size: int = 128, num_workers: int = 8, is_instance: bool = False) -> tuple[Any, ...]:
        """Stands in for ``get_cifar100_dataloaders``."""
        self._opt.dataset = str(self._opt.dataset)
        if self._data is None:
            found: tuple[Any, ...] = self._loaders(batch_size, num_workers, is_instance)
            return found
        return loaders_of(self._data, batch_size, num_workers, is_instance)

    def samples(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in for ``get_cifar100_dataloaders_sample``."""
        if self._data is not None:
            raise InputError(f"--distill crd draws its contrasts from CIFAR-100, not from {self._data.name}")
        return self._samples(*args, **kwargs)

    def train_distill(
        self, epoch: int, train_loader: Any, module_list: Any, criterion_list: Any, optimizer: Any, opt: Namespace
    ) -> Any:
        """Stands in for ``helper.loops.train_distill``, and runs it."""
        opt.distill = str(opt.distill)
        if epoch == 1:
            self.counted.differentiated = False  # the script asks for shapes with gradients on, and uses none
        with self.counted.stage("training"):
            if self._method is None:
                return self._train(epoch, train_loader, module_list, criterion_list, optimizer, opt)
            rows = self._rows or self._open(self._method, train_loader, module_list[0], module_list[-1])
            modules = nn.ModuleList([module_list[0], as_theirs(rows.teacher)])
            criteria = [lambda logits, labels: rows.loss(logits), lambda logits, answers: 0.0, None]
            branch = Namespace(**{**vars(opt), "distill": "kd", "gamma": opt.beta, "alpha": 0, "beta": 0})
            return self._train(epoch, rows, modules, criteria, optimizer, branch)

    def validate(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in for ``helper.loops.validate``, and runs it."""
        with self.counted.stage("evaluation"):
            return self._validate(*args, **kwargs)

    def close(self) -> None:
        """Write the method's ledger beside the suite's checkpoints, and say what the teacher itself was shown."""
        if self._hosted is None:
            return
        self._hosted.close()
        record = json.dumps(self._hosted.ledger.as_record(), indent=1) + "\n"
        write_atomically(Path(self._opt.save_folder) / "ledger.json", record.encode())
        print(f"[mekd] repdistiller: the teacher itself was shown {self.counted.ledger}", flush=True)

    def _open(self, method: str, train_loader: Any, student: nn.Module, teacher: nn.Module) -> RowLoader:
        settings = {"real_images": None, "real_fraction": 0.1, "seed": 0, "steps": None, **self._settings}
        edge = {key: settings.pop(key) for key in ("real_images", "real_fraction")}
        steps = settings.pop("steps")
        at_hand = len(train_loader.dataset)
        images = draw_edge_images(train_loader.dataset, seed=settings["seed"], **edge)
        self._hosted = open_guest(
            method, student, teacher, images, suite="repdistiller", images_at_hand=at_hand, **settings
        )
        self._rows = RowLoader(self._hosted, student, train_loader.batch_size, steps=steps, entries=3)
        print(
            f"[mekd] repdistiller, {method}: {self._hosted.ledger}; an epoch is {len(self._rows)} batches of the "
            "method's own rows, Acc@1 in training is the student's agreement with the teacher on them, and -r has no "
            "effect: there are no labels",
            flush=True,
        )
        return self._rows

    def _suites_network(self, factory: Callable[..., nn.Module], num_classes: int) -> nn.Module:
        network = factory(num_classes=num_classes if self._data is None else self._data.num_classes)
        if self._data is not None:
            network.register_forward_pre_hook(as_cifar)
        return self._watched(network)

    def _our_network(self, make: Callable[[int, ImageShape], nn.Module], num_classes: int) -> nn.Module:
        data = self._data
        classes, shape = (num_classes, CIFAR) if data is None else (data.num_classes, data.image_shape)
        return self._watched(as_theirs(make(classes, shape), shape))

    def _watched(self, network: nn.Module) -> nn.Module:
        if self._teacher_is_next:
            self._teacher_is_next = False
            self.counted.watch(network, answer=logits_of)
            if self._metered:
                network.register_forward_hook(noticing(self.counted))
        return network


def _built(name: str, classes: int, shape: ImageShape) -> nn.Module:
    return build(name, classes, shape)


def _made(make: Callable[[], nn.Module], classes: int, shape: ImageShape) -> nn.Module:
    return make()
