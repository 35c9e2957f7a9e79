"""The one loop that trains every stage of every method.

Read ``run.py`` first (``distill`` and ``host``), then ``execution.py`` (a run's stages in turn), ``loop.py`` (one
stage, batch by batch), ``stepping.py`` (one step) and ``distillation.py`` (what comes back). ``hosting.py`` is the same
for a loop that is not ours, ``plan.py`` a rehearsal. What a run keeps on disk is in ``stage_store.py`` and
``checkpoint.py``; a student that travels in ``saved_student.py``.
"""
