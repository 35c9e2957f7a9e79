"""Distances between two sets of points, by POT's solvers.

Read ``distances.py`` first (the choice of an estimator), then ``exact.py``, ``scalable.py``, ``slices.py``,
``sinkhorn.py``, ``gaussian.py``, ``labelled.py`` and ``neighbours.py``.
"""
