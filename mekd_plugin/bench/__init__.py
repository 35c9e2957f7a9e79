"""Experiments: a grid of runs, and what is made of their records. Nothing here knows a method by name.

Read ``benchmark.py`` first (a whole benchmark), then ``settings.py``, ``grid.py`` and ``run_spec.py`` (its settings and
the runs that they expand into), ``executors/``, ``worker.py`` and ``run_inputs.py`` (how each is run, and on what),
``run_record.py`` and ``store.py`` (what is kept), ``privacy.py`` (what the images that were sent say),
``statistics.py``, ``table.py``, ``figures.py`` and ``report.py`` (what is said
about them); ``comparisons.py`` has what is declared beforehand. ``commands.py`` has the command lines, and
``diagnosis/`` puts the questions of optimal transport to a run.
"""
