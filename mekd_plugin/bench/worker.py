"""What a job of the grid is: data, teacher, student, distillation, record; :func:`do` does one, wherever it runs.

``python -m mekd_plugin.bench.worker`` reads a job from its standard input, which stays open: when it closes, the
benchmark that started it is gone, and so is the worker.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mekd_plugin.bench.audit import NOT_AUDITED, audit, wants_audit
from mekd_plugin.bench.calibration import expected_calibration_error
from mekd_plugin.bench.executors.executor import Job
from mekd_plugin.bench.privacy import strangers_to, what_was_sent
from mekd_plugin.bench.run_inputs import Method, Place, edge_of, learnt_by_teacher, load_data, pool_of, recipe_of
from mekd_plugin.bench.run_record import adapted_on, blank_record, record_of
from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.bench.sent import SentImages, SentSample
from mekd_plugin.bench.store import Store, spent_in
from mekd_plugin.bench.teacher_names import kind_of_teacher
from mekd_plugin.bench.teachers import (
    EvaluationAnswers,
    PreparedTeacher,
    evaluation_answers,
    patience_for,
    prepare_teacher,
)
from mekd_plugin.blackbox.backends import Declared, NameAlone
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.data.datasets import ImageData
from mekd_plugin.data.splits import EdgeSplit
from mekd_plugin.errors import RefusedForGood
from mekd_plugin.networks import build
from mekd_plugin.prediction import predict
from mekd_plugin.records import RunRecord
from mekd_plugin.training.run import distill

__all__ = ["Note", "do", "evaluated", "perform"]

_CURVE_POINTS = 10
_MOST_POINTS = 10 * _CURVE_POINTS
_SNAPSHOTS = 8
_NOT_ON_RECORD = (
    "the teacher's answers about the test images are not on record: agreement, the teacher's accuracy and audits are "
    "left out"
)
_BY_NAME = (
    "the run was resumed with a teacher known by its name alone, {}, which does not tell whether it is the one that "
    "answered before"
)

Note = Callable[[], None]
"""Called by a run between its writes: when a question was counted and is about to leave, and at each evaluation."""


def evaluated(
    spec: RunSpec, place: Place, prepared: PreparedTeacher, data: ImageData, *, whole: bool = False
) -> EvaluationAnswers | None:
    """What a teacher answers about the test images, asked once for all runs; None where they are not on record."""
    try:
        return evaluation_answers(
            prepared.teacher,
            data.test_images,
            name=prepared.name,
            responses=spec.responses,
            classes=data.num_classes,
            folder=Path(place.out) / "teachers",
            whole=whole,
            teacher_size=spec.teacher_size,
            patience=patience_for(spec.teacher),
        )
    except RefusedForGood:
        if kind_of_teacher(spec.teacher) == "recorded":
            return None
        raise


def _prepared(spec: RunSpec, place: Place, data: ImageData, split: EdgeSplit, note: Note | None) -> PreparedTeacher:
    """The run's teacher, which calls ``note`` before it looks at a question."""
    cache = None if place.cache is None else Path(place.cache)
    learnt = learnt_by_teacher(spec, place, data)
    prepared = prepare_teacher(spec, learnt, split, device=place.device, found_as=place.teacher, cache=cache)
    if note is None:
        return prepared
    teacher = prepared.teacher
    if isinstance(teacher, nn.Module):
        teacher.register_forward_pre_hook(lambda module, images: note())
        return prepared

    @functools.wraps(teacher)
    def ask(images: Tensor) -> Any:
        note()
        return teacher(images)

    return prepared._replace(teacher=Declared.of(teacher).tell(ask))


def perform(
    spec: RunSpec,
    place: Place,
    methods: Mapping[str, Method] | None = None,
    keep: Callable[[RunRecord], None] = lambda record: None,
    note: Note | None = None,
) -> RunRecord:
    """Do one run, or go on with it, and return its record.

    Args:
        spec: its settings.
        place: where it works.
        methods: classes and instances by the names that stand for them.
        keep: is given the record of the finished student before its generator is audited.
        note: see :func:`do`.
    """
    data = load_data(spec, place)
    split = edge_of(spec, data)
    prepared = _prepared(spec, place, data, split, note)
    teacher, known_as = prepared.teacher, prepared.identity
    told = evaluated(spec, place, prepared, data)
    answers = None if told is None else told.labels
    store = Store(Path(place.out), resume=True)
    directory = store.directory(spec.key)
    recipe = recipe_of(spec)
    spec.keep(directory, place.data_root)
    unsure = isinstance(known_as, NameAlone) and spent_in(directory).total > 0
    sample = SentSample(directory / "sent_sample.npz")
    watcher = SentImages(directory / "sent.npz", data.num_classes, sample=sample)
    boundary = WhiteBox if spec.white_box else BlackBox
    asked: Any = teacher if spec.white_box else watcher.wrap(teacher)
    settings: dict[str, Any] = {
        "budget": spec.query_budget,
        "identity": known_as,
        "answers": spec.answers,
        "answers_seed": spec.seed,
        "teacher_size": spec.teacher_size,
        **patience_for(spec.teacher),
    }
    black_box = boundary(asked, spec.responses, data.num_classes, **settings)

    def evaluate(student: nn.Module) -> dict[str, float]:
        sample.write()  # a run that is killed while its student trains asked before
        if note is not None:
            note()
        guesses = predict(student, data.test_images).argmax(dim=1)
        found = {"accuracy": float((guesses == data.test_labels).float().mean())}
        return found if answers is None else found | {"agreement": float((guesses == answers).float().mean())}

    try:
        result = distill(
            build(spec.student, data.num_classes, data.image_shape, seed=spec.seed),
            black_box,
            split.images,
            (methods or {}).get(spec.method, spec.method),
            preset=spec.preset,
            recipe=recipe,
            seed=spec.seed,
            pool=pool_of(spec, place),
            directory=directory,
            resume=True,
            device=place.device,
            evaluate=evaluate,
            # A method in rounds trains for longer than the recipe: the curve goes on as long as it does.
            evaluate_steps=[round(recipe.steps * part / _CURVE_POINTS) for part in range(1, _MOST_POINTS)],
            validation=spec.validation,
            snapshots=_SNAPSHOTS,
            cache=Path(place.out) / "shared",
            progress=False,
            **spec.hyperparameters,
        )
    finally:
        sample.write()
    watcher.write()
    strangers = strangers_to(split.indices, data.train_images, data.test_images)
    record = record_of(
        blank_record(spec, methods),
        result,
        last=evaluate(result.student),
        teacher_accuracy=None if answers is None else float((answers == data.test_labels).float().mean()),
        real_images=len(split.images),
        test_images=len(data.test_images),
        evaluation=0 if told is None else told.asked,
        calibration_error=expected_calibration_error(predict(result.student, data.test_images), data.test_labels),
    )
    resized = {} if spec.teacher_size is None else {"as_sent": black_box.as_sent}
    sent = what_was_sent(sample.images, sample.seen, split.images, strangers, seed=spec.seed, **resized)
    unknown = [] if told is not None else [_NOT_ON_RECORD]
    unknown += [_BY_NAME.format(known_as)] if unsure else []
    record = replace(record, sent=sent, warnings=[*record.warnings, *unknown, *_unseen(spec, sample, record)])
    if spec.adapt:
        record = adapted_on(data, record, result.student)
    if not place.audit or result.inverse is None:
        return record
    if told is None:  # nobody answers about other images, nor will after --resume: the warning says why
        return replace(record, generator={**(record.generator or {}), **NOT_AUDITED, "audited": 0})
    keep(record)  # the student is finished, whatever becomes of the audit
    # Asked once more where another kind of answers left only the classes: an audit wants them whole.
    told = evaluated(spec, place, prepared, data, whole=True)
    assert told is not None
    # A ledger and a journal of its own: a killed audit goes on, and no budget knows of it.
    auditor = BlackBox(
        teacher,
        spec.responses,
        data.num_classes,
        identity=known_as,
        teacher_size=spec.teacher_size,
        **patience_for(spec.teacher),
    )
    auditor.keep(directory / "audit")
    if auditor.journal is not None:
        auditor.journal.strict = False  # an audit of another size, after one that failed, asks otherwise
    try:
        audited = audit(
            result.inverse,
            told.response,
            lambda images: auditor.evaluate(images, stage="audit"),
            count=place.audit,
            value_range=auditor.value_range,
            seed=spec.seed,
        )
    finally:
        auditor.release()
    queries = replace(record.queries, evaluation=told.asked + auditor.ledger.evaluation)
    return replace(record, generator={**(record.generator or NOT_AUDITED), **audited}, queries=queries)


def _unseen(spec: RunSpec, sample: SentSample, record: RunRecord) -> list[str]:
    """Warnings where images left that the sample does not hold."""
    answered = record.queries.total - record.queries.uncertain
    told = []
    if not spec.white_box and sample.seen < answered:
        told.append(
            f"the run was interrupted: what it sent was measured on {sample.seen:,} of {answered:,} images; `mekd "
            "diagnose` looks at all that the student learnt from"
        )
    if not sample.complete:
        told.append(
            f"what it sent was measured on a sample of {len(sample.images):,} of {sample.seen:,} images: an attack "
            "with all of them may find more"
        )
    return told


def do(job: Job, place: Place, methods: Mapping[str, Method] | None = None, note: Note | None = None) -> str | None:
    """Do a job in this process, and write its record; every executor calls this, wherever it runs.

    Args:
        job: a run, or a teacher to prepare.
        place: where it works.
        methods: classes and instances by the names that stand for them in the grid, in place of registered ones.
        note: called in between, for an executor whose files must be elsewhere before a question leaves.

    Returns:
        Why it failed, which a run's record says too where it could be written; None where it did not. Nothing is
        raised but what ends the process: KeyboardInterrupt, SystemExit.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(job.spec.threads)
    try:
        if job.task == "teacher":
            data = load_data(job.spec, place)
            prepared = _prepared(job.spec, place, data, edge_of(job.spec, data), note)
            evaluated(job.spec, place, prepared, data)
            return None
        store = Store(Path(place.out), resume=True)
        with store.claim(job.spec.key):
            known = store.read(job.spec.key) if store.finished(job.spec.key) else None
            if known is not None and not wants_audit(known, place.audit):
                return None
            return _run(job.spec, place, store, methods, known, note)
    except Exception as error:  # teachers and methods are anybody's code, and other jobs have theirs
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    finally:
        torch.set_num_threads(threads)


def _run(
    spec: RunSpec,
    place: Place,
    store: Store,
    methods: Mapping[str, Method] | None,
    known: RunRecord | None,
    note: Note | None = None,
) -> str | None:
    """Do a run, or audit the ``known`` one, and keep its record; returns why that failed.

    What it took to train stands in the known one already, and an audit that failed undoes nothing.
    """
    try:
        if known is not None and not (store.directory(spec.key) / "run.json").exists():
            return "the run's files are gone, and an audit needs them: nothing was asked, and its record stays"
        keep = store.write if known is None else lambda record: None
        record = perform(spec, place, methods, keep, note)
        if known is not None:
            if record.error is not None:
                return record.error
            record = replace(known, generator=record.generator, queries=record.queries)
        store.write(record)
        return record.error
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        if store.finished(spec.key):
            return reason
        return store.write_failure(blank_record(spec, methods, error=reason))


def _die_with_the_benchmark() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> int:
    """Read the job from standard input, and do it."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_the_benchmark, daemon=True).start()
    reason = do(Job(job["task"], RunSpec(**job["spec"])), Place(**job["place"]))
    if reason is not None:  # the benchmark reads the last line of the log
        print(reason, file=sys.stderr)
    return 0 if reason is None else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
