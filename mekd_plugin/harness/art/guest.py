"""Our methods as extraction attacks of the Adversarial Robustness Toolbox; ``mekd.register("art")`` loads this file.

Which loop trains the thieved classifier: ART's own, ``PyTorchClassifier.fit_generator``, with the classifier's own
model, optimizer, device and preprocessing. ``fit`` hands its loss function nothing but logits and labels, too little
for a method of ours, and our own loop would leave the classifier's optimizer unused. So a second classifier shares the
model and the optimizer of the one handed in, its loss function is ``Hosted.losses``, and its batches are
``Hosted.loader``'s. Both enter by the public constructor: ART is not patched, and the classifier keeps its own loss.
"""

from __future__ import annotations

import logging
from contextlib import closing
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from art.attacks.attack import ExtractionAttack
from art.config import ART_NUMPY_DTYPE
from art.data_generators import PyTorchDataGenerator
from art.estimators.classification import PyTorchClassifier
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator
from torch import Tensor

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.errors import InputError
from mekd_plugin.harness.guests import open_guest
from mekd_plugin.registry import distillers
from mekd_plugin.responses import resolve_kind
from mekd_plugin.rows import Rows
from mekd_plugin.training.hosting import Batch, Hosted

__all__ = ["DistillationExtraction", "attack_of"]

_LOGGER = logging.getLogger(__name__)
_SIZES = ["nb_stolen", "batch_size_fit", "batch_size_query", "nb_epochs"]


class DistillationExtraction(ExtractionAttack):
    """A method of ours as an extraction attack; :func:`attack_of` makes the class of each.

    Args:
        classifier: the victim, of any framework; only its ``predict`` is called, and each image counts. Its
            ``clip_values`` are the value range; without them that of ``x`` is.
        responses: what ``predict`` returns: ``"logits"``, ``"probabilities"``, or ``"hard"`` for scores of which only
            the highest may be known; never guessed.
        nb_stolen: the query budget: images that the victim is asked about in all. ``mekd`` spends it on generated
            images, the others on ``x`` and, where ``x`` is smaller, on views of it.
        batch_size_fit: rows a step.
        batch_size_query: images a call of the victim's function; never more than 256.
        nb_epochs: passes over what was asked. An epoch has as many steps as whole batches; a method that asks anew at
            every step spreads the budget over the epochs.
        seed: of everything that the method draws.
        directory: where to keep what was trained and asked before the student; a second ``extract`` takes it over.
        verbose: whether to show progress bars.
        **settings: further ones of :func:`mekd_plugin.host`: ``preset``, ``validation``, ``cache``, and
            hyperparameters of the method.

    Attributes:
        ledger: what the last ``extract`` asked, by stage.

    Raises:
        InputError: (a ``ValueError``, as ART's attacks raise) a parameter cannot be used.
    """

    attack_params = ExtractionAttack.attack_params + _SIZES + ["responses", "seed", "directory", "verbose", "settings"]
    _estimator_requirements = (BaseEstimator, ClassifierMixin)
    method: ClassVar[str]

    def __init__(
        self,
        classifier: Any,
        *,
        responses: str,
        nb_stolen: int,
        batch_size_fit: int = 64,
        batch_size_query: int = 256,
        nb_epochs: int = 10,
        seed: int = 0,
        directory: str | None = None,
        verbose: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(estimator=classifier)
        self.responses, self.nb_stolen, self.nb_epochs = responses, nb_stolen, nb_epochs
        self.batch_size_fit, self.batch_size_query = batch_size_fit, batch_size_query
        self.seed, self.directory, self.verbose, self.settings = seed, directory, verbose, settings
        self.ledger = Ledger()
        self._check_params()

    def extract(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> PyTorchClassifier:
        """Ask the victim, and train ``thieved_classifier`` on its answers.

        Args:
            x: unlabelled images ``(N, channels, height, width)`` in the victim's value range, channels first.
            y: not used.
            **kwargs: ``thieved_classifier``, a :class:`PyTorchClassifier` with an optimizer, whose model gives logits.

        Returns:
            ``thieved_classifier``, its model trained in place.

        Raises:
            InputError: before anything is asked, ``x`` or the classifier cannot be used; or, since a method may ask
                about less than ``nb_stolen``, an epoch holds no whole batch.
            NeedsNotMet: the method cannot work with such responses.
        """
        thieved = _usable(kwargs.get("thieved_classifier"), x)
        if y is not None:
            _LOGGER.warning("This attack does not use the provided label y.")
        clip = self.estimator.clip_values  # numbers, or arrays with one for every feature
        hosted = open_guest(
            self.method,
            thieved.model,
            self._ask,
            torch.from_numpy(np.array(x, dtype=ART_NUMPY_DTYPE)),
            suite="art",
            responses=self.responses,
            num_classes=int(self.estimator.nb_classes),
            budget=self.nb_stolen,
            value_range=None if clip is None else (float(np.min(clip[0])), float(np.max(clip[1]))),
            directory=self.directory,
            device=str(thieved.device),
            seed=self.seed,
            progress=self.verbose,
            probe=False,  # ART's classifiers answer arrays of scores; every query is the attack's own
            **self.settings,
        )
        self.ledger = hosted.ledger
        with closing(hosted):
            source = hosted.stage.rows
            rows = len(source) if isinstance(source, Bank) else (hosted.ledger.remaining or 0) // self.nb_epochs
            batches = _RowBatches(hosted, self.batch_size_fit, rows // self.batch_size_fit)
            learner = PyTorchClassifier(**{**thieved.get_params(), "loss": batches})
            learner.fit_generator(batches.generator, nb_epochs=self.nb_epochs, verbose=self.verbose)
        return thieved

    def _ask(self, images: Tensor) -> np.ndarray:
        answers: np.ndarray = self.estimator.predict(images.cpu().numpy(), batch_size=self.batch_size_query)
        return answers

    def _check_params(self) -> None:
        resolve_kind(self.responses)
        for name, least in zip(_SIZES, (2, 2, 1, 1), strict=True):  # batch norm needs two rows
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name}={value!r}: expected a whole number from {least}")
        if self.batch_size_fit > self.nb_stolen:
            raise InputError(f"batch_size_fit={self.batch_size_fit}: expected at most nb_stolen={self.nb_stolen}")


class _RowBatches:
    """The batches that ART's loop draws, and the loss function that it calls on each."""

    def __init__(self, hosted: Hosted, batch_size: int, steps: int) -> None:
        if steps == 0:
            raise InputError(f"batch_size_fit={batch_size}: an epoch of what was asked holds no whole batch; lower it")
        self._hosted = hosted
        loader = hosted.loader(batch_size, steps=steps)
        loader.collate_fn = self._shown
        self.generator = PyTorchDataGenerator(loader, size=steps * batch_size, batch_size=batch_size)

    def _shown(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images, and in the place of labels the place of each: on some of its ways ART shuffles a batch once more."""
        images, _, numbers = batch
        self._rows: Rows = self._hosted.rows(images, numbers)
        return images, torch.eye(len(images))

    def __call__(self, logits: Tensor, places: Tensor) -> Tensor:
        """The student's loss, of the batch that was shown last."""
        order = (places if places.dim() == 1 else places.argmax(dim=1)).argsort()
        return self._hosted.losses(lambda images: logits[order], self._rows)["loss"]


@cache
def attack_of(method: str) -> type[DistillationExtraction]:
    """The attack of a method by name: ``MEKDExtraction`` of ``"mekd"``, in the manner of ART's names."""
    source = distillers().get(method)
    content = {"method": method, "__module__": __name__, "__doc__": DistillationExtraction.__doc__}
    return type(f"{source.__name__}Extraction", (DistillationExtraction,), content)


def _usable(thieved: Any, x: np.ndarray) -> PyTorchClassifier:
    """``thieved``, if this attack can train it on images like ``x``."""
    if not isinstance(thieved, PyTorchClassifier):
        raise InputError(f"thieved_classifier={type(thieved).__name__}: expected a PyTorchClassifier to train")
    if thieved.optimizer is None:
        raise InputError("the thieved classifier has no optimizer: PyTorchClassifier(..., optimizer=...) trains it")
    if thieved.use_amp:
        raise InputError("use_amp=True: apex would set up the model and its optimizer a second time; leave it out")
    changing = [type(step).__name__ for step in thieved.preprocessing_defences or [] if step.apply_fit]
    if changing:
        raise InputError(
            f"preprocessing_defences of the thieved classifier change what it learns from ({', '.join(changing)}): "
            "give them apply_fit=False, or leave them out"
        )
    if x.ndim != 4 or x.shape[1:] != tuple(thieved.input_shape):
        raise InputError(
            f"x of shape {x.shape}: expected (N, channels, height, width) with the thieved classifier's input_shape "
            f"{tuple(thieved.input_shape)}, channels first"
        )
    return thieved
