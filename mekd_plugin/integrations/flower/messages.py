"""What travels between the server and its clients: images as bytes, answers as they are, and how much of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.blackbox.answers import check_response
from mekd_plugin.errors import InputError, MissingDependency, TeacherAnswerError
from mekd_plugin.responses import Response, resolve_kind

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict
    from flwr.serverapp import Grid

__all__ = ["QUESTION", "CountedGrid", "answers_in", "answers_record", "flower", "images_in", "question"]

QUESTION = "query.teacher"
"""The type of the messages that carry a question."""


def flower() -> Any:
    """The module ``flwr.app``.

    Raises:
        MissingDependency: flwr is not installed.
    """
    try:
        from flwr import app
    except ImportError as error:
        raise MissingDependency(
            'mekd_plugin.integrations.flower needs flwr, which is not installed: pip install "mekd-plugin[federated]"'
        ) from error
    return app


def question(images: Tensor, value_range: tuple[float, float]) -> RecordDict:
    """The records that ask about ``images`` ``(N, channels, height, width)``: 256 levels of ``value_range``, a byte
    each.
    """
    low, high = value_range
    levels = ((images.detach().cpu().double() - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8)
    app = flower()
    return app.RecordDict({
        "images": app.ArrayRecord({"levels": app.Array(levels.numpy())}),
        "range": app.ConfigRecord({"low": float(low), "high": float(high)}),
    })  # fmt: skip


def images_in(content: RecordDict, value_range: tuple[float, float]) -> Tensor:
    """The images of a question, float32.

    Raises:
        InputError: they are none, or of another range than the client's model takes.
    """
    try:
        levels = content.array_records["images"]["levels"].numpy()
        asked = content.config_records["range"]
        low, high = float(asked["low"]), float(asked["high"])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("the message holds no question: expected one of a mekd_plugin Federation") from error
    if (low, high) != value_range:
        raise InputError(f"images in [{low:g}, {high:g}]: this client's model takes {list(value_range)}")
    if levels.dtype != np.uint8:
        raise InputError(f"images of dtype {levels.dtype}: expected 256 levels as bytes, uint8")
    return (torch.from_numpy(levels.copy()).double() * ((high - low) / 255) + low).float()


def answers_record(response: Response) -> Any:
    """A response as the records of a reply."""
    app = flower()
    return app.ArrayRecord({"values": app.Array(np.ascontiguousarray(response.values.cpu().numpy()))})


def answers_in(content: RecordDict, count: int, num_classes: int) -> Response:
    """The response in a client's reply, of the kind that the client says.

    Raises:
        TeacherAnswerError: it is not one answer for each of ``count`` images about ``num_classes`` classes.
    """
    try:
        values = torch.from_numpy(content.array_records["answers"]["values"].numpy().copy())
        kind = resolve_kind(str(content.config_records["meter"]["responses"]))
    except (KeyError, TypeError, ValueError) as error:
        raise TeacherAnswerError("the reply holds no answers: expected those of answer_question") from error
    if values.dim() == 0 or len(values) != count:
        raise TeacherAnswerError(f"the reply holds answers of shape {tuple(values.shape)}: expected {count} of them")
    return check_response(values.float() if values.is_floating_point() else values, kind, num_classes, batch=1)


class CountedGrid:
    """Flower's ``Grid``, with the bytes of records that went to each client and came from it.

    Counted as Flower's own ``message_size_mod`` counts them; metadata and the transport's own come on top.

    Args:
        grid: that of a ``ServerApp``.

    Attributes:
        sent: bytes by node.
        received: bytes by node.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.sent: dict[int, int] = {}
        self.received: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def push_messages(self, messages: Iterable[Message]) -> list[Any]:
        """As ``Grid.push_messages``."""
        return list(self._grid.push_messages(self._count(messages, self.sent, "dst_node_id")))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """As ``Grid.pull_messages``."""
        return self._count(self._grid.pull_messages(message_ids), self.received, "src_node_id")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """As ``Grid.send_and_receive``."""
        sent = self._count(messages, self.sent, "dst_node_id")
        return self._count(self._grid.send_and_receive(sent, timeout=timeout), self.received, "src_node_id")

    @staticmethod
    def _count(messages: Iterable[Message], bytes_of: dict[int, int], end: str) -> list[Message]:
        found = list(messages)
        for message in found:
            node = getattr(message.metadata, end)
            records = message.content.values() if message.has_content() else ()
            bytes_of[node] = bytes_of.get(node, 0) + sum(record.count_bytes() for record in records)
        return found
