"""Models behind the Open Inference Protocol v2 over HTTP: KServe, Triton, MLServer and OpenVINO Model Server speak it.

By httpx rather than by ``tritonclient``: the protocol is one JSON document and a few bytes behind it, and connections,
deadlines and errors are then counted alike for every service. The server's metadata say what goes in and comes out.
Tensors travel as bytes where the server has the extension ``binary_tensor_data``, else as JSON.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.blackbox.remote.service import Rejection, Reply, Service
from mekd_plugin.checks import as_one_of
from mekd_plugin.errors import InputError, MekdError, RefusedForGood, TeacherAnswerError, TooManyAtOnce

__all__ = ["InferenceTeacher", "TensorSpec", "open_inference_teacher"]

_DTYPES = {"BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1"}
_DTYPES |= {"INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_IMAGE_DTYPES = ("FP16", "FP32", "FP64")
_MODEL_URL = re.compile(r"(?P<server>.*)/v2/models/(?P<model>[^/?]+)(?:/versions/(?P<version>[^/?]+))?/?")
_LIMIT = re.compile(
    r"(?:<=|at most|up to|max(?:imum)?(?: is| of)?|limit(?: is| of)?|expected:?|exceeds?(?: the)?)\D{0,20}(\d+)",
    re.IGNORECASE,
)


class TensorSpec(NamedTuple):
    """A tensor of a model's metadata: its name, datatype and shape, -1 where a size is variable."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class InferenceTeacher:
    """A model of a server: images ``(N, channels, height, width)`` -> its answer ``(N, ...)``, for several threads.

    Each call is one request. Where a server takes fewer images at a time than a question of a
    :class:`~mekd_plugin.BlackBox` has, that sends several requests, and counts and keeps each by itself.

    Attributes:
        identity: model, version and what goes in and out; not the address, since a service may move.
        num_classes: C as the metadata have it; None where they do not.
        image_shape: ``(channels, height, width)``, -1 where any size goes; None where the metadata do not say.
        batch_limit: the most images of one request, by the metadata or by what the server said; None for no limit.
        url: the model's address.
    """

    remote = True

    def __init__(self, service: Service, model: str, inputs: TensorSpec, output: str | None, binary: bool) -> None:
        self._service, self._input, self._output, self._binary = service, inputs, output, binary
        self.url = service.shown
        shape = "x".join(map(str, inputs.shape))
        self.identity = f"{model}:{inputs.name}:{inputs.datatype}[{shape}]->{output or 'its-output'}"
        self.num_classes: int | None = None
        self.batch_limit: int | None = None
        sizes = inputs.shape[1:]
        self.image_shape: tuple[int, ...] | None = sizes if len(inputs.shape) == 4 else None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> np.ndarray:
        """Ask about images, in one request.

        Raises:
            Refused: the server did no work; TooManyAtOnce where it takes fewer images at a time. TeacherUnavailable:
            that is open. TeacherAnswerError: it answered something else. InputError: it takes images of another shape;
            nothing was sent.
        """
        self._check_shape(images)
        if self.batch_limit is not None and len(images) > self.batch_limit:
            raise TooManyAtOnce(
                f"{self.url} takes {self.batch_limit:,} images at a time, and {len(images):,} were handed in: nothing "
                "was sent",
                self.batch_limit,
            )
        try:
            answers = self._answers(images)
        except Rejection as rejection:
            self._learn_limit(rejection, len(images))
            raise
        if answers.ndim == 0 or len(answers) != len(images):
            raise TeacherAnswerError(
                f"{self.url} answered shape {answers.shape} about {len(images)} images: expected one answer each"
            )
        return answers

    def _answers(self, images: Tensor) -> np.ndarray:
        array = images.detach().cpu()
        array = array.float() if array.dtype == torch.bfloat16 else array
        content = np.ascontiguousarray(array.numpy().astype(_DTYPES[self._input.datatype]))
        number = str(next(self._numbers))
        tensor: dict[str, Any] = {
            "name": self._input.name,
            "shape": list(content.shape),
            "datatype": self._input.datatype,
        }
        request: dict[str, Any] = {"id": number, "inputs": [tensor]}
        if self._output is not None:
            request["outputs"] = [{"name": self._output}]
        if not self._binary:
            tensor["data"] = content.ravel().tolist()
            body = json.dumps(request, separators=(",", ":")).encode()
            return self._read(self._service.send("POST", "/infer", body, content_type="application/json"), number)
        tensor["parameters"] = {"binary_data_size": content.nbytes}
        if self._output is not None:
            request["outputs"][0]["parameters"] = {"binary_data": True}
        else:
            request["parameters"] = {"binary_data_output": True}
        head = json.dumps(request, separators=(",", ":")).encode()
        headers = {"content_type": "application/octet-stream", "inference_header_content_length": str(len(head))}
        return self._read(self._service.send("POST", "/infer", head + content.tobytes(), **headers), number)

    def _read(self, reply: Reply, number: str) -> np.ndarray:
        told = reply.headers.get("inference-header-content-length")
        length = len(reply.body) if told is None or not told.isdecimal() else int(told)
        answer = self._service.json_of(reply.body[:length], "/infer")
        outputs = answer.get("outputs") if isinstance(answer, dict) else None
        if not isinstance(outputs, list) or not all(isinstance(entry, dict) for entry in outputs):
            raise TeacherAnswerError(
                f"{self.url} answered JSON without outputs: expected the Open Inference Protocol v2"
            )
        if answer.get("id") not in (None, "", number):
            raise TeacherAnswerError(
                f"{self.url} answered for id={answer['id']!r}, and {number!r} was asked: answers of different "
                "questions are mixed up there"
            )
        rest = reply.body[length:]
        for entry in outputs:
            size = (entry.get("parameters") or {}).get("binary_data_size")
            content, rest = (None, rest) if size is None else (rest[:size], rest[size:])
            if self._output is None and len(outputs) > 1:
                break
            if self._output in (None, entry.get("name")):
                return self._array(entry, content)
        names = ", ".join(str(entry.get("name")) for entry in outputs)
        raise TeacherAnswerError(
            f"{self.url} answered {names}: expected {self._output or 'one output'}; say output=NAME"
        )

    def _array(self, entry: Mapping[str, Any], content: bytes | None) -> np.ndarray:
        datatype, shape = entry.get("datatype"), entry.get("shape")
        if datatype not in _DTYPES:
            raise TeacherAnswerError(
                f"{self.url} answered {entry.get('name')} of datatype {datatype}: expected numbers; another output may "
                "hold them, output=NAME"
            )
        try:
            dtype = np.dtype(_DTYPES[datatype])
            flat = np.array(entry["data"] if content is None else np.frombuffer(content, dtype=dtype), dtype=dtype)
            array = flat.reshape(shape)
        except (KeyError, TypeError, ValueError) as error:
            raise TeacherAnswerError(
                f"{self.url} answered {entry.get('name')} that is not {datatype} of shape {shape} ({error})"
            ) from error
        # A column of class indices is a vector of them.
        return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 and array.dtype.kind in "iu" else array

    def _check_shape(self, images: Tensor) -> None:
        wanted, given = self.image_shape, tuple(images.shape[1:])
        if wanted is None or all(size in (-1, found) for size, found in zip(wanted, given, strict=True)):
            return
        problem = f"images of {given}, and {self.url} takes {wanted}"
        if wanted[-1] in (1, 3) and wanted[0] not in (1, 3):
            raise InputError(
                f"{problem}, which is (height, width, channels): wrap it, lambda images: "
                "teacher(images.permute(0, 2, 3, 1)), and give identity=teacher.identity"
            )
        raise InputError(f"{problem}; resize or convert them, or take another teacher")

    def _learn_limit(self, rejection: Rejection, sent: int) -> None:
        """Take fewer images at a time, where their number is what the server minds.

        Raises:
            TooManyAtOnce: it is.
        """
        about_size = rejection.status == 413 or (rejection.status == 400 and "batch" in rejection.said.lower())
        if not about_size or sent == 1:
            return
        told = [int(number) for number in _LIMIT.findall(rejection.said)]
        limit = next((number for number in told if 1 <= number < sent), sent // 2)
        with self._lock:
            self.batch_limit = limit if self.batch_limit is None else min(limit, self.batch_limit)
        raise TooManyAtOnce(str(rejection), limit) from rejection


def open_inference_teacher(
    url: str,
    model: str | None = None,
    *,
    version: str | None = None,
    input: str | None = None,  # noqa: A002 (the protocol's word)
    output: str | None = None,
    binary: str = "auto",
    token_from: str | None = None,
    headers_from: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> InferenceTeacher:
    """A model behind the Open Inference Protocol v2. Its metadata are read; nothing is asked.

    Args:
        url: ``http://HOST/v2/models/NAME``, or the server's address with ``model``.
        model: its name.
        version: of the model; None leaves it to the server.
        input: the one that takes images; None where there is just one.
        output: the one to answer with; None where there is just one.
        binary: ``"auto"`` sends tensors as bytes where the server says that it takes them; ``"yes"`` or ``"no"``.
        token_from: name of the environment variable with a token, sent as ``Authorization: Bearer``.
        headers_from: further headers, each with the name of the environment variable that holds its value.
        timeout: seconds for one call.

    Raises:
        InputError: no such URL, or a model that takes something other than one batch of floating point images.
        Refused: no server answers there, or (``RefusedForGood``) it has no such model.
        MissingDependency: httpx is not installed.

    ``mekd bench --teacher http://HOST/v2/models/NAME`` does the same, with the token from the environment
    variable ``MEKD_TEACHER_TOKEN`` if that is set.
    """
    as_one_of("binary", binary, ("auto", "yes", "no"))
    given = url.rstrip("/") if isinstance(url, str) else url
    found = _MODEL_URL.fullmatch(given) if isinstance(given, str) else None
    if model is None and found is None:
        Service(url)  # whatever else is wrong with it
        raise InputError(
            f"model=None, and {Service(url).shown} names none: expected http://HOST/v2/models/NAME, or model="
        )
    if found is not None:
        given, model, version = found["server"], model or found["model"], version or found["version"]
    settings: dict[str, Any] = {"token_from": token_from, "headers_from": headers_from, "timeout": timeout}
    address = f"{given}/v2/models/{model}" + ("" if version is None else f"/versions/{version}")
    service = Service(address, **settings)
    try:
        metadata = service.get_json()
    except Rejection as rejection:
        raise RefusedForGood(f"{service.shown} names no model there: {rejection}") from rejection
    if not isinstance(metadata, dict):
        raise TeacherAnswerError(f"{service.shown} answered no metadata of a model: is it an Open Inference server?")
    chosen = _input_of(metadata, input, service.shown)
    outputs = _specs(metadata, "outputs", service.shown)
    names = [entry.name for entry in outputs]
    if output is None and len(outputs) == 1:
        output = names[0]
    if outputs and output not in names:
        raise InputError(f"output={output!r}: {service.shown} answers with {', '.join(names)}; name one of them")
    extensions = _extensions(Service(given, **settings))
    by_bytes = binary == "yes" or (binary == "auto" and "binary_tensor_data" in extensions)
    versions = [str(item) for item in metadata.get("versions") or []]
    known_as = "@".join(filter(None, [model, version or ",".join(versions)]))
    teacher = InferenceTeacher(service, known_as, chosen, output, by_bytes)
    told = next((entry.shape for entry in outputs if entry.name == output), ())
    teacher.num_classes = told[1] if len(told) == 2 and told[1] > 1 else None
    teacher.batch_limit = _limit_of(service, chosen, extensions)
    return teacher


def _input_of(metadata: Mapping[str, Any], name: str | None, shown: str) -> TensorSpec:
    inputs = _specs(metadata, "inputs", shown)
    if not inputs:  # metadata are optional on some servers
        if name is None:
            raise InputError(f"{shown} does not say what it takes: name its input, input=NAME")
        return TensorSpec(name, "FP32", ())
    listed = ", ".join(f"{entry.name}: {entry.datatype} {list(entry.shape)}" for entry in inputs)
    fitting = [entry for entry in inputs if name in (None, entry.name)]
    if len(fitting) != 1:
        raise InputError(f"input={name!r}: {shown} takes {listed}; name one of them")
    chosen = fitting[0]
    if len(inputs) > 1 or chosen.datatype not in _IMAGE_DTYPES or len(chosen.shape) not in (0, 4):
        raise InputError(
            f"{shown} takes {listed}: expected one input of floating point images (N, channels, height, width); ask it "
            "in a function of your own, and hand that in as the teacher"
        )
    return chosen


def _specs(metadata: Mapping[str, Any], name: str, shown: str) -> list[TensorSpec]:
    try:
        entries = metadata.get(name) or []
        return [
            TensorSpec(str(entry["name"]), str(entry["datatype"]), tuple(int(size) for size in entry["shape"] or ()))
            for entry in entries
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TeacherAnswerError(
            f"{shown} describes its {name} otherwise than the protocol does ({type(error).__name__}: {error}): "
            "expected name, datatype and shape of each"
        ) from error


def _extensions(server: Service) -> list[str]:
    """What the server says that it can beside the protocol's core; nothing where it does not answer that."""
    try:
        told = server.get_json("/v2")
    except MekdError:
        return []
    finally:
        server.close()
    listed = told.get("extensions") if isinstance(told, dict) else None
    return [str(item) for item in listed] if isinstance(listed, list) else []


def _limit_of(service: Service, chosen: TensorSpec, extensions: list[str]) -> int | None:
    """The most images of one request, as far as the server tells it beforehand."""
    if chosen.shape and chosen.shape[0] > 0:
        return chosen.shape[0]
    if "model_configuration" in extensions:
        try:
            most = int(service.get_json("/config").get("max_batch_size", 0))
            return most or None  # 0: batches are the model's own affair
        except (MekdError, AttributeError, TypeError, ValueError):
            return None
    return None
