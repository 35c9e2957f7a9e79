"""Where the jobs of a grid are executed.

Read ``executor.py`` first (a job, the three methods of an executor, and the loop that drives any of them), then
``local.py`` (processes of this machine) and ``in_process.py`` (this process, for methods that are objects). ``ray.py``
is for a cluster whose machines share no disk, with ``travel.py`` (how a run's files go there and come home). Another
executor is a class with the same three methods: ``start`` hands :func:`mekd_plugin.bench.worker.do` a job and a place,
wherever that runs; ``docs/executors.md`` has an example.
"""
