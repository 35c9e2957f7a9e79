"""The page of a diagnosis, and its section in a benchmark's report, self-contained."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from mekd_plugin.bench.diagnosis.findings import Finding
from mekd_plugin.bench.diagnosis.subject import Subject
from mekd_plugin.bench.report import templates

__all__ = ["page", "section"]


def section(subject: Subject, findings: Sequence[Finding], pictures: Mapping[str, Mapping[str, bytes]]) -> str:
    """The findings as HTML.

    Args:
        subject: what was diagnosed.
        findings: in order.
        pictures: theme -> name -> PNG.
    """
    shown = [
        {
            "question": one.question,
            "sentence": one.sentence,
            **{theme: _encoded(pictures[theme][one.name]) for theme in ("light", "dark")},
        }
        for one in findings
    ]
    template = templates().get_template("diagnosis_section.html")
    return template.render(subject=subject.name, findings=shown, queries=str(subject.ledger))


def page(subject: Subject, content: str) -> str:
    """A self-contained page around a section."""
    return templates().get_template("diagnosis.html").render(subject=subject.name, section=content)


def _encoded(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
