"""A page made from results of ``mekd bench``: a table for each directory, and every row compared with a named one.

    python benchmarks/results_page.py results/ablations_digits results/ablations_fashion --title Ablations \
        --reference mekd --claim mekd:mekd_no_image --out docs/ABLATIONS.md

The numbers are those of the records; nothing is asked and nothing is trained. Under each table stands the command that
makes it again: a file of ``configs/`` with the same settings, or flags alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mekd_plugin.bench.comparison_table import (
    SHARES,
    SIGNIFICANT,
    comparison_rows,
    format_difference,
    format_probability,
)
from mekd_plugin.bench.comparisons import ACCURACY, Comparison, value_of
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.statistics import FEWEST_PAIRS, compare, holm, mean_interval, panel_name, summarize
from mekd_plugin.bench.table import Panel, format_interval, panels
from mekd_plugin.errors import InputError, MekdError
from mekd_plugin.files import write_atomically
from mekd_plugin.flags import read_yaml
from mekd_plugin.records import Results, RunRecord
from mekd_plugin.registry import unknown_name

CONFIGS = Path(__file__).parents[1] / "configs"
_PLACE = {item.name for item in fields(BenchConfig) if item.metadata.get("place")}


class Table(NamedTuple):
    """A directory of results.

    Attributes:
        directory: as it was given.
        results: what it holds.
    """

    directory: Path
    results: Results


def read(directory: Path) -> Table:
    """The results in a directory.

    Raises:
        InputError: there are none that can be read.
    """
    path = directory / "results.json"
    try:
        return Table(directory, Results.from_json(json.loads(path.read_text())))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}: expected the results of `mekd bench --out {directory}`") from error


def page(
    tables: Sequence[Table],
    *,
    title: str,
    made_by: str,
    reference: str | None = None,
    claim: str | None = None,
    subject: str = "The image-space term",
    metric: str = ACCURACY,
    configs: Path = CONFIGS,
) -> str:
    """The page in Markdown.

    Args:
        tables: what to show.
        title: of the page.
        made_by: the command that makes the page.
        reference: label of the row that the others are compared with; None takes each table's first.
        claim: ``ON:OFF``, labels of two rows that differ in the page's subject; the first line says what came out.
        subject: what the first line is about.
        metric: the number of a record that the table is about.
        configs: folder of the configurations that the commands may name.

    Raises:
        InputError: a directory holds no settings that a command could repeat. UnknownName: a label is in no row.
    """
    lines = [] if claim is None else [verdict(tables, claim, subject, metric), ""]
    lines += [f"# {title}", "", f"Made by `{made_by}`.", ""]
    for table in tables:
        for part in panels(summarize(table.results.runs)):
            lines += _section(table, part, reference, metric)
        lines += ["```sh", command(table, configs), "```", ""]
    lines += [
        "Accuracy and class match: mean over the seeds, ± half its 95 % interval; of a single seed, Wilson's interval "
        "over its images. Differences: seed by seed, in points for shares, with the 95 % interval and the p of the "
        "paired t-test, corrected by Holm for the rows of the table. Bold: a comparison that was declared before the "
        f"grid ran, and whose p, corrected for those declared, is below {SIGNIFICANT}; all else is descriptive. Class "
        "match: share of the images G(y) that the teacher puts into the class of y (`--audit`). Processor seconds: of "
        "the run's stages, a generator that it shares with another run included.",
    ]
    return "\n".join(lines) + "\n"


def verdict(tables: Sequence[Table], claim: str, subject: str, metric: str = ACCURACY) -> str:
    """One line: whether the rows of a claim differ, in each panel that has both.

    Raises:
        InputError: the claim is not ``ON:OFF``, or no table has both rows.
    """
    on, colon, off = claim.partition(":")
    if not colon or not on or not off:
        raise InputError(f"--claim {claim}: expected ON:OFF, the labels of two rows")
    found = []
    for table in tables:
        labels = {run.label for run in table.results.runs}
        if {on, off} <= labels:
            found += compare(table.results.runs, [Comparison(on, off, metric)])
    if not found:
        raise InputError(f"--claim {claim}: no results have both rows")
    corrected = holm([row["p"] for row in found])
    told, helps, hurts = [], 0, 0
    for row, p in zip(found, corrected, strict=True):
        difference, interval = format_difference(row)
        certain = p is not None and p < SIGNIFICANT
        helps += certain and row["difference"] > 0
        hurts += certain and row["difference"] < 0
        shown = "not tested" if p is None else f"p = {format_probability(p)}".replace("= <", "<")
        told.append(f"{row['panel']}: {difference} {interval}, {shown}, {row['pairs']} seeds")
    if all(p is None for p in corrected):
        said = "cannot be judged: too few seeds"
    elif not helps and not hurts:
        said = "is worth nothing that can be told from chance"
    elif len(found) in (helps, hurts):
        said = "helps" if helps else "hurts"
    else:
        parts = [f"{word} in {count}" for word, count in (("helps", helps), ("hurts", hurts)) if count]
        said = f"{' and '.join(parts)} of {len(found)} settings"
    return f"**{subject} {said}** (`{on}` less `{off}`, corrected by Holm for this line alone): {'; '.join(told)}."


def command(table: Table, configs: Path = CONFIGS) -> str:
    """The command that makes the results again, by the configuration that says most of it.

    Raises:
        InputError: methods that were objects, or settings that only a file can say and none of ``configs`` does.
    """
    wanted = {name: value for name, value in table.results.config.items() if name not in _PLACE}
    if "own_methods" in wanted:
        raise InputError(f"{table.directory}: methods that were objects have no command; compare registered ones")
    known: dict[str, dict[str, Any]] = {"": BenchConfig().to_json()}
    for path in sorted(configs.rglob("*.yaml")):
        settings = _settings(path, path.stat().st_mtime_ns)
        if settings is not None:
            known[str(path.relative_to(configs))] = settings
    found = []
    for name, settings in known.items():
        changed = {key: wanted[key] for key in settings if key in wanted and wanted[key] != settings[key]}
        flags = _flags(changed, settings)
        if flags is not None:
            found.append((len(changed), name, flags))
    if not found:
        raise InputError(
            f"{table.directory}: no file of {configs} has its variants and hyperparameters: put its settings into one, "
            "so that somebody else can make the table again"
        )
    _, name, flags = min(found, key=lambda entry: entry[:2])
    words = ["mekd", "bench"]
    words += ["--config", f"{configs.name}/{name}"] if name else []
    words += flags
    words += ["--data-root", "DIR"] if set(wanted.get("dataset", ())) != {"digits"} else []
    return shlex.join(
        [*words, "--out", table.directory.name if table.directory.is_absolute() else str(table.directory)]
    )


@cache
def _settings(path: Path, changed: int) -> dict[str, Any] | None:
    """Those of a file, as of its last change; None where it is a configuration of something else."""
    try:
        return BenchConfig.from_mapping(read_yaml(path)).to_json()
    except MekdError:
        return None


def _flags(changed: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str] | None:
    """Flags that turn ``settings`` into what was ``changed``; None where there are no such flags."""
    words: list[str] = []
    for name, value in changed.items():
        flag = "--" + name.replace("_", "-")
        if name == "hyperparameters" and not settings[name]:
            for owner, entries in value.items():
                words += [
                    word for key, entry in entries.items() for word in ("--set", f"{owner}.{key}={json.dumps(entry)}")
                ]
        elif name == "comparisons" and value:
            words += [word for one in value for word in ("--compare", f"{one['a']}:{one['b']}:{one['metric']}")]
        elif isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list) and value and name != "comparisons":
            words += [flag, ",".join(map(str, value))]
        elif isinstance(value, str | int | float):
            words += [flag, str(value)]
        else:
            return None
    return words


def _section(table: Table, part: Panel, reference: str | None, metric: str) -> list[str]:
    """Heading and table of one panel."""
    labels = [row["label"] for row in part.rows]
    against = labels[0] if reference is None else reference
    if against not in labels:
        raise unknown_name(f"label in {table.directory}", against, labels)
    runs = [run for run in table.results.runs if panel_name(vars(run)) == panel_name(part.rows[0])]
    compared = compare(runs, [Comparison(label, against, metric) for label in labels if label != against])
    differences = {row["a"]: row for row in compared}
    declared = significant(table, panel_name(part.rows[0]), metric)
    named = "accuracy" if metric == ACCURACY else metric.replace("_", " ")
    titles = [named + (" %" if metric in SHARES else ""), "class match %", "processor s", "queries"]
    lines = [f"## {part.title}", ""]
    lines.append(f"| row | seeds | {' | '.join(titles)} | less `{against}` | 95 % interval | p, Holm |")
    lines.append("|---|" + "---:|" * (len(titles) + 4))
    for row in part.rows:
        label = row["label"]
        cells = [f"`{label}`", str(row["finished"]), _centre(row, runs, metric), format_interval(row["class_match"])]
        cells += [_rounded(row["processor_seconds"]), _rounded(row["queries"])]
        bold = frozenset((label, against)) in declared
        cells += ["-", "-", "-"] if label == against else _against(differences[label], bold)
        lines.append("| " + " | ".join(cells) + " |")
    missing = [f"- `{row['label']}`: {error}" for row in part.rows for error in row["errors"]]
    return [*lines, "", *missing, *([""] if missing else [])]


def _centre(row: Mapping[str, Any], runs: Sequence[RunRecord], metric: str) -> str:
    """The number that the table is about, over the seeds."""
    if not row["finished"]:
        return "failed" if row["failed"] else "not applicable"
    if metric in row:
        return format_interval(row[metric])
    own = [run for run in runs if (run.label or run.method) == row["label"] and run.status == "finished"]
    values = [value for run in own if (value := value_of(run, metric)) is not None]
    if not values:
        return "-"
    interval = mean_interval(values)
    if metric in SHARES:
        return format_interval(interval._asdict())
    return f"{interval.mean:,.4g}" + (f" ± {(interval.high - interval.low) / 2:,.2g}" if interval.kind == "t" else "")


def significant(table: Table, panel: str, metric: str) -> set[frozenset[str]]:
    """The pairs of labels whose comparison was declared beforehand, and is significant."""
    rows = [row for row in table.results.comparisons if (row["panel"], row["metric"]) == (panel, metric)]
    return {frozenset((row["a"], row["b"])) for row, shown in zip(rows, comparison_rows(rows), strict=True)
            if shown.significant}  # fmt: skip


def _against(row: Mapping[str, Any], bold: bool) -> list[str]:
    difference, interval = format_difference(row)
    p = row["p_holm"]
    if p is None:
        return [difference, interval, "too few seeds" if row["pairs"] < FEWEST_PAIRS else "no spread"]
    return [f"**{difference}**" if bold else difference, interval, format_probability(p)]


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directories", nargs="+", type=Path, help="of `mekd bench --out`")
    parser.add_argument("--title", required=True, help="of the page")
    parser.add_argument("--reference", help="label of the row that the others are compared with; default: the first")
    parser.add_argument("--claim", metavar="ON:OFF", help="two rows; the first line says whether they differ")
    parser.add_argument("--subject", default="The image-space term", help="what the claim is about")
    parser.add_argument("--metric", default=ACCURACY, help="number of a record that the tables are about")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="folder of configurations that commands may name")
    parser.add_argument("--out", type=Path, help="the page; default: print it")
    words = sys.argv[1:] if arguments is None else list(arguments)
    given = parser.parse_args(words)
    try:
        text = page(
            [read(directory) for directory in given.directories],
            title=given.title,
            made_by=f"python benchmarks/results_page.py {shlex.join(words)}",
            reference=given.reference,
            claim=given.claim,
            subject=given.subject,
            metric=given.metric,
            configs=given.configs,
        )
    except MekdError as error:
        parser.error(str(error))
    if given.out is None:
        print(text, end="")
    else:
        write_atomically(given.out, text.encode())


if __name__ == "__main__":
    main()
