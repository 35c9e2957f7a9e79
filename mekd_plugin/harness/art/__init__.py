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
nothing of several processes. Which loop trains, and why, stands in ``guest.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from mekd_plugin.harness.meter import Counted
from mekd_plugin.harness.suite import Suite, put_beside
from mekd_plugin.prediction import predict

__all__ = ["SUITE", "ART", "black_box_classifier"]


class ART(Suite):
    """ART's extraction attacks."""

    name = "art"
    package = "art"
    distribution = "adversarial-robustness-toolbox"
    tested = ("1.20.1",)
    install = 'pip install "mekd-plugin[art]"'
    next_step = (
        "from art.attacks.extraction import MEKDExtraction, then MEKDExtraction(victim, responses=..., "
        "nb_stolen=...).extract(x, thieved_classifier=...)"
    )

    def register(self) -> list[str]:
        """Put an attack for each method into ``art.attacks.extraction``.

        Raises:
            InputError: a name there is taken by somebody else.
        """
        from art.attacks import extraction

        from mekd_plugin.harness.art.guest import attack_of

        return put_beside(extraction, map(attack_of, self.methods()))

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
