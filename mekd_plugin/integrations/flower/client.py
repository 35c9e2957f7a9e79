"""A client as a teacher: its reply to a question, within its own budget, counted by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from torch import Tensor

from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_path
from mekd_plugin.errors import InputError, QueryBudgetExceeded, Refused
from mekd_plugin.files import writable_directory
from mekd_plugin.integrations.flower.messages import answers_record, flower, images_in

if TYPE_CHECKING:
    from flwr.app import Message

__all__ = ["answer_question"]


def answer_question(
    message: Message,
    teacher: BlackBox,
    *,
    directory: str | Path,
    name: str = "",
    refuse: Callable[[Tensor], str | None] | None = None,
) -> Message:
    """A client's reply to a question: answers, or why there are none.

    The client's ledger lies in ``directory``, because a ``ClientApp`` may run in another process for each message: what
    it answered counts against its budget in every later run, whichever server asks. An error of its model is raised,
    and Flower replies with it; those images count as uncertain.

    Args:
        message: of the type ``query.teacher``, from a :class:`~mekd_plugin.integrations.flower.Federation`.
        teacher: the client's model, with the budget that the client allows.
        directory: where the client keeps its ledger.
        name: what it is called in the server's table.
        refuse: why it does not want to answer about images ``(N, channels, height, width)``; returns None if it does.

    Returns:
        Its answers; or its reason for refusing, which is one of its own, an exhausted budget, or images that its model
        cannot take. Refused images were not looked at by the model, and do not count.

    Raises:
        MissingDependency: flwr is not installed.
        InputError: ``directory`` cannot be written. And whatever the model raises.
    """
    app = flower()
    folder = writable_directory(as_path("directory", directory))
    with FileLock(folder / "ledger.lock"):  # two servers may ask at the same time
        teacher.ledger.attach(folder)
        try:
            images = images_in(message.content, teacher.value_range)
            if refuse is not None and (reason := refuse(images)) is not None:
                raise Refused(reason)
            told: dict[str, Any] = {
                "answers": answers_record(teacher.query(images, stage=f"run {message.metadata.run_id}"))
            }
        except (InputError, QueryBudgetExceeded, Refused) as error:
            told = {"refusal": app.ConfigRecord({"reason": str(error)})}
        finally:
            teacher.ledger.detach()
    meter = {"name": name, "responses": teacher.responses, "sent": teacher.ledger.total}
    return app.Message(app.RecordDict({**told, "meter": app.ConfigRecord(meter)}), reply_to=message)
