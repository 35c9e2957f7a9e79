"""Clients of a Flower federation as teachers: real ``ClientApp``s and messages, handed over within this process.

``test_flower_app.py`` sends them through Flower's own runtime.
"""

from __future__ import annotations

import re

import pytest
import torch

flwr = pytest.importorskip("flwr", reason="runs in `tox -e federated`")

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

import mekd_plugin as mekd  # noqa: E402
from mekd_plugin.blackbox.images import quantize_images  # noqa: E402
from mekd_plugin.errors import InputError, Refused, TeacherUnavailable  # noqa: E402
from mekd_plugin.integrations.flower import CountedGrid, Federation, answer_question  # noqa: E402
from mekd_plugin.integrations.flower.messages import images_in, question  # noqa: E402
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student  # noqa: E402

FAST = mekd.Recipe(steps=30, batch_size=16)


@pytest.fixture(autouse=True)
def running(monkeypatch):
    """Flower's runtime notes who runs in this process before it starts an app."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class InProcess:
    """A ``Grid`` whose clients are apps of this process; those in ``held`` have not answered yet."""

    def __init__(self, apps):
        self.apps = dict(enumerate(apps, start=100))
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in self.apps}
        self.held, self.waiting, self.asked = set(), {}, []

    def get_node_ids(self):
        return list(self.apps)

    def push_messages(self, messages):
        numbers = []
        for message in messages:
            number = f"message-{len(self.asked)}"
            message.metadata.__dict__["_message_id"] = number
            self.asked.append(message.metadata.dst_node_id)
            self.waiting[number] = message
            numbers.append(number)
        return numbers

    def pull_messages(self, numbers):
        ready = [self.waiting[number] for number in numbers if number in self.waiting]
        ready = [message for message in ready if message.metadata.dst_node_id not in self.held]
        return [self._answer(self.waiting.pop(message.metadata.message_id)) for message in ready]

    def _answer(self, message):
        node = message.metadata.dst_node_id
        try:
            return self.apps[node](message, self.contexts[node])
        except Exception as error:  # as Flower's runtime does
            return Message(Error(2, f"Traceback ...\n{type(error).__name__}: {error}"), reply_to=message)


def client(directory, name, responses="logits", budget=None, model=None, **settings):
    app = ClientApp()

    @app.query("teacher")
    def teacher(message, context):
        box = mekd.BlackBox(ToyTeacher() if model is None else model, responses, CLASSES, budget=budget)
        return answer_question(message, box, directory=directory / name, name=name, **settings)

    return app


def ledger_of(directory, name, budget=None):
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=budget)
    box.ledger.attach(directory / name)
    box.ledger.detach()
    return box.ledger


def account(federation, name):
    return next(row for row in federation.as_record() if row["name"] == name)


def fails(images):
    raise RuntimeError("the disk of this client is full")


def test_an_image_travels_as_the_bank_keeps_it():
    images = toy_images(5, seed=0)
    found = images_in(question(images, (-1.0, 1.0)), (-1.0, 1.0))
    assert torch.allclose(found, quantize_images(images, (-1.0, 1.0)), atol=1e-6)
    record = question(images, (-1.0, 1.0)).array_records["images"]
    assert images.numel() <= record.count_bytes() < images.numel() + 200


@pytest.mark.parametrize("responses", ["logits", "probabilities", "hard"])
def test_the_mean_of_the_clients_answers(tmp_path, responses):
    models = [toy_student(seed) for seed in range(3)]
    if responses == "probabilities":
        models = [torch.nn.Sequential(model, torch.nn.Softmax(dim=1)) for model in models]
    apps = [client(tmp_path, f"client {i}", responses, model=model) for i, model in enumerate(models)]
    images = quantize_images(toy_images(6, seed=1), (-1.0, 1.0))
    found = Federation(InProcess(apps), CLASSES).black_box().query(images)
    answers = [mekd.BlackBox(model, responses, CLASSES).query(images).values for model in models]
    if responses == "logits":
        answers = [values.softmax(dim=1) for values in answers]
    if responses == "hard":
        answers = [torch.eye(CLASSES)[values] for values in answers]
    assert not torch.equal(answers[0], answers[1])
    torch.testing.assert_close(found.values, sum(answers) / 3, atol=1e-5, rtol=1e-5)


def test_means_of_logits_take_logits_alone(tmp_path):
    model = ToyTeacher()
    grid = InProcess([client(tmp_path, "a", model=model), client(tmp_path, "b", "hard")])
    federation = Federation(grid, CLASSES, combine="logits")
    images = quantize_images(toy_images(4, seed=1), (-1.0, 1.0))
    torch.testing.assert_close(federation(images), mekd.predict(model, images), atol=1e-5, rtol=1e-5)
    assert account(federation, "b")["failed"] == 4 and "takes logits alone" in account(federation, "b")["reason"]


def test_a_client_meters_itself_and_refuses_beyond_its_budget_in_every_later_run(tmp_path):
    apps = [client(tmp_path, "generous"), client(tmp_path, "strict", budget=10)]
    federation = Federation(InProcess(apps), CLASSES)
    federation(toy_images(8, seed=0))
    federation(toy_images(5, seed=1))
    assert account(federation, "strict")["answered"] == 8 and account(federation, "strict")["refused"] == 5
    assert "query budget of 10" in account(federation, "strict")["reason"]
    later = Federation(InProcess(apps), CLASSES)
    later(toy_images(3, seed=2))
    assert account(later, "strict")["refused"] == 3 and account(later, "generous")["answered"] == 3
    assert ledger_of(tmp_path, "strict").total == 8 and ledger_of(tmp_path, "generous").total == 16


def test_the_round_goes_on_without_a_client_that_fails_and_its_images_count_as_uncertain(tmp_path):
    good = ToyTeacher()
    federation = Federation(
        InProcess([client(tmp_path, "good", model=good), client(tmp_path, "broken", model=fails)]), CLASSES
    )
    images = quantize_images(toy_images(4, seed=0), (-1.0, 1.0))
    torch.testing.assert_close(federation(images), mekd.predict(good, images).softmax(dim=1), atol=1e-5, rtol=1e-5)
    [broken] = [row for row in federation.as_record() if row["failed"]]
    assert broken["failed"] == 4 and broken["reason"] == "RuntimeError: the disk of this client is full"
    assert ledger_of(tmp_path, "broken").uncertain == 4


def test_a_late_client_is_not_waited_for_nor_asked_again_until_its_answer_has_come(tmp_path):
    grid = InProcess([client(tmp_path, "prompt"), client(tmp_path, "slow")])
    federation = Federation(grid, CLASSES, timeout=0.3)
    grid.held = {101}
    federation(toy_images(4, seed=0))
    federation(toy_images(5, seed=1))
    assert grid.asked == [100, 101, 100]
    assert federation.accounts[101].silent == 4
    grid.held = set()
    federation(toy_images(6, seed=2))
    assert grid.asked == [100, 101, 100, 100, 101]
    slow = account(federation, "slow")
    assert (slow["late"], slow["silent"], slow["answered"]) == (4, 0, 6)
    assert slow["bytes_received"] > 10 * CLASSES * 4


def test_a_client_may_have_reasons_of_its_own(tmp_path):
    apps = [
        client(tmp_path, "a"),
        client(tmp_path, "b", refuse=lambda images: "not today" if len(images) > 2 else None),
    ]
    federation = Federation(InProcess(apps), CLASSES)
    federation(toy_images(3, seed=0))
    federation(toy_images(2, seed=0))
    assert account(federation, "b")["reason"] == "not today"
    assert (account(federation, "b")["refused"], account(federation, "b")["answered"]) == (3, 2)
    assert ledger_of(tmp_path, "b").total == 2


def test_where_all_refuse_nothing_counts_and_where_too_few_answer_all_does(tmp_path):
    refusing = Federation(InProcess([client(tmp_path, name, budget=1) for name in "ab"]), CLASSES).black_box()
    with pytest.raises(Refused, match="0 of 2 clients answered.*all refused.*query budget of 1"):
        refusing.query(toy_images(3, seed=0))
    assert refusing.ledger.total == 0
    short = Federation(InProcess([client(tmp_path, "c"), client(tmp_path, "d", budget=1)]), CLASSES, at_least=2)
    teacher = short.black_box()
    with pytest.raises(TeacherUnavailable, match="1 of 2 clients answered, and at_least=2 must"):
        teacher.query(toy_images(3, seed=0))
    assert teacher.ledger.uncertain == 3
    with pytest.raises(Refused, match="nobody is connected"):
        Federation(InProcess([]), CLASSES)(toy_images(2, seed=0))


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (torch.zeros(3, CLASSES), "logits", r"shape \(3, 3\): expected 2 of them"),
        (torch.full((2, CLASSES), float("nan")), "logits", "NaN"),
        (torch.ones(2, CLASSES), "probabilities", "sum to 3"),
        (torch.zeros(2, CLASSES), "opinions", "holds no answers"),
        (torch.tensor([0, 9]), "hard", "class indices from 0 to 9"),
    ],
    ids=["too many", "not finite", "no probabilities", "unknown kind", "no such class"],
)
def test_an_answer_that_is_none_is_left_out(tmp_path, values, kind, reason):
    app = ClientApp()

    @app.query("teacher")
    def teacher(message, context):
        told = {"answers": ArrayRecord({"values": flwr.app.Array(values.numpy())})}
        meter = ConfigRecord({"name": "liar", "responses": kind})
        return Message(RecordDict({**told, "meter": meter}), reply_to=message)

    federation = Federation(InProcess([client(tmp_path, "good"), app]), CLASSES)
    images = quantize_images(toy_images(2, seed=0), (-1.0, 1.0))
    torch.testing.assert_close(federation(images), mekd.predict(ToyTeacher(), images).softmax(1), atol=1e-5, rtol=1e-5)
    assert account(federation, "liar")["failed"] == 2
    assert re.search(reason, account(federation, "liar")["reason"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (RecordDict(), "holds no question"),
        (RecordDict(dict(question(toy_images(2, seed=0), (0.0, 1.0)))), "takes .-1.0, 1.0."),
    ],
    ids=["no question", "another range"],
)
def test_a_question_that_is_none_is_refused(tmp_path, content, reason):
    message = Message(content, 100, "query.teacher")
    reply = client(tmp_path, "a")(message, Context(1, 100, {}, RecordDict(), {}))
    assert re.search(reason, str(reply.content.config_records["refusal"]["reason"]))
    assert ledger_of(tmp_path, "a").total == 0


@pytest.mark.filterwarnings("ignore:the generator hardly draws", "ignore:generated images look like none")
def test_mekd_on_a_federation_in_two_rounds_sends_generated_images_alone(tmp_path):
    grid = InProcess([client(tmp_path, name, model=toy_student(i)) for i, name in enumerate("abc")])
    federation = Federation(grid, CLASSES)
    images, student = toy_images(40, seed=3), toy_student()
    settings = {"emulation": "mixture", "surrogate": None}
    settings["emulation_settings"] = {"surrogate_steps": 20, "steps": 5}
    result = mekd.distill(
        student, federation.black_box(budget=60), images, "mekd", recipe=FAST, progress=False, device="cpu", **settings
    )
    assert result.ledger.total == 60 and result.ledger.distinct == 60
    assert len(grid.asked) == 3 * federation.rounds == 3 * 3  # the probe and two rounds, to three clients
    assert [row["answered"] for row in federation.as_record()] == [60, 60, 60]
    assert str(federation).splitlines()[0].split() == [
        "name", "answered", "refused", "failed", "late", "silent", "bytes_sent", "bytes_received"]  # fmt: skip
    assert account(federation, "a")["bytes_sent"] < 60 * images[0].numel() + 1000


def test_the_same_federation_under_other_node_numbers_answers_to_the_bit(tmp_path):
    images = toy_images(5, seed=0)
    apps = [client(tmp_path, name, model=toy_student(i)) for i, name in enumerate("abcde")]
    forwards, backwards = InProcess(apps), InProcess(apps[::-1])
    assert torch.equal(Federation(forwards, CLASSES)(images), Federation(backwards, CLASSES)(images))


def test_a_counted_grid_counts_what_other_strategies_send(tmp_path):
    grid = InProcess([client(tmp_path, "a")])
    grid.send_and_receive = lambda messages, timeout: grid.pull_messages(grid.push_messages(messages))
    counted = CountedGrid(grid)
    content = question(toy_images(2, seed=0), (-1.0, 1.0))
    [reply] = counted.send_and_receive([Message(content, 100, "query.teacher")], timeout=1)
    assert counted.sent == {100: sum(record.count_bytes() for record in content.values())}
    assert counted.received == {100: sum(record.count_bytes() for record in reply.content.values())}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"combine": "median"}, "combine='median': expected one of probabilities, logits"),
        ({"timeout": 0}, "timeout=0: expected a number above 0"),
        ({"at_least": 0}, "at_least=0: expected a whole number from 1"),
    ],
)
def test_bad_settings_are_named(wrong, words):
    with pytest.raises(InputError, match=words):
        Federation(InProcess([]), CLASSES, **wrong)
