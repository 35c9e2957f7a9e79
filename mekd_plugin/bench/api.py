"""A benchmark from Python, and its records as plain rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.run_inputs import Method
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.checks import as_flag, as_path
from mekd_plugin.errors import InputError, MissingDependency
from mekd_plugin.records import Results, RunRecord

if TYPE_CHECKING:
    import pandas

__all__ = ["Records", "benchmark", "load_records"]

_ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))


def benchmark(
    methods: Sequence[str | Method] | Mapping[str, str | Method] = ("mekd", "kd"),
    *,
    out: str | Path = "mekd-results",
    resume: bool = False,
    **settings: Any,
) -> Results:
    """Compare methods: each method, seed and setting is a run; as ``mekd bench`` does.

    Args:
        methods: names, or classes or instances of your own, such as a method in a notebook cell; a mapping says by
            which names tables call them. With a class or an instance among them all runs are done in this process, one
            after another.
        out: directory of ``results.json``, ``report.html`` and every run's files.
        resume: go on with what ``out`` holds.
        **settings: those of ``mekd bench``, with underscores: ``dataset``, ``teacher``, ``student``, ``query_budget``,
            ``seeds``, ``variants``, ``hyperparameters``, ... A tuple or list makes a grid.

    Returns:
        The records of all runs and their summary, as ``results.json`` holds them; ``print(results)`` is the table.

    Raises:
        MekdError: a setting that no run can use, before anything is trained or asked.
    """
    as_flag("resume", resume)
    place = as_path("out", out)
    if isinstance(methods, str):
        methods = methods.split(",")
    if not isinstance(methods, Sequence | Mapping):
        raise InputError(f"methods={methods!r}: expected a list of names, classes or instances, or a mapping of them")
    named = methods if isinstance(methods, Mapping) else {_name(method): method for method in methods}
    if len(named) != len(methods):
        raise InputError("two methods have one name: hand them in as a mapping, {name: method}")
    own = {name: method for name, method in named.items() if not isinstance(method, str)}
    registered = {name: method for name, method in named.items() if isinstance(method, str)}
    variants: dict[Any, Any] = {name: {"method": method} for name, method in registered.items() if name != method}
    more = settings.get("variants", {})
    if not isinstance(more, Mapping):
        raise InputError(f"variants={more!r}: expected names and values, such as {{cold: {{method: kd}}}}")
    plain = [name for name, method in registered.items() if name == method]
    given = {"methods": plain, **settings, "variants": {**variants, **more}}
    return Benchmark(BenchConfig.from_mapping(given, own=bool(own)), place, own).execute(
        resume=resume, observe=lambda event, job, error: None
    )


class Records(list[dict[str, Any]]):
    """Rows with the same keys, one for each run: a list of dictionaries, which is a data frame on demand."""

    def to_pandas(self) -> pandas.DataFrame:
        """A ``pandas.DataFrame``, a line for each run.

        Raises:
            MissingDependency: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependency(
                "records as a data frame need pandas: pip install 'mekd-plugin[pandas]'. Without it they are a list of "
                "dictionaries"
            ) from error
        return pandas.DataFrame(list(self))


def load_records(directory: str | Path) -> Records:
    """The runs of a benchmark, or of a single ``mekd distill --out``, as flat rows.

    ``load_records(directory).to_pandas()`` is a ``pandas.DataFrame`` of them.

    Args:
        directory: that holds ``results.json``, or ``record.json``.

    Returns:
        A list with a dictionary for each run, all with the same keys: numbers, texts and lists; nested records by the
        names of both, such as ``queries_total`` and ``seconds_distill``.

    Raises:
        InputError: the directory holds neither, or those of another version.
    """
    folder = as_path("directory", directory)
    results, single = folder / "results.json", folder / "record.json"
    try:
        if results.is_file():
            runs = Results.from_json(json.loads(results.read_text())).runs
        else:
            runs = [RunRecord.from_json(json.loads(single.read_text()))]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds no results that can be read ({error}): expected that of `mekd bench`"
        ) from error
    return Records(_flat(run) for run in runs)


def _name(method: str | Method) -> str:
    if isinstance(method, str):
        return method
    return method.__name__ if isinstance(method, type) else type(method).__name__


def _flat(run: RunRecord) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in run.to_json().items():
        if name in ("queries", "seconds"):
            parts = {f"{name}_{part}": number for part, number in value.items() if not isinstance(number, dict)}
            row |= parts
        elif name not in ("curve", "generator", "sent"):
            row[name] = value
    row["curve_step"] = [point["step"] for point in run.curve]
    row["curve_accuracy"] = [point["accuracy"] for point in run.curve]
    generator = run.generator or {}
    row |= {f"generator_{name}": generator.get(name) for name in ("class_match", "score_error", "coverage")}
    attack = (run.sent or {}).get("membership") or {}
    for name in ("auc", "true_positives"):
        row |= {f"membership_{name}{end}": attack.get(name, {}).get(part) for end, part in _ENDS}
    row["membership_nearest_ratio"] = attack.get("nearest_ratio")
    return row
