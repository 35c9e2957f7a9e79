r"""RepDistiller with our methods in it, by a launcher: it has no registry, but names in its script and an if/elif.

    export REPDISTILLER_HOME=the clone
    mekd harness repdistiller -- train_student.py --distill mekd --model_s resnet8x4 -a 0 -b 1 \
        --path_t save/models/resnet32x4_vanilla/ckpt_epoch_240.pth --mekd budget=100000 real_fraction=0.1

Run with HobbitLong/RepDistiller b84f547. Its scripts run as they are, and all that follows holds only while one runs;
:mod:`mekd_plugin.harness.repdistiller.launched` says what they take besides. What it relies on:

- a script's parser has ``--dataset``, for ``"cifar100"`` alone; that of ``train_student.py`` has ``--distill``,
  ``--model_s``, ``-a`` and ``-b`` as well, that of ``train_teacher.py`` ``--model``;
- ``models.model_dict[name](num_classes=100)`` makes a network, the teacher first; its name is parsed from the folder of
  ``--path_t``, up to the first underscore. ``network(images)`` returns logits, ``network(images, is_feat=True,
  preact=False)`` a list of features and logits, and each is asked so about a random batch ``(2, 3, 32, 32)`` once;
- ``dataset.cifar100.get_cifar100_dataloaders(batch_size, num_workers, is_instance)`` returns the training loader, of
  ``(image, label, index)`` if ``is_instance`` is set, the validation loader, and then the number of images;
- ``helper.loops.train_distill(epoch, train_loader, module_list, criterion_list, optimizer, opt)``, the student first
  and the teacher last in ``module_list``, returns top-1 accuracy and loss. With ``opt.distill`` ``"kd"`` it
  differentiates ``gamma * criterion_list[0](logits, label) + alpha * criterion_list[1](logits, teacher's logits)``; our
  methods run in that branch of it, so the loop is the suite's own for them as well;
- ``helper.loops.validate(val_loader, model, criterion, opt)`` measures top-5 accuracy, so there are 5 classes or more;
- ``tensorboard_logger.Logger(logdir, flush_secs).log_value(name, value, step)``, of which a current protobuf refuses
  the import: torch's event writer stands in for it.

``torch.load`` gets a ``map_location`` where there is no GPU, and may find the Namespace that the suite keeps in
``*_last.pth``. The suite has no resume, so neither have a critic and our place among the rows; ``--mekd directory=DIR``
keeps generator and answers, and another run takes them over. With MobileNetV2 and ShuffleNet the suite itself changes
the learning rate to 0.01. It uses one GPU at most.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.launch import launch
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.repdistiller.launched import Launched, distill_names
from mekd_plugin.harness.repdistiller.parts import (
    WithFeatures,
    event_logger,
    load_anywhere,
    modules_forgotten,
    replaced,
)
from mekd_plugin.harness.suite import Suite

__all__ = ["SUITE", "RepDistiller"]

_EPOCHS = 10


class RepDistiller(Suite):
    """See the file."""

    name = "repdistiller"
    package = ""
    home = "REPDISTILLER_HOME"
    tested = ("b84f547",)
    install = (
        "git clone https://github.com/HobbitLong/RepDistiller, export REPDISTILLER_HOME=that folder, and "
        'pip install "mekd-plugin[tensorboard]" for its logs'
    )

    def __init__(self) -> None:
        self._launched: Launched | None = None
        self._networks: dict[str, Callable[[], nn.Module]] = {}

    def register(self) -> list[str]:
        """Nothing can be registered: says so, and returns what ``--distill`` takes in a launch."""
        print(
            "[mekd] RepDistiller has no registry, so nothing is registered there: `mekd harness repdistiller -- "
            "train_student.py --distill mekd ...` is a launcher, which runs its script with these names accepted",
            flush=True,
        )
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
            stack.enter_context(replaced(torch, "load", load_anywhere(torch.load)))
            launched = self._launched = Launched(self._networks)
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

    def trial(self, method: str, world: ReferenceProblem, directory: Path) -> Trial:
        """Its own script, with the world's networks, data set and SGD."""
        named = {ours: name for name, ours in distill_names().items()}
        work = Path(tempfile.mkdtemp(dir=directory)).resolve()
        (work / "trial-teacher_of").mkdir()
        torch.save({"model": WithFeatures(world.teacher).state_dict()}, work / "trial-teacher_of" / "world.pth")
        settings: dict[str, Any] = {"budget": world.budget, "real_images": world.real_images, "seed": world.seed}
        settings |= {"steps": max(1, world.steps // _EPOCHS), **world.settings.get(method, {})}
        command = [
            *("train_student.py", "--dataset", world.data.name, "--distill", named[method]),
            *("--path_t", str(work / "trial-teacher_of" / "world.pth"), "--model_s", "trial-student"),
            *("-a", "0", "-b", "1", "--lr_decay_epochs", "1000"),
            *("--epochs", str(min(_EPOCHS, world.steps)), "--batch_size", str(world.batch_size), "--num_workers", "0"),
            *("--learning_rate", str(world.learning_rate), "--weight_decay", "0", "--print_freq", "1000000"),
            *("--mekd", *(f"{key}={value}" for key, value in settings.items())),
        ]
        unseen = ["progress=false", *([] if world.cache is None else [f"cache={world.cache}"])]
        self._networks = {"trial-teacher": lambda: world.teacher, "trial-student": world.student}
        said = io.StringIO()
        try:
            with contextlib.chdir(work), contextlib.redirect_stdout(said):
                launch(self, [*command, *unseen], meter=False)
        finally:
            self._networks = {}
        lines = said.getvalue().splitlines()
        ledger = next(work.glob("save/student_model/*/ledger.json"))
        return Trial(
            accuracy=round(float(re.findall(r"Acc@1 ([\d.]+) Acc@5", said.getvalue())[-1]) / 100, 5),
            steps=min(_EPOCHS, world.steps) * int(settings["steps"]),
            queries=json.loads(ledger.read_text()),
            command="mekd harness repdistiller -- " + " ".join(command).replace(f"{work}/", ""),
            last_lines=lines[-6:],
        )


SUITE = RepDistiller()
