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
- It knows one device. The student may be an ``nn.DataParallel``, since the method is no part of it.
- ``DML``, ``SelfTraining`` and ``VirtualTeacher`` are no ``BaseClass`` and have no teacher to ask: the meter leaves
  them out.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.kd_lib.guest import GuestDistiller
from mekd_plugin.harness.kd_lib.stand_ins import stand_ins
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.suite import Suite, how_it_runs
from mekd_plugin.registry import distillers

__all__ = ["SUITE", "KDLib", "classes"]

_EPOCHS = 10


class KDLib(Suite):
    """See the file."""

    name = "kd_lib"
    package = "KD_Lib"
    home = "KD_LIB_HOME"
    tested = ("a94d236",)
    install = (
        "git clone https://github.com/SforAiDL/KD_Lib, export KD_LIB_HOME=that folder (its requirements pin torch 1.8: "
        'do not install them), and pip install pandas "mekd-plugin[tensorboard]" for what it imports'
    )

    def register(self) -> list[str]:
        """Put a distiller for each method into ``KD_Lib.KD``.

        Raises:
            MissingDependency: what KD_Lib imports is not installed. InputError: a name there is taken.
        """
        suites_own = self.reach()
        found = classes()
        for distiller in found.values():
            name = distiller.__name__
            if getattr(suites_own, name, distiller) is not distiller:
                raise InputError(f"KD_Lib.KD.{name} is there already and not ours: rename one of the two")
            setattr(suites_own, name, distiller)
        return sorted(distiller.__name__ for distiller in found.values())

    def launching(self) -> contextlib.AbstractContextManager[None]:
        """A script may import ``KD_Lib.KD``."""
        self.reach()
        return contextlib.nullcontext()

    @contextmanager
    def metered(self, counted: Counted) -> Iterator[None]:
        """Every distiller hands its teacher to the base class; scoring and a teacher's own training are told apart."""
        base = self.reach().BaseClass
        made, evaluate = base.__init__, base._evaluate_model

        def watched(distiller: Any, teacher_model: Any, *args: Any, **kwargs: Any) -> None:
            made(distiller, teacher_model, *args, **kwargs)
            if teacher_model is not None:
                counted.watch(teacher_model)
                distiller.train_teacher = _owners_training(distiller.train_teacher, counted)

        def evaluated(*args: Any, **kwargs: Any) -> Any:
            with counted.stage("evaluation"):
                return evaluate(*args, **kwargs)

        base.__init__, base._evaluate_model = watched, evaluated
        try:
            yield
        finally:
            base.__init__, base._evaluate_model = made, evaluate

    def trial(self, method: str, world: ReferenceProblem, directory: Path) -> Trial:
        """``train_student`` with the world's SGD; the epoch is chosen on training images, not on the test set."""
        self.require()
        self.reach()
        data, student = world.data, world.student()
        labelled = DataLoader(TensorDataset(data.train_images, data.train_labels), world.batch_size, shuffle=True)
        distiller = classes()[method](
            world.teacher,
            student,
            labelled,
            labelled,
            None,
            torch.optim.SGD(student.parameters(), world.learning_rate, momentum=0.9),
            images=world.images,
            budget=world.budget,
            steps=max(1, world.steps // _EPOCHS),
            seed=world.seed,
            cache=world.cache,
            progress=False,
            **world.settings.get(method, {}),
        )
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            distiller.train_student(min(_EPOCHS, world.steps), False, True, str(directory / "student.pt"))
            distiller.val_loader = DataLoader(TensorDataset(data.test_images, data.test_labels), 256)
            accuracy = distiller.evaluate()
        return Trial(
            accuracy,
            distiller.hosted.players.steps,
            distiller.hosted.ledger.as_record(),
            f"{type(distiller).__name__}(teacher, student, train_loader, val_loader, None, optimizer, "
            f"budget={world.budget}, ...).train_student(epochs={_EPOCHS})",
            said.getvalue().splitlines()[-4:],
        )

    def reach(self) -> ModuleType:
        """``KD_Lib.KD``, imported from the sources, with stand-ins for what is gone.

        Raises:
            MissingDependency: something else that it imports is not installed.
        """
        self.require()
        folder = str(self.sources())
        if folder not in sys.path:
            sys.path.append(folder)
        with stand_ins() if "KD_Lib.KD" not in sys.modules else contextlib.nullcontext():
            try:
                return importlib.import_module("KD_Lib.KD")
            except ImportError as error:
                raise MissingDependency(f"KD_Lib in {folder} cannot be imported ({error}): {self.install}") from error


def classes() -> dict[str, type[GuestDistiller]]:
    """The distiller of each method that can be a guest, by the method's name."""
    base, registry = SUITE.reach().BaseClass, distillers()
    names = [entry.name for entry in registry.entries()]
    return {name: _distiller_of(name, base) for name in names if how_it_runs(SUITE, registry.get(name).needs)[0]}


@functools.cache
def _distiller_of(method: str, base: type) -> type[GuestDistiller]:
    content = {"method": method, "__doc__": GuestDistiller.__doc__, "__module__": __name__}
    return type(distillers().get(method).__name__, (GuestDistiller, base), content)


def _owners_training(train_teacher: Callable[..., Any], counted: Counted) -> Callable[..., Any]:
    """What its owner's training shows a teacher is counted apart, and is no looking behind the answers."""

    def train(*args: Any, **kwargs: Any) -> Any:
        seen = counted.differentiated, counted.inner
        with counted.stage("train_teacher"):
            result = train_teacher(*args, **kwargs)
        counted.differentiated, counted.inner = seen
        return result

    return train


SUITE = KDLib()
