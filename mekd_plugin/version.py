"""The package's version; a file of its own, which imports nothing, so that every other file may read it."""

__version__ = "0.2.0"
