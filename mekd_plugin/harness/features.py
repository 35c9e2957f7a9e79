"""Models that return features beside their logits, as those of several suites do; and who looks at the features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from mekd_plugin.errors import InputError
from mekd_plugin.harness.meter import Counted

__all__ = ["Logits", "WithFeatures", "logits_of", "noticing"]


def logits_of(answer: Any) -> Tensor:
    """The logits in what a suite's model returned.

    Args:
        answer: the logits ``(N, C)``, or a tuple of which they are the first tensor: ``(logits, features)``, or
            ``([feature, ...], logits)``.

    Raises:
        InputError: there is no tensor in it.

    >>> import torch
    >>> logits_of(([torch.zeros(2, 9)], torch.ones(2, 3))).shape
    torch.Size([2, 3])
    """
    for value in answer if isinstance(answer, tuple) else (answer,):
        if isinstance(value, Tensor):
            return value
    raise InputError(f"a model returned {type(answer).__name__}: expected logits, or a tuple that holds them")


class Logits(nn.Module):
    """One of a suite's models, which returns features as well, as images -> logits.

    Args:
        network: images -> what :func:`logits_of` takes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, C)``."""
        return logits_of(self.network(images))


class WithFeatures(nn.Module):
    """The other way round: a network of ours that returns what a suite's models do, with no features in it.

    Args:
        network: images -> logits.
        arrange: logits, and whatever else the suite hands to its models -> what its models return.
    """

    def __init__(self, network: nn.Module, arrange: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self._arrange = arrange

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Logits in the suite's arrangement."""
        return self._arrange(self.network(images), *args, **kwargs)


def noticing(counted: Counted) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook of a teacher: ``counted.inner`` holds from when somebody looks at one of its features.

    To look is to take a feature out of a dictionary, or to compute with one of a list. A suite's loop may be handed
    features, and detach them, whatever its method does with them.
    """

    class Feature(Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            counted.inner |= func is not Tensor.detach
            return super().__torch_function__(func, types, args, dict(kwargs or {}))

    class Features(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            counted.inner = True
            return super().__getitem__(key)

    def watched(part: Any) -> Any:
        if isinstance(part, dict):
            return Features(part)
        return [feature.as_subclass(Feature) for feature in part] if isinstance(part, list) else part

    return lambda network, inputs, answer: tuple(map(watched, answer)) if isinstance(answer, tuple) else None
