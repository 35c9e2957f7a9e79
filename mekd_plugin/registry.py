"""From names of methods to their classes, by entry points: ours are registered in the same way as anyone else's.

A package adds a method with one line of its ``pyproject.toml``, in the group ``mekd.distillers``; an alias is a line
in ``mekd.aliases`` whose value is the canonical name. Listing reads metadata only: nothing is imported until a class
is asked for.
"""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from mekd_plugin.errors import InputError, MekdError, UnknownName

if TYPE_CHECKING:
    from mekd_plugin.distiller import Distiller

__all__ = [
    "Entry",
    "Registry",
    "available",
    "create",
    "distillers",
    "emulations",
    "instantiate",
    "method_name",
    "settings_of",
    "unknown_name",
]

_GROUP, _ALIASES, _EMULATIONS = "mekd.distillers", "mekd.aliases", "mekd.emulations"
_BY_LENGTH = ("fast", "thorough")  # presets that a method without its own takes for "quick": the recipe differs
_VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
_BASE = "mekd_plugin.distiller:Distiller"


def unknown_name(what: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a ``name`` that is not among ``known``: the list of them, and the closest match."""
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return UnknownName(f"unknown {what} {name!r}: expected one of {', '.join(known) or '(none known)'}{hint}")


@dataclass(frozen=True)
class Entry:
    """What is known of a name without importing what it stands for.

    Attributes:
        name: canonical, as it stands in every record.
        target: ``package.module:Class``.
        owner: the distribution that brings it, with its version.
        aliases: further names.
    """

    name: str
    target: str
    owner: str
    aliases: tuple[str, ...] = ()


class Registry:
    """Methods, or other things that packages bring, by name.

    Args:
        entries: entry points whose values are ``package.module:attribute``; for a method, its class.
        aliases: entry points whose values are canonical names.
        what: what errors call one of them.
    """

    def __init__(
        self, entries: Iterable[EntryPoint], aliases: Iterable[EntryPoint] = (), *, what: str = "method"
    ) -> None:
        self._what = what
        self._owners: dict[str, list[Entry]] = defaultdict(list)
        for point in entries:
            self._owners[point.name].append(Entry(point.name, point.value, _owner(point)))
        self._aliases: dict[str, list[Entry]] = defaultdict(list)
        for point in aliases:
            self._aliases[point.name].append(Entry(point.name, point.value, _owner(point)))

    def entries(self) -> list[Entry]:
        """The entry of every name, sorted.

        Raises:
            MekdError: two packages claim one name.
        """
        found = {name: self._single(name) for name in sorted(self._owners)}
        for alias in sorted(self._aliases):
            name = self.canonical(alias)
            found[name] = replace(found[name], aliases=(*found[name].aliases, alias))
        return list(found.values())

    def canonical(self, name: str) -> str:
        """The name that records hold for ``name``, which may be an alias.

        Raises:
            UnknownName: no package brings it, or an alias points at nothing.
            MekdError: two packages claim it.
        """
        if name not in self._owners and name not in self._aliases:
            raise unknown_name(self._what, name, [*self._owners, *self._aliases])
        entry = self._single(name)
        if name in self._owners:
            return name
        if entry.target not in self._owners:
            what = f"{self._what} (to which {entry.owner} points the alias {name!r})"
            raise unknown_name(what, entry.target, self._owners)
        return entry.target

    def entry(self, name: str) -> Entry:
        """What is known of ``name``, which may be an alias.

        Raises:
            MekdError: as :meth:`canonical`.
        """
        return self._single(self.canonical(name))

    def load(self, name: str) -> Any:
        """What the entry point of ``name`` names, imported.

        Raises:
            MekdError: as :meth:`canonical`; or it cannot be imported.
        """
        entry = self.entry(name)
        return _load(entry.target, f"{entry.name!r} of {entry.owner}")

    def get(self, name: str) -> type[Distiller]:
        """The class of a method.

        Raises:
            UnknownName: as :meth:`canonical`.
            MekdError: two packages claim the name, or its target cannot be imported.
            InputError: the target is not a Distiller.
        """
        entry, base, target = self.entry(name), _load(_BASE, "the base class"), self.load(name)
        if not (isinstance(target, type) and issubclass(target, base)):
            raise InputError(
                f"method {entry.name!r} of {entry.owner}: {entry.target} is {target!r}, expected a subclass of "
                f"{_BASE.replace(':', '.')}; correct the line in that package's entry points"
            )
        return target

    def create(self, name: str, *, preset: str = "quick", **settings: Any) -> Distiller:
        """An instance of a method: its preset, overridden by ``settings``.

        Args:
            name: canonical or an alias.
            preset: ``"quick"``, ``"fast"``, ``"thorough"`` or ``"paper"``.
            settings: ``num_classes``, ``image_shape``, ``seed``, and the method's hyperparameters.

        Raises:
            UnknownName: the method or the preset is unknown.
            InputError: the method has no such hyperparameter, or lacks a required argument.
        """
        return instantiate(self.get(name), self.canonical(name), preset, settings)

    def hyperparameters(self, name: str) -> list[str]:
        """Names of the hyperparameters of a method, sorted, without those of every method (``num_classes``, ...).

        Raises:
            MekdError: as :meth:`get`.
        """
        common = _accepted(_load(_BASE, "the base class")) or {}
        method = self.get(name)
        return sorted((_accepted(method) or {}).keys() - common.keys() - set(method.inapplicable))

    def _single(self, name: str) -> Entry:
        claims = [*self._owners.get(name, []), *self._aliases.get(name, [])]
        if len(claims) > 1:
            owners = " and ".join(f"{claim.owner} ({claim.target})" for claim in claims)
            raise MekdError(f"the {self._what} name {name!r} is claimed by {owners}: uninstall one, or rename it there")
        return claims[0]


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def _accepted(cls: type) -> dict[str, inspect.Parameter] | None:
    """The keyword arguments of ``cls``: its own, and its bases' where it passes ``**others`` on; None: anything."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        own = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        found = {item.name: item for item in own if item.kind not in _VARIABLE} | found
        if not any(item.kind is item.VAR_KEYWORD for item in own):
            return found
    return None


def _load(target: str, what: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise MekdError(f"cannot load {what} from {target}: {error}; reinstall that package") from error


def distillers() -> Registry:
    """The methods of every installed package, as they stand now."""
    return Registry(entry_points(group=_GROUP), entry_points(group=_ALIASES))


def emulations() -> Registry:
    """The ways in which MEKD's generator can come to be, of every installed package."""
    return Registry(entry_points(group=_EMULATIONS), what="emulation")


def available() -> list[str]:
    """Canonical names of every installed method, sorted; imports none of them."""
    return [entry.name for entry in distillers().entries()]


def create(method: str | type[Distiller] | Distiller, *, preset: str = "quick", **settings: Any) -> Distiller:
    """An instance of a method: its preset, overridden by ``settings``.

    Args:
        method: a name or an alias; or a class of your own, which need not be registered; or an instance, which has its
            settings already: a copy of it is returned, as new.
        preset: ``"quick"``, ``"fast"``, ``"thorough"`` or ``"paper"``.
        settings: ``num_classes``, ``image_shape``, ``seed``, and the method's hyperparameters; one of the form
            ``emulation.steps`` goes into the hyperparameter ``emulation_settings``, a dictionary.

    Raises:
        UnknownName: the method or the preset is unknown.
        InputError: the method has no such hyperparameter, or lacks a required argument; or an instance that was made
            for another problem, or would get settings a second time.
    """
    if isinstance(method, str):
        return distillers().create(method, preset=preset, **settings)
    base = _load(_BASE, "the base class")
    if isinstance(method, type) and issubclass(method, base):
        return instantiate(method, method.__name__, preset, settings)
    if not isinstance(method, base):
        raise InputError(
            f"method={method!r}: expected a name of mekd_plugin.available(), a subclass of Distiller, or an instance"
        )
    fresh: Distiller = copy.deepcopy(method)
    world = {name: settings.pop(name) for name in ("num_classes", "image_shape", "seed") if name in settings}
    if settings:
        raise InputError(f"{', '.join(sorted(settings))}: the method is an instance: give it its settings there")
    for name, value in world.items():
        if getattr(fresh, name) != value:
            raise InputError(
                f"the method is an instance with {name}={getattr(fresh, name)!r}, and this run has {name}={value!r}: "
                "make it for this run, or hand in the class"
            )
    return fresh


def method_name(method: str | type[Distiller] | Distiller) -> str:
    """The name that records and signatures hold: canonical for a registered method, else where the class is."""
    if isinstance(method, str):
        return distillers().canonical(method)
    cls = method if isinstance(method, type) else type(method)
    return f"{cls.__module__}.{cls.__qualname__}"


def settings_of(distiller: Distiller) -> dict[str, Any]:
    """The hyperparameters of an instance as it holds them, without those of every method (``num_classes``, ...)."""
    common = _accepted(_load(_BASE, "the base class")) or {}
    names = (
        (_accepted(type(distiller)) or {}).keys() - common.keys() - set(getattr(type(distiller), "inapplicable", ()))
    )
    return {name: getattr(distiller, name) for name in sorted(names) if hasattr(distiller, name)}


def instantiate(cls: type[Distiller], name: str, preset: str, settings: Mapping[str, Any]) -> Distiller:
    """An instance of ``cls``, which messages call ``name``; see :func:`create`."""
    presets = {**dict.fromkeys(_BY_LENGTH, cls.presets.get("quick", {})), **cls.presets}
    if not isinstance(preset, str) or preset not in presets:
        raise unknown_name(f"preset of {name}", preset, presets)
    accepted = _accepted(cls)
    given: dict[str, Any] = {}
    for setting, value in settings.items():
        owner, dot, part = setting.partition(".")
        known = f"{owner}_settings" if dot else setting
        if setting in cls.renamed:
            raise InputError(f"{setting} of {name} is now {_as_written(cls.renamed[setting], value)}")
        if accepted is not None and known not in accepted:
            raise InputError(str(unknown_name(f"hyperparameter of {cls.__name__}", setting, accepted)))
        given[known] = {**(given.get(known) or {}), part: value} if dot else value
    merged = {**presets[preset], **given}
    missing = [key for key, value in (accepted or {}).items() if value.default is value.empty and key not in merged]
    if missing:
        raise InputError(f"{name}: {', '.join(missing)} must be given")
    return cls(**merged)


def _as_written(name: str, value: Any) -> str:
    """How a setting is written today: ``emulation.steps`` in Python and on the command line."""
    owner, dot, part = name.partition(".")
    if not dot:
        return f"{name}={value!r}"
    return f"{owner}_settings={{{part!r}: {value!r}}} (on the command line: --set METHOD.{name}={value})"
