"""Ways to obtain a generator that stands for the teacher's inverse mapping, one per file.

Read ``emulation.py`` first (what each of them takes and leaves), then ``gan.py``, the paper's. Those of
``in_rounds.py`` learn from the bank's own answers: ``conditional.py`` (a conditional GAN), ``mixture.py`` (no network
at all) and ``regression.py`` (the floor). ``latent_inverse.py`` leaves a generator as it is and maps answers to its
latents. Your own is a subclass of ``Emulation`` and a line in the entry-point group ``mekd.emulations``.
"""
