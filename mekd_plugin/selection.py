"""Which images to ask about next, from what a student says of them: pure functions, numbers in, row numbers out.

Each takes one row an image, those that may still be asked about, and returns the numbers of the chosen rows as int64 on
the same device. Nothing is drawn at random: of equal rows the first is taken. Choosing looks at values on the host, so
it belongs between two stages, not into a training step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mekd_plugin.errors import InputError

__all__ = [
    "by_confidence",
    "by_entropy",
    "by_margin",
    "clusters",
    "coarse",
    "confidence",
    "entropy",
    "k_center",
    "margin",
    "preferences",
]

_SEES = 8
_PART = 4096  # rows whose distances to all centres are in memory at a time


def coarse(images: Tensor) -> Tensor:
    """Images ``(N, channels, height, width)`` brought down to 8x8 pixels at most, ``(N, d)``, for distances."""
    height, width = images.shape[2:]
    return F.adaptive_avg_pool2d(images, (min(_SEES, height), min(_SEES, width))).flatten(1)


def entropy(probabilities: Tensor) -> Tensor:
    r"""The entropy :math:`-\sum_c p_c \log p_c` of each row, in nats, in [0, log C].

    Args:
        probabilities: ``(N, C)``, in [0, 1], each row summing to 1.

    Returns:
        ``(N,)``.

    Raises:
        InputError: not floating point ``(N, C)``, or values outside [0, 1].

    >>> entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist()
    [0.0, 0.6931471824645996]
    """
    found: Tensor = torch.special.entr(_probabilities(probabilities)).sum(dim=1)
    return found


def confidence(probabilities: Tensor) -> Tensor:
    """The largest probability of each row ``(N,)``, in [1 / C, 1]; arguments and errors as :func:`entropy`."""
    return _probabilities(probabilities).amax(dim=1)


def margin(probabilities: Tensor) -> Tensor:
    """How far the second largest probability of each row is below the largest.

    Args:
        probabilities: ``(N, C)`` with C at least 2, in [0, 1], each row summing to 1.

    Returns:
        ``(N,)``, in [0, 1].

    Raises:
        InputError: not floating point ``(N, C)`` of two classes or more, or values outside [0, 1].
    """
    if _probabilities(probabilities).shape[1] < 2:
        raise InputError(f"probabilities of shape {tuple(probabilities.shape)}: a margin takes two classes or more")
    first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
    return first - second


def by_entropy(probabilities: Tensor, count: int) -> Tensor:
    """The ``count`` rows of the largest :func:`entropy`, the most unsure one first.

    Args:
        probabilities: ``(N, C)``, in [0, 1], each row summing to 1.
        count: how many, 0 to N.

    Returns:
        ``(count,)`` int64, no row twice.

    Raises:
        InputError: as :func:`entropy`; or a count outside 0 to N.

    >>> by_entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.6, 0.4]]), 2).tolist()
    [1, 2]
    """
    return _highest(entropy(probabilities), count)


def by_confidence(probabilities: Tensor, count: int) -> Tensor:
    """The ``count`` rows of the least :func:`confidence`, the least confident one first.

    Arguments, result and errors as :func:`by_entropy`.
    """
    return _highest(-confidence(probabilities), count)


def by_margin(probabilities: Tensor, count: int) -> Tensor:
    """The ``count`` rows of the smallest :func:`margin`, the smallest first.

    Arguments, result and errors as :func:`by_entropy`, and those of :func:`margin`.
    """
    return _highest(-margin(probabilities), count)


def k_center(features: Tensor, count: int, centres: Tensor | None = None) -> Tensor:
    """Greedy k-centre: again and again the row that is farthest from all that were taken.

    Distances are Euclidean. The farthest row of all is then no more than twice as far from what was taken as it would
    be under the best choice of equally many.

    Args:
        features: ``(N, d)`` floating point: what a student's last layer was given, its logits or probabilities.
        count: how many to take, 0 to N.
        centres: ``(M, d)``: the features of what was taken before, such as images that were asked about already; None
            for nothing, and the first row taken is then the one nearest to the mean.

    Returns:
        ``(count,)`` int64 in the order in which they were taken, no row twice.

    Raises:
        InputError: not finite floating point of these shapes, or a count outside 0 to N.

    Source: Gonzalez, *Clustering to Minimize the Maximum Intercluster Distance*, 1985; for choosing what to label,
    Sener, Savarese, *Active Learning for Convolutional Neural Networks: A Core-Set Approach*, ICLR 2018, algorithm 1.

    >>> k_center(torch.tensor([[0.0], [1.0], [9.0], [5.0]]), 2, centres=torch.tensor([[0.0]])).tolist()
    [2, 3]
    """
    features = _features("features", features)
    count = _count(count, len(features))
    chosen = torch.empty(count, dtype=torch.int64, device=features.device)
    if count == 0:
        return chosen
    begin = 0
    if centres is None or not len(centres):
        chosen[0] = (features - features.mean(dim=0)).square().sum(dim=1).argmin()
        distance = _distance(features, features[chosen[:1]])
        distance[chosen[0]], begin = -1.0, 1
    else:
        if _features("centres", centres).shape[1] != features.shape[1]:
            raise InputError(
                f"centres of shape {tuple(centres.shape)} beside features of shape {tuple(features.shape)}: expected "
                "equally many coordinates"
            )
        distance = _distance(features, centres.to(features))
    for index in range(begin, count):
        farthest = distance.argmax()
        chosen[index] = farthest
        distance = torch.minimum(distance, (features - features[farthest]).square().sum(dim=1))
        distance[farthest] = -1.0  # below every distance: a row is taken once, its equals may follow
    return chosen


def clusters(features: Tensor, count: int, *, iterations: int = 10) -> Tensor:
    """k-means from a greedy k-centre start: which of ``count`` clusters each row falls into.

    Args:
        features: ``(N, d)`` floating point.
        count: how many clusters, 1 to N.
        iterations: of Lloyd's algorithm, 0 or more.

    Returns:
        ``(N,)`` int64 in [0, count).

    Raises:
        InputError: as :func:`k_center`; or a count of 0.

    >>> clusters(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2).tolist()
    [0, 0, 1, 1]
    """
    if count < 1:
        raise InputError(f"count={count}: expected at least one cluster")
    centres = features[k_center(features, count)]
    nearest = _nearest(features, centres)
    for _ in range(iterations):
        sums = torch.zeros_like(centres).index_add_(0, nearest, features)
        sizes = nearest.bincount(minlength=count).unsqueeze(1)
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
        nearest = _nearest(features, centres)
    return nearest


def preferences(actions: Tensor, rewards: Tensor, count: int) -> Tensor:
    r"""What a gradient bandit prefers after its answers, one after the other.

    With :math:`\pi = softmax(H)`, a the action of an answer, r its reward, :math:`\bar r` the mean of those before it,
    and one over the number of times that a was taken as the rate :math:`\alpha`:

    .. math:: H_a \mathrel{+}= \alpha (r - \bar r)(1 - \pi_a), \qquad H_b \mathrel{-}= \alpha (r - \bar r) \pi_b
        \quad (b \ne a)

    Args:
        actions: ``(N,)`` int64 in [0, count).
        rewards: ``(N,)``, of the same answers.
        count: number of actions.

    Returns:
        ``(count,)`` float64: H, which begins with zeros; its softmax is the policy.

    Source: Sutton, Barto, *Reinforcement Learning: An Introduction*, second edition, 2018, section 2.8.
    """
    preferred = torch.zeros(count, dtype=torch.float64)
    taken, total = [0] * count, 0.0
    for index, (action, reward) in enumerate(zip(actions.tolist(), rewards.tolist(), strict=True)):
        taken[action] += 1
        surprise = (reward - total / index) / taken[action] if index else 0.0
        change = -surprise * preferred.softmax(dim=0)
        change[action] += surprise
        preferred += change
        total += reward
    return preferred


def _distance(features: Tensor, centres: Tensor) -> Tensor:
    """The squared distance of each row to its nearest centre, ``(N,)``."""
    exact = "donot_use_mm_for_euclid_dist"
    parts = [torch.cdist(part, centres, compute_mode=exact).amin(dim=1) for part in features.split(_PART)]
    return torch.cat(parts).square()


def _nearest(features: Tensor, centres: Tensor) -> Tensor:
    """The number of each row's nearest centre, ``(N,)``."""
    return torch.cat([torch.cdist(part, centres).argmin(dim=1) for part in features.split(_PART)])


def _highest(values: Tensor, count: int) -> Tensor:
    return values.argsort(descending=True, stable=True)[: _count(count, len(values))]


def _count(count: int, of: int) -> int:
    if not 0 <= count <= of:
        raise InputError(f"count={count}: there are {of} rows to choose from; expected 0 to {of}")
    return count


def _probabilities(probabilities: Tensor) -> Tensor:
    if probabilities.dim() != 2 or not probabilities.is_floating_point():
        raise InputError(
            f"probabilities of shape {tuple(probabilities.shape)} and dtype {probabilities.dtype}: expected floating "
            "point (N, C); logits need logits.softmax(dim=1)"
        )
    if not bool(((probabilities >= 0) & (probabilities <= 1 + 1e-4)).all()):
        raise InputError("probabilities outside [0, 1]: logits need logits.softmax(dim=1)")
    return probabilities


def _features(name: str, features: Tensor) -> Tensor:
    if features.dim() != 2 or not features.is_floating_point():
        raise InputError(
            f"{name} of shape {tuple(features.shape)} and dtype {features.dtype}: expected floating point (N, d), one "
            "row an image"
        )
    if not bool(features.isfinite().all()):
        raise InputError(f"{name} hold values that are not finite: a network that gives them cannot choose")
    return features
