"""Frameworks that are not benchmark suites.

Hosted methods in a training framework: ``lightning.py`` and ``transformers.py``; each file imports its framework, so
import the one that you use. ``flower/``: the clients of a federation as one teacher.
"""
