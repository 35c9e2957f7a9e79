"""Optimal transport as a diagnostic: how far two sets of responses or images are apart, and in what way.

Arrays or tensors in, a typed result out; POT solves, this package chooses the question, the estimator and the interval.
Nothing here knows of a run, a method or a file.
"""

from __future__ import annotations

from mekd_plugin.transport.estimates import Estimate, PermutationTest, ResponseComparison, ResponseDistances
from mekd_plugin.transport.estimators.distances import paired_cost, wasserstein
from mekd_plugin.transport.estimators.gaussian import bures_wasserstein
from mekd_plugin.transport.estimators.labelled import LabelledDistance, labelled_distance
from mekd_plugin.transport.estimators.sinkhorn import sinkhorn_divergence
from mekd_plugin.transport.questions.domains import DomainDistances, domain_distances
from mekd_plugin.transport.questions.permutation import permutation_test
from mekd_plugin.transport.questions.responses import compare_responses, per_class
from mekd_plugin.transport.questions.unmatched import Unmatched, unmatched

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
