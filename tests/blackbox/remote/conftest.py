"""A small, real server of the Open Inference Protocol that knows what it computed; a proxy that spoils replies."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from torch import Tensor

collect_ignore = ["servers"]  # they run in environments of their own
SHAPE, CLASSES = (1, 4, 4), 3


def scores(images: Tensor) -> Tensor:
    weights = torch.linspace(-20, 20, 48).sin().view(16, 3)
    return images.flatten(1).float() @ weights


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status: int, content: bytes | dict[str, Any] | list[Any], **headers: str) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = {"content_type": "application/json", **headers}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def serve(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class Inference:
    """A model named ``digits``; its attributes say what it minds, and what came in."""

    def __init__(self) -> None:
        self.computed: list[int] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.limit: int | None = None
        self.says = "inference request batch-size must be <= {limit} for 'digits'"
        self.shift = 0.0
        self.versions: list[str] = []
        self.metadata: dict[str, Any] = {
            "name": "digits",
            "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, *SHAPE]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}],
        }
        self.lock = threading.Lock()
        model = self

        class Handler(Quiet):
            def do_GET(self) -> None:
                if self.path == "/v2/models/digits":
                    self.reply(200, {**model.metadata, "versions": model.versions})
                else:
                    self.reply(404, {"error": f"no {self.path} here"})

            def do_POST(self) -> None:
                content = self.body()
                with model.lock:
                    model.requests.append((self.path, dict(self.headers), content))
                request = json.loads(content)
                (tensor,) = request["inputs"]
                count = tensor["shape"][0]
                if model.limit is not None and count > model.limit:
                    self.reply(400, {"error": model.says.format(limit=model.limit)})
                    return
                with model.lock:
                    model.computed.append(count)
                found = scores(torch.tensor(tensor["data"]).reshape(tensor["shape"])) + model.shift
                output = {"name": "logits", "datatype": "FP32", "shape": list(found.shape)}
                self.reply(200, {"id": request["id"], "outputs": [{**output, "data": found.flatten().tolist()}]})

        self.server = serve(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v2/models/digits"


FAULTS = ("503", "429", "reset before", "reset after", "half", "NaN", "other batch", "silence", "other id")


class Proxy:
    """Stands before a server; ``faults`` are taken one a question, None lets it through."""

    def __init__(self, port: int, faults: Iterator[str | None], silence: float = 2.5) -> None:
        self.seen: list[str | None] = []
        lock = threading.Lock()
        proxy = self

        class Handler(Quiet):
            def do_GET(self) -> None:
                self.reply(*self.forward("GET", b""))

            def do_POST(self) -> None:
                content = self.body()
                with lock:
                    fault = next(faults, None)
                    proxy.seen.append(fault)
                if fault == "503":
                    self.reply(503, {"error": "overloaded"})
                    return
                if fault == "429":
                    self.reply(429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, retry_after="0")
                    return
                if fault == "reset before":
                    self.reset()
                    return
                status, answer = self.forward("POST", content)
                if fault == "reset after":
                    self.reset()
                elif fault == "silence":
                    time.sleep(silence)
                    self.reset()
                elif fault == "half":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer[: len(answer) // 2])
                    self.close_connection = True
                elif fault is None:
                    self.reply(status, answer)
                else:
                    self.reply(status, json.dumps(spoilt(json.loads(answer), fault)).encode())

            def forward(self, method: str, content: bytes) -> tuple[int, bytes]:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                try:
                    connection.request(method, self.path, content, {"Content-Type": "application/json"})
                    reply = connection.getresponse()
                    return reply.status, reply.read()
                finally:
                    connection.close()

            def reset(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

            def finish(self) -> None:
                try:
                    super().finish()
                except OSError:
                    pass  # the connection that was reset

        self.server = serve(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v2/models/digits"


def spoilt(answer: dict[str, Any], fault: str) -> dict[str, Any]:
    output = answer["outputs"][0]
    if fault == "NaN":
        output["data"][0] = float("nan")
    elif fault == "other batch":
        rows, classes = output["shape"]
        output["shape"], output["data"] = [rows + 1, classes], [*output["data"], *output["data"][:classes]]
    elif fault == "other id":
        answer["id"] = "somebody else's"
    return answer


@pytest.fixture
def inference() -> Iterator[Inference]:
    model = Inference()
    yield model
    model.server.shutdown()
    model.server.server_close()


@pytest.fixture
def proxy(inference: Inference) -> Iterator[Callable[..., Proxy]]:
    made: list[Proxy] = []

    def make(*faults: str | None, port: int | None = None, then: Iterator[str | None] | None = None, **settings: Any):
        chosen = itertools.chain(faults, then or iter(()))
        made.append(Proxy(port or inference.server.server_port, chosen, **settings))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture
def replies() -> Iterator[Callable[..., Any]]:
    """``replies(handler)``: a server whose POST and GET are answered by ``handler(request)``; gives the server."""
    made: list[ThreadingHTTPServer] = []

    def make(answer: Callable[[Quiet], None]) -> ThreadingHTTPServer:
        class Handler(Quiet):
            def do_POST(self) -> None:
                answer(self)

            do_GET = do_POST

        made.append(serve(Handler))
        made[-1].url = f"http://127.0.0.1:{made[-1].server_port}"
        return made[-1]

    yield make
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.fixture
def true_scores() -> Callable[[Tensor], Tensor]:
    return scores


@pytest.fixture
def faults() -> tuple[str, ...]:
    return FAULTS
