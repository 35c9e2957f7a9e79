"""Optimal transport as a diagnostic: how far two sets of responses or images are apart, and in what way.

Arrays or tensors in, a typed result out; POT solves, this package chooses the question, the estimator and the interval.
Nothing here knows of a run, a method or a file.
"""

from __future__ import annotations

from mekd_plugin.transport.distances import paired_cost, wasserstein
from mekd_plugin.transport.domains import DomainDistances, domain_distances
from mekd_plugin.transport.estimates import Estimate, PermutationTest, ResponseComparison, ResponseDistances
from mekd_plugin.transport.gaussian import bures_wasserstein
from mekd_plugin.transport.labelled import LabelledDistance, labelled_distance
from mekd_plugin.transport.permutation import permutation_test
from mekd_plugin.transport.responses import compare_responses, per_class
from mekd_plugin.transport.sinkhorn import sinkhorn_divergence
from mekd_plugin.transport.unmatched import Unmatched, unmatched

__all__ = [
    "DomainDistances",
    "Estimate",
    "LabelledDistance",
    "PermutationTest",
    "ResponseComparison",
    "ResponseDistances",
    "Unmatched",
    "bures_wasserstein",
    "compare_responses",
    "domain_distances",
    "labelled_distance",
    "paired_cost",
    "per_class",
    "permutation_test",
    "sinkhorn_divergence",
    "unmatched",
    "wasserstein",
]
