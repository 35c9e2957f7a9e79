"""What torchdistill's configs name of ours besides methods: data sets, networks, and answers paid for earlier.

Importing this file registers it, by torchdistill's own decorators. A data set is named in YAML as any other is::

    datasets:
      edge: !import_call
        key: 'mekd_plugin.harness.torchdistill.data.Images'
        init: {kwargs: {name: 'digits', split: 'edge', real_images: 200}}

With :class:`Bank`, :class:`Answers` and ``forward_proc: mekd_answers``, torchdistill's own losses learn from a bank
that one of our runs filled, and nothing more is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchdistill.core.interfaces.registry import register_forward_proc_func
from torchdistill.datasets.registry import register_dataset, register_dataset_wrapper
from torchdistill.datasets.wrapper import BaseDatasetWrapper
from torchdistill.models.registry import register_model

from mekd_plugin import blackbox, networks
from mekd_plugin.data import edge_images, load
from mekd_plugin.errors import InputError
from mekd_plugin.networks.generator_files import load_generator
from mekd_plugin.networks.generators import sample_latent

__all__ = ["Answers", "Bank", "Images", "Synthesised", "answers", "network"]

_NO_LABEL = -100  # torch's cross-entropy leaves it out


class _Labelled(Dataset[tuple[Tensor, int]]):
    """Images with a label each."""

    images: Tensor
    labels: list[int]
    transform: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), self.labels[index]


@register_dataset(key="mekd_images")
class Images(_Labelled):
    """A data set of :func:`mekd_plugin.data.load`, in [-1, 1].

    Args:
        name: such as ``"digits"`` or ``"mnist"``.
        split: ``"train"`` or ``"test"``, with labels; or ``"edge"``: ``real_images`` of the training images, of which
            the labels are left out (-100).
        root: where the data set's files lie.
        real_images: of ``"edge"``.
        seed: of the draw of ``"edge"``.
        transform: of an image.

    Raises:
        InputError: there is no such split. The others are those of :func:`load` and :func:`edge_images`.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        root: str | None = None,
        real_images: int | None = None,
        seed: int = 0,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if split not in ("train", "test", "edge"):
            raise InputError(f'split={split!r}: expected "train", "test" or "edge"')
        data = load(name, root)
        self.transform = transform
        if split == "edge":
            self.images = edge_images(data, real_images=real_images, seed=seed).images
            self.labels = [_NO_LABEL] * len(self.images)
        else:
            self.images = data.train_images if split == "train" else data.test_images
            self.labels = (data.train_labels if split == "train" else data.test_labels).tolist()


@register_dataset(key="mekd_synthesised")
class Synthesised(_Labelled):
    """Images of a trained generator, in [-1, 1], without labels (-100).

    Args:
        generator: ``generator.safetensors`` of a run's directory.
        count: how many.
        seed: of the draw.
        transform: of an image, such as to the range that the teacher takes.
    """

    def __init__(
        self, generator: str, count: int, *, seed: int = 0, transform: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        trained = load_generator(generator)
        latent = sample_latent(trained, count, rng=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            self.images = torch.cat([trained(part) for part in latent.split(256)]).clone()
        self.labels, self.transform = [_NO_LABEL] * count, transform


@register_dataset(key="mekd_bank")
class Bank(_Labelled):
    """Images that a run asked about, as the teacher takes them; the label is the teacher's.

    Args:
        directory: ``banks/NAME`` of a run's directory, which is only read.

    Attributes:
        scores: the teacher's centred scores ``(N, C)``.
    """

    def __init__(self, directory: str) -> None:
        rows = blackbox.Bank.load(directory).rows()
        response = rows.answers()
        self.images, self.labels, self.scores = rows.images, response.labels.tolist(), response.scores()


@register_dataset_wrapper(key="mekd_answers")
class Answers(BaseDatasetWrapper):
    """A :class:`Bank` whose ``supp_dict`` holds the teacher's scores, for ``forward_proc: mekd_answers``.

    Args:
        org_dataset: the bank.

    Raises:
        InputError: it is not a bank.
    """

    def __init__(self, org_dataset: Any) -> None:
        if not isinstance(org_dataset, Bank):
            raise InputError(
                f"dataset_wrapper mekd_answers: expected the data set mekd_bank, not {type(org_dataset).__name__}"
            )
        super().__init__(org_dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, dict[str, Tensor]]:
        image, label = self.org_dataset[index]
        return image, label, {"scores": self.org_dataset.scores[index]}


@register_forward_proc_func(key="mekd_answers")
def answers(
    model: nn.Module, sample_batch: Tensor, targets: Any = None, supp_dict: dict[str, Any] | None = None, **kwargs: Any
) -> Tensor:
    """The teacher's scores that came with the batch, ``(N, C)``; the teacher is not asked.

    Raises:
        InputError: none came with it.
    """
    if not supp_dict or "scores" not in supp_dict:
        raise InputError("forward_proc mekd_answers: give the train data loader the dataset_wrapper mekd_answers")
    scores: Tensor = supp_dict["scores"]
    return scores.to(sample_batch.device)


@register_model(key="mekd_network")
def network(
    name: str, num_classes: int, image_shape: list[int], weights: str | None = None, seed: int | None = None
) -> nn.Module:
    """A network of :func:`mekd_plugin.networks.build`.

    Args:
        name: such as ``"lenet5"``.
        num_classes: C.
        image_shape: ``[channels, height, width]``.
        weights: a file of weights, such as ``mekd teacher`` writes.
        seed: of untrained weights.
    """
    channels, height, width = image_shape
    built = networks.build(name, num_classes, (channels, height, width), seed)
    return built if weights is None else networks.load_weights(built, weights)
