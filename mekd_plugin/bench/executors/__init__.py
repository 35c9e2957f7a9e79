"""Where the runs of a grid are executed: ``local.py``, processes of this machine."""
