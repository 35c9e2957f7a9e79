"""Ways to train the generator that emulates the inverse mapping of the teacher: ``gan.py``."""
