"""MEKD and the baselines in the Adversarial Robustness Toolbox (ART), as its extraction attacks; run with 1.20.1.

    mekd.register("art")
    from art.attacks.extraction import MEKDExtraction
    attack = MEKDExtraction(victim, responses="probabilities", nb_stolen=5000)
    thieved = attack.extract(x, thieved_classifier=PyTorchClassifier(...))
    print(attack.ledger)

ART has no registry: its door is the base class ``ExtractionAttack``, and our classes are put beside its own in
``art.attacks.extraction``, one for each method that can be a guest.

What the adapter relies on:

- ``ExtractionAttack.extract(x, y=None, **kwargs)`` gets NumPy arrays and ``thieved_classifier``, and returns that;
- ``Attack(estimator=...)`` checks ``_estimator_requirements``; ``attack_params``, ``set_params``, ``_check_params``;
- attacks reach the victim through their property ``estimator``, of which ours call ``predict(x, batch_size=)`` and read
  ``nb_classes`` and ``clip_values``;
- ``PyTorchClassifier(**classifier.get_params())`` shares the model and the optimizer of ``classifier``;
- ``fit_generator`` trains in train mode, calls ``loss(logits, labels)`` once a batch, and lets two-dimensional labels
  through, either as they are or as their arg max.

A method in rounds is refused: ``extract`` trains once. DataParallel is the classifier's own business, and ART knows
nothing of several processes. Which loop trains, and why, stands in ``art_extraction.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mekd_plugin.errors import InputError
from mekd_plugin.harness.evidence.reference_problem import ReferenceProblem, Trial
from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.suite import Suite, how_it_runs
from mekd_plugin.prediction import predict
from mekd_plugin.registry import distillers

__all__ = ["SUITE", "ART", "black_box_classifier"]


class ART(Suite):
    """See the file."""

    name = "art"
    package = "art"
    distribution = "adversarial-robustness-toolbox"
    tested = ("1.20.1",)
    install = 'pip install "mekd-plugin[art]"'

    def register(self) -> list[str]:
        """Put an attack for each method into ``art.attacks.extraction``.

        Raises:
            InputError: a name there is taken by somebody else.
        """
        from art.attacks import extraction

        from mekd_plugin.harness.art.guest import attack_of

        registry = distillers()
        fitting = [entry.name for entry in registry.entries() if how_it_runs(self, registry.get(entry.name).needs)[0]]
        attacks = {attack.__name__: attack for attack in map(attack_of, fitting)}
        for name, attack in attacks.items():
            if getattr(extraction, name, attack) is not attack:
                raise InputError(f"art.attacks.extraction.{name} is there already and not ours: rename one of the two")
            setattr(extraction, name, attack)
        return sorted(attacks)

    @contextmanager
    def metered(self, counted: Counted) -> Iterator[None]:
        """Count what extraction attacks ask their victim, each under the name of its class."""
        from art.attacks.attack import ExtractionAttack

        def estimator(attack: Any) -> Any:
            return _Watched(attack._estimator, counted, type(attack).__name__)

        ExtractionAttack.estimator = property(estimator)
        try:
            yield
        finally:
            del ExtractionAttack.estimator  # that of its base class is seen again

    def trial(self, method: str, world: ReferenceProblem, directory: Path) -> Trial:
        """The attack of ``method`` on the digits, its thieved classifier trained by ART with ``world``'s SGD."""
        from art.estimators.classification import PyTorchClassifier

        from mekd_plugin.harness.art.guest import attack_of

        student = world.student()
        thieved = PyTorchClassifier(
            student,
            nn.CrossEntropyLoss(),
            input_shape=world.data.image_shape,
            nb_classes=world.data.num_classes,
            optimizer=torch.optim.SGD(student.parameters(), lr=world.learning_rate, momentum=0.9),
            clip_values=(-1.0, 1.0),
            device_type="cpu",
        )
        victim = black_box_classifier(world.teacher, world.data.image_shape, world.data.num_classes)
        batches = world.budget // world.batch_size
        attack = attack_of(method)(
            victim,
            responses="logits",
            nb_stolen=world.budget,
            batch_size_fit=world.batch_size,
            nb_epochs=max(1, round(world.steps / batches)),
            seed=world.seed,
            directory=str(directory),
            verbose=False,
            validation=0.0,  # or an epoch would be 45 batches, and no number of epochs the other loops' steps
            cache=world.cache,
            **world.settings.get(method, {}),
        )
        thieved = attack.extract(world.images.numpy(), thieved_classifier=thieved)
        guessed = thieved.predict(world.data.test_images.numpy()).argmax(axis=1)
        accuracy = float((guessed == world.data.test_labels.numpy()).mean())
        said = f"accuracy of the thieved classifier: {100 * accuracy:.2f} %"
        return Trial(
            accuracy,
            attack.nb_epochs * batches,
            attack.ledger.as_record(),
            f"{type(attack).__name__}(victim, responses='logits', nb_stolen={world.budget}, "
            f"batch_size_fit={world.batch_size}, nb_epochs={attack.nb_epochs}).extract(x, thieved_classifier=thieved)",
            [said, str(attack.ledger)],
        )


class _Watched:
    """A victim whose ``predict`` is counted; everything else of it is as it is."""

    def __init__(self, victim: Any, counted: Counted, stage: str) -> None:
        self._victim, self._counted, self._stage = victim, counted, stage

    def predict(self, x: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        with self._counted.stage(self._stage):
            self._counted.count(torch.from_numpy(np.asarray(x)))
        return self._victim.predict(x, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        self._counted.differentiated |= name.endswith("_gradient")
        self._counted.inner |= name in ("model", "get_activations")
        return getattr(self._victim, name)


def black_box_classifier(
    teacher: nn.Module, image_shape: tuple[int, int, int], num_classes: int, *, probabilities: bool = False
) -> Any:
    """``teacher`` as ART's ``BlackBoxClassifier``: a function of arrays in [-1, 1], and nothing behind it.

    Args:
        teacher: images ``(n, channels, height, width)`` -> logits ``(n, C)``.
        image_shape: ``(channels, height, width)``.
        num_classes: C.
        probabilities: whether it answers with the softmax of its logits instead of these.
    """
    from art.estimators.classification import BlackBoxClassifier

    def answer(images: np.ndarray) -> np.ndarray:
        logits = predict(teacher, torch.from_numpy(images))
        answers: np.ndarray = (logits.softmax(dim=1) if probabilities else logits).numpy()
        return answers

    return BlackBoxClassifier(answer, image_shape, num_classes, clip_values=(-1.0, 1.0))


SUITE = ART()
