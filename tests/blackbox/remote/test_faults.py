"""Counting under faults: a proxy spoils a fifth of the requests, and the student ends the same."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mekd_plugin as mekd
from mekd_plugin.bench.diagnosis.subject import open_run
from mekd_plugin.blackbox.remote import open_inference_teacher
from mekd_plugin.cli import app
from mekd_plugin.errors import MekdError, TeacherAnswerError, TeacherChanged, TeacherUnavailable

PATIENT = mekd.Retry(attempts=8, wait=0, on=(TeacherUnavailable, TeacherAnswerError))


def images_of(count):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


def student():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))


def distilled(url, directory, *, budget=None, concurrent=4, resume=False, timeout=2.0):
    teacher = open_inference_teacher(url, timeout=timeout)
    box = mekd.BlackBox(
        teacher, "logits", 3, budget=budget, batch_size=4, retry=PATIENT, concurrent=concurrent, quantize="uint8"
    )
    return mekd.distill(
        student(),
        box,
        images_of(96),
        method="kd",
        queries=96,
        recipe=mekd.Recipe(steps=6),
        directory=directory,
        resume=resume,
        device="cpu",
        progress=False,
    )


@pytest.fixture
def a_fifth():
    def faults(kinds, seed=0):
        rng = random.Random(seed)
        order = itertools.cycle(kinds)
        while True:
            yield next(order) if rng.random() < 0.2 else None

    return faults


@pytest.mark.parametrize("concurrent", [1, 8])
def test_a_fifth_of_the_requests_fails_and_the_student_is_the_same(
    inference, proxy, faults, a_fifth, tmp_path, concurrent
):
    undisturbed = distilled(inference.url, tmp_path / "a", concurrent=concurrent)
    assert undisturbed.ledger.total == 96 and undisturbed.ledger.uncertain == 0
    inference.computed.clear()
    # Every kind at least once, then a fifth at random.
    between = proxy(*itertools.chain(*zip(faults, [None] * len(faults), strict=True)), then=a_fifth(faults))
    disturbed = distilled(between.url, tmp_path / "b", concurrent=concurrent, budget=400)
    ledger, computed = disturbed.ledger, sum(inference.computed)
    assert set(faults) <= set(between.seen)
    assert ledger.total - ledger.uncertain == 96  # each image's answer was kept once, none was paid and then lost
    assert computed <= ledger.total <= computed + ledger.uncertain
    no_work = sum(fault in ("503", "429") for fault in between.seen)
    assert ledger.total == 4 * (len(between.seen) - no_work)
    expected = undisturbed.student.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in disturbed.student.state_dict().items())


@pytest.mark.parametrize(
    "fault", ["503", "429", "reset before", "reset after", "half", "NaN", "other batch", "silence"]
)
def test_each_fault_is_counted_as_what_it_is(inference, proxy, fault):
    between = proxy(None, fault)
    # Long enough for a busy machine, but where the silence is to be waited out.
    teacher = open_inference_teacher(between.url, timeout=1.5 if fault == "silence" else 30)
    box = mekd.BlackBox(teacher, "logits", 3, batch_size=4)
    with pytest.raises(MekdError):
        box.query(images_of(8))
    no_work = fault in ("503", "429")
    assert (box.ledger.total, box.ledger.uncertain) == ((4, 0) if no_work else (8, 4))
    assert sum(inference.computed) == (4 if no_work or fault == "reset before" else 8)


def test_the_run_goes_on_when_the_service_comes_back(inference, proxy, tmp_path):
    undisturbed = distilled(inference.url, tmp_path / "a")
    inference.computed.clear()
    down = proxy(*[None] * 9, then=itertools.repeat("503"))
    with pytest.raises(TeacherUnavailable):
        distilled(down.url, tmp_path / "b", budget=96)
    kept = sum(inference.computed)
    assert 0 < kept < 96
    # Back at another address; not one image is left for a second payment.
    resumed = distilled(inference.url, tmp_path / "b", budget=96, resume=True)
    assert resumed.ledger.total == 96 and resumed.ledger.uncertain == 0
    assert sum(inference.computed) == 96 + 4 and resumed.ledger.evaluation == 4  # four asked again: the same teacher?
    expected = undisturbed.student.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.student.state_dict().items())


def test_a_service_that_was_updated_meanwhile_is_noticed(inference, proxy, tmp_path):
    down = proxy(*[None] * 9, then=itertools.repeat("503"))
    with pytest.raises(TeacherUnavailable):
        distilled(down.url, tmp_path / "b")
    inference.shift = 3.0
    with pytest.raises(TeacherChanged, match=r"it answers 4 otherwise \(image 1: class \d scored .* then, .* now"):
        distilled(inference.url, tmp_path / "b", resume=True)
    inference.versions = ["2"]
    with pytest.raises(
        mekd.errors.CheckpointError, match=r"holds another run: .*digits:images.* there, .*digits@2:images.* asked for"
    ):
        distilled(inference.url, tmp_path / "b", resume=True)


@pytest.mark.parametrize("on_drift", ["error", "warn", "ignore", None])
def test_what_is_done_about_another_teacher_is_said(tmp_path, on_drift):
    shift, asked = [0.0], []

    def teacher(images):
        asked.append(len(images))
        return images.flatten(1)[:, :3] + shift[0]

    def box():
        made = mekd.BlackBox(teacher, "logits", 3, batch_size=2, identity="t", on_drift=on_drift, budget=8)
        made.keep(tmp_path)
        return made

    images = images_of(8)
    first = box()
    first.query(images[:4])
    first.release()
    shift[0] = 1.0
    again = box()
    assert torch.equal(again.query(images[:4]).values, images[:4].flatten(1)[:, :3]) and sum(asked) == 4
    if on_drift == "error":
        with pytest.raises(TeacherChanged, match='start a new run.*on_drift="warn"'):
            again.query(images[4:])
    elif on_drift == "warn":
        with pytest.warns(UserWarning, match="the teacher has changed"):
            again.query(images[4:])
    else:
        again.query(images[4:])
    looks = on_drift in ("error", "warn")
    assert again.ledger.evaluation == (4 if looks else 0)
    assert again.ledger.total == (4 if on_drift == "error" else 8) and again.ledger.uncertain == 0
    assert sum(asked) == again.ledger.total + again.ledger.evaluation


def test_the_same_teacher_is_asked_once_a_life(tmp_path):
    asked = []

    def teacher(images):
        asked.append(len(images))
        return images.flatten(1)[:, :3].argmax(1)

    images = images_of(12)
    for life in range(3):
        box = mekd.BlackBox(teacher, "hard", 3, batch_size=2, identity="t", on_drift="error")
        box.keep(tmp_path)
        for start in range(0, 4 * (life + 1), 4):
            box.query(images[start : start + 4])
        box.release()
    assert sum(asked) == 12 + 2 * 4 and box.ledger.total == 12 and box.ledger.evaluation == 8
    (tmp_path / "canary.safetensors").write_bytes(b"torn")
    with pytest.raises(mekd.errors.DamagedFile, match="canary.safetensors is damaged"):
        mekd.BlackBox(teacher, "hard", 3, identity="t", on_drift="error").keep(tmp_path)


def test_a_sum_of_money_stops_as_a_number_does(tmp_path):
    def teacher(images):
        return images.flatten(1)[:, :3]

    box = mekd.BlackBox(teacher, "logits", 3, batch_size=2, cost_per_1000=1.5, cost_limit=0.0105)
    assert box.ledger.budget == 7
    box.query(images_of(6))
    assert box.cost == pytest.approx(0.009)
    with pytest.raises(mekd.errors.QueryBudgetExceeded, match="query budget of 7"):
        box.query(images_of(2))
    assert mekd.BlackBox(teacher, "logits", 3, cost_per_1000=1, cost_limit=1, budget=5).ledger.budget == 5
    with pytest.raises(mekd.errors.InputError, match="cost_limit=3 without a price"):
        mekd.BlackBox(teacher, "logits", 3, cost_limit=3)


def test_an_exhausted_balance_stops_at_once_with_everything_kept(replies, tmp_path):
    answered = []

    def answer(request):
        if request.command == "GET":
            request.reply(200, {"inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]})
            return
        tensor = json.loads(request.body())["inputs"][0]
        if len(answered) == 5:
            request.reply(402, {"error": "top up your account"})
            return
        answered.append(tensor["shape"][0])
        count = tensor["shape"][0]
        output = {"name": "x", "datatype": "FP32", "shape": [count, 3], "data": [0.1, 0.2, 0.3] * count}
        request.reply(200, {"outputs": [output]})

    teacher = open_inference_teacher(replies(answer).url, "m")
    box = mekd.BlackBox(teacher, "logits", 3, batch_size=2, retry=PATIENT, concurrent=4)
    box.keep(tmp_path)
    with pytest.raises(mekd.errors.RefusedForGood, match=r"402 \(top up your account\): the account is exhausted"):
        box.query(images_of(40))
    assert box.ledger.total == sum(answered) == 10 and box.ledger.uncertain == 0
    assert box.journal.images_ahead + 2 * (box.journal.position - box.journal.first) == 10  # in place or early: all


@pytest.fixture
def command(tmp_path, monkeypatch):
    """``command(url, *words)``: what `mekd distill` prints about a small student of the service at ``url``."""
    (tmp_path / "their_student.py").write_text(
        "from torch import nn\n\n\ndef make(num_classes, image_shape):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(url, *words):
        small = ["--student", "their_student:make", "--method", "kd", "--steps", "3", "--query-budget", "12"]
        given = ["distill", "--teacher", url, "--device", "cpu", "--out", str(tmp_path / "run"), *small, *words]
        result = CliRunner().invoke(app, given, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return call


def photographs(folder, count=12):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("L", (4, 4), number * 20).save(folder / f"{number}.png")


def test_a_folder_of_photographs_is_asked_about_again_after_a_refusal(proxy, command, tmp_path):
    photographs(tmp_path / "photos")
    between = proxy("503")
    said = command(between.url, "--edge-images", str(tmp_path / "photos"), "--classes", "3")
    assert "12 of 12 images sent" in said and between.seen[:2] == ["503", None]


def test_a_diagnosis_asks_again_after_a_refusal(proxy, command, tmp_path):
    for part, name in itertools.product(("train", "test"), "abc"):
        photographs(tmp_path / "data" / part / name)
    faults = []
    between = proxy(then=(faults.pop() if faults else None for _ in itertools.count()))
    command(between.url, "--dataset", f"imagefolder:{tmp_path / 'data'}")
    faults += ["503"]
    subject = open_run(tmp_path / "run")
    faults += ["503"]
    assert len(subject.teacher.query(images_of(2), stage="diagnosis")) == 2
    assert between.seen.count("503") == 2
