"""Ways in which a generator comes to be that stands for the teacher's inverse mapping, one a file.

Read ``emulation.py`` first (what each of them takes and leaves), then ``gan.py``, the paper's. Another one, of
anybody's, is a subclass of ``Emulation`` and a line in the entry-point group ``mekd.emulations``.
"""
