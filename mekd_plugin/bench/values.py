"""Values of a configuration as a file, the command line or a caller gives them: checked, and in their one form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mekd_plugin.bench.comparisons import declared
from mekd_plugin.checks import as_number, as_plain, as_whole
from mekd_plugin.errors import InputError
from mekd_plugin.registry import distillers

__all__ = [
    "Variant",
    "canonical_answers",
    "canonical_kind",
    "check_label",
    "check_names",
    "converted_value",
    "hyperparameters",
    "variant_of",
]


class Variant(NamedTuple):
    """A method under a name of its own, with settings of its own: an ablation, or an old version beside a new one.

    Attributes:
        method: canonical name.
        settings: hyperparameters, beside those that the grid gives the method.
    """

    method: str
    settings: Mapping[str, Any]


def hyperparameters(given: Any) -> dict[str, dict[str, Any]]:
    """Overrides by method, as a file or a caller gives them: plain values, which a run's key and its record hold.

    Raises:
        InputError: they are not such.
    """
    form = "expected names and values, such as {mekd: {image_weight: 0}}"
    if not isinstance(given, Mapping):
        raise InputError(f"hyperparameters={given!r}: {form}")
    for name, entries in given.items():
        if not isinstance(entries, Mapping):
            raise InputError(f"hyperparameters of {name}: {entries!r}: {form}")
    checked: dict[str, dict[str, Any]] = as_plain("hyperparameters", given)
    return checked


def variant_of(label: str, values: Any, taken: Iterable[str]) -> Variant:
    """A variant as the YAML file gives it.

    Raises:
        InputError: it is not of that form, or its label is taken. UnknownName: there is no such method.
    """
    form = "{method: NAME, set: {HYPERPARAMETER: VALUE}}"
    if not isinstance(values, Mapping) or not isinstance(values.get("set", {}), Mapping):
        raise InputError(f"variants: {label}: {values!r}: expected {form}")
    if unknown := set(values) - {"method", "set"}:
        raise InputError(f"variants: {label}: {', '.join(sorted(map(str, unknown)))}: expected {form}")
    if not isinstance(values.get("method"), str):
        raise InputError(f"variants: {label}: of which method? expected {form}")
    settings = as_plain(f"variants.{label}", values.get("set", {}))
    if label in taken:
        raise InputError(f"variants: {label}: a method of the grid has that name: call the variant something else")
    check_names(label, settings)
    return Variant(distillers().canonical(values["method"]), settings)


def check_label(label: Any, method: str, labels: dict[str, str]) -> None:
    """Refuse a label that tables or files would not tell from another, or that promises another method.

    Args:
        label: the variant's.
        method: the canonical name of what it is a variant of.
        labels: those taken, by their form without case and spaces; the label is added.

    Raises:
        InputError: it is not a text of one line, is taken but for case and spaces, or names another method.
    """
    if not isinstance(label, str) or not label or label != label.strip() or not label.isprintable():
        raise InputError(
            f"variants: {label!r}: expected a name of its own, a text of one line without spaces around it; quote it "
            "if it looks like a number"
        )
    bare = "".join(label.casefold().split())
    if bare in labels:
        raise InputError(
            f"variants: {label}: tables and files would not tell it from {labels[bare]}: call the variant "
            "something else"
        )
    labels[bare] = label
    registry = distillers()
    known = {name.casefold(): name for entry in registry.entries() for name in (entry.name, *entry.aliases)}
    namesake = known.get(bare)
    if namesake is not None and registry.canonical(namesake) != method:
        raise InputError(f"variants: {label}: {namesake} is another method: call the variant something else")


def check_names(owner: str, values: Mapping[str, Any]) -> None:
    """Refuse as hyperparameters what the grid gives to every run."""
    if taken := sorted({"num_classes", "image_shape", "seed"} & values.keys()):
        raise InputError(
            f"{', '.join(f'{owner}.{name}' for name in taken)}: the grid sets it for every method; see --seeds"
        )


def canonical_kind(responses: str) -> str:
    """``"soft"``, ``"probabilities"`` or ``"hard"``, as it stands in every record."""
    # Imported here: the command line reads this module for its flags, and `mekd list` must not load torch.
    from mekd_plugin.responses import resolve_kind

    kind = resolve_kind(responses)
    return "soft" if kind == "logits" else kind


def canonical_answers(text: Any) -> str:
    """The one name of what is done to answers."""
    from mekd_plugin.blackbox.degradation import Degradation  # as above

    return str(Degradation.parse(text))


def converted_value(name: str, annotation: str, value: Any) -> Any:
    """``value`` as the type that the field declares; a comma-separated text is a list."""
    if name == "comparisons":
        return declared(value)
    if value is None and "None" in annotation:
        return None
    if annotation.startswith("Mapping"):
        if not isinstance(value, Mapping):
            raise InputError(f"{name}={value!r}: expected names and values, such as {{mekd: {{image_weight: 0}}}}")
        return value
    kind = next((kind for kind in (int, float, bool) if re.search(rf"\b{kind.__name__}\b", annotation)), str)
    convert: Callable[[Any], Any] = {
        int: lambda item: as_whole(name, item),
        float: lambda item: as_number(name, item),
        bool: _truth,
        str: _text,
    }[kind]
    try:
        if annotation.startswith("tuple"):
            items: Iterable[Any] = value.split(",") if isinstance(value, str) else value
            items = items if isinstance(items, list | tuple | range) else [items]
            return tuple(convert(item.strip() if isinstance(item, str) else item) for item in items)
        return convert(value)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        expected = annotation.replace("tuple[", "a list of ").replace(", ...]", "")
        raise InputError(f"{name}={value!r}: expected {expected}") from error


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(value)
    return str(value)
