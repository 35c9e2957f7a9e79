"""Questions about the generator: is it the teacher's inverse, what are its cells, how far are edge and cloud apart?"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mekd_plugin.bench.diagnosis.findings import Finding
from mekd_plugin.bench.diagnosis.subject import Subject
from mekd_plugin.transport.estimators.labelled import labelled_distance
from mekd_plugin.transport.estimators.neighbours import nearest_other
from mekd_plugin.transport.questions.cell_picture import slice_cells
from mekd_plugin.transport.questions.coverage import class_coverage, coverage
from mekd_plugin.transport.questions.domains import domain_distances
from mekd_plugin.transport.questions.inversion import distance_to_real, image_round_trip, latent_round_trip
from mekd_plugin.transport.questions.latent_cells import latent_cells
from mekd_plugin.transport.questions.memorisation import memorisation
from mekd_plugin.transport.questions.transport_cells import class_prototypes, transport_cells
from mekd_plugin.transport.questions.unmatched import unmatched

__all__ = ["cells", "domains", "inversion"]

_SLICE = 40  # points per side: 1,600 questions


def inversion(subject: Subject) -> Finding:
    """Definition 2, the round trips, coverage and memorisation."""
    classes = subject.method.num_classes
    edge, real, made = subject.edge[: subject.points], subject.real, subject.generated
    pixels = distance_to_real(made, edge, held_out=real, seed=subject.seed)
    features = distance_to_real(
        subject.features(made), subject.features(edge), held_out=subject.features(real), seed=subject.seed
    )
    answers = subject.scores(subject.generated_answers)
    latent = latent_round_trip(subject.latent[:, :classes], answers, seed=subject.seed)
    redrawn = subject.draw(subject.latent_of(subject.scores(subject.real_answers)))
    images = image_round_trip(real, redrawn, seed=subject.seed)
    region = coverage(subject.scores(subject.real_answers), answers)
    shares = class_coverage(
        subject.generated_answers.labels, classes, expected=_shares(subject.real_answers.labels, classes)
    )
    copies = memorisation(made, edge, real, seed=subject.seed)
    baseline = f" (held-out real images: {pixels.baseline_w1.value:.2f})" if pixels.baseline_w1 is not None else ""
    missing = ", ".join(map(str, shares.missing + shares.rare)) or "none"
    drawn = (
        "for one of its answers to the edge's images"
        if subject.require_inverse().drawn_for == "answers"
        else "from noise"
    )
    sentence = (
        f"Generated images are W1 = {pixels.w1.value:.2f} from the edge's in pixels{baseline}. The teacher puts an "
        f"image drawn {drawn} into the class of the latent's largest score in {_percent(latent.same_class)}. From the "
        f"teacher's answer to an image G draws one that is {images.paired.value:.2f} away from it; an image drawn from "
        f"another's answer would be {images.unpaired or 0:.2f} away. "
        f"{_percent(region.coverage)} of the teacher's answers to real images have a synthetic neighbour "
        f"({100 * region.expected_coverage:.0f} % for equal distributions); classes missing or rare: {missing}. "
        f"{_percent(copies.nearer_to_training)} of the generated images lie nearer to a training image than to a "
        f"held-out one ({100 * copies.expected:.0f} % without copying, 95 % range {100 * copies.chance[0]:.0f} to "
        f"{100 * copies.chance[1]:.0f} %)."
    )
    results: dict[str, Any] = {
        "pixels": pixels,
        "features": features,
        "latent": latent,
        "images": images,
        "region": region,
        "classes": shares,
        "memorisation": copies,
    }
    record = {name: result.as_record() for name, result in results.items()}
    return Finding("inversion", "Has G become the inverse of T?", sentence, record, results)


def cells(subject: Subject) -> Finding:
    """The latent space divided by the teacher's answers, by its own arg max, and by transport to class prototypes."""
    classes = subject.method.num_classes
    scores, answers = subject.latent[:, :classes], subject.scores(subject.generated_answers)
    real = subject.scores(subject.real_answers)
    expected = _shares(subject.real_answers.labels, classes)
    found = latent_cells(scores, answers, expected=expected)
    results: dict[str, object] = {"cells": found}
    record = {"cells": found.as_record()}
    if bool((expected > 0).all()):
        prototypes = class_prototypes(subject.latent_of(real)[:, :classes], subject.real_answers.labels, classes)
        transported = transport_cells(scores, prototypes, weights=expected, seed=subject.seed)
        results["transported"] = transported
        record["transported"] = transported.as_record()
        same = transported.agreement(found.by_teacher)
        record["transported"]["agreement_with_teacher"] = same.as_record()
        by_transport = f", the transport cells around the classes' mean answers in {_percent(same)}"
    else:
        by_transport = ""
    if classes >= 3:
        style = torch.zeros(subject.latent.shape[1] - classes)
        ask = partial(_classes, subject)
        results["picture"] = slice_cells(ask, classes, resolution=_SLICE, style=style)
    masses = found.masses
    collapse = (
        f"classes {', '.join(map(str, masses.missing + masses.rare))} are missing or rare: mode collapse"
        if masses.collapsed
        else "no class is missing"
    )
    sentence = (
        f"The teacher puts a latent's image into the cell of the latent's arg max in {_percent(found.agreement)}"
        f"{by_transport} (chance {100 / classes:.0f} %). {100 * masses.total_variation:.0f} % of the mass lies in "
        f"other classes than among real images; {collapse}."
    )
    return Finding("cells", "What do the decision cells look like?", sentence, record, results)


def domains(subject: Subject) -> Finding:
    """Real, synthetic and rotated images in feature and response space, and which of them lack a counterpart."""
    edge, real, made = subject.edge[: subject.points], subject.real, subject.generated
    turned = real.rot90(dims=(2, 3))
    half = len(real) // 2
    answers = {
        "edge": subject.edge_answers,
        "held out": subject.real_answers,
        "synthetic": subject.generated_answers,
        "turned by 90°": subject.teacher.query(turned[:half], stage="turned images"),
    }
    sets = {"edge": edge, "held out": real, "synthetic": made, "turned by 90°": turned[:half]}
    features = {name: subject.features(images) for name, images in sets.items()}
    in_features = domain_distances(features, seed=subject.seed)
    in_responses = domain_distances({name: subject.scores(told) for name, told in answers.items()}, seed=subject.seed)
    labelled = labelled_distance(
        features["edge"], features["synthetic"], answers["edge"].labels, answers["synthetic"].labels, seed=subject.seed
    )
    reach = float(nearest_other(features["edge"].double()).quantile(0.95))
    lonely = unmatched(features["edge"], features["synthetic"], reach=reach)
    table = in_features.matrix
    sentence = (
        f"In the student's features synthetic images are {table[0][2].value:.2f} from the edge's, held-out ones "
        f"{table[0][1].value:.2f}, turned ones {table[0][3].value:.2f}; two halves of the edge's "
        f"{table[0][0].value:.2f}. With classes the distance from edge to synthetic is {labelled.distance.value:.2f}. "
        f"Beyond the reach of a neighbour ({reach:.2f}), {len(lonely.x)} of {len(edge)} edge images have no synthetic "
        f"counterpart and {len(lonely.y)} of {len(made)} synthetic ones no real one."
    )
    record = {
        "features": in_features.as_record(),
        "responses": in_responses.as_record(),
        "labelled": labelled.as_record(),
        "unmatched": {
            "reach": reach,
            "edge": lonely.x.tolist(),
            "synthetic": lonely.y.tolist(),
            "moved": lonely.moved,
            "cost": lonely.cost,
        },
    }
    results = {
        "features": in_features,
        "responses": in_responses,
        "unmatched": lonely,
        "edge": edge,
        "synthetic": made,
        "value_range": subject.teacher.value_range,
    }
    return Finding("domains", "How far is the edge from the cloud?", sentence, record, results)


def _classes(subject: Subject, latent: Tensor) -> Tensor:
    return subject.teacher.query(subject.draw(latent), stage="slice of the latent space").labels


def _shares(labels: Tensor, classes: int) -> Tensor:
    return torch.bincount(labels.cpu(), minlength=classes) / len(labels)


def _percent(share: object) -> str:
    value = getattr(share, "value", None)
    return "-" if value is None else f"{100 * value:.0f} %"
