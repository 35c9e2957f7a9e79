"""The package's version, in a file of its own that imports nothing, so that every other file may import it."""

__version__ = "0.2.0"
