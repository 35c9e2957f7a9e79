"""Six questions of optimal transport and one of privacy, put to a finished run: ``mekd diagnose``.

Read ``subject.py`` first (what is looked at), then ``students.py``, ``generators.py`` and ``leaks.py`` (each question
is answered by numbers and a sentence, a ``Finding`` of ``findings.py``), ``pictures.py`` and ``page.py`` (how that is
shown) and ``command.py`` (the command). ``monitor.py`` stands apart: it measures distances while a student trains.

    subject = open_run(folder)
    findings = ask(subject)
    write(subject, findings, folder)
"""

from __future__ import annotations

from mekd_plugin.bench.diagnosis.command import ask, write
from mekd_plugin.bench.diagnosis.findings import Finding
from mekd_plugin.bench.diagnosis.monitor import Monitor
from mekd_plugin.bench.diagnosis.pictures import draw
from mekd_plugin.bench.diagnosis.subject import Subject, open_run

__all__ = ["Finding", "Monitor", "Subject", "ask", "draw", "open_run", "write"]
