"""Flags of the command line: made from a configuration's fields, and read from YAML and assignments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from mekd_plugin.errors import InputError

__all__ = ["flags_of", "parse_assignment", "read_yaml"]


def flags_of(config: type, skip: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one flag for each setting of ``config``: name, default and help are given only there.

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
    # None marks a flag that was not used, which the YAML file or the default then decides.
    spelled = f"{name}/--no-{name[2:]}" if is_flag else name
    option = typer.Option(spelled, help=item.metadata["help"], show_default=shown)
    kind = Annotated[bool | None, option] if is_flag else Annotated[str | None, option]
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(), _Strict)  # noqa: S506 (a safe loader that refuses a key given twice)
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}; expected a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds {type(content).__name__}: expected lines such as `dataset: digits`")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


class _Strict(yaml.SafeLoader):
    """Reads plain values only, and refuses a key that appears twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"{key.value!r} appears twice, the second time in line {key.start_mark.line + 1}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_assignment(text: str, owner: str | None = None) -> tuple[str, str, Any]:
    """``owner.name=value`` in parts; the value is read as YAML, so ``3`` is a number and ``true`` a boolean."""
    target, equals, written = text.partition("=")
    first, _, rest = target.partition(".")
    if owner is not None and first not in (owner, "recipe"):
        first, rest = owner, target
    if not equals or not first or not rest:
        form = "METHOD.NAME=VALUE" if owner is None else "NAME=VALUE"
        example = "mekd.emulation.steps=2500" if owner is None else "emulation.steps=2500"
        raise InputError(f"--set {text}: expected {form}, such as {example}")
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--set {text}: the value is not YAML ({reason}); quote a text that holds : or [") from error
    return first, rest, value
