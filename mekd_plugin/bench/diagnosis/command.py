"""``mekd diagnose``: the questions, put to a run or to every first seed of a benchmark, and written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from mekd_plugin.bench.diagnosis import generators, leaks, students
from mekd_plugin.bench.diagnosis.findings import Finding
from mekd_plugin.bench.diagnosis.page import page, section
from mekd_plugin.bench.diagnosis.pictures import draw
from mekd_plugin.bench.diagnosis.subject import Subject, open_run
from mekd_plugin.bench.report import SECTION, write_report
from mekd_plugin.bench.store import Store
from mekd_plugin.errors import CheckpointError, InputError
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.records import Results

__all__ = ["ask", "diagnose", "write"]

_OF_A_STUDENT: tuple[Callable[[Subject], Finding], ...] = (students.responses, students.direction)
_OF_A_GENERATOR: tuple[Callable[[Subject], Finding], ...] = (
    generators.inversion,
    students.image_space,
    generators.cells,
    generators.domains,
)
_OF_WHAT_WAS_SENT: tuple[Callable[[Subject], Finding], ...] = (leaks.membership,)


def ask(subject: Subject, *, observe: Callable[[str], None] = lambda name: None) -> list[Finding]:
    """Every question that can be put to the subject: two about any student, four more where there is a generator, and
    one where what was sent is kept.
    """
    return list(_answers(subject, observe))


def _answers(subject: Subject, observe: Callable[[str], None]) -> Iterator[Finding]:
    questions = [
        *_OF_A_STUDENT,
        *(_OF_A_GENERATOR if subject.inverse is not None else ()),
        *(_OF_WHAT_WAS_SENT if subject.rows is not None else ()),
    ]
    for question in questions:
        observe(f"{subject.name}: {question.__name__}")
        yield question(subject)


def write(subject: Subject, findings: Sequence[Finding], directory: Path, *, unfinished: str = "") -> list[Path]:
    """Write ``diagnostics.json``, ``figures/diagnosis-*.png`` and ``diagnosis.html`` into ``directory``.

    ``unfinished`` says why there are no further findings, in ``diagnostics.json``, where not all questions were put.
    """
    folder = writable_directory(directory)
    content = {
        "subject": subject.name,
        "queries": subject.ledger.as_record(),
        **({"unfinished": unfinished} if unfinished else {}),
        "findings": {one.name: {"question": one.question, "sentence": one.sentence, **one.record} for one in findings},
    }
    paths = [folder / "diagnostics.json"]
    write_atomically(paths[0], (json.dumps(content, indent=1) + "\n").encode())
    pictures = {theme: {one.name: draw(one, theme) for one in findings} for theme in ("light", "dark")}
    for name, picture in pictures["light"].items():
        paths.append(writable_directory(folder / "figures") / f"diagnosis-{name}.png")
        write_atomically(paths[-1], picture)
    content_of_page = section(subject, findings, pictures)
    write_atomically(folder / SECTION, content_of_page.encode())
    paths.append(folder / "diagnosis.html")
    write_atomically(paths[-1], page(subject, content_of_page).encode())
    return paths


def diagnose(directory: Path, *, points: int, budget: int | None, console: Console) -> None:
    """Diagnose a run's directory, or each run of the first seed in a benchmark's."""
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory: expected one of `mekd bench --out` or `mekd distill --out`")
    folders = [directory]
    if (directory / "runs").is_dir():
        folders = _first_seeds(directory)
    for folder in folders:
        with console.status(f"opening {folder.name}") as status:
            subject = open_run(folder, points=points, budget=budget)
            findings: list[Finding] = []
            try:
                for finding in _answers(subject, status.update):
                    findings.append(finding)
            except BaseException as error:
                # What was found by then was paid for; a whole diagnosis is not replaced by it.
                if findings and not (folder / "diagnostics.json").exists():
                    write(subject, findings, folder, unfinished=str(error) or type(error).__name__)
                raise
            paths = write(subject, findings, folder)
        console.print(f"\n{subject.name}", style="bold", highlight=False)
        for one in findings:
            console.print(f"- {one.question} {one.sentence}", highlight=False, markup=False)
        console.print(f"The diagnosis asked {subject.ledger}.", style="dim", highlight=False, markup=False)
        console.print(f"Page: {paths[-1]}", highlight=False, markup=False, soft_wrap=True)
    place = directory.resolve()
    bench = place if (place / "runs").is_dir() else place.parent.parent
    if (bench / "results.json").is_file() and (bench == place or place.parent == bench / "runs"):
        results = Results.from_json(json.loads((bench / "results.json").read_text()))
        write_report(Store(bench, resume=True), results)
        console.print(f"Report: {bench / 'report.html'}", highlight=False, markup=False, soft_wrap=True)


def _first_seeds(directory: Path) -> list[Path]:
    """The finished runs of a benchmark with the lowest seed."""
    found: dict[Path, int] = {}
    for path in sorted((directory / "runs").glob("*/spec.json")):
        if (path.parent / "student.safetensors").is_file():
            found[path.parent] = json.loads(path.read_text())["spec"]["seed"]
    if not found:
        raise CheckpointError(f"{directory} holds no finished run: expected the directory of a benchmark or of a run")
    first = min(found.values())
    return [folder for folder, seed in found.items() if seed == first]
