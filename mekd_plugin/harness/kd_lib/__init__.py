"""MEKD and the baselines in KD_Lib, as distillers of its own kind; run with SforAiDL/KD_Lib a94d236, from source.

    mekd.register("kd_lib")                # $KD_LIB_HOME is the clone
    from KD_Lib.KD import MEKD             # or mekd_plugin.harness.kd_lib.classes()["mekd"]
    distiller = MEKD(teacher, student, train_loader, val_loader, None, optimizer_student, budget=20_000)
    distiller.train_student(epochs=20)

KD_Lib has no registry: its door is its base class, and its users import distillers from ``KD_Lib.KD``, where ours are
put beside its own. They take the arguments of KD_Lib's, and those of :class:`GuestDistiller` by name.

What the adapter relies on:

- ``BaseClass(teacher_model, student_model, train_loader, val_loader, optimizer_teacher, optimizer_student, loss_fn,
  temp, distil_weight, device, log, logdir)`` moves both models to ``device``, ``"cpu"`` or ``"cuda"``;
- ``train_student(epochs, plot_losses, save_model, save_model_pth)`` takes batches ``(data, label)`` from
  ``self.train_loader``, calls ``student_model(data)``, ``teacher_model(data)``, then
  ``calculate_kd_loss(student_out, teacher_out, label)``, which it differentiates, and divides the number of right
  answers by ``len(train_loader.dataset)``: with ours that is the student's agreement with the teacher;
- ``evaluate(teacher=True)`` copies ``self.teacher_model``, and asks the copy about ``val_loader``.

Of KD_Lib's own, and left as they are:

- In the end the student has the weights of the epoch that was best on ``val_loader``: do not let that be the test set.
- ``BaseClass`` sets the train mode once and its evaluation ends it, so KD_Lib's own distillers train in evaluation mode
  from the second epoch on. Ours do not: their loader puts the student back into train mode.
- It has no resume: the student's weights are saved, a critic's are not. ``directory=`` keeps generator and answers.
- Its text part imports ``transformers.AdamW`` and ``torchtext.legacy``, which are gone. Stand-ins are in their place
  while ``KD_Lib.KD`` is imported, and only then; BERT2LSTM cannot be used.
- It knows one device. The student may be an ``nn.DataParallel``, since the method is not part of it.
- ``DML``, ``SelfTraining`` and ``VirtualTeacher`` are not of ``BaseClass`` and have no teacher to ask: the meter leaves
  them out.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any

from mekd_plugin.harness.kd_lib.guest import GuestDistiller
from mekd_plugin.harness.kd_lib.launched import importable
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.stand_ins import replaced
from mekd_plugin.harness.suite import Suite, put_beside
from mekd_plugin.registry import distillers

__all__ = ["SUITE", "KDLib", "classes"]


class KDLib(Suite):
    """KD_Lib's base class, and its namespace of distillers."""

    name = "kd_lib"
    package = "KD_Lib"
    home = "KD_LIB_HOME"
    tested = ("a94d236",)
    install = (
        "git clone https://github.com/SforAiDL/KD_Lib, export KD_LIB_HOME=that folder (its requirements pin torch 1.8: "
        'do not install them), and pip install pandas "mekd-plugin[tensorboard]" for what it imports'
    )
    next_step = (
        "from KD_Lib.KD import MEKD, which takes the arguments of KD_Lib's own distillers, and budget=, responses=, ..."
    )

    def register(self) -> list[str]:
        """Put a distiller for each method into ``KD_Lib.KD``.

        Raises:
            MissingDependency: what KD_Lib imports is not installed. InputError: a name there is taken.
        """
        return put_beside(self.kd(), classes().values())

    def launching(self) -> AbstractContextManager[None]:
        """A script may import ``KD_Lib.KD``."""
        self.kd()
        return nullcontext()

    @contextmanager
    def metered(self, counted: Counted) -> Iterator[None]:
        """Every distiller hands its teacher to the base class; scoring and a teacher's own training are told apart."""
        base = self.kd().BaseClass
        made, evaluate = base.__init__, base._evaluate_model

        def watched(distiller: Any, teacher_model: Any, *args: Any, **kwargs: Any) -> None:
            made(distiller, teacher_model, *args, **kwargs)
            if teacher_model is not None:
                counted.watch(teacher_model)
                distiller.train_teacher = _owners_training(distiller.train_teacher, counted)

        def evaluated(*args: Any, **kwargs: Any) -> Any:
            with counted.stage("evaluation"):
                return evaluate(*args, **kwargs)

        with replaced(base, "__init__", watched), replaced(base, "_evaluate_model", evaluated):
            yield

    def kd(self) -> ModuleType:
        """``KD_Lib.KD``, imported from the sources, with stand-ins for what is gone.

        Raises:
            MissingDependency: it is not there, or something else that it imports is not installed.
        """
        with importable() if "KD_Lib.KD" not in sys.modules else nullcontext():
            return self.reach("KD_Lib.KD")


def classes() -> dict[str, type[GuestDistiller]]:
    """The distiller of each method that can be a guest, by the method's name."""
    base = SUITE.kd().BaseClass
    return {name: _distiller_of(name, base) for name in SUITE.methods()}


@functools.cache
def _distiller_of(method: str, base: type) -> type[GuestDistiller]:
    content = {"method": method, "__doc__": GuestDistiller.__doc__, "__module__": __name__}
    return type(distillers().get(method).__name__, (GuestDistiller, base), content)


def _owners_training(train_teacher: Callable[..., Any], counted: Counted) -> Callable[..., Any]:
    """What its owner's training shows a teacher is counted apart, and nobody looked behind its answers then."""

    def train(*args: Any, **kwargs: Any) -> Any:
        seen = counted.differentiated, counted.inner
        with counted.stage("train_teacher"):
            result = train_teacher(*args, **kwargs)
        counted.differentiated, counted.inner = seen
        return result

    return train


SUITE = KDLib()
