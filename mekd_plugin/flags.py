"""Flags of the command line: made from a configuration's fields, and read from YAML and assignments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from mekd_plugin.checks import as_plain
from mekd_plugin.errors import InputError

__all__ = ["flags_of", "parse_assignments", "read_yaml"]


def flags_of(
    config: type, skip: tuple[str, ...] = (), panels: Mapping[str, tuple[str, ...]] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one flag for each setting of ``config``: name, default and help are given only there.

    The command takes the flags that were used as the mapping ``settings``.

    Args:
        config: a dataclass.
        skip: settings that get no flag.
        panels: which settings `--help` shows together, by the title above them.
    """
    panel_of = {name: title for title, names in (panels or {}).items() for name in names}
    chosen = [item for item in fields(config) if item.name not in skip]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(command, eval_str=True).parameters
        own = [item for name, item in parameters.items() if name != "settings"]

        def run(**values: Any) -> None:
            settings = {item.name: values.pop(item.name) for item in chosen}
            command(settings={name: value for name, value in settings.items() if value is not None}, **values)

        signature = inspect.Signature([*own, *(_flag(item, panel_of.get(item.name)) for item in chosen)])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: item.annotation for name, item in signature.parameters.items()}
        run.__doc__, run.__name__ = command.__doc__, command.__name__
        return run

    return decorate


def _flag(item: Field[Any], panel: str | None) -> inspect.Parameter:
    default = None if item.default is MISSING else item.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    shown = str(default) if default not in (None, False) else False
    name = "--" + item.name.replace("_", "-")
    is_flag = str(item.type) == "bool"
    # None marks a flag that was not used, which the YAML file or the default then decides.
    spelled = f"{name}/--no-{name[2:]}" if is_flag else name
    option = typer.Option(
        spelled,
        help=item.metadata["help"],
        show_default=shown,
        rich_help_panel=panel,
        metavar=None if is_flag else _kind(str(item.type)),
    )
    kind = Annotated[bool | None, option] if is_flag else Annotated[str | None, option]
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _kind(annotation: str) -> str:
    """What a flag takes, for `--help`, as typer writes it: ``<int>``, or ``<str,...>`` for a list."""
    kind = next(name for name in ("int", "float", "str") if name in re.findall(r"\w+", annotation))
    return f"<{kind},...>" if annotation.startswith("tuple") else f"<{kind}>"


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = _plain_yaml(path.read_text())
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}; expected a YAML file") from error
    except InputError as error:
        raise InputError(f"--config {path}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not text, or a date that no calendar has
        raise InputError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds {type(content).__name__}: expected lines such as `dataset: digits`")
    settings: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name in settings:
            raise InputError(f"--config {path}: {name!r} appears twice, once spelled with a dash: keep one of them")
        settings[name] = value
    return settings


class _Strict(yaml.SafeLoader):
    """Reads plain values only, and refuses a key that is not a text, or appears twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {line}: a list or a mapping stands where a name is expected")
            if key.value in seen:
                raise yaml.YAMLError(f"{key.value!r} appears twice, the second time in line {line}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _plain_yaml(text: str) -> Any:
    """What a YAML text holds: texts, finite numbers, True, False, None, lists, and mappings from texts to these.

    Raises:
        InputError: it holds something else. yaml.YAMLError, ValueError: it is not YAML.
    """
    return as_plain("", yaml.load(text, _Strict))  # noqa: S506 (a safe loader that refuses a key given twice)


def parse_assignments(texts: Iterable[str], owner: str | None = None) -> dict[str, dict[str, Any]]:
    """Values by owner and name, of ``owner.name=value``; each is read as YAML: ``3`` is a number, ``true`` a boolean.

    Args:
        texts: what ``--set`` was given.
        owner: who the values are for where a text does not say it.

    Raises:
        InputError: a text is not of that form, or one setting is given twice.
    """
    values: dict[str, dict[str, Any]] = {}
    for text in texts:
        first, name, value = _parse_assignment(text, owner)
        if name in values.setdefault(first, {}):
            raise InputError(f"--set {text}: {first}.{name} is set twice: keep one of them")
        values[first][name] = value
    return values


def _parse_assignment(text: str, owner: str | None) -> tuple[str, str, Any]:
    target, equals, written = text.partition("=")
    first, _, rest = target.strip().partition(".")
    if owner is not None and first not in (owner, "recipe"):
        first, rest = owner, target.strip()
    if not equals or not first or not rest:
        form = "METHOD.NAME=VALUE" if owner is None else "NAME=VALUE"
        example = "mekd.emulation.steps=2500" if owner is None else "emulation.steps=2500"
        raise InputError(f"--set {text}: expected {form}, such as {example}")
    try:
        value = _plain_yaml(written)
    except InputError as error:
        raise InputError(f"--set {text}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"--set {text}: the value is not YAML ({reason}); quote a text that holds : or [") from error
    return first, rest, value
