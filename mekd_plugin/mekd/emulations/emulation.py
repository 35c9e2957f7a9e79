"""What every way of emulating the teacher's inverse mapping has in common: it yields stages, and leaves an inverse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_one_of
from mekd_plugin.distiller import Stage
from mekd_plugin.errors import InputError
from mekd_plugin.mekd.health import Advice
from mekd_plugin.registry import emulations, unknown_name
from mekd_plugin.responses import ScoreNormalisation

__all__ = ["Emulation", "make_emulation"]

_PRESETS = ("quick", "fast", "thorough", "paper", "tiny")
"""An emulation that has no form of its own for one of them is as its settings' defaults say."""


class Emulation(ABC):
    """How to obtain a generator that stands for the teacher's inverse mapping.

    It yields the stages before the student's. Those may ask the teacher, all of it for the stage ``"bank"`` and into
    the bank that they are handed, whose rows carry the column ``style`` that :class:`~mekd_plugin.mekd.method.MEKD`
    draws; what it leaves of the bank's size is asked afterwards, about images of the finished generator.

    Args:
        settings: an instance of the class's own ``Settings``.
        num_classes: C.
        image_shape: ``(channels, height, width)``.
        seed: the seed of everything it draws itself.
        hard_scale: the score that a hard response stands for.

    Attributes:
        needs_answers: whether it learns from the bank's answers, so that it cannot do without a bank.
    """

    Settings: ClassVar[type]
    """A frozen dataclass of its settings, each with a default; checks its values."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"quick": {}}
    """Settings by MEKD's presets; a missing preset is the same as ``"quick"``."""
    needs_answers: ClassVar[bool] = False
    advice: ClassVar[Advice] = Advice()
    """What the warnings about its generator tell the user to change."""

    def __init__(
        self, settings: Any, *, num_classes: int, image_shape: tuple[int, int, int], seed: int, hard_scale: float
    ) -> None:
        self.settings = settings
        self.num_classes, self.image_shape, self.seed, self.hard_scale = num_classes, image_shape, seed, hard_scale

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings})"

    @property
    def queries(self) -> Literal["once", "every step"]:
        """Whether its stages ask the teacher at every step, or only fill the bank."""
        return "once"

    @property
    def normalisation(self) -> ScoreNormalisation | None:
        """What makes centred scores the inverse's first C coordinates.

        None where it has seen no answers: the spread of the bank's then has to do.
        """
        return None

    @property
    def hard_scores(self) -> Tensor | None:
        """The centred scores that a hard response of each class stands for, ``(C, C)``; None for one-hot vectors.

        Those are scaled by ``hard_scale``; see :class:`~mekd_plugin.distiller.Inverse`.
        """
        return None

    @property
    def drawn_for(self) -> Literal["noise", "answers"]:
        """What the first C coordinates of what it draws are; see :class:`~mekd_plugin.distiller.Inverse`."""
        return "noise"

    @property
    @abstractmethod
    def style_dim(self) -> int:
        """Coordinates of noise beside the C scores in the inverse's latent."""

    @abstractmethod
    def stages(self, teacher: BlackBox, images: Tensor, bank: Bank, size: int) -> Iterator[Stage]:
        """The stages in order, lazily.

        Args:
            teacher: a teacher that can only be asked.
            images: the edge's ``(N, channels, height, width)``, in the teacher's value range.
            bank: to ask into; an :class:`~mekd_plugin.distiller.Asking` of fewer than ``size`` rows says ``grows``.
            size: rows of the bank when it is full; 0 where there is none.
        """

    @abstractmethod
    def frozen(self) -> nn.Module:
        """The inverse that the stages leave, made as fast as it can be: nothing in it to train.

        Latents ``(N, C + style_dim)`` -> images ``(N, channels, height, width)`` in [-1, 1]; a gradient flows through
        it into the latent.

        Raises:
            InputError: the stages did not run.
        """

    def digest(self) -> str | None:
        """Distinguishes the generator that the stages leave from any other; None where none is needed."""
        return None

    def adopt(self, generator: nn.Module) -> None:
        """Use a previously trained generator instead of running the stages.

        Raises:
            InputError: this emulation cannot do so.
        """
        raise InputError(f"{type(self).__name__} takes no previously trained generator: leave generator= out")

    def want(self, scores: Tensor) -> None:  # noqa: B027 (most have nothing to want)
        """Draw further images for answers like these ``(N, C)``, centred: those of a bank that was taken over."""

    def draw(self, start: int, stop: int) -> Tensor:
        """Latents ``(stop - start, C + style_dim)`` of the rows to ask about, a pure function of the range."""
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + start)
        return torch.randn(stop - start, self.num_classes + self.style_dim, generator=rng)

    def report(self) -> dict[str, Any]:
        """What it has to report about itself, as JSON, alongside the generator's health."""
        return {}


def make_emulation(
    emulation: str | type[Emulation], preset: str, settings: Mapping[str, Any] | None, **world: Any
) -> Emulation:
    """An emulation by name or class, with its preset's settings, overridden by ``settings``.

    Raises:
        UnknownName: there is no such emulation.
        InputError: it has no such setting, or a value cannot be used.
    """
    cls = emulations().load(emulation) if isinstance(emulation, str) else emulation
    if not (isinstance(cls, type) and issubclass(cls, Emulation)):
        raise InputError(f"emulation={emulation!r}: expected the name of one, or a subclass of Emulation")
    if settings is not None and not isinstance(settings, Mapping):
        raise InputError(f"emulation_settings={settings!r}: expected names and values, such as {{'steps': 2500}}")
    as_one_of("emulation_preset", preset, tuple(dict.fromkeys([*_PRESETS, *cls.presets])))
    known = {item.name for item in fields(cls.Settings)}
    given = dict(settings or {})
    for name in given:
        if name not in known:
            found = unknown_name(f"setting of emulation {cls.__name__}", name, known)
            raise InputError(f"{found}{_who_has(name)}")
    return cls(cls.Settings(**{**cls.presets.get(preset, {}), **given}), **world)


def _who_has(setting: Any) -> str:
    """Which other emulation has a setting, as the end of a message; empty where none does."""
    registry = emulations()
    owners = [
        entry.name
        for entry in registry.entries()
        if setting in {f.name for f in fields(registry.load(entry.name).Settings)}
    ]
    return f"; it is one of emulation {' and '.join(map(repr, owners))}: name that with emulation=" if owners else ""
