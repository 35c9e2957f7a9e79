"""Experiments: grid, store, runner, statistics, figures, report; knows no method by name."""
