"""One encoded image a call: what leaves is what the bank keeps, and a truncated answer is used as such."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import PIL.Image
import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.blackbox import Bank
from mekd_plugin.blackbox.remote import image_endpoint
from mekd_plugin.blackbox.remote.labels import LabelMap, labels_and_scores
from mekd_plugin.errors import InputError, TeacherAnswerError
from mekd_plugin.rows import Rows

LABELS = ["cat", "dog", "newt"]


def images_of(count, channels=3, size=12):
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(count, channels, 3, 3, generator=generator), size=size)
    return smooth * 2 - 1


class Labeller:
    """Speaks Hugging Face's image classification: a file, or base64 in JSON, in; the best labels out."""

    def __init__(self, replies, *, top_k=None, loading=0):
        self.received, self.kinds, self.loading = [], [], loading

        def answer(request):
            content, kind = request.body(), request.headers["Content-Type"]
            most = top_k
            if self.loading:
                self.loading -= 1
                request.reply(503, {"error": "Model is loading", "estimated_time": 0.0})
                return
            if kind == "application/json":
                asked = json.loads(content)
                content, most = base64.b64decode(asked["inputs"]), asked["parameters"]["top_k"]
            pixels = np.array(PIL.Image.open(io.BytesIO(content)))
            self.received.append(torch.from_numpy(pixels.copy()))
            self.kinds.append(kind)
            shares = np.array([pixels.mean() + 1, pixels.std() + 1, 20.0])
            rows = [
                {"label": label, "score": float(score)}
                for label, score in zip(LABELS, shares / shares.sum(), strict=True)
            ]
            request.reply(200, sorted(rows, key=lambda row: -row["score"])[:most])

        self.url = replies(answer).url + "/models/animals"

    def seen(self):
        """What it received, in no order, as the bank would keep it."""
        pixels = torch.stack(self.received).double()
        pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
        return {tuple(one.flatten().float().tolist()) for one in pixels * (2 / 255) - 1}


def boxed(endpoint, **settings):
    return mekd.BlackBox(endpoint, "probabilities", endpoint.num_classes, **settings)


@pytest.mark.parametrize("encode", ["png", "jpeg"])
@pytest.mark.parametrize("body", ["bytes", "hugging-face"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_bank_keeps_what_was_sent(replies, tmp_path, encode, body, channels):
    labeller = Labeller(replies)
    endpoint = image_endpoint(labeller.url, classes=LABELS, encode=encode, quality=60, body=body)
    box, images = boxed(endpoint, concurrent=4), images_of(9, channels)
    bank = Bank()
    bank.keep(tmp_path)
    bank.fill(box, lambda start, stop: Rows(images[start:stop]), 9, stage="bank")
    assert box.ledger.total == len(labeller.received) == 9  # one image a call, each counted by itself
    assert {tuple(one.flatten().tolist()) for one in bank.images} == labeller.seen()
    assert not torch.equal(bank.images, images)
    assert torch.allclose(bank.response.values.sum(1), torch.ones(9))
    assert set(labeller.kinds) == {f"image/{encode}" if body == "bytes" else "application/json"}
    shares = [(pixels.float().mean() + 1, pixels.float().std(correction=0) + 1, 20.0) for pixels in labeller.received]
    told = torch.tensor(shares) / torch.tensor(shares).sum(1, keepdim=True)
    found = bank.response.values
    assert torch.allclose(torch.sort(found[:, 0]).values, torch.sort(told[:, 0]).values, atol=1e-5)


def test_a_loading_model_is_waited_for_and_costs_nothing(replies):
    labeller = Labeller(replies, loading=2)
    box = boxed(image_endpoint(labeller.url, classes=LABELS), retry=mekd.Retry(attempts=3, wait=0), budget=4)
    box.query(images_of(4))
    assert box.ledger.total == len(labeller.received) == 4 and box.ledger.uncertain == 0


def test_the_best_labels_alone(replies):
    labeller = Labeller(replies, top_k=1)
    endpoint = image_endpoint(labeller.url, classes=LABELS, top_k=1)
    values = boxed(endpoint).query(images_of(4)).values
    least, _ = values.min(dim=1)
    assert torch.allclose(values.sum(1), torch.ones(4)) and bool((values.sort(dim=1).values[:, 0] == least).all())
    assert torch.allclose(values.sort(dim=1).values[:, 0], values.sort(dim=1).values[:, 1])  # the rest, evenly
    hard = mekd.BlackBox(endpoint, "hard", 3).query(images_of(4)).values
    assert torch.equal(hard, values.argmax(1))
    with pytest.raises(TeacherAnswerError, match="answered 1 of 3 labels: if it leaves some out, say which"):
        boxed(image_endpoint(labeller.url, classes=LABELS)).query(images_of(1))


def test_a_run_resumes_with_encoded_images(replies, tmp_path):
    labeller = Labeller(replies)

    def run(resume):
        torch.manual_seed(0)
        student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 3))
        endpoint = image_endpoint(labeller.url, classes=LABELS, encode="jpeg", quality=50)
        return mekd.distill(
            student,
            boxed(endpoint, budget=12, concurrent=3),
            images_of(12),
            method="kd",
            queries=12,
            recipe=mekd.Recipe(steps=2),
            directory=tmp_path,
            resume=resume,
            device="cpu",
            progress=False,
        )

    assert run(False).ledger.total == 12
    assert run(True).ledger.total == 12 and len(labeller.received) == 12


def test_what_an_upload_leaves_is_what_is_told(replies):
    images = images_of(3)
    for encode in ("png", "jpeg"):
        endpoint = image_endpoint("http://127.0.0.1:9/x", classes=LABELS, encode=encode)
        sent = endpoint.as_sent(images)
        assert sent.dtype == images.dtype and sent.shape == images.shape
        assert float((sent - images).abs().max()) < (0.5 / 127.5 + 1e-6 if encode == "png" else 0.5)
    with pytest.raises(InputError, match=r"value_range=\(0.0, 1.0\), and the teacher sends images in \(-1.0, 1.0\)"):
        boxed(endpoint, value_range=(0, 1))
    with pytest.raises(InputError, match="images of 2 channels: a JPEG has 1"):
        boxed(endpoint).query(images_of(1, 2))


@pytest.mark.parametrize(
    ("answer", "settings", "expected"),
    [
        ([("dog", 0.7), ("cat", 0.2), ("newt", 0.1)], {}, [0.2, 0.7, 0.1]),
        ([("dog", 0.6)], {"top_k": 1}, [0.2, 0.6, 0.2]),
        ([("dog", 0.6), ("newt", 0.3)], {"top_k": 2}, [0.1, 0.6, 0.3]),
        ([("dog", 0.6)], {"min_confidence": 0.25}, [0.2, 0.6, 0.2]),
        ([], {"min_confidence": 0.4}, [1 / 3] * 3),
    ],
)
def test_what_is_known_of_the_rest_is_used(answer, settings, expected):
    assert np.allclose(LabelMap(LABELS, **settings).probabilities(answer), expected)


@pytest.mark.parametrize(
    ("answer", "settings", "words"),
    [
        ([("yeti", 1.0)], {}, "'yeti', which is none of its 3 labels in classes="),
        ([("dog", 0.3)], {"top_k": 1}, "left out 2 labels, which can have 0.6 at most: expected a sum of 1"),
        ([("dog", 0.9), ("cat", 0.8), ("newt", 0.7)], {}, "scores that sum to 2.4"),
        ([("dog", 0.3)], {"min_confidence": 0.1}, "left out 2 labels, which can have 0.2 at most"),
        ([("dog", 1.3), ("cat", 0), ("newt", 0)], {}, "expected probabilities from 0 to 1"),
        ([("dog", 0.5), ("dog", 0.5)], {"top_k": 2}, "a label twice"),
        ([("dog", float("nan"))], {"top_k": 1}, "expected probabilities"),
    ],
)
def test_what_is_not_known_is_not_invented(answer, settings, words):
    with pytest.raises(TeacherAnswerError, match=words):
        LabelMap(LABELS, **settings).probabilities(answer)


def scores_of_many(total, *, told=1_000, decimals=None):
    """``told`` labels, each with a score of its own, which sum to ``total`` before they are rounded."""
    shares = np.linspace(1, 2, told)
    scores = total * shares / shares.sum()
    return [(str(label), float(s if decimals is None else round(s, decimals))) for label, s in enumerate(scores)]


@pytest.mark.parametrize(
    ("answer", "settings"),
    [
        (scores_of_many(1.9), {}),
        (scores_of_many(0.2), {}),
        (scores_of_many(1.9, told=5), {"top_k": 5}),
        (scores_of_many(1.9, told=5, decimals=3), {"top_k": 5}),
        ([*scores_of_many(1.9, told=5, decimals=3), *((str(label), 0.0) for label in range(5, 1_000))], {}),
        (scores_of_many(1.02, told=5), {"min_confidence": 0.001}),
        (scores_of_many(0.0), {}),
    ],
    ids=["above", "below", "the best", "rounded", "mostly none", "a little", "nothing"],
)
def test_scores_of_a_sigmoid_are_no_probabilities_however_many_labels_there_are(answer, settings):
    labels = LabelMap([str(label) for label in range(1_000)], **settings)
    with pytest.raises(TeacherAnswerError, match="expected a sum of 1. Scores of a sigmoid"):
        labels.probabilities(answer)


@pytest.mark.parametrize("decimals", [None, 6, 5, 4])
def test_probabilities_of_many_labels_may_be_rounded(decimals):
    labels = LabelMap([str(label) for label in range(1_000)])
    found = labels.probabilities(scores_of_many(1.0, decimals=decimals))
    assert found.shape == (1_000,) and found.sum() == pytest.approx(1)
    best = LabelMap([str(label) for label in range(1_000)], top_k=3)
    assert best.probabilities([("0", 0.34), ("1", 0.34), ("2", 0.34)])[:3] == pytest.approx(1 / 3)
    assert best.probabilities([("0", 0.95), ("1", 0.01), ("2", 0.0)])[3:].sum() == pytest.approx(0.04)


def test_several_labels_may_be_one_class():
    found = LabelMap({"cat": 0, "kitten": 0, "dog": 1}).probabilities([("kitten", 0.5), ("dog", 0.3), ("cat", 0.2)])
    assert np.allclose(found, [0.7, 0.3])


@pytest.mark.parametrize("classes", ["cats", ["a", "a"], {"a": 0, "b": 2}, ["only"], [1, 2]])
def test_what_is_no_map_of_labels(classes):
    with pytest.raises(InputError, match="classes="):
        LabelMap(classes)


@pytest.mark.parametrize("answer", [{"error": "x"}, [{"label": "a"}], "cat", [1], [[{"label": "a", "score": "x"}]]])
def test_what_is_no_list_of_labels(answer):
    with pytest.raises(TeacherAnswerError, match="answered no labels with scores"):
        labels_and_scores(answer)


def test_any_other_form_is_read_by_a_function(replies):
    def answer(request):
        assert json.loads(request.body())["image"]
        request.reply(200, {"tags": {"cat": 0.25, "dog": 0.75}})

    url = replies(answer).url

    def body(content):
        return {"image": content.hex()}

    endpoint = image_endpoint(url, classes=["cat", "dog"], body=body, parse=lambda told: told["tags"].items())
    assert torch.allclose(boxed(endpoint).query(images_of(1)).values, torch.tensor([[0.25, 0.75]]))
    wrong = image_endpoint(url, classes=["cat", "dog"], body=body, parse=lambda told: told["labels"])
    with pytest.raises(TeacherAnswerError, match="parse= cannot read what http.*KeyError: 'labels'"):
        boxed(wrong).query(images_of(1))
