"""Hosted methods in training frameworks that are not benchmark suites: ``lightning.py`` and ``transformers.py``.

Each file imports its framework, so import the one that you use.
"""
