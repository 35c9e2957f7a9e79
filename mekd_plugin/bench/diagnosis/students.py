"""Questions about the student: how far its responses are from the teacher's, and where the loss pulls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mekd_plugin.bench.diagnosis.findings import Finding
from mekd_plugin.bench.diagnosis.subject import Subject
from mekd_plugin.prediction import predict
from mekd_plugin.responses import centre_scores
from mekd_plugin.rows import Rows
from mekd_plugin.transport.estimators.distances import wasserstein
from mekd_plugin.transport.questions.gradient_direction import GradientDirection, gradient_direction
from mekd_plugin.transport.questions.image_space import Trajectory, track
from mekd_plugin.transport.questions.responses import compare_responses

__all__ = ["direction", "image_space", "responses"]

_GRADIENT_ROWS = 256


def responses(subject: Subject) -> Finding:
    """Definition 1, and the paired cost beside it."""
    student = predict(subject.student, subject.real)
    teacher = subject.scores(subject.real_answers)
    found = compare_responses(student, teacher, resamples=20, permutations=99, seed=subject.seed)
    floor = wasserstein(teacher[::2], teacher[1::2], seed=subject.seed)
    logits = found.logits
    sentence = (
        f"On {found.images} held-out images an image's own two responses are {logits.paired.value:.2f} apart, and the "
        f"two distributions {logits.w1.value:.2f} (two halves of the teacher's own: {floor.value:.2f}): "
        f"{100 * logits.shift_share:.0f} % of the difference is a shift of the distribution, the rest is a mix-up of "
        f"images that Definition 1 does not see. They name the same class on {100 * found.agreement:.1f} %."
    )
    return Finding(
        "responses",
        "How far is the student's response distribution from the teacher's?",
        sentence,
        {**found.as_record(), "teacher_against_itself": floor.as_record()},
        {"comparison": found, "floor": floor},
    )


def image_space(subject: Subject) -> Finding:
    """Image distance and logit distance over the training, for this method and the others beside it.

    On held-out real images, since a method's own rows would favour it over the others.
    """
    teacher = subject.scores(subject.real_answers)
    inverse = subject.require_inverse()

    def drawn(scores: Tensor) -> Tensor:
        return torch.cat([inverse.generator(part) for part in subject.latent_of(scores).split(256)])

    tracks: dict[str, Trajectory] = {}
    for name, snapshots in {subject.name.split(" on ")[0]: subject.snapshots, **subject.others}.items():
        if len(snapshots) > 1:
            students = {step: centre_scores(predict(student, subject.real)) for step, student in snapshots.items()}
            tracks[name] = track(drawn, students, teacher, seed=subject.seed)
    told = []
    for name, found in tracks.items():
        last = found.snapshots[-1]
        across = "undefined" if last.across_images.value is None else f"{last.across_images.value:.2f}"
        told.append(
            f"{name} ended at {last.image_distance.value:.2f} in image space and {last.logit_distance.value:.2f} "
            f"between logits (over the images the two have rank correlation {across}; "
            f"{len(found.partings)} steps where one fell and the other rose)"
        )
    return Finding(
        "image_space",
        "Does reducing image-space distance reduce logit distance?",
        "; ".join(told) + "." if told else "The run kept no snapshots to compare.",
        {name: found.as_record() for name, found in tracks.items()},
        {"tracks": tracks},
    )


def direction(subject: Subject) -> Finding:
    """The direction of each part of the method's loss, over the training."""
    rows = _rows(subject)
    teacher = subject.scores(rows.answers())
    found: dict[str, dict[int, GradientDirection]] = {}
    snapshots: Mapping[int, nn.Module] = subject.snapshots or {0: subject.student}
    for step, student in snapshots.items():
        scores = predict(student, rows.images)
        for part in subject.method.losses(lambda _, scores=scores: scores, rows):  # type: ignore[misc]
            found.setdefault(part, {})[step] = gradient_direction(_part(subject, rows, part), scores, teacher)
    last = {part: list(steps.values())[-1] for part, steps in found.items()}
    records = {part: {str(step): one.as_record() for step, one in steps.items()} for part, steps in found.items()}
    told = []
    for part, one in last.items():
        summary = one.as_record()["to_teacher"]["quartiles"]
        if summary is not None:
            told.append(f"{part.replace('_', ' ')} {summary[1]:.0f}°")
    chance = next(iter(last.values())).as_record()["random"]["quartiles"]
    sentence = (
        "Median angle between the way that a loss moves the student's scores and the straight line to the teacher's, "
        f"at the end: {', '.join(told)}; a random direction has {chance[1]:.0f}° (middle half {chance[0]:.0f}° to "
        f"{chance[2]:.0f}°), the squared error 0°."
    )
    return Finding(
        "direction", "Is the direction of the gradient new?", sentence, records, {"directions": found, "chance": chance}
    )


def _part(subject: Subject, rows: Rows, part: str) -> Callable[[Tensor], Tensor]:
    return lambda scores: subject.method.losses(lambda _: scores, rows)[part]


def _rows(subject: Subject) -> Rows:
    """Answered rows of the method's own, or the held-out images where nothing is kept."""
    if subject.rows is not None:
        return subject.rows[:_GRADIENT_ROWS]
    return Rows(subject.real, subject.real_answers)[:_GRADIENT_ROWS]
