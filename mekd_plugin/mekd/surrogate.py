"""A surrogate: a network of the edge's own that stands in for the teacher between its queries.

It learns from the bank's answers, and, without any, to answer alike about two views of the same real image at home. So
it costs no query and shows no image to anybody, and may be asked about as many images as one likes.

Sources: Tarvainen and Valpola, *Mean teachers are better role models*, NeurIPS 2017 (the averaged network that sets the
example); Xie et al., *Unsupervised Data Augmentation for Consistency Training*, NeurIPS 2020 (soft answers to an image
as the example for a stronger view of it).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.distiller import Player, Query, Training, Update
from mekd_plugin.errors import InputError
from mekd_plugin.functional import kd_divergence
from mekd_plugin.networks.by_name import build
from mekd_plugin.networks.lenet import LeNet
from mekd_plugin.prediction import predict
from mekd_plugin.responses import Response, centre_scores
from mekd_plugin.rows import ImageRows, PairedRows, Rows, RowSource
from mekd_plugin.views import affine, translate

__all__ = ["Surrogate", "consistency_for", "rows_at_home", "softened", "surrogate_network", "teach_surrogate"]

_LARGEST_LENET = 48 * 48  # pixels
_AVERAGE = 0.995
_WARM_UP = 0.3  # part of the steps over which consistency gains its weight: the first answers are noise
_LEARNING_RATE, _WEIGHT_DECAY = 3e-3, 5e-3
_TEMPERATURE = 4.0
_FEW = 50  # hard answers a class
_BATCH = 128
_PART = 256 * 2**20  # bytes of images that are shown to it at a time


class Surrogate(nn.Module):
    """A network and the running mean of its weights; in evaluation mode the mean answers.

    Shapes:
        images ``(N, channels, height, width)`` -> logits ``(N, C)``.
    """

    updates: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.averaged = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("updates", torch.zeros(()))

    def train(self, mode: bool = True) -> Self:
        """Only the network trains: its mean is in evaluation mode always."""
        super().train(mode)
        self.averaged.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images) if self.training else self.averaged(images)
        return logits

    @torch.no_grad()
    def average(self) -> None:
        """Take the network's weights into the mean; its first ones are soon forgotten."""
        self.updates += 1
        weight = 1 - (self.updates / (self.updates + 9)).clamp(max=_AVERAGE)
        for mean, value in zip(_tensors(self.averaged), _tensors(self.network), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight.to(mean))
            else:
                mean.copy_(value)


def surrogate_network(name: str, num_classes: int, image_shape: tuple[int, int, int], seed: int) -> nn.Module:
    """An untrained network for a surrogate.

    Args:
        name: of a network that :func:`~mekd_plugin.networks.build` takes; or ``"wide"``: LeNet5 at three times the
            width for images of 16 by 16 pixels and more, up to as many as 48 by 48 are; ResNet-8 for all others.
        num_classes: C.
        image_shape: ``(channels, height, width)``.
        seed: of the initial weights.

    Raises:
        UnknownName: there is no such network. InputError: it is no name.
    """
    if not isinstance(name, str):
        raise InputError(f"surrogate={name!r}: expected the name of a network, or 'wide'")
    if name != "wide":
        return build(name, num_classes, image_shape, seed)
    _, height, width = image_shape
    if min(height, width) >= 16 and height * width <= _LARGEST_LENET:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return LeNet((18, 48), (360, 252), num_classes, image_shape)
    return build("resnet8", num_classes, image_shape, seed)


def teach_surrogate(
    name: str,
    surrogate: Surrogate,
    bank: Bank,
    images: Tensor,
    *,
    steps: int,
    consistency: float,
    hard_scale: float,
    seed: int,
    fill: float,
) -> Training:
    """The stage that teaches a surrogate; it asks nothing.

    Args:
        name: the stage's.
        surrogate: the one that learns.
        bank: answered rows.
        images: the edge's own ``(N, channels, height, width)``, in the bank's value range.
        steps: of 128 answered rows, and 128 real images, each.
        consistency: weight of the divergence between the mean network's answers to real images and the network's own
            to a stronger view of each; 0 leaves the real images out.
        hard_scale: the score that a hard response stands for.
        seed: of the order of the real images.
        fill: what a view shows beyond the image's border.
    """

    def step(rows: Rows, update: Update, query: Query) -> dict[str, Tensor]:
        response = rows.answers()
        scores = response.scores(hard_scale=hard_scale)
        temperature = _TEMPERATURE if response.soft else 1.0  # a scaled one-hot is nearly flat at a higher one
        shown = translate(rows.images, 1, fill=fill)
        if not consistency:
            loss = kd_divergence(surrogate(shown), scores, temperature)
            update({"surrogate": loss})
            surrogate.average()
            return {"loss": loss.detach()}
        real = rows.extra["real"]
        with torch.no_grad():
            example = surrogate.averaged(translate(real, 1, fill=fill))
        view = affine(real, degrees=15, scale=(0.8, 1.2), translate=0.1 * real.shape[-1], fill=fill)
        answers, own = surrogate(torch.cat([shown, view])).split([len(shown), len(view)])
        divergence = kd_divergence(answers, scores, temperature)
        disagreement = kd_divergence(own, example, _TEMPERATURE)
        weight = consistency * (surrogate.updates / (_WARM_UP * steps)).clamp(max=1)
        loss = divergence + weight * disagreement
        update({"surrogate": loss})
        surrogate.average()
        return {"loss": loss.detach(), "divergence": divergence.detach(), "inconsistency": disagreement.detach()}

    def optimizer(weights: Iterable[nn.Parameter]) -> Optimizer:
        return AdamW(weights, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)

    def schedule(optimizer: Optimizer) -> LRScheduler:
        return OneCycleLR(optimizer, max_lr=_LEARNING_RATE, total_steps=max(steps, 2))

    rows: RowSource = bank.order(seed)
    if consistency:
        rows = PairedRows(rows, "real", ImageRows(images, seed=seed))
    players = {"surrogate": Player(surrogate, optimizer, schedule)}
    return Training(name, rows, step, players, steps=steps, batch_size=_BATCH, recordable=True)


def consistency_for(wanted: float | None, answers: Response, size: int) -> float:
    """The weight of a surrogate's consistency on real images.

    Args:
        wanted: the weight; None for 1 where few hard answers are asked for, at most 50 a class, and 0 elsewhere: so
            it was better on images that no table shows (``configs/tuning/defaults/mekd_few_hard.yaml``).
        answers: to the images that it learns from.
        size: how many answers there will be in all.
    """
    if wanted is not None:
        return wanted
    return float(not answers.soft and size <= _FEW * answers.num_classes)


@torch.no_grad()
def rows_at_home(surrogate: Surrogate, images: Tensor, views: int, *, seed: int, fill: float) -> Iterator[Rows]:
    """Real images and views of them with the surrogate's answers: rows that nobody outside has seen.

    Args:
        surrogate: a taught one.
        images: the edge's own, ``(N, channels, height, width)``.
        views: of each image, its own one counted, at least 1.
        seed: of the views.
        fill: what a view shows beyond the image's border.

    Yields:
        ``views * N`` rows in all, their answers as logits; no more at a time than take 256 MB.
    """
    rng = torch.Generator().manual_seed(seed * 1_000_003 + views)
    reach = 0.1 * images.shape[-1]
    most = max(1, _PART // (images[0].numel() * images.element_size()))  # images at a time
    together = max(1, most // len(images))
    for view in range(0, views, together):
        for part in images.split(most):
            shown = torch.cat([
                part if number == 0 else
                affine(part.cpu(), degrees=15, scale=(0.85, 1.15), translate=reach, fill=fill, rng=rng).to(images)
                for number in range(view, min(view + together, views))
            ])  # fmt: skip
            answers = centre_scores(predict(surrogate, shown).clone())
            yield Rows(shown, Response(answers, "logits", answers.shape[1]))


def softened(response: Response, scores: Tensor) -> Tensor:
    """Scores ``(N, C)`` for hard answers: a surrogate's, in which the class that the teacher named is the highest.

    Where the surrogate's own highest is another class, the two change places.

    Args:
        response: hard answers.
        scores: the surrogate's to the same images, ``(N, C)``.
    """
    named, highest = response.values[:, None], scores.argmax(dim=1, keepdim=True)
    swapped = scores.scatter(1, highest, scores.gather(1, named))
    return swapped.scatter(1, named, scores.gather(1, highest))


def _tensors(module: nn.Module) -> list[Tensor]:
    return list(module.state_dict(keep_vars=True).values())
