from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from mekd_plugin.errors import InputError
from mekd_plugin.functional import cross_entropy_labels, kd_divergence, logit_mse

shapes = st.tuples(st.integers(1, 5), st.integers(2, 6))
seeds = st.integers(0, 1000)


def scores(shape: tuple[int, int], seed: int) -> torch.Tensor:
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(shapes, seeds, st.sampled_from([0.5, 1.0, 4.0, 20.0]))
def test_kd_divergence_is_scipys_relative_entropy(shape, seed, temperature):
    student, teacher = scores(shape, seed), scores(shape, seed + 1)
    p = special.softmax(teacher.numpy() / temperature, axis=1)
    q = special.softmax(student.numpy() / temperature, axis=1)
    expected = temperature**2 * special.rel_entr(p, q).sum() / shape[0]
    np.testing.assert_allclose(kd_divergence(student, teacher, temperature).item(), expected, rtol=1e-9, atol=1e-12)


def test_kd_divergence_by_hand():
    # p = (2/3, 1/3) against the uniform distribution: log 2 - H(p).
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(2.0), 0.0]])
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert kd_divergence(student, teacher, 1.0).item() == pytest.approx(math.log(2) - entropy, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(shapes, seeds, st.sampled_from([1.0, 5.0]))
def test_kd_divergence_has_the_gradient_of_the_source(shape, seed, temperature):
    student, teacher = scores(shape, seed).requires_grad_(), scores(shape, seed + 1)
    kd_divergence(student, teacher, temperature).backward()
    difference = special.softmax(student.detach().numpy() / temperature, axis=1) - special.softmax(
        teacher.numpy() / temperature, axis=1
    )
    np.testing.assert_allclose(student.grad.numpy(), temperature * difference / shape[0], atol=1e-12)


@pytest.mark.parametrize("loss", [lambda s, t: kd_divergence(s, t, 4.0), logit_mse], ids=["kd_divergence", "logit_mse"])
def test_is_zero_with_zero_gradient_where_both_agree_up_to_a_constant_per_image(loss):
    teacher = scores((4, 5), 0)
    student = (teacher + torch.arange(4.0, dtype=torch.float64).unsqueeze(1)).requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert abs(value.item()) < 1e-12 and student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("loss", [lambda s, t: kd_divergence(s, t, 4.0), logit_mse], ids=["kd_divergence", "logit_mse"])
def test_takes_logits_and_logarithms_of_probabilities_alike(loss):
    student, teacher = scores((4, 5), 0), scores((4, 5), 1)
    torch.testing.assert_close(loss(student, teacher), loss(student, teacher.log_softmax(dim=1)))


@settings(max_examples=15, deadline=None)
@given(shapes, seeds)
def test_logit_mse_is_the_naive_double_loop(shape, seed):
    student, teacher = scores(shape, seed), scores(shape, seed + 1)
    total = 0.0
    for i in range(shape[0]):
        for c in range(shape[1]):
            total += float((student[i, c] - student[i].mean()) - (teacher[i, c] - teacher[i].mean())) ** 2
    assert logit_mse(student, teacher).item() == pytest.approx(total / (shape[0] * shape[1]))


@settings(max_examples=15, deadline=None)
@given(shapes, seeds, st.sampled_from([0.0, 0.1, 0.5]))
def test_cross_entropy_is_the_naive_sum(shape, seed, smoothing):
    student = scores(shape, seed)
    labels = torch.arange(shape[0]) % shape[1]
    log_p = special.log_softmax(student.numpy(), axis=1)
    target = np.full(shape, smoothing / shape[1])
    target[np.arange(shape[0]), labels.numpy()] += 1 - smoothing
    expected = -(target * log_p).sum() / shape[0]
    assert cross_entropy_labels(student, labels, smoothing).item() == pytest.approx(expected)


def test_runs_forward_and_backward_on_the_meta_device():
    student = torch.empty(4, 10, device="meta", requires_grad=True)
    teacher, labels = torch.empty(4, 10, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    for loss in (
        kd_divergence(student, teacher, 5.0),
        logit_mse(student, teacher),
        cross_entropy_labels(student, labels),
    ):
        assert loss.shape == () and loss.is_meta
        loss.backward()


S, T, L = torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kd_divergence(S, T[:2], 1.0), r"shape \(3, 4\) against teacher_scores of shape \(2, 4\)"),
        (lambda: kd_divergence(S, T[:, :3], 1.0), "the same images and classes on both sides"),
        (lambda: kd_divergence(S, T, 0.0), "temperature=0.0: expected a positive number"),
        (lambda: kd_divergence(S, T, math.nan), "temperature=nan"),
        (lambda: kd_divergence(S, T.long(), 1.0), "teacher_scores .*dtype torch.int64: expected floating point"),
        (lambda: kd_divergence(S[0], T[0], 1.0), r"student_logits of shape \(4,\)"),
        (lambda: kd_divergence(S, T.to("meta"), 1.0), "student on cpu, teacher's answers on meta: move the rows"),
        (lambda: logit_mse(S, T[:, :3]), r"against teacher_scores of shape \(3, 3\)"),
        (lambda: logit_mse(S, L), r"teacher_scores of shape \(3,\)"),
        (lambda: logit_mse(S, T.to("meta")), "on meta"),
        (lambda: cross_entropy_labels(S, L[:2]), r"labels of shape \(2,\).*expected int64 of shape \(3,\)"),
        (lambda: cross_entropy_labels(S, L.int()), "labels .* dtype torch.int32"),
        (lambda: cross_entropy_labels(S, S), r"labels of shape \(3, 4\)"),
        (lambda: cross_entropy_labels(S, L.to("meta")), "on meta"),
        (lambda: cross_entropy_labels(S, L, smoothing=1.0), r"smoothing=1.0: expected a share in \[0, 1\)"),
        (lambda: cross_entropy_labels(S[0], L), "student_logits"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
