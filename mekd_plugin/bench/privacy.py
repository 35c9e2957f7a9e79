"""What the images that were sent say about those that stayed at home, as a run's record has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mekd_plugin.training.loop import stage_seed
from mekd_plugin.transport.questions.membership import Membership, membership

__all__ = ["ATTACKED", "MOST_SENT", "attack", "shrunk", "strangers_to", "what_was_sent"]

ATTACKED = 2000
"""Images of each group that an attack looks at, at most."""

MOST_SENT = 50_000
"""Images sent that an attack looks at, at most: in half precision and colour they take 300 MB."""

_SIDE = 32
_PART = 256


def shrunk(images: Tensor) -> Tensor:
    """Images no larger than 32 x 32: what an attack by pixels needs, and tens of thousands of them fit into memory."""
    height, width = images.shape[2:]
    if max(height, width) <= _SIDE:
        return images
    return F.adaptive_avg_pool2d(images, (min(height, _SIDE), min(width, _SIDE)))


@dataclass(frozen=True)
class Selected:
    """Some rows of images ``(N, channels, height, width)``, which are copied only as far as they are looked at."""

    images: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.images[self.rows[indices]]


def strangers_to(edge: Tensor, train_images: Tensor, test_images: Tensor) -> Selected | Tensor:
    """Images of the same distribution that the edge does not hold.

    Args:
        edge: ``(n,)`` int64, rows of the edge's images among the training images.
        train_images: of the data set; those that the edge does not hold are taken, or
        test_images: where it holds all but a few.
    """
    others = torch.ones(len(train_images), dtype=torch.bool)
    others[edge] = False
    return Selected(train_images, others.nonzero()[:, 0]) if int(others.sum()) >= 4 else test_images


def _as_it_is(images: Tensor) -> Tensor:
    return images


def attack(
    sent: Tensor,
    edge: Tensor,
    others: Selected | Tensor,
    *,
    seed: int,
    as_sent: Callable[[Tensor], Tensor] = _as_it_is,
) -> Membership | None:
    """The membership attack of :func:`mekd_plugin.transport.membership`, calibrated by half of ``others``.

    Args:
        sent: ``(M, channels, height, width)``, all that was sent: of a sample the attack finds less.
        edge: ``(N, channels, height, width)``, what the edge holds.
        others: ``(H, channels, height, width)`` of the same distribution that it does not hold.
        seed: of the draws of at most 2,000 images a group.
        as_sent: what an image of the edge's becomes when it is sent, such as one of another size.

    Returns:
        None where no attack by pixels is possible: images of another shape, or fewer than two in a group.
    """
    if sent.shape[1:] != shrunk(as_sent(edge[:1])).shape[1:] or len(sent) == 0 or len(edge) < 2 or len(others) < 4:
        return None
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(edge), generator=rng)
    if len(edge) > ATTACKED:  # methods send images in this order: those attacked would be those sent first
        order = torch.randperm(len(edge), generator=torch.Generator().manual_seed(stage_seed(seed, "membership")))
    drawn = torch.randperm(len(others), generator=rng)[: 2 * ATTACKED]
    groups = ((edge, order[:ATTACKED]), *((others, half) for half in drawn.tensor_split(2)))
    members, held_out, reference = (  # a part at a time, since shrunk they are small
        torch.cat([shrunk(as_sent(images[part])) for part in rows.split(_PART)]) for images, rows in groups
    )
    return membership(sent, members, held_out, reference=reference, seed=seed)


def what_was_sent(
    sent: Tensor,
    seen: int,
    edge: Tensor,
    others: Selected | Tensor,
    *,
    seed: int,
    as_sent: Callable[[Tensor], Tensor] = _as_it_is,
) -> dict[str, Any] | None:
    """``{"images", "sample", "membership"}`` for a run's record, JSON; None where nothing was seen on its way.

    Args:
        sent: the images sent, in half precision as well, or a sample of them.
        seen: how many it was drawn from.
        edge: as for :func:`attack`.
        others: as for :func:`attack`.
        seed: as for :func:`attack`.
        as_sent: as for :func:`attack`.
    """
    if len(sent) == 0:
        return None
    found = attack(sent.float(), edge, others, seed=seed, as_sent=as_sent)
    return {"images": seen, "sample": len(sent), "membership": None if found is None else found.as_record()}
