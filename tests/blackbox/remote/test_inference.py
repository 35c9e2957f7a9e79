"""The Open Inference Protocol: what is learnt from the metadata, what is said of what cannot be used."""

from __future__ import annotations

import json
import logging
import re
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.blackbox.remote import open_inference_teacher
from mekd_plugin.errors import InputError, Refused, RefusedForGood, TeacherAnswerError, TeacherUnavailable


def images_of(count, seed=0):
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_metadata_say_what_goes_in_and_comes_out(inference, true_scores):
    inference.versions = ["7"]
    teacher = open_inference_teacher(inference.url)
    assert (teacher.num_classes, teacher.image_shape, teacher.batch_limit) == (3, (1, 4, 4), None)
    assert teacher.identity == "digits@7:images:FP32[-1x1x4x4]->logits"
    assert inference.computed == []  # nothing was asked
    images = images_of(10)
    box = mekd.BlackBox(teacher, "logits", 3, batch_size=4)
    assert torch.allclose(box.query(images).values, true_scores(images), atol=1e-5)
    assert inference.computed == [4, 4, 2] and box.ledger.total == 10
    ports = {headers["Host"] for _, headers, _ in inference.requests}
    assert len(ports) == 1 and all(path == "/v2/models/digits/infer" for path, _, _ in inference.requests)


def test_a_server_and_a_model_by_name(inference):
    server = inference.url.removesuffix("/v2/models/digits")
    assert open_inference_teacher(server, "digits").url == inference.url
    with pytest.raises(InputError, match=r"names none: expected http://HOST/v2/models/NAME, or model="):
        open_inference_teacher(server)


@pytest.mark.parametrize(
    "says", ["inference request batch-size must be <= {limit} for 'digits'", "the batch is too large for me"]
)
def test_a_batch_limit_is_learnt_from_the_refusal(inference, true_scores, says):
    inference.limit, inference.says = 3, says
    teacher = open_inference_teacher(inference.url)
    box, images = mekd.BlackBox(teacher, "logits", 3, batch_size=8), images_of(16)
    assert torch.allclose(box.query(images).values, true_scores(images), atol=1e-5)
    assert teacher.batch_limit == (3 if "<=" in says else 2)
    assert sum(inference.computed) == box.ledger.total == 16 and box.ledger.uncertain == 0


def test_a_batch_limit_is_found_in_the_metadata(inference):
    inference.metadata["inputs"][0]["shape"] = [2, 1, 4, 4]
    teacher = open_inference_teacher(inference.url)
    mekd.BlackBox(teacher, "logits", 3).query(images_of(5))
    assert teacher.batch_limit == 2 and inference.computed == [2, 2, 1]


def test_parts_of_a_question_that_were_answered_are_not_bought_again(inference, proxy):
    inference.limit = 2
    before = proxy(None, None, None, "503")  # the limit is learnt, two parts are answered, the third is refused
    teacher = open_inference_teacher(before.url)
    box = mekd.BlackBox(teacher, "logits", 3, batch_size=8, retry=mekd.Retry(attempts=2, wait=0))
    box.query(images_of(8))
    assert sum(inference.computed) == 8


@pytest.mark.parametrize("door", ["0-dimensional", "logits", "labels"])
def test_tensors_by_bytes(replies, door):
    """A server with binary tensors: JSON in front, as long as its header says, and bytes behind."""

    def answer(request):
        if request.command == "GET":
            extensions = {"extensions": ["binary_tensor_data"]}
            tensors = {
                "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 4, 4]}],
                "outputs": [{"name": "out", "datatype": "FP32", "shape": [-1, 3]}],
            }
            request.reply(200, extensions if request.path == "/v2" else tensors)
            return
        content, length = request.body(), int(request.headers["Inference-Header-Content-Length"])
        head = json.loads(content[:length])
        (tensor,) = head["inputs"]
        pixels = np.frombuffer(content[length:], dtype="<f4").reshape(tensor["shape"])
        assert tensor["parameters"]["binary_data_size"] == pixels.nbytes
        found = pixels.reshape(len(pixels), -1)[:, :3]
        datatype = "FP32"
        if door == "labels":
            found, datatype = found.argmax(axis=1, keepdims=True).astype("<i8"), "INT64"
        entry = {"name": "out", "datatype": datatype, "shape": list(found.shape)}
        entry["parameters"] = {"binary_data_size": found.nbytes}
        if door == "0-dimensional":
            entry["shape"] = []
        front = json.dumps({"id": head["id"], "outputs": [entry]}).encode()
        request.reply(200, front + found.tobytes(), inference_header_content_length=str(len(front)))

    teacher = open_inference_teacher(replies(answer).url, "m")
    images = images_of(4)
    kind = "hard" if door == "labels" else "logits"
    if door == "0-dimensional":
        with pytest.raises(TeacherAnswerError, match=r"answered out that is not FP32 of shape \[\]"):
            mekd.BlackBox(teacher, kind, 3).query(images)
        return
    told = mekd.BlackBox(teacher, kind, 3).query(images).values
    assert torch.equal(told, images.flatten(1)[:, :3].argmax(1) if door == "labels" else images.flatten(1)[:, :3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [-1, 1]}]},
            r"takes images: BYTES \[-1, 1\]: expec",
        ),
        ({"inputs": [{"name": "a", "datatype": "FP32", "shape": [-1, 3]}] * 2}, "input=None.*name one of them"),
        ({"inputs": []}, "does not say what it takes: name its input"),
        ({"outputs": [{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in "ab"]}, "output=None.*a, b"),
    ],
    ids=["datatype", "two inputs", "no input", "two outputs"],
)
def test_what_is_no_image_classifier_is_refused(inference, change, words):
    inference.metadata |= change
    with pytest.raises(InputError, match=words):
        open_inference_teacher(inference.url)
    assert not inference.requests


def test_images_of_another_shape_are_not_sent(inference):
    box = mekd.BlackBox(open_inference_teacher(inference.url), "logits", 3)
    with pytest.raises(InputError, match=r"images of \(1, 5, 5\), and http.*/digits takes \(1, 4, 4\)"):
        box.query(torch.zeros(2, 1, 5, 5))
    inference.metadata["inputs"][0]["shape"] = [-1, 4, 4, 1]
    with pytest.raises(InputError, match=r"is \(height, width, channels\): wrap it"):
        mekd.BlackBox(open_inference_teacher(inference.url), "logits", 3).query(images_of(2))
    assert not inference.requests


def test_no_server_and_no_such_model(inference):
    with pytest.raises(RefusedForGood, match=r"/v2/models/digitz names no model there.*404.*no /v2/models/digitz here"):
        open_inference_teacher(inference.url.replace("digits", "digitz"))
    inference.server.shutdown()
    inference.server.server_close()
    with pytest.raises(
        Refused, match=r"GET http://127.0.0.1:\d+/v2/models/digits: no connection.*Is the server running"
    ):
        open_inference_teacher(inference.url)


@pytest.mark.parametrize("url", ["digits", "ftp://host/x", "http://", None, 3])
def test_what_is_no_url(url):
    with pytest.raises(InputError, match="expected http://HOST"):
        open_inference_teacher(url)


@pytest.mark.parametrize("url", ["http://me:hunter2@h/v2/models/m", "http://h/v2/models/m?api_key=hunter2"])
def test_secrets_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="URLs are written down") as caught:
        open_inference_teacher(url)
    assert "hunter2" not in str(caught.value)


def test_a_token_comes_from_the_environment_and_stays_out_of_all_files(inference, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("THE_TOKEN", "hunter2-hunter2")
    teacher = open_inference_teacher(inference.url, token_from="THE_TOKEN", headers_from={"X-Key": "THE_TOKEN"})
    box = mekd.BlackBox(teacher, "logits", 3, batch_size=4)
    box.keep(tmp_path)
    box.query(images_of(6))
    box.release()
    headers = inference.requests[0][1]
    assert headers["Authorization"] == "Bearer hunter2-hunter2" and headers["X-Key"] == "hunter2-hunter2"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter2" not in written and "hunter2" not in caplog.text
    assert "hunter2" not in f"{teacher!r} {box!r} {vars(teacher)!r} {teacher.identity}"
    with pytest.raises(InputError, match="variable 'NO_SUCH', which is not set"):
        open_inference_teacher(inference.url, token_from="NO_SUCH")


def asked(url, **settings):
    """What goes wrong with a server that answers metadata like others do."""
    return mekd.BlackBox(open_inference_teacher(url, "m", **settings), "logits", 3, batch_size=4)


METADATA = {"inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]}
BAD = {
    "an HTML page": (200, b"<!DOCTYPE html><p>Welcome", {}, TeacherAnswerError, "an HTML page in place of whole JSON"),
    "half of the JSON": (200, b'{"outputs": [{"na', {}, TeacherAnswerError, "17 bytes in place of whole JSON"),
    "no outputs": (200, b"{}", {}, TeacherAnswerError, "JSON without outputs"),
    "elsewhere": (
        307,
        b"",
        {"location": "https://evil.example/x?k=1"},
        RefusedForGood,
        "sends on to evil.example: redir",
    ),
    "wrong credentials": (
        401,
        b'{"error": "bad token hunter2-hunter2"}',
        {},
        RefusedForGood,
        r"401 \(bad token \*\*\*\)",
    ),
    "not found": (404, b'{"error": "no model"}', {}, RefusedForGood, r"404 \(no model\): it did no work"),
    "a crash": (
        500,
        b'{"error": "boom"}',
        {},
        TeacherUnavailable,
        r"500 \(boom\); whether it did any work is not known",
    ),
    "no balance": (402, b'{"error": "pay"}', {}, RefusedForGood, r"402 \(pay\): the account is exhausted"),
    "no balance, as 429": (
        429,
        b'{"error": {"message": "pay", "code": "insufficient_quota"}}',
        {},
        RefusedForGood,
        "the account is exhausted",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_replies_that_are_no_answer(replies, monkeypatch, case):
    status, content, headers, error, words = BAD[case]
    monkeypatch.setenv("THE_TOKEN", "hunter2-hunter2")
    seen = []

    def answer(request):
        if request.command == "GET":
            request.reply(200, METADATA)
            return
        request.body()
        seen.append(request.path)
        request.reply(status, content, **headers)

    box = asked(replies(answer).url, token_from="THE_TOKEN")
    with pytest.raises(error, match=words) as caught:
        box.query(images_of(4))
    assert "hunter2" not in str(caught.value) and len(seen) == 1
    no_work = issubclass(error, Refused)
    assert (box.ledger.total, box.ledger.uncertain) == ((0, 0) if no_work else (4, 4))


def test_an_html_page_where_metadata_should_be(replies):
    server = replies(lambda request: request.reply(200, b"<html><body>Welcome to nginx!</body></html>"))
    with pytest.raises(TeacherAnswerError, match=r"answered an HTML page in place of whole JSON.*Welcome to nginx"):
        open_inference_teacher(server.url, "m")


def test_a_certificate_that_nobody_knows(tmp_path):
    """A server with a certificate of its own making, as on the first day in an intranet."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 1 -subj /CN=localhost"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.handle_error = lambda *about: None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        with pytest.raises(RefusedForGood, match="the certificate cannot be trusted.*SSL_CERT_FILE"):
            open_inference_teacher(f"https://127.0.0.1:{server.server_port}/v2/models/m")
    finally:
        server.shutdown()
        server.server_close()


def test_what_the_service_says_of_its_limits_is_waited_for(replies, monkeypatch):
    """On a clock of the test's own."""
    slept, sent = [], []
    monkeypatch.setattr("mekd_plugin.blackbox.remote.service.time.sleep", lambda seconds: slept.append(seconds))

    def answer(request):
        if request.command == "GET":
            request.reply(200, METADATA)
            return
        body = json.loads(request.body())
        sent.append(len(sent))
        output = {"name": "x", "datatype": "FP32", "shape": [4, 3], "data": [0.5] * 12}
        limits = (
            {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "1m30s"} if len(sent) == 1 else {}
        )
        request.reply(200, {"id": body["id"], "outputs": [output]}, **limits)

    asked(replies(answer).url).query(images_of(8))
    assert len(sent) == 2 and 60 < max(slept) <= 90 and sum(seconds > 0 for seconds in slept) == 1


def test_retry_after_is_waited_for(inference, proxy, monkeypatch):
    slept = []
    monkeypatch.setattr("mekd_plugin.blackbox.patience.time.sleep", lambda seconds: slept.append(seconds))

    class Told(Refused):
        retry_after = 17.0

    errors = [Told("429"), Refused("503")]

    def teacher(images):
        if errors:
            raise errors.pop(0)
        return torch.zeros(len(images), 3)

    mekd.BlackBox(teacher, "logits", 3, retry=mekd.Retry(attempts=3, wait=1)).query(images_of(2))
    assert slept == [17.0, 2.0]
    errors[:] = [Told("429")]
    errors[0].retry_after = 7200.0  # such a run is better resumed
    with pytest.raises(Refused, match="429"):
        mekd.BlackBox(teacher, "logits", 3, retry=mekd.Retry(attempts=3, wait=1)).query(images_of(2))
    slept.clear()
    errors[:] = [Refused("503")]
    mekd.BlackBox(teacher, "logits", 3, retry=mekd.Retry(attempts=3, wait=1, jitter=0.5)).query(images_of(2))
    assert len(slept) == 1 and 1.0 <= slept[0] <= 1.5


def test_a_url_names_a_teacher_on_the_command_line(inference, tmp_path):
    from typer.testing import CliRunner

    from mekd_plugin.cli import app

    inference.metadata["inputs"][0]["shape"] = [-1, 1, 8, 8]
    inference.metadata["outputs"][0]["shape"] = [-1, 10]
    words = ["distill", "--teacher", inference.url, "--out", str(tmp_path / "run"), "--dataset", "digits"]
    words += ["--image-size", "8", "--student", "resnet8", "--method", "kd", "--query-budget", "60", "--steps", "4"]
    told = CliRunner().invoke(app, [*words, "--dry-run"])
    assert told.exit_code == 0, told.output
    assert "Nothing was asked" in told.output and not inference.requests
    refused = CliRunner().invoke(app, [*words[:2], inference.url.replace("digits", "x"), *words[3:], "--dry-run"])
    assert isinstance(refused.exception, RefusedForGood) and re.search("names no model there", str(refused.exception))
    wrong = CliRunner().invoke(app, [*words, "--dry-run", "--image-size", "16"])
    assert "answers about 10 classes and images of (1, 8, 8)" in str(wrong.exception)
