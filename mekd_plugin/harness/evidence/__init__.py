"""What was seen running in each suite.

Read ``reference_problem.py`` first (the small problem on which every suite is tried), then ``trials/`` (one experiment
a suite), then ``records.py`` (a record a suite, and the page that is written from the records).
"""
