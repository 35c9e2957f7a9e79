"""What clients and server both need: the digits, split among the clients, networks, and loops to train them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import mekd_plugin as mekd
from mekd_plugin.networks.mixtures import MixtureGenerator

NUM_CLASSES, SHAPE = 10, (1, 16, 16)
_SMALLEST = 30
"""Images that every client has at least."""


class Part(NamedTuple):
    """A client's own images ``(N, 1, 16, 16)`` in [-1, 1], and their labels ``(N,)``."""

    images: Tensor
    labels: Tensor


def public_images(config: Mapping[str, Any]) -> Tensor:
    """The server's unlabelled images: training images that no client has."""
    return mekd.data.load("digits").train_images[_order(config)[: config["public-images"]]]


def client_part(config: Mapping[str, Any], number: int) -> Part:
    """What client ``number`` holds of the other training images, by Flower's own Dirichlet partitioner, offline.

    Source: Yurochkin et al., *Bayesian Nonparametric Federated Learning of Neural Networks*, ICML 2019.
    """
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    data, rows = mekd.data.load("digits"), _order(config)[config["public-images"] :]
    partitioner = DirichletPartitioner(
        num_partitions=config["clients"],
        partition_by="label",
        alpha=float(config["alpha"]),
        min_partition_size=_SMALLEST,
        seed=config["seed"],
    )
    partitioner.dataset = Dataset.from_dict({"label": data.train_labels[rows].tolist(), "row": rows.tolist()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a split with a smaller part is drawn again
        own = torch.tensor(partitioner.load_partition(number)["row"])
    return Part(data.train_images[own], data.train_labels[own])


def build(name: str, seed: int = 0) -> nn.Module:
    """A network by name, its weights drawn by ``seed``."""
    return mekd.networks.build(name, NUM_CLASSES, SHAPE, seed=seed)


def teacher_network(config: Mapping[str, Any], number: int) -> nn.Module:
    """The architecture that client ``number`` chose for its teacher."""
    names = [name.strip() for name in config["networks"].split(",")]
    return build(names[number % len(names)], seed=1000 * config["seed"] + number)


def fit(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int,
    seed: int,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
) -> nn.Module:
    """``network`` after some more steps of Adam on ``images`` and ``targets``; returned in evaluation mode."""
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    network.train()
    for _ in range(steps):
        rows = torch.randint(len(images), (batch_size,))
        optimizer.zero_grad()
        loss(network(images[rows]), targets[rows]).backward()
        optimizer.step()
    return network.eval()


def test_accuracy(network: nn.Module) -> float:
    """On the digits' 540 test images, which neither clients nor server train on."""
    data = mekd.data.load("digits")
    return mekd.accuracy(network, data.test_images, data.test_labels)


def generated_images(images: Tensor, count: int, seed: int) -> Tensor:
    """Images ``(count, 1, 16, 16)`` drawn from a mixture of Gaussians that is fitted to ``images``, which stay here."""
    mixture = MixtureGenerator(
        NUM_CLASSES, SHAPE, components=max(2, len(images) // 60), coordinates=min(60, len(images) // 3)
    )
    mixture.look_at(images, seed)
    for _ in range(40):
        mixture.improve(mixture.encode(images), None, floor=0.03)
    noise = torch.randn(count, mixture.latent_dim, generator=torch.Generator().manual_seed(seed))
    return mixture(noise)


def _order(config: Mapping[str, Any]) -> Tensor:
    """All training images in an order of the run's seed; the first of them are the server's."""
    count = len(mekd.data.load("digits").train_images)
    return torch.randperm(count, generator=torch.Generator().manual_seed(config["seed"]))
