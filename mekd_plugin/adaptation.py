"""A student's answers, corrected at test time by a graph over the images that came in together; no weight changes."""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mekd_plugin.checks import as_number, as_one_of, as_whole
from mekd_plugin.errors import InputError
from mekd_plugin.prediction import predict_with_features

__all__ = ["Adaptation", "Affinity", "adapt", "adaptation", "affinity_graph", "lame_objective", "propagate"]

Affinity = Literal["knn", "rbf", "linear"]

_KINDS = ("knn", "rbf", "linear")
_TIE = 1e-9  # of squared distances between unit vectors: copies are as near as each other
_TOLERANCE = 1e-6
_COMPANY = 3.0
_LARGEST_LOSS = 0.2


class Adaptation(NamedTuple):
    """A student's probabilities before and after.

    Attributes:
        probabilities: ``(N, C)``, the adapted ones; the student's own in a group where adaptation is off.
        own: ``(N, C)``, the student's own.
        groups: of images that were adapted together, the range of their places and why adaptation is off in it; ""
            where it is on.
    """

    probabilities: Tensor
    own: Tensor
    groups: tuple[tuple[range, str], ...]

    @property
    def on(self) -> bool:
        """Whether any group was adapted."""
        return any(not reason for _, reason in self.groups)

    def __str__(self) -> str:
        off = [reason for _, reason in self.groups if reason]
        if not off:
            return f"adapted in {len(self.groups)} groups" if len(self.groups) > 1 else "adapted"
        return f"adaptation is off in {len(off)} of {len(self.groups)} groups of images: {off[0]}"


def adapt(
    student: nn.Module,
    images: Tensor,
    *,
    affinity: Affinity = "knn",
    k: int = 5,
    weight: float = 5.0,
    group: int = 1000,
    guard: bool = True,
) -> Tensor:
    """Probabilities of a student for images that came in together, corrected so that alike images get alike answers.

    The student's prediction bias on images unlike those it learnt from, or in other shares of the classes, is corrected
    at test time: forward passes only, no labels, no teacher, no gradient; weights, modes and random numbers stay as
    they were. Two images are alike by what the student's last linear layer is given (its logits where it has none). The
    graph is :func:`affinity_graph`, the correction :func:`propagate`.

    It helps where the classes that come in together are few or unevenly shared, and does harm in small balanced
    batches, where an image has hardly five others of its class for neighbours. So with ``guard`` it is off, with a
    warning that says why, in a group of images where the student's own answers say one of these:

    - an image has fewer than 3 k others of its class: N sum of squared class shares is below 3 k;
    - adapting would swallow classes: the entropy of the mean probabilities falls by more than a fifth.

    Both limits were chosen on training images of the digits that their students had not seen; ``python
    benchmarks/adaptation.py`` shows on test images what adaptation does with and without them.

    Args:
        student: images ``(n, channels, height, width)`` -> logits ``(n, C)``.
        images: ``(N, channels, height, width)``, N at least 1.
        affinity: ``"knn"``, ``"rbf"`` or ``"linear"``.
        k: neighbours of an image (``"knn"``), or the one that sets the width of the kernel (``"rbf"``).
        weight: of the graph against the student; 0 gives the student's own probabilities. 5 with k = 5 is the paper's.
        group: images that are adapted together, at most; more are dealt evenly into groups in their order. Memory grows
            with its square: 8 MB a matrix for 1,000.
        guard: whether it may be off.

    Returns:
        ``(N, C)`` probabilities, each row summing to 1, in the logits' dtype on the images' device.
        :func:`adaptation` returns the student's own beside them.

    Raises:
        InputError: no images, logits that are not finite and ``(N, C)``, or a setting outside its range.

    Source: Boudiaf, Mueller, Ben Ayed, Bertinetto, *Parameter-free Online Test-time Adaptation*, CVPR 2022, section 4.
    A third stage of this kind, propagation over a graph of incoming images, is described for MEKD in the abstract of
    Xiang et al., IEEE TPAMI 47(12), 2025; this is the published algorithm next to it, not theirs.
    """
    found = adaptation(student, images, affinity=affinity, k=k, weight=weight, group=group, guard=guard)
    if any(reason for _, reason in found.groups):
        warnings.warn(str(found), stacklevel=2)
    return found.probabilities


def adaptation(
    student: nn.Module,
    images: Tensor,
    *,
    affinity: Affinity = "knn",
    k: int = 5,
    weight: float = 5.0,
    group: int = 1000,
    guard: bool = True,
) -> Adaptation:
    """As :func:`adapt`, with the student's own probabilities and what was off, and without a warning."""
    as_one_of("affinity", affinity, _KINDS)
    k, group = as_whole("k", k, at_least=1), as_whole("group", group, at_least=1)
    weight = as_number("weight", weight, at_least=0)
    dtype = next(student.parameters(), images).dtype
    if images.dtype == torch.float64 != dtype:
        raise InputError(f"images are {images.dtype}, the student's weights {dtype}: hand in images.float()")
    logits, features = predict_with_features(student, images)
    if logits.dim() != 2 or len(logits) != len(images) or not bool(logits.isfinite().all()):
        raise InputError(
            f"the student's logits have shape {tuple(logits.shape)} for {len(images)} images: expected finite numbers, "
            f"({len(images)}, C)"
        )
    own = logits.double().log_softmax(dim=1)
    parts, groups = [], []
    start = 0
    for log_own, seen in zip(*(part.tensor_split(-(-len(images) // group)) for part in (own, features)), strict=True):
        adapted, reason = log_own.exp(), ""
        if len(seen) > k:
            adapted = propagate(log_own, affinity_graph(seen, affinity, k=k), weight=weight)
        elif weight > 0:
            reason = f"{len(seen)} images: an image needs {k} others for neighbours"
        if guard and weight > 0 and not reason:
            reason = _reason_against(log_own.exp(), adapted, k)
        parts.append(log_own.exp() if reason else adapted)
        groups.append((range(start, start + len(seen)), reason))
        start += len(seen)
    return Adaptation(torch.cat(parts).to(logits.dtype), own.exp().to(logits.dtype), tuple(groups))


def affinity_graph(features: Tensor, kind: Affinity = "knn", *, k: int = 5) -> Tensor:
    r"""How alike images are, ``(N, N)`` float64, symmetric; a row's absolute values sum to 1 on average.

    With features f of length 1: ``"knn"``, 1 / k for each of the k nearest others, made symmetric by the mean of both
    directions (images as near as the k-th are neighbours too, so that copies are treated alike); ``"rbf"``,
    :math:`\exp(-|f_i - f_j|^2 / 2 s^2)` with s the mean distance to the k-th nearest; ``"linear"``,
    :math:`f_i^T f_j`. The last two count an image as alike to itself, and are positive semi-definite.

    Departures from the source: it does not scale its graphs, so that the weight of the graph grows with k or with N;
    here ``weight`` has one meaning for all. Its ``"knn"`` need not be symmetric, and then has no objective.

    Args:
        features: ``(N, d)``, any range.
        kind: which.
        k: 1 to N - 1.

    Raises:
        InputError: features that are not finite and ``(N, d)``, or k outside its range.

    Source: Boudiaf et al., CVPR 2022, section 4, the affinities of its ablation.
    """
    as_one_of("kind", kind, _KINDS)
    if features.dim() != 2 or not bool(features.isfinite().all()):
        raise InputError(f"features of shape {tuple(features.shape)}: expected finite numbers, (N, d)")
    k = as_whole("k", k, at_least=1, at_most=len(features) - 1)
    directions = nn.functional.normalize(features.double(), dim=1)
    products = directions @ directions.T
    if kind == "linear":
        graph = products
    else:
        squared = (2 - 2 * products).clamp_min(0)
        others = squared.clone().fill_diagonal_(torch.inf)
        reach = others.kthvalue(k, dim=1).values
        if kind == "knn":
            near = (others <= reach[:, None] + _TIE).double()
            near /= near.sum(dim=1, keepdim=True)
            return (near + near.T) / 2
        width = reach.sqrt().mean().square().clamp_min(_TIE)
        graph = (-squared / (2 * width)).exp()
    graph = (graph + graph.T) / 2
    return graph / graph.abs().sum(dim=1).mean().clamp_min(_TIE)


def lame_objective(assigned: Tensor, log_own: Tensor, graph: Tensor, *, weight: float = 5.0) -> Tensor:
    r"""What :func:`propagate` makes smaller, a scalar:

    .. math:: \sum_i KL(z_i \,\|\, q_i) - \frac{\lambda}{2} \sum_{ij} w_{ij} z_i^T z_j

    Args:
        assigned: z, ``(N, C)`` probabilities.
        log_own: logarithms of q, the student's own, ``(N, C)``.
        graph: w, ``(N, N)``, symmetric.
        weight: lambda, at least 0.

    Source: Boudiaf et al., CVPR 2022, section 4, the LAME objective. Departure: the factor 1/2, with which the source's
    own update is the exact minimiser of its bound for a symmetric graph.
    """
    divergence: Tensor = (torch.special.xlogy(assigned, assigned) - assigned * log_own).sum()
    agreement: Tensor = (assigned * (graph @ assigned)).sum()
    return divergence - weight / 2 * agreement


def propagate(log_own: Tensor, graph: Tensor, *, weight: float = 5.0, steps: int = 200) -> Tensor:
    r"""Probabilities ``(N, C)`` near a stationary point of :func:`lame_objective`, from the student's own q, by

    .. math:: z_i \propto \big(q_i \exp(\lambda \sum_j w_{ij} z_j)\big)^{1 / (1 + c_i)} \; z_i^{c_i / (1 + c_i)}

    for all images at once, until no probability changes by 1e-6. With c = 0 this is the source's update, the
    concave-convex procedure: the graph's term is concave if the graph is positive semi-definite, and no step makes the
    objective larger. Departure: a graph of nearest neighbours is not, and images that are each other's neighbours would
    swap answers for ever. With :math:`c_i = \lambda \sum_j |w_{ij}|` the graph with c on its diagonal is, and as
    :math:`c_i KL(z_i \| z_i^{old})` bounds what that adds (Pinsker), every step decreases the objective again; the
    stationary points are the same. A graph whose diagonal is not zero everywhere is taken for positive semi-definite.

    Args:
        log_own: logarithms of q, ``(N, C)``.
        graph: w, ``(N, N)``, symmetric.
        weight: lambda, at least 0; 0 gives q.
        steps: at most so many.

    Raises:
        InputError: shapes that do not fit, or a weight below 0.

    Source: Boudiaf et al., CVPR 2022, section 4, the bound of the objective and the update that minimises it.

    >>> q = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).double()
    >>> propagate(q.log(), torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()).argmax(dim=1).tolist()
    [0, 0]
    """
    weight, steps = as_number("weight", weight, at_least=0), as_whole("steps", steps, at_least=1)
    if log_own.dim() != 2 or graph.shape != (len(log_own), len(log_own)):
        raise InputError(
            f"own answers of shape {tuple(log_own.shape)} and a graph of shape {tuple(graph.shape)}: expected (N, C) "
            "and (N, N)"
        )
    damping = weight * graph.abs().sum(dim=1, keepdim=True) * float(not bool(graph.diagonal().any()))
    current = log_own.log_softmax(dim=1)
    for _ in range(steps):
        pulled = log_own + weight * (graph @ current.exp()) + damping * current
        following = (pulled / (1 + damping)).log_softmax(dim=1)
        change = float((following.exp() - current.exp()).abs().max())
        current = following
        if change < _TOLERANCE:
            break
    return current.exp()


def _reason_against(own: Tensor, adapted: Tensor, k: int) -> str:
    """Why the student's own answers advise against adapting, or ""."""
    count, classes = own.shape
    shares = own.argmax(dim=1).bincount(minlength=classes) / count
    company = count * float(shares.square().sum())
    if company < _COMPANY * k:
        return (
            f"an image has about {company:.0f} others of its class among {count}, fewer than {_COMPANY * k:.0f}: "
            "adapt more images together, or with fewer neighbours (k)"
        )
    before, after = (_entropy(values.mean(dim=0)) for values in (own, adapted))
    if after < (1 - _LARGEST_LOSS) * before:
        return f"classes would be swallowed: the entropy of their shares falls from {before:.2f} to {after:.2f}"
    return ""


def _entropy(shares: Tensor) -> float:
    return -float(torch.special.xlogy(shares, shares).sum())
