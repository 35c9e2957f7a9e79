# Scripts that the tests start as processes of their own.
collect_ignore = ["two_processes.py"]
