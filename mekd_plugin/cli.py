"""The command line: ``mekd list | bench | distill | teacher | tutorials``."""

from __future__ import annotations

import inspect
import json
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
import yaml
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mekd_plugin import __version__
from mekd_plugin.bench.grid import BenchConfig
from mekd_plugin.errors import InputError, MekdError
from mekd_plugin.registry import distillers

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Black-box knowledge distillation: a teacher that can only be asked, and a meter on it.",
)
# A file or a pipe has no width of its own, and a table in it should not be cut.
console = Console(width=None if sys.stdout.isatty() else 160)
INTERRUPTED = 130
_NEEDS = ("responses", "leaves_edge", "pool", "queries", "gradients")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Nothing but the options that every command shares."""


@app.command("list")
def list_methods(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    needs: Annotated[bool, typer.Option("--needs", help="Load each method and print what it needs.")] = False,
) -> None:
    """The methods of every installed package. Reads metadata only, unless --needs is given."""
    registry = distillers()
    rows: list[dict[str, Any]] = []
    for entry in registry.entries():
        row: dict[str, Any] = {"name": entry.name, "aliases": list(entry.aliases), "package": entry.owner}
        if needs:
            wanted = registry.get(entry.name).needs
            row |= {name: getattr(wanted, name) for name in _NEEDS}
        rows.append(row)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    # Both would not fit into a terminal; --json has everything.
    shown = ("name", *_NEEDS) if needs else ("name", "aliases", "package")
    table = Table(*(name.replace("_", " ") for name in shown), header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(", ".join(row[name]) if name == "aliases" else str(row[name]) for name in shown))
    console.print(table)


def _flags_of(config: type, skip: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one flag for each setting of ``config``: name, default and help stand there only.

    The command takes the flags that were used as the mapping ``settings``.
    """
    chosen = [item for item in fields(config) if item.name not in skip]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(command, eval_str=True).parameters
        own = [item for name, item in parameters.items() if name != "settings"]

        def run(**values: Any) -> None:
            settings = {item.name: values.pop(item.name) for item in chosen}
            command(settings={name: value for name, value in settings.items() if value is not None}, **values)

        signature = inspect.Signature([*own, *(_flag(item) for item in chosen)])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: item.annotation for name, item in signature.parameters.items()}
        run.__doc__, run.__name__ = command.__doc__, command.__name__
        return run

    return decorate


def _flag(item: Field[Any]) -> inspect.Parameter:
    default = None if item.default is MISSING else item.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    shown = str(default) if default not in (None, False) else False
    name = "--" + item.name.replace("_", "-")
    is_flag = str(item.type) == "bool"
    # None tells a flag that was not used, which the YAML file or the default then decides.
    spelled = f"{name}/--no-{name[2:]}" if is_flag else name
    option = typer.Option(spelled, help=item.metadata["help"], show_default=shown)
    kind = Annotated[bool | None, option] if is_flag else Annotated[str | None, option]
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


@app.command()
@_flags_of(BenchConfig, skip=("hyperparameters",))
def bench(
    settings: Mapping[str, Any],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="METHOD.NAME=VALUE, a hyperparameter; recipe.NAME=VALUE, every student's training."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Directory of the results.")] = Path("mekd-results"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what --out holds; an empty one starts.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of settings; flags override.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print queries, price and time; ask nothing.")] = False,
) -> None:
    """Compare methods: each method, seed and setting is a run; ends with a table, results.json and report.html.

    Comma-separated values make a grid.
    """
    values = {**(_read_yaml(config) if config else {}), **settings}
    overrides = {name: dict(entries) for name, entries in values.pop("hyperparameters", {}).items()}
    for assignment in assignments or []:
        owner, name, value = _parse_assignment(assignment)
        overrides.setdefault(owner, {})[name] = value
    wanted = BenchConfig.from_mapping({**values, "hyperparameters": overrides})
    # Imported here: these load torch, and `mekd list` and `mekd --help` answer at once.
    from mekd_plugin.bench import commands

    raise typer.Exit(commands.bench(wanted, out, resume=resume, dry_run=dry_run, console=console))


_DISTILL_SKIPS = (
    "dataset teacher student methods responses query_budget seeds hyperparameters jobs disjoint teacher_steps".split()
)


@app.command()
@_flags_of(BenchConfig, skip=tuple(_DISTILL_SKIPS))
def distill(
    settings: Mapping[str, Any],
    teacher: Annotated[
        str,
        typer.Option(help="A file that `mekd teacher` wrote, NETWORK@WEIGHTS, FILE.onnx, or package.module:function."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Directory of the student and of what it takes to resume.")],
    dataset: Annotated[str, typer.Option(help="Whose training images the edge's are drawn from.")] = "digits",
    student: Annotated[str, typer.Option(help="A network.")] = "resnet8",
    method: Annotated[str, typer.Option(help="A method; `mekd list` shows them.")] = "mekd",
    responses: Annotated[str, typer.Option(help="What the teacher answers: soft (logits), probabilities, or hard.")] = (
        "soft"
    ),
    query_budget: Annotated[int, typer.Option(help="Images that may be sent; 0: no limit.")] = 5000,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what --out holds.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print queries, price and time; ask nothing.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write the student as student.onnx, too.")] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, a hyperparameter; recipe.NAME=VALUE, the training.")
    ] = None,
) -> None:
    """Distil one student from a teacher that can only be asked."""
    overrides: dict[str, dict[str, Any]] = {}
    for assignment in assignments or []:
        owner, name, value = _parse_assignment(assignment, owner=method)
        overrides.setdefault(owner, {})[name] = value
    wanted = BenchConfig.from_mapping(
        {
            **settings,
            "dataset": dataset,
            "teacher": [teacher],
            "student": student,
            "methods": method,
            "responses": responses,
            "query_budget": query_budget,
            "seeds": seed,
            "hyperparameters": overrides,
        }
    )
    from mekd_plugin.bench import commands

    raise typer.Exit(commands.distill(wanted, out, resume=resume, dry_run=dry_run, onnx=onnx, console=console))


@app.command()
def teacher(
    network: Annotated[str, typer.Argument(help="A network, such as resnet20.")],
    out: Annotated[Path, typer.Option("--out", help="A .safetensors file.")],
    dataset: Annotated[str, typer.Option(help="To train and test it on.")] = "digits",
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
    commands.teacher(network, out, data=data, steps=steps, weights=weights, device=device, console=console)


@app.command()
def tutorials(
    directory: Annotated[Path, typer.Argument(help="Where to; created if missing, nothing there is overwritten.")],
) -> None:
    """Copy the tutorials."""
    source = _bundled("tutorials")
    existing = [path.name for path in source.iterdir() if (directory / path.name).exists()]
    if existing:
        raise InputError(f"{directory} holds {', '.join(sorted(existing))} already: name another directory")
    shutil.copytree(source, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    console.print(f"The tutorials are in {directory}; open them with: jupyter lab {directory}", soft_wrap=True)


def _bundled(name: str) -> Path:
    """A folder that the wheel carries, or of the source tree where the package is used from there."""
    package = Path(__file__).parent
    for place in (package.parent / name, package / "bundled" / name):
        if place.is_dir() and ((place.parent / "pyproject.toml").exists() or place.parent.name == "bundled"):
            return place
    raise InputError(f"this installation carries no {name}: install the package again")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}; expected a YAML file") from error
    except yaml.YAMLError as error:
        raise InputError(f"--config {path} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds {type(content).__name__}: expected lines such as `dataset: digits`")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _parse_assignment(text: str, owner: str | None = None) -> tuple[str, str, Any]:
    """``owner.name=value`` in parts; the value is read as YAML, so ``3`` is a number and ``true`` a truth."""
    target, equals, value = text.partition("=")
    found, dot, name = target.rpartition(".")
    if not equals or not name or not (found or owner):
        form = "METHOD.NAME=VALUE" if owner is None else "NAME=VALUE"
        raise InputError(f"--set {text}: expected {form}, such as {'mekd.' if owner is None else ''}style_dim=0")
    return found or str(owner), name, yaml.safe_load(value)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; an error of ours is one line, and Ctrl-C says how to go on."""
    # Also SIGINT: a shell that starts this in the background has it ignored, and there is something to be saved.
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
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
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
