"""The command line: ``mekd list | bench | distill | teacher | student | diagnose | bank | harness | tutorials``."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mekd_plugin.bench.settings import PANELS, BenchConfig
from mekd_plugin.bench.values import hyperparameters
from mekd_plugin.checks import as_path, as_seed
from mekd_plugin.errors import InputError, MekdError
from mekd_plugin.files import bundled, writable_directory
from mekd_plugin.flags import flags_of, parse_assignments, read_yaml
from mekd_plugin.listing import NEEDS, methods
from mekd_plugin.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Black-box knowledge distillation: a teacher that can only be asked, and a meter on it.",
)
# A file or a pipe has no width of its own, and a table in it should not be cut.
console = Console(width=None if sys.stdout.isatty() else 160, emoji=False)
INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Only the options that every command shares."""


@app.command("list", epilog="Example: mekd list --needs")
def list_methods(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    needs: Annotated[bool, typer.Option("--needs", help="Load each method and print what it needs.")] = False,
) -> None:
    """The methods of every installed package. Reads metadata only, unless --needs is given."""
    rows = methods(needs=needs)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    # Both would not fit into a terminal; --json has everything.
    shown = ("name", *NEEDS, "reference") if needs else ("name", "aliases", "package")
    table = Table(*(name.replace("_", " ") for name in shown), header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        cells = {**row, "aliases": ", ".join(row["aliases"]), "reference": row.get("reference", "").replace("*", "")}
        table.add_row(*(str(cells[name]) for name in shown))
    console.print(table)


@app.command(epilog="Example: mekd bench --methods mekd,kd --seeds 0,1,2 --query-budget 2000 --out results")
@flags_of(BenchConfig, skip=("hyperparameters", "variants", "comparisons"), panels=PANELS)
def bench(
    settings: Mapping[str, Any],
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="METHOD.NAME=VALUE, a hyperparameter; recipe.NAME=VALUE, every student's training.",
            rich_help_panel="Method",
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            help="ROW:OTHER or ROW:OTHER:METRIC, rows to compare seed by seed; at most four, declared beforehand.",
            rich_help_panel="Method",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Directory of the results.", rich_help_panel="Where and how")
    ] = Path("mekd-results"),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with what --out holds; an empty one starts.", rich_help_panel="Where and how"
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file of settings; flags override.", rich_help_panel="Where and how"),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print queries, price and time; ask nothing.", rich_help_panel="Where and how"),
    ] = False,
) -> None:
    """Compare methods: each method, seed and setting is a run; ends with a table, results.json and report.html.

    Comma-separated values make a grid.
    """
    values = {**(read_yaml(config) if config else {}), **settings}
    given = values.pop("hyperparameters", None)
    overrides = hyperparameters({} if given is None else given)
    for owner, entries in parse_assignments(assignments or []).items():
        overrides[owner] = {**overrides.get(owner, {}), **entries}
    if compare:
        values["comparisons"] = [part for item in compare for part in item.split(",")]
    wanted = BenchConfig.from_mapping({**values, "hyperparameters": overrides})
    # Imported here: these load torch, and `mekd list` and `mekd --help` answer at once.
    from mekd_plugin.bench import commands

    raise typer.Exit(commands.bench(wanted, as_path("--out", out), resume=resume, dry_run=dry_run, console=console))


_DISTILL_SKIPS = (
    *("dataset", "teacher", "student", "methods", "responses", "answers", "query_budget", "seeds"),
    *("hyperparameters", "variants", "comparisons", "audit", "published", "jobs", "disjoint", "teacher_steps"),
    *("teacher_per_seed", "executor", "ray", "cpus_per_run", "gpus_per_run"),
)


@app.command(
    epilog="Example: mekd distill --teacher teacher.safetensors --student resnet8 --query-budget 2000 --out run"
)
@flags_of(BenchConfig, skip=_DISTILL_SKIPS, panels=PANELS)
def distill(
    settings: Mapping[str, Any],
    teacher: Annotated[
        str,
        typer.Option(
            help="A file that `mekd teacher` wrote, NETWORK@WEIGHTS, FILE.onnx, http(s)://HOST/v2/models/NAME, "
            "recorded:DIR, or package.module:function.",
            rich_help_panel="Teacher",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Directory of the student and of what it takes to resume.", rich_help_panel="Where and how"
        ),
    ],
    dataset: Annotated[
        str, typer.Option(help="The edge's images are drawn from its training images.", rich_help_panel="Data")
    ] = "digits",
    student: Annotated[
        str,
        typer.Option(
            help="A network: a name, torchvision:NAME, or package.module:factory, which is called as "
            "factory(num_classes=C, image_shape=(channels, height, width)) and returns a torch module.",
            rich_help_panel="Student",
        ),
    ] = "resnet8",
    method: Annotated[str, typer.Option(help="A method; `mekd list` shows them.", rich_help_panel="Method")] = "mekd",
    responses: Annotated[
        str,
        typer.Option(
            help="What the teacher answers: soft (logits), probabilities, or hard.", rich_help_panel="Teacher"
        ),
    ] = ("soft"),
    answers: Annotated[
        str,
        typer.Option(
            help="What is done to soft answers: full, rounded:DECIMALS, top1, topk:CLASSES, noisy:DEVIATION.",
            rich_help_panel="Teacher",
        ),
    ] = "full",
    query_budget: Annotated[
        int, typer.Option(help="Images that may be sent; 0: no limit.", rich_help_panel="Budget")
    ] = 5000,
    seed: Annotated[int, typer.Option(help="The seed of everything random.", rich_help_panel="Method")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what --out holds.", rich_help_panel="Where and how")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print queries, price and time; ask nothing.", rich_help_panel="Where and how"),
    ] = False,
    edge_images: Annotated[
        Path | None,
        typer.Option(
            help="A folder of JPEG or PNG files, the edge's own images; no data set is read, nothing tested.",
            rich_help_panel="Data",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="With --edge-images: the classes' names in order, cat,dog,eel, or their number.",
            rich_help_panel="Data",
        ),
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write the student as student.onnx, too.", rich_help_panel="Where and how")
    ] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE, a hyperparameter; recipe.NAME=VALUE, the training.", rich_help_panel="Method"
        ),
    ] = None,
) -> None:
    """Distil one student from a teacher that can only be asked."""
    if edge_images is not None:
        dataset = f"files:{edge_images}"
    elif classes is not None:
        raise InputError(f"--classes {classes} without --edge-images: a data set brings its own")
    overrides = parse_assignments(assignments or [], owner=method)
    wanted = BenchConfig.from_mapping(
        {
            **settings,
            "dataset": dataset,
            "teacher": [teacher],
            "student": student,
            "methods": method,
            "responses": responses,
            "answers": [answers],
            "query_budget": query_budget,
            "seeds": seed,
            "hyperparameters": overrides,
        }
    )
    from mekd_plugin.bench import commands

    out = as_path("--out", out)
    raise typer.Exit(
        commands.distill(
            wanted,
            out,
            resume=resume,
            dry_run=dry_run,
            onnx=onnx,
            console=console,
            edge_images=edge_images,
            classes=classes,
        )
    )


@app.command(epilog="Example: mekd teacher resnet20 --dataset digits --out teacher.safetensors")
def teacher(
    network: Annotated[str, typer.Argument(help="A network, such as resnet20.")],
    out: Annotated[Path, typer.Option("--out", help="A .safetensors file.")],
    dataset: Annotated[str, typer.Option(help="The data set to train and test it on.")] = "digits",
    data_root: Annotated[str | None, typer.Option(help="Where the data set's files are; default $MEKD_DATA.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if it is missing.")] = False,
    image_size: Annotated[int | None, typer.Option(help="Scale every image to this square size.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.", min=1)] = 2000,
    weights: Annotated[Path | None, typer.Option(help="Import these (.safetensors, .pt) instead of training.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Train a teacher, or import one, and write it as a file that says its network."""
    from mekd_plugin.bench import commands

    data = {"name": dataset, "root": data_root, "download": download, "image_size": image_size}
    out = as_path("--out", out)
    commands.teacher(network, out, data=data, steps=steps, weights=weights, device=device, console=console)


@app.command(epilog="Example: mekd diagnose mekd-results --points 500")
def diagnose(
    directory: Annotated[Path, typer.Argument(help="A finished run, or a benchmark: its first seed.")],
    points: Annotated[int, typer.Option(help="Images of each kind to look at.", min=20, max=5000)] = 1000,
    budget: Annotated[int, typer.Option(help="Questions a diagnosis may ask; 0: no limit.", min=0)] = 10_000,
) -> None:
    """Put the questions of optimal transport to a finished run; writes diagnostics.json, figures and a page."""
    from mekd_plugin.bench.diagnosis import command

    directory = as_path("DIRECTORY", directory)
    command.diagnose(directory, points=points, budget=budget or None, console=console)


@app.command(epilog="Example: mekd student run --images photos")
def student(
    directory: Annotated[Path, typer.Argument(help="What `mekd distill --out` or result.save wrote.")],
    images: Annotated[
        Path | None, typer.Option(help="A folder of image files to compare float32 and int8 on; default: noise.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of ONNX Runtime.", min=1)] = 1,
    int8: Annotated[Path | None, typer.Option(help="Write the quantised model to this .onnx file.")] = None,
) -> None:
    """Say what a student is, and its kilobytes and milliseconds on an edge, in float32 and int8."""
    from mekd_plugin.bench import student_command

    directory = as_path("DIRECTORY", directory)
    kept = None if int8 is None else as_path("--int8", int8)
    student_command.show(directory, images=images, threads=threads, int8=kept, console=console)


bank_app = typer.Typer(no_args_is_help=True, help="Recorded answers: take them out of a run, and into another.")
app.add_typer(bank_app, name="bank", epilog="Example: mekd bank show run")


@bank_app.command("export", epilog="Example: mekd bank export run --out answers.safetensors")
def export_bank(
    directory: Annotated[Path, typer.Argument(help="A run that has a bank, or banks/NAME in it.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.safetensors, or a directory of PNG files and a CSV.")],
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Leave the images out: fingerprints stand for them.")
    ] = False,
) -> None:
    """Write what was asked and answered as a table, to publish it or to use it elsewhere."""
    from mekd_plugin.bench import bank_commands

    bank_commands.export(as_path("DIRECTORY", directory), as_path("--out", out), hashes=hashes, console=console)


@bank_app.command("import", epilog="Example: mekd bank import answers.safetensors --out bank")
def import_bank(
    table: Annotated[Path, typer.Argument(help="What `mekd bank export` wrote, or a CSV of file names and labels.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the bank, for bank= and recorded:DIR.")],
    responses: Annotated[str | None, typer.Option(help="Kind of a CSV's scores: logits or probabilities.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Of a CSV that does not say it.")] = None,
    classes: Annotated[str | None, typer.Option(help="A CSV's labels in order, with commas between them.")] = None,
) -> None:
    """Make a bank of recorded answers."""
    from mekd_plugin.bench import bank_commands

    names = None if classes is None else [name.strip() for name in classes.split(",")]
    settings = {"responses": responses, "num_classes": num_classes, "classes": names}
    bank_commands.take_in(as_path("TABLE", table), as_path("--out", out), settings, console=console)


@bank_app.command("show", epilog="Example: mekd bank show run")
def show_bank(
    directory: Annotated[Path, typer.Argument(help="A run, a bank, or a table of recorded answers.")],
) -> None:
    """What left, what came back, when, and from which teacher."""
    from mekd_plugin.bench import bank_commands

    bank_commands.show(as_path("DIRECTORY", directory), console=console)


@app.command(epilog="Example: mekd harness timm --check")
def harness(
    name: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="timm, torchdistill, ...; a wrong name gets the list.")
    ] = None,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- SCRIPT ARGUMENTS", help="The suite's own.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Say its version, what fits there, what to do next.")] = False,
    meter: Annotated[bool, typer.Option("--meter", help="Count what the suite's own methods ask.")] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Train in the suite and in our loop, and write it down.")
    ] = False,
    page: Annotated[bool, typer.Option("--page", help="Print the page made from the records.")] = False,
    seeds: Annotated[str, typer.Option(help="Of --record.")] = "0",
    out: Annotated[Path, typer.Option("--out", help="Directory of the records.")] = Path("results/harness"),
) -> None:
    """Run a suite's own script with our methods known to it, or with a meter under its own."""
    from mekd_plugin.harness import available_suites, commands

    out = as_path("--out", out)
    if page:
        print(commands.page(out), end="")
    elif name is None:
        raise InputError(f"which suite? One of {', '.join(available_suites())}")
    elif check:
        commands.check(name, console)
    elif record:
        commands.record(name, out, [as_seed("seeds", seed.strip()) for seed in seeds.split(",")], console)
    else:
        commands.launch(name, command or [], meter=meter)


@app.command(epilog="Example: mekd tutorials lessons")
def tutorials(
    directory: Annotated[Path, typer.Argument(help="Created if missing; nothing there is overwritten.")],
) -> None:
    """Copy the tutorials: the notebooks, the page that gives their order, and the solutions."""
    directory = as_path("DIRECTORY", directory)
    lessons = [path for path in bundled("tutorials").iterdir() if path.suffix in (".ipynb", ".md")]
    existing = [path.name for path in lessons if (directory / path.name).exists()]
    if existing:
        raise InputError(f"{directory} holds {', '.join(sorted(existing))} already: name another directory")
    writable_directory(directory)
    for path in lessons:
        shutil.copy(path, directory)
    console.print(f"The tutorials are in {directory}; README.md gives their order. To open them:", soft_wrap=True)
    # Quoted for a shell, so nothing in it is markup.
    print(f"  pip install jupyterlab ipywidgets\n  jupyter lab {shlex.quote(str(directory))}")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; an error of ours is one line, and Ctrl-C says how to go on."""
    # Also SIGINT: a shell that starts this in the background has it ignored, and there is work to be saved.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        app()
    except SystemExit as ending:  # typer turns Ctrl-C into this status
        if ending.code == INTERRUPTED:
            _say_how_to_resume()
        raise
    except MekdError as error:
        Console(stderr=True, emoji=False).print(
            f"[red]error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False
        )
        sys.exit(2)


def _say_how_to_resume() -> None:
    words = sys.argv[1:]
    if words and words[0] in ("bench", "distill"):
        again = words if "--resume" in words else [*words, "--resume"]
        print(f"\nInterrupted; what is done is kept. Go on with:\n  mekd {shlex.join(again)}", file=sys.stderr)
    else:
        print("\nInterrupted.", file=sys.stderr)


if __name__ == "__main__":
    main()
