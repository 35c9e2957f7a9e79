"""A benchmark from its settings to its report, and what it would cost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mekd_plugin.bench.audit import wants_audit
from mekd_plugin.bench.comparisons import Comparison, resolved
from mekd_plugin.bench.declarations import Declarations
from mekd_plugin.bench.executors.executor import Event, Executor, Job, execute, same_teacher, teacher_jobs
from mekd_plugin.bench.executors.in_process import InProcessExecutor
from mekd_plugin.bench.executors.local import LocalExecutor
from mekd_plugin.bench.grid import Cell, cells, expand
from mekd_plugin.bench.grid_check import check_grid
from mekd_plugin.bench.pricing import price_for, price_of
from mekd_plugin.bench.report import write_report
from mekd_plugin.bench.run_inputs import Method, Place, digest_of, edge_of, load_data, pool_of, recipe_of
from mekd_plugin.bench.run_record import blank_record
from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.statistics import summarize
from mekd_plugin.bench.store import Store, is_finished
from mekd_plugin.bench.teacher_names import ASKED, kind_of_teacher
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.distiller import Distiller
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
        spec: the run of the first seed.
        seeds: how many.
        plan: the plan of one seed.
    """

    spec: RunSpec
    seeds: int
    plan: Plan

    @property
    def queries(self) -> int:
        """Images that all seeds together will send."""
        return self.seeds * self.plan.total


class Benchmark:
    """Settings on this machine.

    Args:
        config: the settings.
        out: directory of the results.
        methods: classes or instances to compare as well, by the names that tables will call them. They run in this
            process, and everything else with them, since no other process could import them.

    Raises:
        InputError: a device is missing, or a name is taken.
    """

    def __init__(self, config: BenchConfig, out: Path, methods: Mapping[str, Method] | None = None) -> None:
        self.config, self.out, self.methods = config, out, dict(methods or {})
        if config.executor == "ray" and self.methods:
            raise InputError(
                f"executor=ray with {', '.join(self.methods)}: only registered methods go to other machines"
            )
        self.gpus = config.gpus_per_run if config.gpus_per_run is not None else float(config.device == "cuda")
        if config.executor == "ray":  # this machine need not have what the workers have
            self.devices = ["cuda" if self.gpus else "cpu"]
        else:
            self.devices = [str(Processes.join(name.strip()).device) for name in config.device.split(",")]
        kinds = {name.partition(":")[0] for name in self.devices}
        if len(kinds) != 1:
            raise InputError(f"device={config.device}: expected devices of one kind, since others round differently")
        columns = cells(config)
        if taken := {cell.label for cell in columns} & set(self.methods):
            raise InputError(f"{', '.join(sorted(taken))}: a method or variant of the grid has that name already")
        for name, method in self.methods.items():
            if isinstance(method, Distiller) and set(config.seeds) != {method.seed}:
                raise InputError(
                    f"{name} is an instance with seed={method.seed}, and the runs have the seeds "
                    f"{', '.join(map(str, config.seeds))}: hand in its class, or seeds=[{method.seed}]"
                )
        columns += [Cell(name, name, {}, digest_of(method)) for name, method in self.methods.items()]
        kind = kinds.pop()
        self.specs = expand(config, device=kind, columns=columns)
        self.place = Place(str(out), self.devices[0], config.data_root, config.download, config.audit)
        side_by_side = max(1, _cores() // config.threads) if kind == "cpu" else len(self.devices)
        self.jobs = 1 if self.methods else config.jobs or side_by_side
        self._ruled_out: dict[str, str] | None = None

    def check(self) -> dict[str, str]:
        """Look at the whole grid, once, before anything is trained or asked.

        Returns:
            The keys of the runs that a rule takes out, each with the reason.

        Raises:
            MekdError: something that no run could use.
        """
        if self._ruled_out is None:
            config = self.config
            self._ruled_out = check_grid(
                self.specs, self.place, self.methods, config.hyperparameters, config.comparisons
            )
        return self._ruled_out

    def plan(self, *, resume: bool = False, observe: Callable[[RunSpec], None] = lambda spec: None) -> list[Planned]:
        """Rehearse each setting for a few steps; the teacher is neither trained nor asked, nothing is written.

        Args:
            resume: leave out the runs that ``out`` holds finished.
            observe: is told each setting before it is rehearsed.
        """
        ruled_out = self.check()
        groups: dict[str, list[RunSpec]] = {}
        for spec in self.unfinished() if resume else self.specs:
            if spec.key not in ruled_out:
                groups.setdefault(replace(spec, seed=0, teacher_seed=0).key, []).append(spec)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config.threads)
        try:
            return [self._foresee(specs, observe) for specs in groups.values()]
        finally:
            torch.set_num_threads(threads)

    def _foresee(self, specs: list[RunSpec], observe: Callable[[RunSpec], None]) -> Planned:
        """What the seeds of one setting will ask and take."""
        spec = specs[0]
        observe(spec)
        data = load_data(spec, self.place)
        student = build(spec.student, data.num_classes, data.image_shape, seed=spec.seed)
        settings: dict[str, Any] = {"budget": spec.query_budget}
        asked: Any = _ask_nobody if kind_of_teacher(spec.teacher) in ASKED else _Nobody()
        if spec.white_box:
            # It has the right kind and shape; what it answers does not matter to a plan.
            stand_in = build(spec.student, data.num_classes, data.image_shape, seed=spec.seed)
            asked = WhiteBox(stand_in, spec.responses, data.num_classes, **settings)
            settings = {}
        else:
            settings |= {"responses": spec.responses}
        foreseen = plan(
            student,
            asked,
            edge_of(spec, data).images,
            self.methods.get(spec.method, spec.method),
            num_classes=data.num_classes,
            preset=spec.preset,
            recipe=recipe_of(spec),
            seed=spec.seed,
            device="auto" if self.config.executor == "ray" else self.place.device,
            pool=pool_of(spec, self.place),
            price_per_1000=price_for(spec.teacher, self.config.price_per_1000),
            **settings,
            **spec.hyperparameters,
        )
        return Planned(spec, len(specs), foreseen)

    def pending(self, store: Store) -> list[RunSpec]:
        """The runs that are still to be done, or whose generators are still to be asked about."""
        records = {spec.key: store.read(spec.key) for spec in self.specs}

        def done(record: RunRecord | None) -> bool:
            return record is not None and record.status == "finished" and not wants_audit(record, self.config.audit)

        return [spec for spec in self.specs if not done(records[spec.key])]

    def unfinished(self) -> list[RunSpec]:
        """The runs that ``out`` does not hold finished; looking writes nothing."""
        return [spec for spec in self.specs if not is_finished(self.out / "runs" / spec.key / "record.json", spec.key)]

    def evaluation_queries(self) -> dict[str, int]:
        """Test images that a teacher which is not trained here must answer once, for agreement, by its name."""
        asked = {}
        for spec in self.specs:
            if kind_of_teacher(spec.teacher) in ASKED:
                asked[spec.teacher] = len(load_data(spec, self.place).test_images)
        return asked

    def execute(self, *, resume: bool, observe: Event) -> Results:
        """Do what is still to be done, and write the report: of what is done by then, where it is stopped.

        Raises:
            InputError: ``out`` cannot be written, or holds results and ``resume`` is false; or a setting that no run
                could use.
            KeyboardInterrupt: after the workers were stopped in a state to go on from.
        """
        known = _known_results(self.out, self.settings())
        if known is None:
            self.check()  # a grid that is refused leaves no directory behind
        store = Store(self.out, resume=resume)
        pending = self.pending(store)
        if not pending and known is not None and known.runs == self._records(store, {}):
            return known
        ruled_out = self.check()
        declarations = Declarations(self.out)
        declarations.declare(self._comparisons(), self._records(store, {}))
        for spec in pending:
            if spec.key in ruled_out and not store.finished(spec.key):
                blank = blank_record(spec, self.methods, status="not applicable", error=ruled_out[spec.key])
                store.write(blank)
        pending = [spec for spec in pending if spec.key not in ruled_out]
        told = dict[str, str]()
        try:
            self._do(pending, store, told, observe)
        except KeyboardInterrupt:
            results = self._results(store, told, declarations)
            if results.runs:  # no comparison: what was declared is about all seeds
                write_report(store, replace(results, comparisons=[]), stopped=True)
            raise
        results = self._results(store, told, declarations)
        write_report(store, results)
        return results

    def _do(self, pending: Sequence[RunSpec], store: Store, told: dict[str, str], observe: Event) -> None:
        """Prepare the teachers and do the runs; ``told`` gains why a run failed, by its key."""
        executor = self._executor(store)
        try:
            failed = execute(executor, teacher_jobs(pending), observe)
            ready = []
            for spec in pending:
                reason = next((failed[job] for job in failed if same_teacher(job.spec, spec)), None)
                if reason is None:
                    ready.append(Job("run", spec))
                else:
                    reason = f"the teacher could not be prepared: {reason}"
                    if not store.finished(spec.key):  # one that waits for an audit keeps its record
                        reason = store.write_failure(blank_record(spec, self.methods, error=reason))
                    told[spec.key] = reason
                    observe("end", Job("run", spec), told[spec.key])
            told |= {job.spec.key: reason for job, reason in execute(executor, ready, observe).items()}
        finally:
            executor.stop()

    def _executor(self, store: Store) -> Executor:
        if self.methods:
            return InProcessExecutor(self.place, self.methods)
        if self.config.executor == "ray":
            # Imported here: a benchmark of this machine needs no Ray.
            from mekd_plugin.bench.executors.ray import RayExecutor

            cpus = float(self.config.threads) if self.config.cpus_per_run is None else self.config.cpus_per_run
            return RayExecutor(
                store, self.place, address=self.config.ray, cpus=cpus, gpus=self.gpus, jobs=self.config.jobs
            )
        return LocalExecutor(store, self.place, self.jobs, self.devices)

    def settings(self) -> dict[str, Any]:
        """The settings as they stand in the results, with the recipe that the preset and they amount to."""
        own = (
            {"own_methods": {name: digest_of(self.methods[name]) for name in sorted(self.methods)}}
            if self.methods
            else {}
        )
        return {**self.config.to_json(), **own, "recipe": asdict(recipe_of(self.specs[0]))}

    def strangers(self) -> int:
        """Recorded runs in ``out`` that belong to other settings, and are left out of the results."""
        return Store(self.out, resume=True).strangers({spec.key for spec in self.specs})

    def _comparisons(self) -> list[Comparison]:
        return resolved(self.config.comparisons, (spec.label for spec in self.specs))

    def _records(self, store: Store, told: Mapping[str, str]) -> list[RunRecord]:
        """What the records say; where one could not be written, what was ``told`` of its run."""
        records = []
        for spec in self.specs:
            record = store.read(spec.key)
            if record is None and spec.key in told:
                record = blank_record(spec, self.methods, error=told[spec.key])
            if record is not None:
                records.append(self._priced(record))
        return records

    def _results(self, store: Store, told: Mapping[str, str], declarations: Declarations) -> Results:
        records = self._records(store, told)
        environment = describe_environment(device=self.place.device, jobs=self.jobs, threads=self.config.threads)
        if self.config.executor == "ray":
            environment["executor"] = "ray"
        elif self.place.device.startswith("cuda"):
            environment["device"] = f"{self.place.device}: {torch.cuda.get_device_name(self.place.device)}"
        compared = declarations.compared(self._comparisons(), records)
        return Results(environment, self.settings(), records, summarize(records), compared)

    def _priced(self, record: RunRecord) -> RunRecord:
        price = price_for(record.teacher, self.config.price_per_1000)
        return replace(record, price=price_of(record.queries.total, price))


def _cores() -> int:
    # A container or a batch system may have given this process fewer cores than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ask_nobody(images: torch.Tensor) -> torch.Tensor:
    raise MekdError("a plan asked the teacher")


class _Nobody(nn.Module):
    """Stands in for a teacher that is a module."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _ask_nobody(images)


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
