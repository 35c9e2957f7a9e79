"""A question that a service takes in several requests: each is counted and kept by itself, whatever comes after it."""

from __future__ import annotations

import itertools

import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.blackbox import Ledger, Peers, meter
from mekd_plugin.blackbox.remote import image_endpoint, open_inference_teacher
from mekd_plugin.errors import (
    QueryBudgetExceeded,
    Refused,
    RefusedForGood,
    TeacherChanged,
    TeacherUnavailable,
    TooManyAtOnce,
)

IMAGES = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
ANSWERS = IMAGES.flatten(1)[:, :3]


class Killed(BaseException):
    """Stands for a process that is killed."""


class Service:
    """Takes ``limit`` images at a time; ``errors`` meet the requests about the images of these numbers."""

    def __init__(self, limit=None, errors=None):
        self.limit, self.errors, self.billed, self.shift = limit, dict(errors or {}), [], 0.0

    def __call__(self, images):
        if self.limit is not None and len(images) > self.limit:
            raise TooManyAtOnce(f"at most {self.limit}", self.limit)
        first = int((images[0] == IMAGES).all(dim=(1, 2, 3)).nonzero()[0])
        if (error := self.errors.pop(first, None)) is not None:
            raise error
        self.billed.append(len(images))
        return images.flatten(1)[:, :3] + self.shift


def boxed(teacher, directory=None, **settings):
    box = mekd.BlackBox(teacher, "logits", 3, identity="service", **{"batch_size": 8, **settings})
    box.keep(directory)
    return box


@pytest.mark.parametrize("concurrent", [1, 4])
@pytest.mark.parametrize("later_limit", [None, 2, 3, 5])
@pytest.mark.parametrize("error", [RefusedForGood("402"), Refused("503")], ids=repr)
@pytest.mark.parametrize("place", [0, 6, 8, 14, 22])
def test_a_request_that_is_refused_costs_none_of_those_before_it(tmp_path, place, error, later_limit, concurrent):
    service = Service(2, {place: error})
    box = boxed(service, tmp_path, budget=24, concurrent=concurrent)
    with pytest.raises(Refused):
        box.query(IMAGES)
    billed = sum(service.billed)
    assert box.ledger.total == billed and box.ledger.uncertain == 0 and (concurrent > 1 or billed == place)
    box.release()
    service.limit = later_limit  # not one image is left for a second payment
    again = boxed(service, tmp_path, budget=24, concurrent=concurrent)
    assert again.ledger.total == billed
    assert torch.equal(again.query(IMAGES).values, ANSWERS)
    assert again.ledger.total == sum(service.billed) == 24 and again.ledger.uncertain == 0
    again.release()
    third = boxed(Service(), tmp_path, budget=24)  # and all is in its place
    assert torch.equal(third.query(IMAGES).values, ANSWERS) and third.ledger.total == 24


@pytest.mark.parametrize("concurrent", [1, 4])
def test_a_request_that_is_lost_leaves_its_own_images_uncertain(tmp_path, concurrent):
    service = Service(2, {12: ConnectionResetError("gone"), 18: Refused("503")})
    box = boxed(service, tmp_path, budget=26, concurrent=concurrent, retry=mekd.Retry(attempts=2, wait=0))
    assert torch.equal(box.query(IMAGES).values, ANSWERS)
    assert (box.ledger.total, box.ledger.uncertain, sum(service.billed)) == (26, 2, 24)


def test_what_was_answered_is_kept_while_a_refused_request_waits(tmp_path, monkeypatch):
    def killed(seconds):
        raise Killed

    monkeypatch.setattr("mekd_plugin.blackbox.patience.time.sleep", killed)
    service = Service(2, {14: Refused("503")})
    box = boxed(service, tmp_path, budget=24, retry=mekd.Retry(attempts=2, wait=60))
    with pytest.raises(Killed):
        box.query(IMAGES)
    again = boxed(service, tmp_path, budget=24)
    assert (again.ledger.total, again.ledger.uncertain) == (14, 0)
    assert torch.equal(again.query(IMAGES).values, ANSWERS) and sum(service.billed) == again.ledger.total == 24


def test_a_budget_refuses_a_question_as_a_whole_however_many_requests_it_takes(tmp_path):
    service = Service(2, {6: RefusedForGood("402")})
    box = boxed(service, tmp_path, budget=20)
    for _ in range(2):
        with pytest.raises(QueryBudgetExceeded, match="nothing was sent"):
            box.query(IMAGES)
    with pytest.raises(RefusedForGood):
        box.query(IMAGES[:20])
    box.journal.rewind(0)
    assert sum(service.billed) == 6
    assert torch.equal(box.query(IMAGES[:20]).values, ANSWERS[:20]) and sum(service.billed) == 20


@pytest.mark.parametrize("limit", [8, 9, 0, -1])
def test_a_limit_that_is_none_is_an_error(limit):
    def teacher(images):
        raise TooManyAtOnce("fewer", limit)

    box = boxed(teacher)
    with pytest.raises(TooManyAtOnce, match="fewer"):
        box.query(IMAGES[:8])
    assert box.ledger.total == 0
    with pytest.raises(TooManyAtOnce, match="fewer"):
        meter(teacher)(IMAGES[:8])


@pytest.mark.parametrize("limits", [[5, 3, 1], [1]], ids=str)
def test_a_limit_may_fall_on_the_way(limits):
    service, left = Service(), iter(limits)

    def teacher(images):
        if sum(service.billed) >= 4 or service.limit is None:
            service.limit = next(left, service.limit)
        return service(images)

    box = boxed(teacher)
    assert torch.equal(box.query(IMAGES).values, ANSWERS)
    assert box.ledger.total == sum(service.billed) == 24 and service.limit == 1


def test_a_meter_asks_in_as_many_requests():
    metered = meter(Service(5))
    assert torch.equal(metered(IMAGES), ANSWERS)
    assert metered.ledger.total == 24 and metered.ledger.uncertain == 0
    failing = meter(Service(5, {10: RefusedForGood("402")}))
    with pytest.raises(RefusedForGood, match="402"):
        failing(IMAGES)
    assert failing.ledger.total == 10


def test_a_look_at_the_teacher_takes_as_many_requests(tmp_path):
    service = Service(1)
    boxed(service, tmp_path).query(IMAGES[:4])
    again = boxed(service, tmp_path, on_drift="error")
    service.billed.clear()
    again.query(IMAGES[:4])
    again.query(IMAGES[4:8])
    assert service.billed == [1] * 4  # the first life kept no images to look at
    service.billed.clear()
    third = boxed(service, tmp_path, on_drift="error")
    third.query(IMAGES[:4])
    third.query(IMAGES[4:8])
    service.shift = 1.0
    with pytest.raises(TeacherChanged, match="asked again about 4 of its first images, it answers 4 otherwise"):
        third.query(IMAGES[8:])
    assert service.billed == [1] * 4 and (third.ledger.total, third.ledger.evaluation) == (8, 4)


@pytest.mark.parametrize("place", [0, 4])
def test_several_processes_count_a_question_as_a_whole(place):
    """Which they do in step: what one of them was refused on the way stays counted."""
    ledger = Ledger()
    ledger.peers = Peers(0, 2, lambda tensor: torch.cat([tensor, tensor]))
    service = Service(2, {place: Refused("503")})
    box = mekd.BlackBox(service, "logits", 3, batch_size=8, ledger=ledger)
    with pytest.raises(TeacherUnavailable) as caught:
        box.query(IMAGES[:8])
    assert isinstance(caught.value, Refused) == (place == 0)
    assert (ledger.total, ledger.uncertain) == ((0, 0) if place == 0 else (16, 16))
    assert torch.equal(box.query(IMAGES[:8]).values, ANSWERS[:8]) and ledger.total == (16 if place == 0 else 32)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("told", ["by the metadata", "by a refusal"])
def test_an_inference_server_that_takes_fewer_at_a_time(inference, proxy, tmp_path, told, wrapped, true_scores):
    if told == "by the metadata":
        inference.metadata["inputs"][0]["shape"] = [2, 1, 4, 4]
        between = proxy(None, None, "503")
    else:
        inference.limit = 2
        between = proxy(None, None, None, "503")
    for url in (between.url, inference.url):
        teacher = open_inference_teacher(url)
        box = boxed((lambda images: teacher(images)) if wrapped else teacher, tmp_path, budget=8, on_drift="ignore")  # noqa: B023
        if url == between.url:
            with pytest.raises(Refused, match="503"):
                box.query(IMAGES[:8])
            assert sum(inference.computed) == box.ledger.total == 4 and box.ledger.uncertain == 0
        else:
            assert torch.allclose(box.query(IMAGES[:8]).values, true_scores(IMAGES[:8]), atol=1e-5)
    assert sum(inference.computed) == box.ledger.total == 8 and box.ledger.uncertain == 0


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_endpoint_is_asked_about_an_image_at_a_time(replies, tmp_path, wrapped):
    billed, statuses = [], itertools.chain([200] * 3, [402], itertools.repeat(200))

    def answer(request):
        request.body()
        status = next(statuses)
        billed.extend([1] if status == 200 else [])
        request.reply(status, [{"label": "a", "score": 0.25}, {"label": "b", "score": 0.75}])

    endpoint = image_endpoint(replies(answer).url, classes=["a", "b"])

    def box():
        teacher = (lambda images: endpoint(images)) if wrapped else endpoint
        made = mekd.BlackBox(teacher, "probabilities", 2, budget=8, identity="e", on_drift="ignore")
        made.keep(tmp_path)
        return made

    first = box()
    with pytest.raises(RefusedForGood, match="402"):
        first.query(IMAGES[:8])
    assert len(billed) == first.ledger.total == 3
    first.release()
    again = box()
    assert again.query(IMAGES[:8]).values.tolist() == [[0.25, 0.75]] * 8
    assert len(billed) == again.ledger.total == 8 and again.ledger.uncertain == 0
    with pytest.raises(TooManyAtOnce, match="takes one image a call, and 2 were handed in: nothing was sent"):
        endpoint(IMAGES[:2])
