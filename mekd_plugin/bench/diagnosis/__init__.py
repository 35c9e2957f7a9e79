"""The six questions of optimal transport, put to a finished run: ``mekd diagnose``.

``subject`` holds what is looked at, ``questions`` and ``generators`` answer with numbers and one sentence each,
``pictures`` draws them, and ``command`` writes them down.
"""
