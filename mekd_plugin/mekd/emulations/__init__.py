"""Ways to obtain a generator that stands for the teacher's inverse mapping, one per file.

Read ``emulation.py`` first (what each of them takes and leaves), then ``gan.py``, the paper's. Your own is a subclass
of ``Emulation`` and a line in the entry-point group ``mekd.emulations``.
"""
