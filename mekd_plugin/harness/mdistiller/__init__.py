"""mdistiller, and its fork logit-standardization-KD, which keeps the package's name and its dictionaries.

Tried: ``megvii-research/mdistiller`` a08d46f, ``sunshangquan/logit-standardization-KD`` f6e5aa5, from source. The
contract that we rely on:

- ``distillers.distiller_dict[DISTILLER.TYPE](student, teacher, cfg)``; the result has ``forward_train(image=, target=,
  epoch=) -> (logits, {name: loss})``, of which the sum is differentiated; ``get_learnable_parameters()`` and
  ``get_extra_parameters()`` are called through ``DataParallel.module``;
- ``distillers._base.Distiller`` keeps ``student`` and ``teacher``, and puts the teacher into eval mode;
- ``engine.trainer_dict[SOLVER.TRAINER](experiment_name, distiller, train_loader, val_loader, cfg).train(resume=)``; it
  takes batches ``(image, target, index)`` from ``self.train_loader`` through ``self.train_iter(data, epoch, meters)``,
  measures top-5 accuracy, and writes below ``self.log_path`` the state of the whole distiller;
- ``engine.cfg.CFG`` has a node for each method before a file is merged;
- ``dataset.get_dataset(cfg) -> (train_loader, val_loader, images, classes)`` raises ``NotImplementedError`` for a name
  that it does not know; scripts import it when they start, so it is replaced before that;
- ``models.cifar_model_dict[name] = (factory(num_classes=), checkpoint path)``, the file holding ``{"model": weights}``;
  models return ``(logits, features)``.

What a user gets: ``DISTILLER.TYPE`` MEKD, LOGIT_MIMICRY, ...; where the suite has a name already, ours is prefixed
(``MEKD_KD``). ``SOLVER.TRAINER`` is ``mekd``, and the method's node holds its hyperparameters in capitals, null for the
preset's. ``DATASET.TYPE`` digits, mnist, ... with ``DATASET.ROOT``, and our networks as ``mekd_lenet5``, ... with
``DISTILLER.TEACHER_CHECKPOINT`` (or ``$MEKD_TEACHER``), such as the ``student_latest`` of a run with ``TYPE: NONE``.
Features of a teacher are counted as looked at when a method of the suite takes them out of their dictionary.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from torch import nn

from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.launch import launch, without_gpu
from mekd_plugin.harness.mdistiller.data import WithFeatures, add_data_and_networks, first, noticing, settings_of
from mekd_plugin.harness.mdistiller.guest import TRAINER, GuestDistiller, GuestTrainer
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.suite import Suite
from mekd_plugin.registry import available

__all__ = ["SUITE", "Mdistiller"]


class Mdistiller(Suite):
    """The suite, and its fork."""

    name = "mdistiller"
    package = "mdistiller"
    home = "MDISTILLER_HOME"
    tested = ("a08d46f", "f6e5aa5")
    install = (
        "git clone https://github.com/megvii-research/mdistiller, export MDISTILLER_HOME=that folder, "
        'pip install "mekd-plugin[mdistiller]" for what it imports'
    )

    def register(self) -> list[str]:
        """Fill its dictionaries.

        Raises:
            MissingDependency: what it imports is not installed. InputError: a name is taken.
        """
        self._reach()
        from mdistiller.distillers import _base, distiller_dict
        from mdistiller.engine import trainer, trainer_dict
        from mdistiller.engine.cfg import CFG

        if not issubclass(trainer_dict.get(TRAINER, GuestTrainer), GuestTrainer):
            raise InputError(f"the suite has a trainer {TRAINER!r} already, which ours would replace")
        add_data_and_networks()
        trainer_dict[TRAINER] = type("MekdTrainer", (GuestTrainer, trainer.BaseTrainer), {})
        for method, node in self.nodes().items():
            bases = (GuestDistiller, _base.Distiller)
            distiller_dict[node] = type(node, bases, {"method": method, "node": node})
            CFG.setdefault(node, type(CFG)(settings_of(method)))
        return list(self.nodes().values())

    def nodes(self) -> dict[str, str]:
        """Our methods, and their names in the suite.

        Raises:
            InputError: the suite has both the plain and the prefixed name.
        """
        from mdistiller.distillers import distiller_dict
        from mdistiller.engine.cfg import CFG

        ours = {name for name, entry in distiller_dict.items() if getattr(entry, "node", "") == name}
        taken = (distiller_dict.keys() | CFG.keys()) - ours
        found = {}
        for method in available():
            plain = method.upper()
            found[method] = plain if plain not in taken else f"MEKD_{plain}"
            if found[method] in taken:
                raise InputError(f"the suite has {plain} and {found[method]} already: {method} finds no name there")
        return found

    @contextmanager
    def metered(self, counted: Counted) -> Iterator[None]:
        """Every distiller hands its teacher to the base class."""
        self._reach()
        from mdistiller.distillers._base import Distiller

        add_data_and_networks()
        made = Distiller.__init__

        def watched(distiller: nn.Module, student: nn.Module, teacher: nn.Module) -> None:
            made(distiller, student, teacher)
            counted.watch(teacher, answer=first)
            teacher.register_forward_hook(noticing(counted))

        Distiller.__init__ = watched
        try:
            yield
        finally:
            Distiller.__init__ = made

    @contextmanager
    def launching(self) -> Iterator[None]:
        """The scripts hard-code a GPU, and change and freeze the one configuration of the process."""
        self._reach()
        from mdistiller.engine.cfg import CFG

        kept = CFG.clone()
        with without_gpu():
            try:
                yield
            finally:
                CFG.defrost()
                CFG.clear()
                CFG.update(kept)

    def trial(self, method: str, world: ReferenceProblem, directory: Path) -> Trial:
        """By its own script, a configuration, and the world's networks in its dictionary."""
        self._reach()
        from mdistiller.models import cifar_model_dict

        work = Path(tempfile.mkdtemp(dir=directory))  # of its own: an earlier trial's answers would be taken over
        teacher, epochs = WithFeatures(world.teacher), min(10, world.steps)
        torch.save({"model": teacher.state_dict()}, work / "teacher.pt")
        cifar_model_dict["trial_teacher"] = (lambda num_classes: teacher, str(work / "teacher.pt"))
        cifar_model_dict["trial_student"] = (lambda num_classes: WithFeatures(world.student()), None)
        node = {
            "BUDGET": world.budget,
            "REAL_IMAGES": world.real_images,
            "SEED": world.seed,
            "STEPS": world.steps // epochs,
            "CACHE": world.cache and str(world.cache),
            **{key.upper(): value for key, value in world.settings.get(method, {}).items()},
        }
        settings = {
            "EXPERIMENT": {"PROJECT": "", "NAME": method},
            "DATASET": {"TYPE": world.data.name, "NUM_WORKERS": 0},
            "DISTILLER": {"TYPE": self.nodes()[method], "TEACHER": "trial_teacher", "STUDENT": "trial_student"},
            "SOLVER": {
                "TRAINER": TRAINER,
                "BATCH_SIZE": world.batch_size,
                "EPOCHS": epochs,
                "LR": world.learning_rate,
                "WEIGHT_DECAY": 0.0,
            },
            "LOG": {"PREFIX": str(work), "WANDB": False},
            self.nodes()[method]: node,
        }
        (work / f"{method}.yaml").write_text(yaml.safe_dump(settings))
        launch(self, ["tools/train.py", "--cfg", str(work / f"{method}.yaml")], meter=False)
        log = (work / method / "worklog.txt").read_text()
        return Trial(
            accuracy=float(re.findall(r"test_acc: ([\d.]+)", log)[-1]) / 100,
            steps=world.steps // epochs * epochs,
            queries=yaml.safe_load((work / method / "ledger.json").read_text()),
            command=f"mekd harness mdistiller -- tools/train.py --cfg {method}.yaml",
            last_lines=log.splitlines()[-9:],
        )

    def _reach(self) -> None:
        """Let its package be imported from its sources."""
        self.require()
        folder = str(self.sources())
        if folder not in sys.path:
            sys.path.append(folder)
        try:
            import mdistiller.engine  # noqa: F401  # what the rest of it imports is torch's
        except ImportError as error:
            raise MissingDependency(f"mdistiller in {folder} cannot be imported ({error}): {self.install}") from error


SUITE = Mdistiller()
