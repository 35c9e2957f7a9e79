"""Experiments: a grid of runs, and what is made of their records. Nothing here knows a method by name.

Read ``benchmark.py`` first (a whole benchmark), then ``grid.py`` (the runs), ``executors/`` and ``worker.py`` (how each
is run), ``store.py`` (what is kept), ``privacy.py`` (what the images that were sent say),
``statistics.py``, ``table.py``, ``figures.py`` and ``report.py`` (what is said
about them); ``comparisons.py`` has what is declared beforehand. ``commands.py`` has the command lines, and
``diagnosis/`` puts the questions of optimal transport to a run.
"""
