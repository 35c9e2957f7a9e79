"""A benchmark from its settings to its report, and what it would cost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mekd_plugin.bench.executors.local import Job, Runner, teacher_jobs
from mekd_plugin.bench.grid import BenchConfig, RunSpec, expand, kind_of_teacher
from mekd_plugin.bench.pricing import price_of
from mekd_plugin.bench.report import write_report
from mekd_plugin.bench.statistics import summarize
from mekd_plugin.bench.store import Store
from mekd_plugin.bench.worker import Place, edge_of, load_data, recipe_of
from mekd_plugin.errors import InputError, MekdError
from mekd_plugin.networks import build
from mekd_plugin.records import Results, RunRecord, describe_environment
from mekd_plugin.training.plan import Plan, plan
from mekd_plugin.training.processes import Processes

__all__ = ["Benchmark", "Planned", "failures"]


@dataclass(frozen=True)
class Planned:
    """What the seeds of one setting will ask and take together.

    Attributes:
        spec: that of the first seed.
        seeds: how many.
        plan: of one seed.
    """

    spec: RunSpec
    seeds: int
    plan: Plan

    @property
    def queries(self) -> int:
        """Of all seeds."""
        return self.seeds * self.plan.total


class Benchmark:
    """Settings on this machine.

    Args:
        config: the settings.
        out: directory of the results.

    Raises:
        InputError: the device is not there.
    """

    def __init__(self, config: BenchConfig, out: Path) -> None:
        self.config, self.out = config, out
        device = Processes.join(config.device).device
        self.specs = expand(config, device=device.type)
        self.place = Place(str(out), str(device), config.data_root, config.download)
        self.jobs = config.jobs or (max(1, _cores() // config.threads) if device.type == "cpu" else 1)

    def plan(self, *, observe: Callable[[RunSpec], None] = lambda spec: None) -> list[Planned]:
        """Rehearse each setting for a few steps; the teacher is neither trained nor asked, nothing is written."""
        groups: dict[str, list[RunSpec]] = {}
        for spec in self.specs:
            groups.setdefault(replace(spec, seed=0).key, []).append(spec)
        planned = []
        torch.set_num_threads(self.config.threads)
        for specs in groups.values():
            spec = specs[0]
            observe(spec)
            data = load_data(spec, self.place)
            foreseen = plan(
                build(spec.student, data.num_classes, data.image_shape, seed=spec.seed),
                _nobody,
                edge_of(spec, data).images,
                spec.method,
                responses=spec.responses,
                num_classes=data.num_classes,
                budget=spec.query_budget,
                preset=spec.preset,
                recipe=recipe_of(spec),
                seed=spec.seed,
                device=self.place.device,
                price_per_1000=self.config.price_per_1000,
                **spec.hyperparameters,
            )
            planned.append(Planned(spec, len(specs), foreseen))
        return planned

    def evaluation_queries(self) -> dict[str, int]:
        """Test images that a teacher which is not trained here must answer once, for agreement, by its name."""
        asked = {}
        for spec in self.specs:
            if kind_of_teacher(spec.teacher) in ("onnx", "function"):
                asked[spec.teacher] = len(load_data(spec, self.place).test_images)
        return asked

    def execute(self, *, resume: bool, observe: Callable[[str, Job | None, str | None], None]) -> Results:
        """Do what is not done yet, and write the report.

        Raises:
            InputError: ``out`` cannot be written, or holds results and ``resume`` is false.
            KeyboardInterrupt: after the workers were stopped in a state to go on from.
        """
        store = Store(self.out, resume=resume)
        pending = [spec for spec in self.specs if not store.finished(spec.key)]
        known = _known_results(self.out, self.settings())
        if not pending and known is not None:
            return known
        load_data(self.specs[0], self.place)  # missing data should be said at once, and once
        runner = Runner(store, self.place, self.jobs, observe)
        prepared = teacher_jobs(pending)
        failed = runner.execute(prepared)
        ready = []
        for spec in pending:
            reason = next((failed[job] for job in failed if _same_teacher(job.spec, spec)), None)
            if reason is None:
                ready.append(Job("run", spec))
            else:
                runner.fail(spec, f"the teacher could not be prepared: {reason}")
                observe("end", Job("run", spec), reason)
        runner.execute(ready)
        results = self._results(store)
        write_report(store, results)
        return results

    def settings(self) -> dict[str, Any]:
        """The settings as they stand in the results, with the recipe that the preset and they amount to."""
        return {**self.config.to_json(), "recipe": asdict(recipe_of(self.specs[0]))}

    def strangers(self) -> int:
        """Recorded runs in ``out`` that belong to other settings, and are left out of the results."""
        return Store(self.out, resume=True).strangers({spec.key for spec in self.specs})

    def _results(self, store: Store) -> Results:
        records = [self._priced(record) for spec in self.specs if (record := store.read(spec.key)) is not None]
        environment = describe_environment(device=self.place.device, jobs=self.jobs, threads=self.config.threads)
        if self.place.device.startswith("cuda"):
            environment["device"] = f"{self.place.device}: {torch.cuda.get_device_name(self.place.device)}"
        return Results(environment, self.settings(), records, summarize(records))

    def _priced(self, record: RunRecord) -> RunRecord:
        return replace(record, price=price_of(record.queries.total, self.config.price_per_1000))


def _cores() -> int:
    # A container or a batch system may have given this process fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _nobody(images: torch.Tensor) -> torch.Tensor:
    raise MekdError("a plan asked the teacher")


def _same_teacher(one: RunSpec, other: RunSpec) -> bool:
    return len(teacher_jobs([one, other])) == 1


def _known_results(out: Path, settings: Mapping[str, Any]) -> Results | None:
    """The results that ``out`` holds, where they were made with ``settings``."""
    try:
        content: Any = json.loads((out / "results.json").read_text())
        results = Results.from_json(content)
    except (OSError, ValueError, InputError):
        return None
    return results if results.config == settings else None


def failures(results: Results) -> Iterable[RunRecord]:
    """The runs that failed."""
    return (run for run in results.runs if run.status == "failed")
