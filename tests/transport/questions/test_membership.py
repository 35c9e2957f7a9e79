"""A membership attack on what was sent: it finds copies, and finds nothing where there is nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.transport.questions.membership import membership


def normal(count: int, dimension: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_copies_are_found_out():
    members, others, reference = (normal(150, 16, seed) for seed in range(3))
    found = membership(members.float(), members.float(), others.float(), reference=reference.float())
    assert found.auc.value == 1 and found.auc.low > 0.95 and found.uncalibrated.value == 1
    assert found.true_positives.value == 1 and found.true_positives.low > 0.9
    assert found.nearest_ratio == 0 and found.nearest_ratio_chance[0] > 0.5 and found.nearer_to_members.value == 1
    noisy = membership(members + 0.3 * normal(150, 16, 4), members, others, reference=reference)
    assert noisy.auc.value > 0.95 and noisy.true_positives.value > 0.5 and 0 < noisy.nearest_ratio < 0.5


def test_a_few_copies_among_many_images_are_found_at_few_false_positives():
    """The area hardly moves: that is what the other figure is for."""
    members, others, reference = (normal(300, 8, seed) for seed in range(3))
    sent = torch.cat([members[:30], normal(600, 8, 3)])
    found = membership(sent, members, others, reference=reference)
    assert found.auc.value < 0.62 and 0.09 <= found.true_positives.value < 0.2 and found.true_positives.low > 0.05


def test_images_that_know_nothing_of_the_members_give_a_guess():
    """The interval holds 0.5, the rate 1 %, and the ratio stays in its range, about as often as they say."""
    held = []
    for trial in range(120):
        sent, members, others, reference = (
            normal(count, 5, 4 * trial + n) for n, count in enumerate((200, 60, 90, 70))
        )
        found = membership(sent, members, others, reference=reference, seed=trial)
        low, high = found.nearest_ratio_chance
        held.append(
            [
                found.auc.low <= 0.5 <= found.auc.high,
                found.uncalibrated.low <= 0.5 <= found.uncalibrated.high,
                low <= found.nearest_ratio <= high,
                found.true_positives.low <= 0.01,
            ]
        )
    shares = np.mean(held, axis=0)
    assert (shares >= 0.89).all() and shares[:3].max() <= 1 and shares[2] < 0.995


def test_calibration_takes_no_image_for_a_member_because_it_is_near_to_everything():
    """Half the images lie in a crowd; three of every four members outside it were copied roughly."""
    rng = torch.Generator().manual_seed(0)
    crowd, spread = 0.2 * normal(450, 6, 1), 3 * normal(450, 6, 2)
    members, others, reference = (torch.cat([crowd[n::3], spread[n::3]]) for n in range(3))
    far = members[150:]
    sent = torch.cat([0.2 * normal(300, 6, 4), far + 0.5 * torch.randn(far.shape, generator=rng)])
    found = membership(sent, members, others, reference=reference)
    assert found.auc.value > found.uncalibrated.value + 0.1


def test_the_scores_against_loops():
    sent, members, others, reference = (normal(count, 3, n) for n, count in enumerate((7, 4, 6, 5)))

    def nearest(point, points):
        return min(math.sqrt(sum((a - b) ** 2 for a, b in zip(point, other, strict=True))) for other in points)

    found = membership(sent, members, others, reference=reference)
    for group, scores in ((members, found.member_scores), (others, found.other_scores)):
        for point, score in zip(group.tolist(), scores.tolist(), strict=True):
            own, foreign = nearest(point, sent.tolist()), nearest(point, reference.tolist())
            assert score == pytest.approx(foreign / (own + foreign))
    plain = membership(sent, members, others)
    assert plain.auc == plain.uncalibrated and plain.reference == 0
    assert plain.member_scores[0] == pytest.approx(-nearest(members[0].tolist(), sent.tolist()))
    own = [nearest(point, members.tolist()) for point in sent.tolist()]
    foreign = [nearest(point, others[:4].tolist()) for point in sent.tolist()]
    assert plain.nearest_ratio == pytest.approx(sum(own) / sum(foreign))
    assert plain.nearer_to_members.value == pytest.approx(sum(a < b for a, b in zip(own, foreign, strict=True)) / 7)


def test_an_image_that_is_both_sent_and_a_reference_is_no_suspect():
    shared = normal(3, 4, 0)
    found = membership(shared, shared, normal(3, 4, 1), reference=shared)
    assert found.member_scores.tolist() == [0.5, 0.5, 0.5] and (found.other_scores == 0.5).all()


def test_its_record_is_json():
    record = membership(*(normal(20, 4, seed) for seed in range(3))).as_record()
    assert json.loads(json.dumps(record)) == record and {"auc", "true_positives", "nearest_ratio"} <= set(record)
    assert record["members"] == record["others"] == record["sent"] == 20


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: membership(normal(5, 3, 0), normal(5, 4, 1), normal(5, 3, 2)), "sent has 3 coordinates an image, mem"),
        (lambda: membership(normal(5, 3, 0), normal(1, 3, 1), normal(5, 3, 2)), "1 members and 5 others"),
        (lambda: membership(*[normal(5, 3, 0)] * 3, permutations=0), "permutations=0"),
        (lambda: membership(*[normal(5, 3, 0)] * 3, confidence=2), "confidence=2"),
        (lambda: membership(torch.zeros(0, 3), *[normal(5, 3, 0)] * 2), "sent of shape"),
    ],
)
def test_sets_that_cannot_be_attacked(call, words):
    with pytest.raises(InputError, match=words):
        call()
