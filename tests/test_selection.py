"""Each choice against naive loops over its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mekd_plugin.errors import InputError
from mekd_plugin.selection import by_confidence, by_entropy, by_margin, clusters, confidence, entropy, k_center, margin


def probabilities(seed, count=12, classes=4):
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(1)


NAIVE = {
    by_entropy: lambda row: sum(p * math.log(p) for p in row),
    by_confidence: max,
    by_margin: lambda row: sorted(row)[-1] - sorted(row)[-2],
}


@pytest.mark.parametrize("choose", NAIVE, ids=lambda choose: choose.__name__)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 12))
def test_the_most_unsure_rows_are_chosen_in_order(choose, seed, count):
    rows = probabilities(seed)
    expected = sorted(range(12), key=lambda index: NAIVE[choose](rows[index].tolist()))[:count]
    assert choose(rows, count).tolist() == expected


def test_the_measures_of_doubt_are_their_definitions():
    rows = probabilities(0)
    for row, unsure, sure, gap in zip(rows.tolist(), entropy(rows), confidence(rows), margin(rows), strict=True):
        assert float(unsure) == pytest.approx(-NAIVE[by_entropy](row))
        assert float(sure) == max(row)
        assert float(gap) == pytest.approx(NAIVE[by_margin](row))


def test_of_equal_rows_the_first_is_taken():
    equal = torch.full((5, 2), 0.5)
    assert (
        by_entropy(equal, 3).tolist() == by_margin(equal, 3).tolist() == by_confidence(equal, 3).tolist() == [0, 1, 2]
    )


def naive_k_center(features, count, centres):
    taken, chosen = [list(centre) for centre in centres], []
    if not taken:
        mean = [sum(column) / len(features) for column in zip(*features, strict=True)]
        chosen.append(min(range(len(features)), key=lambda index: math.dist(features[index], mean)))
        taken.append(features[chosen[0]])
    while len(chosen) < count:
        left = [index for index in range(len(features)) if index not in chosen]
        farthest = max(left, key=lambda index: min(math.dist(features[index], centre) for centre in taken))
        chosen.append(farthest)
        taken.append(features[farthest])
    return chosen[:count]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 10), before=st.integers(0, 3))
def test_k_center_takes_the_farthest_again_and_again(seed, count, before):
    rng = torch.Generator().manual_seed(seed)
    features, centres = (torch.randn(size, 3, generator=rng, dtype=torch.float64) for size in (10, before))
    expected = naive_k_center(features.tolist(), count, centres.tolist())
    assert k_center(features, count, centres if before else None).tolist() == expected


def test_k_center_takes_no_row_twice_even_if_all_are_alike():
    assert sorted(k_center(torch.zeros(4, 2), 4).tolist()) == [0, 1, 2, 3]
    assert sorted(k_center(torch.zeros(4, 2), 4, centres=torch.zeros(1, 2)).tolist()) == [0, 1, 2, 3]


def test_k_center_covers_a_cluster_that_chance_would_miss():
    rng = torch.Generator().manual_seed(0)
    features = torch.cat([torch.randn(500, 2, generator=rng), 50 + torch.randn(2, 2, generator=rng)])
    assert {500, 501} & set(k_center(features, 2).tolist())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: by_entropy(torch.ones(3), 1), r"shape \(3,\).*expected floating point \(N, C\)"),
        (lambda: by_entropy(torch.tensor([[3.0, -1.0]]), 1), r"outside \[0, 1\]: logits need"),
        (lambda: by_margin(torch.ones(3, 1), 1), "two classes or more"),
        (lambda: by_confidence(torch.full((3, 2), 0.5), 4), "count=4: there are 3 rows.*0 to 3"),
        (lambda: k_center(torch.zeros(3, 2), -1), "count=-1"),
        (lambda: k_center(torch.zeros(3), 1), r"features of shape \(3,\)"),
        (lambda: k_center(torch.full((3, 2), torch.nan), 1), "not finite"),
        (lambda: k_center(torch.zeros(3, 2), 1, torch.zeros(1, 5)), r"centres of shape \(1, 5\).*equally many"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_clusters_are_those_of_lloyds_algorithm():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(30, 2, generator=rng, dtype=torch.float64)
    centres = [features[index].tolist() for index in k_center(features, 4)]
    for _ in range(10):
        nearest = [min(range(4), key=lambda c: math.dist(row, centres[c])) for row in features.tolist()]
        for c in range(4):
            members = [row for row, own in zip(features.tolist(), nearest, strict=True) if own == c]
            centres[c] = (
                [sum(column) / len(members) for column in zip(*members, strict=True)] if members else centres[c]
            )
    expected = [min(range(4), key=lambda c: math.dist(row, centres[c])) for row in features.tolist()]
    assert clusters(features, 4).tolist() == expected


def test_no_cluster_is_no_choice():
    with pytest.raises(InputError, match="count=0: expected at least one cluster"):
        clusters(torch.zeros(3, 2), 0)
