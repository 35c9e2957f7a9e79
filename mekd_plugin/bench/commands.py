"""What ``mekd bench``, ``distill`` and ``teacher`` do and print, once their flags are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from mekd_plugin.bench.audit import wants_audit
from mekd_plugin.bench.benchmark import Benchmark, Planned, failures
from mekd_plugin.bench.calibration import expected_calibration_error
from mekd_plugin.bench.comparison_table import comparisons_in_terminal
from mekd_plugin.bench.display import Display
from mekd_plugin.bench.edge_folder import distill_folder
from mekd_plugin.bench.pricing import format_price, price_for, price_of
from mekd_plugin.bench.published_table import in_terminal, published_beside
from mekd_plugin.bench.run_inputs import edge_of, load_data, pool_of, recipe_of
from mekd_plugin.bench.run_record import adapted_on, blank_record, record_of
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.store import Store, is_finished, spent_in, write_record
from mekd_plugin.bench.table import fair_play, interval_note, panels, terminal
from mekd_plugin.bench.teacher_names import kind_of_teacher
from mekd_plugin.bench.teachers import LabelledImages, load_teacher, patience_for, trained_teacher
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.blackbox.whitebox import WhiteBox
from mekd_plugin.data.datasets import load
from mekd_plugin.errors import InputError
from mekd_plugin.files import writable_directory
from mekd_plugin.networks import build, load_weights
from mekd_plugin.prediction import predict
from mekd_plugin.records import Results, described_responses
from mekd_plugin.training.checkpoint import save_weights
from mekd_plugin.training.evaluation import accuracy
from mekd_plugin.training.export import export_onnx
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.run import distill as distill_once

__all__ = ["bench", "distill", "teacher"]


def bench(config: BenchConfig, out: Path, *, resume: bool, dry_run: bool, console: Console) -> int:
    """Run a benchmark, or say what it would ask; returns the exit status: 1 where a run failed."""
    benchmark = Benchmark(config, out)
    if dry_run:
        with console.status("rehearsing a few steps of each setting") as status:
            planned = benchmark.plan(resume=resume, observe=lambda spec: status.update(f"rehearsing {spec.label}"))
        _print_plan(planned, config, benchmark.jobs, benchmark.evaluation_queries(), console)
        if resume:
            unfinished = [out / "runs" / spec.key for spec in benchmark.unfinished()]
            _print_done(len(benchmark.specs) - len(unfinished), unfinished, console)
        return 0
    ruled_out = benchmark.check()
    store = Store(out, resume=resume)
    pending = sum(spec.key not in ruled_out for spec in benchmark.pending(store))
    beside = f", {len(ruled_out)} not applicable" if ruled_out else ""
    console.print(
        f"{len(benchmark.specs)} runs, {pending} of them to be done{beside}, {benchmark.jobs} side by side on "
        f"{benchmark.place.device}; results go to {escape(str(out))}",
        highlight=False,
        soft_wrap=True,
    )
    with Display(console, store.directory, pending, benchmark.jobs) as display:
        results = benchmark.execute(resume=True, observe=display.observe)
    _print_results(results, console)
    if left_out := benchmark.strangers():
        console.print(f"{left_out} runs in {out} belong to other settings and are left out.", highlight=False)
    console.print(f"\nReport: {escape(str(out / 'report.html'))}", highlight=False, soft_wrap=True)
    if unaudited := [run for run in results.runs if run.status == "finished" and wants_audit(run, config.audit)]:
        console.print(f"audits that failed, as said above: {len(unaudited)}; --resume asks again.", highlight=False)
    return 1 if unaudited or any(failures(results)) else 0


def distill(
    config: BenchConfig,
    out: Path,
    *,
    resume: bool,
    dry_run: bool,
    onnx: bool,
    console: Console,
    edge_images: Path | None = None,
    classes: str | None = None,
) -> int:
    """Distil the one run that ``config`` describes; returns the exit status.

    Args:
        config: the settings.
        out: the run's directory.
        resume: go on with what it holds.
        dry_run: only say what the run would ask.
        onnx: write the student as an ONNX model, too.
        console: to print on.
        edge_images: a folder of image files in place of the data set, which then has no part in the run.
        classes: names or number of the classes, with ``edge_images``.
    """
    benchmark = Benchmark(config, out)
    spec, place = benchmark.specs[0], benchmark.place
    if kind_of_teacher(spec.teacher) == "network":
        raise InputError(
            f"--teacher {spec.teacher} names a network: train one first, `mekd teacher {spec.teacher} --out FILE`, and "
            "name that file"
        )
    if edge_images is not None:
        return distill_folder(
            spec,
            edge_images,
            out,
            classes=classes,
            device=place.device,
            price_per_1000=price_for(spec.teacher, config.price_per_1000),
            resume=resume,
            dry_run=dry_run,
            onnx=onnx,
            console=console,
        )
    if dry_run:
        finished = resume and is_finished(out / "record.json", spec.key)
        _print_plan([] if finished else benchmark.plan(), config, 1, {}, console)
        if resume:
            _print_done(int(finished), [] if finished else [out], console)
        return 0
    torch.set_num_threads(spec.threads)
    data = load_data(spec, place)
    asked = load_teacher(spec.teacher, num_classes=data.num_classes, image_shape=spec.teacher_shape(data.image_shape))
    if not (writable_directory(out) / "run.json").exists():  # the one of an earlier run is not overwritten
        spec.keep(out, place.data_root)
    boundary = WhiteBox if spec.white_box else BlackBox
    degraded: dict[str, Any] = {
        "answers": spec.answers, "answers_seed": spec.seed, "teacher_size": spec.teacher_size
    }  # fmt: skip
    edge = edge_of(spec, data).images
    result = distill_once(
        build(spec.student, data.num_classes, data.image_shape, seed=spec.seed),
        boundary(
            asked,  # type: ignore[arg-type]  # a white box says itself that it wants a module
            spec.responses,
            data.num_classes,
            budget=spec.query_budget,
            device=place.device if isinstance(asked, nn.Module) else None,
            **degraded,
            **patience_for(spec.teacher),
        ),
        edge,
        spec.method,
        preset=spec.preset,
        recipe=recipe_of(spec),
        seed=spec.seed,
        pool=pool_of(spec, place),
        directory=out,
        resume=resume,
        device=place.device,
        validation=spec.validation,
        **spec.hyperparameters,
    )
    logits = predict(result.student, data.test_images)
    share = float((logits.argmax(dim=1) == data.test_labels).double().mean())
    record = record_of(
        blank_record(spec),
        result,
        last={"accuracy": share},
        teacher_accuracy=None,
        real_images=len(edge),
        test_images=len(data.test_images),
        calibration_error=expected_calibration_error(logits, data.test_labels),
    )
    if spec.adapt:
        record = adapted_on(data, record, result.student)
    price = price_of(result.ledger.total, price_for(spec.teacher, config.price_per_1000))
    write_record(out / "record.json", replace(record, price=price))
    held_out = result.held_out
    lines = [
        f"test accuracy {100 * share:.2f} %"
        + (
            ""
            if held_out is None
            else f"; agreement with the teacher {100 * held_out.value:.2f} % [{100 * held_out.low:.2f}, "
            f"{100 * held_out.high:.2f}] on {held_out.images:,} held-out {result.held_out_on}"
        ),
        *([] if record.adapted_accuracy is None else [f"adapted test accuracy {100 * record.adapted_accuracy:.2f} %"]),
        f"{result.ledger}" + ("" if price is None else f"; price {format_price(price)}"),
        *(f"warning: {warning}" for warning in record.warnings),
        f"student: {out / 'student.safetensors'}",
    ]
    result.save(out, network=spec.student, onnx=onnx)
    if onnx:
        exported = out / "student.onnx"
        if not exported.is_file():  # the error says why
            export_onnx(result.student, exported, data.image_shape)
        lines.append(f"student: {exported}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def teacher(
    network: str,
    out: Path,
    *,
    data: Mapping[str, Any],
    steps: int,
    weights: Path | None,
    device: str,
    console: Console,
) -> None:
    """Train or import a teacher, test it, and write it with its network's name."""
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: expected a name that ends in .safetensors")
    writable_directory(out.parent)
    loaded = load(**data)
    if weights is not None:
        module = load_weights(build(network, loaded.num_classes, loaded.image_shape), weights)
    else:
        labelled = LabelledImages(loaded.train_images, loaded.train_labels, loaded.num_classes)
        chosen = str(Processes.join(device).device)
        module, _ = trained_teacher(network, labelled, steps=steps, device=chosen, progress=True)
    share = accuracy(module, loaded.test_images, loaded.test_labels)
    config = {"network": network, "num_classes": loaded.num_classes, "image_shape": list(loaded.image_shape)}
    save_weights(module, out, config=config)
    console.print(f"{network}: test accuracy {100 * share:.2f} %; {out}", markup=False, highlight=False, soft_wrap=True)


def _print_results(results: Results, console: Console) -> None:
    parts = panels(results.summary, results.comparisons)
    for part in parts:
        console.print()
        console.print(terminal(part, console))
        for note in part.notes:
            console.print(f"! {escape(note)}", style="yellow", highlight=False)
        if part.compared:
            console.print(comparisons_in_terminal(part.compared))
    console.print(interval_note(parts), style="dim", markup=False, highlight=False)
    console.print("Fair play:", style="dim")
    for rule in fair_play(parts):
        console.print(f"- {rule}", style="dim", highlight=False)
    if results.config.get("published"):
        for part in parts:
            console.print()
            in_terminal(published_beside(part.rows), console)


def _print_done(finished: int, pending: Sequence[Path], console: Console) -> None:
    """Say what a plan of a resumed benchmark leaves out, and what of it was sent by runs that were interrupted."""
    sent = sum(spent_in(directory).total for directory in pending)
    console.print(
        f"Left out: {finished} finished {'run' if finished == 1 else 'runs'}, which --resume does not do again.",
        highlight=False,
    )
    if sent:
        console.print(
            f"Of these queries, {sent:,} were sent before an interruption, and are not sent again.", highlight=False
        )


def _print_plan(
    planned: Sequence[Planned], config: BenchConfig, jobs: int, evaluation: Mapping[str, int], console: Console
) -> None:
    table = Table(title="What this would ask", title_justify="left", title_style="bold", header_style="bold")
    prices = [price_of(entry.queries, price_for(entry.spec.teacher, config.price_per_1000)) for entry in planned]
    known = [price for price in prices if price is not None]
    for name in ("Run", "Queries by stage", "Seeds", "Queries", *(["Price"] if known else []), "Seconds per seed"):
        table.add_column(name, justify="left" if name in ("Run", "Queries by stage") else "right")
    for entry, its_price in zip(planned, prices, strict=True):
        stages = ", ".join(f"{stage} {count:,}" for stage, count in entry.plan.queries.items()) or "none"
        spec = entry.spec
        name = f"{spec.label} on {spec.dataset}, {described_responses(vars(spec))}"
        costs = [format_price(its_price)] if known else []
        table.add_row(name, stages, str(entry.seeds), f"{entry.queries:,}", *costs, f"{entry.plan.seconds:,.0f}")
    queries = sum(entry.queries for entry in planned)
    seconds = sum(entry.seeds * entry.plan.seconds for entry in planned) / jobs
    console.print(table)
    price = f"{format_price(sum(known))}, " if known else ""
    console.print(
        f"All together: {queries:,} queries, {price}about {seconds / 60:,.0f} min with {jobs} runs side by side; "
        "without the time a remote teacher takes to answer, or a local one to be trained. Nothing was asked.",
        highlight=False,
        soft_wrap=True,
    )
    for name, count in evaluation.items():
        console.print(f"Besides, {name} answers {count:,} test images once, to measure agreement.", soft_wrap=True)
    if config.audit:
        console.print(
            f"Besides, {config.audit:,} images are asked about for each finished run that has a generator (--audit), "
            "outside the budget.",
            highlight=False,
            soft_wrap=True,
        )
