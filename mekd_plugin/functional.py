"""Losses that two or more methods share, as pure functions: tensors in, a scalar out.

None of them looks at a value on the host, so they may stand inside a training step on any device, torch's meta device
included.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mekd_plugin.errors import InputError
from mekd_plugin.responses import Response, centre_scores

__all__ = ["answer_loss", "cross_entropy_labels", "discriminator_loss", "generator_loss", "kd_divergence", "logit_mse"]


def kd_divergence(student_logits: Tensor, teacher_scores: Tensor, temperature: float) -> Tensor:
    r"""Softened divergence of the student from the teacher, mean over images:

    .. math:: \frac{t^2}{N} \sum_i KL\big(softmax(y^T_i / t) \,\|\, softmax(y^S_i / t)\big)

    The factor t^2 keeps the size of the gradient as t grows. Zero exactly where student and teacher agree up to a
    constant per image; never negative beyond rounding.

    Args:
        student_logits: ``(N, C)``, floating point, any range.
        teacher_scores: ``(N, C)``: logits, or logarithms of probabilities, which a softmax takes alike.
        temperature: t, positive.

    Raises:
        InputError: shapes or devices that differ, tensors that are not ``(N, C)`` floats, or t not positive.

    Source: Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015, section 2.

    >>> y = torch.tensor([[1.0, 2.0, 3.0]])
    >>> kd_divergence(y, y + 5, temperature=4.0).abs().item() < 1e-6
    True
    """
    _check_scores(student_logits, teacher_scores)
    if not temperature > 0:
        raise InputError(f"temperature={temperature}: expected a positive number, e.g. 5")
    divergence = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=1),
        F.log_softmax(teacher_scores / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def logit_mse(student_logits: Tensor, teacher_scores: Tensor) -> Tensor:
    r"""Mean squared difference of the scores, each centred over the classes image by image:

    .. math:: \frac{1}{N C} \sum_{ic} \big((y^S_{ic} - \bar y^S_i) - (y^T_{ic} - \bar y^T_i)\big)^2

    Departure from the source, which regresses the logits as they are: a response is known up to a constant per image
    (always so for logarithms of probabilities), so that constant is not an error of the student's.

    Args:
        student_logits: ``(N, C)``, floating point, any range.
        teacher_scores: ``(N, C)``: logits or logarithms of probabilities.

    Raises:
        InputError: shapes or devices that differ, or tensors that are not ``(N, C)`` floats.

    Source: Ba, Caruana, *Do Deep Nets Really Need to be Deep?*, NeurIPS 2014, equation 1.

    >>> logit_mse(torch.tensor([[0.0, 2.0]]), torch.tensor([[7.0, 7.0]])).item()
    1.0
    """
    _check_scores(student_logits, teacher_scores)
    return F.mse_loss(centre_scores(student_logits), centre_scores(teacher_scores))


def cross_entropy_labels(student_logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    r"""Cross-entropy against hard responses, mean over images; with s of the target spread over all C classes:

    .. math:: -\frac{1}{N} \sum_i \Big((1 - s) \log p_{i, label_i} + \frac{s}{C} \sum_c \log p_{ic}\Big)

    Args:
        student_logits: ``(N, C)``, floating point, any range.
        labels: ``(N,)`` int64 in [0, C). Their range is the boundary's to check; looking here would stop the device.
        smoothing: s, in [0, 1).

    Raises:
        InputError: logits that are not ``(N, C)`` floats, labels that are not ``(N,)`` int64 on the same device, or a
            smoothing outside [0, 1).

    Source of the smoothing: Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*, CVPR 2016,
    section 7.

    >>> round(cross_entropy_labels(torch.zeros(3, 4), torch.tensor([0, 1, 2])).item(), 4)  # log 4
    1.3863
    """
    _check_matrix("student_logits", student_logits)
    if labels.shape != student_logits.shape[:1] or labels.dtype != torch.int64:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} and dtype {labels.dtype}: expected int64 of shape "
            f"({len(student_logits)},), one class index for each row of the logits"
        )
    _check_devices(student_logits, labels)
    if not 0 <= smoothing < 1:
        raise InputError(f"smoothing={smoothing}: expected a share in [0, 1)")
    return F.cross_entropy(student_logits, labels, label_smoothing=smoothing)


def answer_loss(student_logits: Tensor, response: Response, *, temperature: float, smoothing: float) -> Tensor:
    """How far the student is from the teacher's answers: :func:`kd_divergence` of soft ones, else
    :func:`cross_entropy_labels`; a scalar.

    Args:
        student_logits: ``(N, C)``, floating point, any range.
        response: of the same N images.
        temperature: t of the divergence, positive.
        smoothing: share of a hard response that is spread over all classes, in [0, 1).

    Raises:
        InputError: as those two.
    """
    if response.soft:
        return kd_divergence(student_logits, response.scores(), temperature)
    return cross_entropy_labels(student_logits, response.labels, smoothing)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    r"""What a discriminator (or critic) D minimises, mean over each batch:

    .. math:: -\log D(x) - \log(1 - D(G(z)))

    Args:
        real: D's logits ``(N,)`` on real samples.
        fake: its logits ``(M,)`` on generated ones, which must not carry a gradient to their maker.

    Returns:
        a scalar, at least 0; 2 log 2 for a D that cannot tell.

    Source: Goodfellow et al., *Generative Adversarial Nets*, NeurIPS 2014, section 3.

    >>> round(discriminator_loss(torch.zeros(2), torch.zeros(2)).item(), 4)
    1.3863
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, strength: Tensor | None = None) -> Tensor:
    r"""What a generator minimises to pass D, in its non-saturating form, mean over the batch:

    .. math:: -(1 + w) \log D(G(z))

    Args:
        fake: D's logits ``(M,)`` on generated samples.
        strength: w, ``(M,)``, at least 0: how much more a sample weighs; None is 0.

    Returns:
        a scalar, at least 0. It pulls against :func:`discriminator_loss`: each player minimises its own only.

    Source: as :func:`discriminator_loss`.

    >>> round(generator_loss(torch.zeros(2)).item(), 4)
    0.6931
    """
    per_sample = F.softplus(-fake)
    return per_sample.mean() if strength is None else ((1 + strength) * per_sample).mean()


def _check_scores(student_logits: Tensor, teacher_scores: Tensor) -> None:
    _check_matrix("student_logits", student_logits)
    _check_matrix("teacher_scores", teacher_scores)
    if student_logits.shape != teacher_scores.shape:
        raise InputError(
            f"student_logits of shape {tuple(student_logits.shape)} against teacher_scores of shape "
            f"{tuple(teacher_scores.shape)}: expected the same images and classes on both sides"
        )
    _check_devices(student_logits, teacher_scores)


def _check_matrix(name: str, scores: Tensor) -> None:
    if scores.dim() != 2 or not scores.is_floating_point():
        raise InputError(
            f"{name} of shape {tuple(scores.shape)} and dtype {scores.dtype}: expected floating point (N, C)"
        )


def _check_devices(first: Tensor, second: Tensor) -> None:
    if first.device != second.device:
        raise InputError(
            f"student on {first.device}, teacher's answers on {second.device}: move the rows to the student's device"
        )
