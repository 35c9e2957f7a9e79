# Suites that are used from their sources, stated anew: not tests, and importable only as the suites are. And a script
# that tests start as a process of its own.
collect_ignore = ["suites", "timm_process.py"]
