"""Optimal transport as a diagnostic: how far two sets of responses or images are apart, and in what way.

Arrays or tensors in, a typed result out; POT solves the problem, this package chooses the question, the estimator and
the interval. Nothing here knows of a run, a method or a file, and every public function can be imported from here.

Read ``samples.py`` and ``estimates.py`` first (what goes in, what comes out), then ``statistics/`` (how sure a number
is), ``estimators/`` (distances between two sets of points) and ``questions/`` (what is asked of a run). Each folder
imports those before it and none after it. ``matching.py`` checks sets whose rows belong together.
"""

from __future__ import annotations

from mekd_plugin.transport.estimates import Estimate, PermutationTest, ResponseComparison, ResponseDistances
from mekd_plugin.transport.estimators.distances import paired_cost, wasserstein
from mekd_plugin.transport.estimators.exact import ExactPlan, cost_matrix, exact_cost, exact_plan
from mekd_plugin.transport.estimators.gaussian import GaussianFit, bures_wasserstein, gaussian_distance, gaussian_fit
from mekd_plugin.transport.estimators.labelled import LabelledDistance, labelled_distance
from mekd_plugin.transport.estimators.neighbours import distance_blocks, nearest_other
from mekd_plugin.transport.estimators.scalable import bijection, bracket, low_rank, lower_bound, minibatch
from mekd_plugin.transport.estimators.sinkhorn import sinkhorn_divergence
from mekd_plugin.transport.estimators.slices import max_sliced, projected_costs, random_directions, slice_factor, sliced
from mekd_plugin.transport.questions.cell_picture import CellPicture, class_plane, project_cells, slice_cells
from mekd_plugin.transport.questions.coverage import ClassCoverage, Coverage, class_coverage, coverage
from mekd_plugin.transport.questions.domains import DomainDistances, domain_distances
from mekd_plugin.transport.questions.gradient_direction import GradientDirection, gradient_direction, nearest_boundary
from mekd_plugin.transport.questions.image_space import Parting, Snapshot, Trajectory, track
from mekd_plugin.transport.questions.inversion import (
    DistanceToReal,
    RoundTrip,
    distance_to_real,
    image_round_trip,
    latent_round_trip,
)
from mekd_plugin.transport.questions.latent_cells import LatentCells, latent_cells
from mekd_plugin.transport.questions.membership import Membership, membership
from mekd_plugin.transport.questions.memorisation import Memorisation, memorisation
from mekd_plugin.transport.questions.permutation import permutation_test, sliced_statistic
from mekd_plugin.transport.questions.responses import compare_responses, per_class
from mekd_plugin.transport.questions.transport_cells import TransportCells, class_prototypes, transport_cells
from mekd_plugin.transport.questions.unmatched import Unmatched, unmatched
from mekd_plugin.transport.samples import Sample, as_sample
from mekd_plugin.transport.statistics.angles import angles_between, random_angle_quantiles, random_angle_shares
from mekd_plugin.transport.statistics.intervals import mean_interval, subsampling_interval
from mekd_plugin.transport.statistics.proportions import Proportion, proportion_of
from mekd_plugin.transport.statistics.rank_correlation import RankCorrelation, rank_correlation
from mekd_plugin.transport.statistics.roc import (
    AreaUnderCurve,
    TruePositiveRate,
    area_under_curve,
    true_positive_rate,
)

__all__ = [
    "AreaUnderCurve",
    "CellPicture",
    "ClassCoverage",
    "Coverage",
    "DistanceToReal",
    "DomainDistances",
    "Estimate",
    "ExactPlan",
    "GaussianFit",
    "GradientDirection",
    "LabelledDistance",
    "LatentCells",
    "Membership",
    "Memorisation",
    "Parting",
    "PermutationTest",
    "Proportion",
    "RankCorrelation",
    "ResponseComparison",
    "ResponseDistances",
    "RoundTrip",
    "Sample",
    "Snapshot",
    "Trajectory",
    "TransportCells",
    "TruePositiveRate",
    "Unmatched",
    "angles_between",
    "area_under_curve",
    "as_sample",
    "bijection",
    "bracket",
    "bures_wasserstein",
    "class_coverage",
    "class_plane",
    "class_prototypes",
    "compare_responses",
    "cost_matrix",
    "coverage",
    "distance_blocks",
    "distance_to_real",
    "domain_distances",
    "exact_cost",
    "exact_plan",
    "gaussian_distance",
    "gaussian_fit",
    "gradient_direction",
    "image_round_trip",
    "labelled_distance",
    "latent_cells",
    "latent_round_trip",
    "low_rank",
    "lower_bound",
    "max_sliced",
    "mean_interval",
    "membership",
    "memorisation",
    "minibatch",
    "nearest_boundary",
    "nearest_other",
    "paired_cost",
    "per_class",
    "permutation_test",
    "project_cells",
    "projected_costs",
    "proportion_of",
    "random_angle_quantiles",
    "random_angle_shares",
    "random_directions",
    "rank_correlation",
    "sinkhorn_divergence",
    "slice_cells",
    "slice_factor",
    "sliced",
    "sliced_statistic",
    "subsampling_interval",
    "track",
    "transport_cells",
    "true_positive_rate",
    "unmatched",
    "wasserstein",
]
