"""The server's side: all clients as one teacher, and an account of who answered what."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_number, as_one_of, as_range, as_whole
from mekd_plugin.errors import Refused, TeacherAnswerError, TeacherUnavailable
from mekd_plugin.integrations.flower.messages import QUESTION, CountedGrid, answers_in, flower, question
from mekd_plugin.responses import Response

if TYPE_CHECKING:
    from flwr.app import Message

__all__ = ["ClientAccount", "Federation"]

_POLL = 0.2  # seconds between two looks for replies
_COLUMNS = ("name", "answered", "refused", "failed", "late", "silent", "bytes_sent", "bytes_received")


@dataclass
class ClientAccount:
    """What became of the images that one client was asked about.

    Attributes:
        node: Flower's number of the client, another one in each run.
        name: what the client calls itself.
        answered: images with an answer in time.
        refused: images that it declined; it computed nothing.
        failed: images lost to an error of the client, or to an answer that is none.
        late: images answered after the deadline, when nobody waited any more.
        silent: images without a word until now.
        reason: of the last refusal or failure.
    """

    node: int
    name: str = ""
    answered: int = 0
    refused: int = 0
    failed: int = 0
    late: int = 0
    silent: int = 0
    reason: str = ""


@dataclass(eq=False)
class Federation:
    """All clients as one teacher, a function of images: each is asked the same, and their answers are averaged.

    A client that refuses, fails or is late is left out of that answer, and the round goes on. One that owes an answer
    is not asked again before it has come.

    Args:
        grid: Flower's, or a :class:`~mekd_plugin.integrations.flower.CountedGrid`.
        num_classes: C.
        combine: ``"probabilities"``, the mean of class probabilities, to which a hard answer is a vote; or
            ``"logits"``, the mean of logits, which clients that answer otherwise cannot join.
        timeout: seconds to wait for the answers to one question.
        at_least: how many clients must answer.
        value_range: smallest and largest pixel value; images travel as bytes, 256 levels of it.

    Attributes:
        accounts: what became of each client's questions, by node.
        rounds: questions asked, each a round of messages.

    Source: Lin et al., *Ensemble Distillation for Robust Model Fusion in Federated Learning* (FedDF), NeurIPS 2020
    (the mean over clients, AVGLOGITS); Guha et al., *One-Shot Federated Learning*, 2019 (one round).

    Raises:
        InputError: a value cannot be used.
    """

    grid: Any
    num_classes: int
    combine: Literal["probabilities", "logits"] = "probabilities"
    timeout: float = 600.0
    at_least: int = 1
    value_range: tuple[float, float] = (-1.0, 1.0)
    accounts: dict[int, ClientAccount] = field(default_factory=dict, init=False)
    rounds: int = field(default=0, init=False)
    _owed: dict[str, tuple[int, int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.grid = self.grid if isinstance(self.grid, CountedGrid) else CountedGrid(self.grid)
        self.num_classes = as_whole("num_classes", self.num_classes, at_least=2)
        self.combine = as_one_of("combine", self.combine, ("probabilities", "logits"))
        self.timeout = as_number("timeout", self.timeout, above=0)
        self.at_least = as_whole("at_least", self.at_least, at_least=1)
        self.value_range = as_range("value_range", self.value_range)

    def black_box(self, budget: int | None = None, **settings: Any) -> BlackBox:
        """The federation behind the boundary: a teacher for :func:`mekd_plugin.distill`.

        Args:
            budget: images that it may be asked about, each of which goes to every client.
            **settings: further ones of :class:`~mekd_plugin.blackbox.teacher.BlackBox`. The default ``batch_size``,
                100,000, makes one round of messages of each question of a method.
        """
        given = {"batch_size": 100_000, **settings}
        # With quantize, what a bank keeps is what travelled.
        return BlackBox(
            self,
            self.combine,
            self.num_classes,
            budget=budget,
            value_range=self.value_range,
            quantize="uint8",
            **given,
        )

    def __call__(self, images: Tensor) -> Tensor:
        """The mean answer ``(N, C)`` to images ``(N, channels, height, width)``.

        Raises:
            Refused: no client is there to be asked, or all refused: nothing was computed.
            TeacherUnavailable: fewer than ``at_least`` answers.
        """
        self.collect()
        self.rounds += 1
        busy = {node for node, _ in self._owed.values()}
        asked = [node for node in self.grid.get_node_ids() if node not in busy]
        declined = {node: self._account(node).refused for node in asked}
        useful: list[tuple[str, int, Tensor]] = []
        for node, reply in self._ask(images, asked).items():
            answer = self._judge(node, reply, len(images))
            if answer is not None:
                useful.append((self._account(node).name, node, answer))
        if useful and len(useful) >= self.at_least:
            # Nodes have other numbers in each run, so the names give the order in which rounding errors add up.
            answers = [answer for _, _, answer in sorted(useful, key=lambda entry: entry[:2])]
            return torch.stack(answers).mean(dim=0).to(images.device)
        words = f"{len(useful)} of {len(asked)} clients answered, and at_least={self.at_least} must"
        reasons = "; ".join(f"{account.name or node}: {account.reason}" for node, account in self.accounts.items())
        if all(self._account(node).refused > declined[node] for node in asked):
            raise Refused(f"{words}: nobody is connected, or all refused, so nothing was computed ({reasons})")
        raise TeacherUnavailable(f"{words} ({reasons}); wait longer (timeout=), or lower at_least")

    def collect(self) -> None:
        """Look for answers that came after their deadline: they count as late, and are not used."""
        if not self._owed:
            return
        for reply in self.grid.pull_messages(list(self._owed)):
            node, count = self._owed.pop(reply.metadata.reply_to_message_id)
            account = self._account(node)
            account.silent -= count
            if self._judge(node, reply, count) is not None:
                account.answered -= count
                account.late += count

    def as_record(self) -> list[dict[str, Any]]:
        """The accounts with ``bytes_sent`` to each client and ``bytes_received`` from it, as JSON, sorted by name."""
        rows = [
            {
                **asdict(account),
                "bytes_sent": self.grid.sent.get(node, 0),
                "bytes_received": self.grid.received.get(node, 0),
            }
            for node, account in self.accounts.items()
        ]
        return sorted(rows, key=lambda row: (row["name"], row["node"]))

    def __str__(self) -> str:
        rows = [_COLUMNS, *(_cells(row) for row in self.as_record())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)

    def _account(self, node: int) -> ClientAccount:
        return self.accounts.setdefault(node, ClientAccount(node))

    def _ask(self, images: Tensor, nodes: list[int]) -> dict[int, Message]:
        """The replies that came in time; whoever owes one is noted."""
        app, content = flower(), question(images, self.value_range)
        awaited: set[str] = set()
        for node in nodes:
            numbers = self.grid.push_messages([app.Message(content, node, QUESTION)])
            if not numbers or numbers[0] is None:
                self._account(node).failed += len(images)
                self._account(node).reason = "Flower did not take the message"
                continue
            self._owed[numbers[0]] = (node, len(images))
            awaited.add(numbers[0])
        replies: dict[int, Message] = {}
        deadline = time.monotonic() + self.timeout
        while awaited:
            for reply in self.grid.pull_messages(list(awaited)):
                number = reply.metadata.reply_to_message_id
                awaited.discard(number)
                replies[self._owed.pop(number)[0]] = reply
            if not awaited or time.monotonic() > deadline:
                break
            time.sleep(_POLL)
        for number in awaited:
            self._account(self._owed[number][0]).silent += len(images)
        return replies

    def _judge(self, node: int, reply: Message, count: int) -> Tensor | None:
        """What a reply adds to the mean, ``(N, C)``; None where it is no answer. It is entered in the account."""
        account = self._account(node)
        if reply.has_error():
            account.failed += count
            account.reason = _last_line(reply.error.reason or f"Flower's error {reply.error.code}")
            return None
        meter = reply.content.config_records.get("meter", {})
        account.name = str(meter.get("name", "")) or account.name
        if "refusal" in reply.content.config_records:
            account.refused += count
            account.reason = _last_line(str(reply.content.config_records["refusal"].get("reason", "")))
            return None
        try:
            answer = _as_combined(answers_in(reply.content, count, self.num_classes), self.combine)
        except TeacherAnswerError as error:
            account.failed += count
            account.reason = _last_line(str(error))
            return None
        account.answered += count
        return answer


def _as_combined(response: Response, combine: str) -> Tensor:
    if combine == "logits":
        if response.kind != "logits":
            raise TeacherAnswerError(f'the client answers {response.kind}, and combine="logits" takes logits alone')
        return response.values
    if response.kind == "hard":
        return F.one_hot(response.values, response.num_classes).float()
    return response.values.softmax(dim=1) if response.kind == "logits" else response.values


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["name"] or f"node {row['node']}", *(f"{row[column]:,}" for column in _COLUMNS[1:]))


def _last_line(reason: str) -> str:
    """The last line of an error that may hold a traceback."""
    lines = [line for line in reason.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""
