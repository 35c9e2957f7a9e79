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
preset's, and a mapping as a string, ``"{steps: 800}"``. ``DATASET.TYPE`` digits, mnist, ... with ``DATASET.ROOT``, and
our networks as ``mekd_lenet5``, ... with ``DISTILLER.TEACHER_CHECKPOINT`` (or ``$MEKD_TEACHER``), such as the
``student_latest`` of a run with ``TYPE: NONE``; it is found where that run's command line overrode settings, too.
Features of a teacher are counted as looked at when a method of the suite takes them out of their dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mekd_plugin.errors import InputError
from mekd_plugin.harness.features import logits_of, noticing
from mekd_plugin.harness.mdistiller.data import add_data_and_networks, node_of
from mekd_plugin.harness.mdistiller.guest import TRAINER, GuestDistiller, GuestTrainer
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.stand_ins import numbers_loadable, replaced, without_gpu
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
    next_step = (
        "mekd harness mdistiller -- tools/train.py --cfg configs/mdistiller/mnist/mekd.yaml, after the same with "
        "teacher.yaml, which trains the teacher"
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
            CFG.setdefault(node, type(CFG)(node_of(method)))
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
                raise InputError(f"the suite has {plain} and {found[method]} already: no name is left for {method}")
        return found

    @contextmanager
    def metered(self, counted: Counted) -> Iterator[None]:
        """Every distiller hands its teacher to the base class."""
        self._reach()
        from mdistiller.distillers._base import Distiller

        add_data_and_networks()
        made: Any = Distiller.__init__

        def watched(distiller: nn.Module, student: nn.Module, teacher: nn.Module) -> None:
            made(distiller, student, teacher)
            counted.watch(teacher, answer=logits_of)
            teacher.register_forward_hook(noticing(counted))

        with replaced(Distiller, "__init__", watched):
            yield

    @contextmanager
    def launching(self) -> Iterator[None]:
        """The scripts hard-code a GPU, save NumPy numbers, and change and freeze the process's one configuration."""
        self._reach()
        from mdistiller.engine.cfg import CFG

        kept = CFG.clone()
        with without_gpu(), numbers_loadable():
            try:
                yield
            finally:
                CFG.defrost()
                CFG.clear()
                CFG.update(kept)

    def _reach(self) -> None:
        """Let its package be imported from its sources; what the rest of it imports is torch's."""
        self.reach("mdistiller.engine")


SUITE = Mdistiller()
