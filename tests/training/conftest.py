# Scripts that the tests start as processes of their own.
collect_ignore = ["killable.py", "two_processes.py"]
