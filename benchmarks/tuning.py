"""How each method's settings were chosen: three of its own, tried on an edge that the field's table does not have.

    python benchmarks/tuning.py --out tuning --records results/tuning --page docs/TUNING.md
    python benchmarks/tuning.py configs/tuning/kd.yaml --out tuning --records results/tuning --page docs/TUNING.md

Every file of ``configs/tuning`` is a grid of ``mekd bench`` with the variants of a method. Its runs are done, or gone
on with, under ``--out``; then each student is judged by its agreement with the teacher on one set of training images
that is common to all and that no run's edge holds. The teacher is asked about those once, outside every budget (an
evaluation). Test images choose nothing. The judgements are kept under ``--records``, one file a configuration, and the
page is made of all that are there. A method's first setting is taken unless another is a whole point ahead: what lies
closer is no finding, and a table that follows chance from setting to setting is fair to nobody.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from results_page import CONFIGS

from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.run_inputs import edge_of, load_data
from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.statistics import mean_interval
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.table import format_interval
from mekd_plugin.bench.teachers import evaluation_answers, prepare_teacher
from mekd_plugin.data.datasets import ImageData
from mekd_plugin.errors import InputError, MekdError
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.flags import read_yaml
from mekd_plugin.networks import build, load_weights
from mekd_plugin.training.evaluation import accuracy
from mekd_plugin.training.signature import tensor_digest
from mekd_plugin.version import __version__

MOST = 500
_SEED = 20_240_601
"""Of the common images; no run has it."""
_RESERVED = range(10)
"""Seeds whose edges are left out whether a configuration has them or not, so that all are judged on the same images."""
_FEWEST = 100
_AHEAD = 0.01
"""Mean agreement by which another setting is ahead of a method's first one, at least, where it is taken."""


def common_images(data: ImageData, specs: Iterable[RunSpec], most: int = MOST) -> torch.Tensor:
    """Rows ``(n,)`` of training images that no run's edge holds, the same for all runs of seeds from 0 to 9.

    Raises:
        InputError: fewer than 100 are left to judge by.
    """
    free = torch.ones(len(data.train_images), dtype=torch.bool)
    for spec in specs:
        for seed in {spec.seed, *_RESERVED}:
            free[edge_of(replace(spec, seed=seed), data).indices] = False
    left = int(free.sum())
    if left < _FEWEST:
        raise InputError(
            f"the edges leave {left} of {len(free)} training images of {data.name}: expected {_FEWEST} at least to "
            "judge by, outside the edges of ten seeds; take smaller edges"
        )
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(_SEED))
    return order[free[order]][:most].sort().values


def judge(benchmark: Benchmark) -> list[dict[str, Any]]:
    """Each run's agreement with its teacher on the common images; the runs are finished already.

    Returns:
        ``label``, ``method``, ``set`` (its hyperparameters), ``responses``, ``budget``, ``seed``, ``status``,
        ``agreement`` (a fraction, or None), ``images`` (how many it was judged on), ``common`` (which), ``queries``,
        ``evaluation`` (what all runs together asked to be judged) and ``error``.
    """
    specs, place, store = benchmark.specs, benchmark.place, Store(benchmark.out, resume=True)
    rows: list[dict[str, Any]] = []
    data = {spec.dataset: load_data(spec, place) for spec in specs}
    chosen = {name: common_images(one, [spec for spec in specs if spec.dataset == name]) for name, one in data.items()}
    for spec in specs:
        record = store.read(spec.key)
        row: dict[str, Any] = {
            "label": spec.label,
            "method": spec.method,
            "set": dict(spec.hyperparameters),
            "dataset": spec.dataset,
            "responses": spec.responses,
            "budget": spec.query_budget,
            "seed": spec.seed,
            "status": "failed" if record is None else record.status,
            "agreement": None,
            "images": len(chosen[spec.dataset]),
            "common": tensor_digest(chosen[spec.dataset]),
            "queries": 0 if record is None else record.queries.total,
            "evaluation": 0,
            "error": None if record is None else record.error,
        }
        rows.append(row)
        if row["status"] != "finished":
            continue
        one = data[spec.dataset]
        images = one.train_images[chosen[spec.dataset]]
        prepared = prepare_teacher(spec, one, edge_of(spec, one), device=place.device)
        told = evaluation_answers(
            prepared.teacher,
            images,
            name=prepared.name,
            responses=spec.responses,
            classes=one.num_classes,
            folder=benchmark.out / "teachers",
        )
        student = build(spec.student, one.num_classes, one.image_shape)
        load_weights(student, store.directory(spec.key) / "student.safetensors")
        row["agreement"] = accuracy(student, images, told.labels)  # by the teacher's classes, not by the true ones
        row["evaluation"] = told.asked
    return rows


def tune(config: Path, out: Path, records: Path) -> Path:
    """Do what is left of one configuration's runs, judge them, and keep the judgement; returns its file."""
    wanted = BenchConfig.from_mapping(read_yaml(config))
    if wanted.disjoint:
        raise InputError(f"{config}: disjoint edges have a teacher each, and nothing in common to be judged on")
    benchmark = Benchmark(wanted, out / config.stem)

    def observe(event: str, job: Any, error: str | None) -> None:
        if job is not None and event == "end":
            print(f"{config.stem}: {job.title}: {'done' if error is None else error}", flush=True)

    benchmark.execute(resume=True, observe=observe)
    torch.set_num_threads(wanted.threads)
    content = {"config": config.name, "version": __version__, "student": list(wanted.student),
               "teacher": list(wanted.teacher), "runs": judge(benchmark)}  # fmt: skip
    path = writable_directory(records) / f"{config.stem}.json"
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def page(contents: Sequence[Mapping[str, Any]], *, made_by: str) -> str:
    """The page in Markdown: a table for each method, an arrow before the setting that is taken.

    Raises:
        InputError: two configurations were not judged on the same images.
    """
    judged: dict[str, tuple[str, int]] = {}
    for content in contents:
        for run in content["runs"]:
            common = judged.setdefault(run["dataset"], (run["common"], run["images"]))
            if common[0] != run["common"]:
                raise InputError(
                    f"{content['config']} was judged on other images of {run['dataset']} than the others: give all "
                    "configurations edges of one size, and seeds from 0 to 9"
                )
    sizes = ", ".join(f"{count:,} of {name}" for name, (_, count) in judged.items())
    lines = [
        "# Tuning",
        "",
        f"Made by `{made_by}`.",
        "",
        "Every method gets three settings of its own, each tried with the recipe that all share. A "
        f"student is judged by its agreement with the teacher on one common set of training images ({sizes}) outside "
        "every edge, about which the teacher is asked once, outside the budget. No test image and no label has a say. "
        "An arrow marks the setting that is taken: the first one, unless another's mean, over all of the method's "
        f"tables here, is at least {100 * _AHEAD:g} point of agreement ahead of it. So many images and so few seeds "
        "cannot tell settings apart that lie closer. `logit_mimicry` has nothing to set, and `mekd_bank` what `mekd` "
        "has. `configs/field` takes these settings.",
        "",
    ]
    for content in sorted(contents, key=lambda one: one["config"]):
        lines += _section(content)
    return "\n".join(lines)


def taken(content: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """The setting that is taken of each method in a judged configuration: its row's name, and its hyperparameters."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for run in content["runs"]:
        found.setdefault(run["method"], {}).setdefault(run["label"], []).append(run)
    chosen = {}
    for method, settings in found.items():
        # A run that failed agrees with nothing: no setting gains by failing where others find it hard.
        means = {label: sum(run["agreement"] or 0.0 for run in runs) / len(runs) for label, runs in settings.items()}
        first, best = next(iter(means)), max(means, key=lambda label: means[label])
        label = best if means[best] - means[first] >= _AHEAD - 1e-9 else first
        chosen[method] = (label, dict(settings[label][0]["set"]))
    return chosen


def _section(content: Mapping[str, Any]) -> list[str]:
    chosen = taken(content)
    groups: dict[tuple[Any, ...], dict[str, list[Mapping[str, Any]]]] = {}
    for run in content["runs"]:
        panel = (run["method"], run["dataset"], run["responses"], run["budget"])
        groups.setdefault(panel, {}).setdefault(run["label"], []).append(run)
    lines = []
    for (method, dataset, responses, budget), variants in groups.items():
        limit = "no limit of queries" if budget is None else f"at most {budget:,} queries"
        lines += [f"## {method}", "", f"{dataset}, {', '.join(content['teacher'])} to {', '.join(content['student'])}, "
                  f"{responses} responses, {limit}; `configs/tuning/{content['config']}`.", ""]  # fmt: skip
        lines += ["|  | row | settings | agreement % | queries | seeds |", "|---|---|---|---:|---:|---:|"]
        for label, runs in variants.items():
            done = [run for run in runs if run["agreement"] is not None]
            settings = runs[0]["set"]
            told = ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in settings.items()) or "the default"
            asked = f"{sum(run['queries'] for run in done) / len(done):,.0f}" if done else "-"
            found = mean_interval([run["agreement"] for run in done]) if done else None
            shown = runs[0]["status"] if found is None else format_interval(found._asdict())
            arrow = "→" if chosen[method][0] == label and done else ""
            lines.append(f"| {arrow} | `{label}` | {told} | {shown} | {asked} | {len(done)} |")
        reasons = dict.fromkeys(f"- `{run['label']}`: {run['error']}" for runs in variants.values() for run in runs
                                if run["error"])  # fmt: skip
        lines += ["", *reasons, *([""] if reasons else [])]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags, do the runs, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("configs", nargs="*", type=Path, help="default: every file of configs/tuning")
    parser.add_argument("--out", type=Path, help="where the runs are; without it only the page is made")
    parser.add_argument("--records", type=Path, default=Path("results/tuning"), help="where the judgements are kept")
    parser.add_argument("--page", type=Path, help="the page; default: print it")
    words = sys.argv[1:] if arguments is None else list(arguments)
    given = parser.parse_args(words)
    try:
        if given.out is not None:
            for config in given.configs or sorted((CONFIGS / "tuning").glob("*.yaml")):
                tune(config, given.out, given.records)
        kept = [json.loads(path.read_text()) for path in sorted(given.records.glob("*.json"))]
        if not kept:
            raise InputError(f"{given.records} holds no judgements: name a directory for the runs, --out DIR")
    except MekdError as error:
        parser.error(str(error))
    text = page(kept, made_by=f"python benchmarks/tuning.py {shlex.join(words)}")
    if given.page is None:
        print(text, end="")
    else:
        write_atomically(writable_directory(given.page.parent) / given.page.name, text.encode())


if __name__ == "__main__":
    main()
