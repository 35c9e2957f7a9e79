"""Six questions of optimal transport and one of privacy, put to a finished run: ``mekd diagnose``.

Read ``subject.py`` first (what is looked at), then ``students.py``, ``generators.py`` and ``leaks.py`` (each question
is answered by numbers and a sentence, a ``Finding`` of ``findings.py``), ``pictures.py`` and ``page.py`` (how that is
shown) and ``command.py`` (the command). ``monitor.py`` stands apart: it measures distances while a student trains.
"""
