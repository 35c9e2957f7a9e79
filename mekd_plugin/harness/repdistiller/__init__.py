r"""RepDistiller with our methods in it, by a launcher: it has no registry, but names in its script and an if/elif.

    export REPDISTILLER_HOME=the clone
    mekd harness repdistiller -- train_student.py --distill mekd --model_s resnet8x4 -a 0 -b 1 \
        --path_t save/models/resnet32x4_vanilla/ckpt_epoch_240.pth --mekd budget=100000 real_fraction=0.1

Run with HobbitLong/RepDistiller b84f547. Its scripts run as they are, and all that follows holds only while one runs;
:mod:`mekd_plugin.harness.repdistiller.launched` says what they take besides. What it relies on:

- a script's parser has ``--dataset``, for ``"cifar100"`` alone; that of ``train_student.py`` has ``--distill``,
  ``--model_s``, ``-a`` and ``-b`` as well, that of ``train_teacher.py`` ``--model``;
- ``models.model_dict[name](num_classes=100)`` makes a network, the teacher first, whose name is the folder of
  ``--path_t`` up to the first underscore. ``network(images)`` returns logits, ``network(images, is_feat=True,
  preact=False)`` a list of features and logits; the script asks each for its features once, about a random
  ``(2, 3, 32, 32)``;
- ``dataset.cifar100.get_cifar100_dataloaders(batch_size, num_workers, is_instance)`` returns the training loader, of
  ``(image, label, index)`` if ``is_instance`` is set, the validation loader, and then the number of images;
- ``helper.loops.train_distill(epoch, train_loader, module_list, criterion_list, optimizer, opt)``, the student first
  and the teacher last in ``module_list``, returns top-1 accuracy and loss. With ``opt.distill`` ``"kd"`` it
  differentiates ``gamma * criterion_list[0](logits, label) + alpha * criterion_list[1](logits, teacher's logits)``; our
  methods run in that branch of it, so the loop is the suite's own for them as well;
- ``helper.loops.validate(val_loader, model, criterion, opt)`` measures top-5 accuracy, so there are 5 classes or more;
- ``tensorboard_logger.Logger(logdir, flush_secs).log_value(name, value, step)``, of which a current protobuf refuses
  the import: torch's event writer stands in for it.

``torch.load`` gets a ``map_location`` where there is no GPU, and accepts the Namespace that the suite keeps in
``*_last.pth`` and the NumPy number that a decayed learning rate is. The suite has no resume, so a critic and our place
among the rows have none either; ``--mekd directory=DIR`` keeps generator and answers, and another run takes them over.
With MobileNetV2 and ShuffleNet the suite itself changes the learning rate to 0.01. It uses one GPU at most.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.repdistiller.launched import Launched, distill_names
from mekd_plugin.harness.stand_ins import (
    event_logger,
    loads_anywhere,
    modules_forgotten,
    numbers_loadable,
    replaced,
)
from mekd_plugin.harness.suite import Suite

__all__ = ["SUITE", "RepDistiller"]


class RepDistiller(Suite):
    """RepDistiller's scripts, while one of them is launched.

    Attributes:
        networks: further networks by the names that ``--model_s`` and the teacher's folder take in the next launches.
    """

    name = "repdistiller"
    package = ""
    home = "REPDISTILLER_HOME"
    tested = ("b84f547",)
    install = (
        "git clone https://github.com/HobbitLong/RepDistiller, export REPDISTILLER_HOME=that folder, and "
        'pip install "mekd-plugin[tensorboard]" for its logs'
    )
    next_step = (
        "it has no registry, so nothing was registered; a launcher runs its script with our methods accepted: mekd "
        "harness repdistiller -- train_student.py --distill mekd --path_t FOLDER/FILE.pth --model_s resnet8x4 -a 0 "
        "-b 1 --mekd budget=100000"
    )

    def __init__(self) -> None:
        self._launched: Launched | None = None
        self.networks: dict[str, Callable[[], nn.Module]] = {}

    def register(self) -> list[str]:
        """Nothing can be registered; returns what ``--distill`` takes in a launch."""
        return list(distill_names())

    @contextmanager
    def launching(self) -> Iterator[None]:
        """Replace parts of the suite; in the end forget its modules, whose names (``models``) are anybody's."""
        sources = self.sources()
        if sources is None:
            raise MissingDependency(f"where is RepDistiller? {self.install}")
        with ExitStack() as stack:
            stack.enter_context(modules_forgotten(sources))
            stack.enter_context(event_logger())
            stack.enter_context(torch.serialization.safe_globals([argparse.Namespace]))
            stack.enter_context(numbers_loadable())
            stack.enter_context(loads_anywhere())
            launched = self._launched = Launched(self.networks)
            stack.callback(setattr, self, "_launched", None)
            stack.callback(launched.close)
            parse = argparse.ArgumentParser.parse_args
            stack.enter_context(replaced(argparse.ArgumentParser, "parse_args", launched.parsing(parse)))
            stack.enter_context(launched.counted.stage("set-up"))
            yield

    @contextmanager
    def metered(self, counted: Counted) -> Iterator[None]:
        """The teacher is counted in every launch; here with what looks behind its answers."""
        if self._launched is None:
            raise InputError("RepDistiller is metered in a launch only: mekd harness repdistiller --meter -- SCRIPT")
        self._launched.meter(counted)
        with counted.stage("set-up"):
            yield


SUITE = RepDistiller()
