"""Two rivals on the same app, as strategies of Flower's: FedDF and FedMD, each from its paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from federated_digits import task
from mekd_plugin.functional import kd_divergence
from mekd_plugin.prediction import predict


class FedDF(FedAvg):
    """FedAvg, then distillation of the clients' networks, which the server holds, into their average.

    Source: Lin, Kong, Stich, Jaggi, *Ensemble Distillation for Robust Model Fusion in Federated Learning*, NeurIPS
    2020, algorithm 1: the mean of the clients' logits on unlabelled images (AVGLOGITS) teaches the averaged network.
    Departure: a fixed number of steps at one rate, since there is no validation set on which to stop early.

    Args:
        build: makes a network of the shared architecture.
        images: the server's unlabelled ones.
        steps: of the distillation in each round.
        **settings: those of ``FedAvg``.
    """

    def __init__(self, build: Callable[[], nn.Module], images: Tensor, steps: int = 100, **settings: Any) -> None:
        super().__init__(**settings)
        self.build, self.images, self.steps = build, images, steps

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The average of the weights, after it has learnt from the ensemble."""
        replies = list(replies)
        average, metrics = super().aggregate_train(server_round, replies)
        if average is None:
            return average, metrics
        own = [self._network(reply.content["arrays"]) for reply in replies if reply.has_content()]
        mean = torch.stack([predict(network, self.images) for network in own]).mean(dim=0)
        student = self._network(average)
        task.fit(student, self.images, mean, _divergence, steps=self.steps, seed=server_round)
        return ArrayRecord(student.state_dict()), metrics

    def _network(self, weights: ArrayRecord) -> nn.Module:
        network = self.build()
        network.load_state_dict(weights.to_torch_state_dict())
        return network


class FedMD(FedAvg):
    """Scores on public images travel instead of weights, so that every client keeps an architecture of its own.

    Source: Li and Wang, *FedMD: Heterogenous Federated Learning via Model Distillation*, NeurIPS 2019 workshop,
    algorithm 1: communicate, aggregate (the mean), distribute, digest, revisit. Departures: the public images have no
    labels here, so nobody trains on those first; the whole public set is scored in every round; the loss of the
    digestion, which the paper leaves open, is the mean square between centred scores.

    It is FedAvg of "weights" that are scores: every client counts the same.
    """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The mean scores, to be digested; an empty array in the first round."""
        for message in super().configure_train(server_round, arrays, config, grid):
            yield Message(message.content, message.metadata.dst_node_id, "train.scores")


def _divergence(logits: Tensor, mean: Tensor) -> Tensor:
    return kd_divergence(logits, mean, 1.0)
