"""A service that takes one encoded image a call and answers labels with scores, as commercial labelling services do."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mekd_plugin.blackbox.remote.labels import LabelMap, labels_and_scores
from mekd_plugin.blackbox.remote.pictures import as_levels, decoded, encoded, from_levels
from mekd_plugin.blackbox.remote.service import Service
from mekd_plugin.checks import as_one_of, as_range, as_whole
from mekd_plugin.errors import InputError, MekdError, TeacherAnswerError, TooManyAtOnce

__all__ = ["ImageEndpoint", "image_endpoint"]

Parse = Callable[[Any], Iterable[tuple[str, float]]]
"""A service's JSON -> its labels with their scores."""
Body = Callable[[bytes], Any]
"""A PNG or JPEG file -> the JSON to send."""


class ImageEndpoint:
    """One image ``(1, channels, height, width)`` a call -> probabilities ``(1, C)``; for several threads.

    A :class:`~mekd_plugin.BlackBox` asks it about one image at a time, so that each call is counted by itself.

    Attributes:
        identity: the address, how images are encoded, and the classes.
        num_classes: C.
        value_range: smallest and largest pixel value of the images.
    """

    remote, images_a_call = True, 1

    def __init__(
        self,
        service: Service,
        labels: LabelMap,
        form: str,
        quality: int,
        value_range: tuple[float, float],
        body: Body | None,
        parse: Parse,
    ) -> None:
        self._service, self._labels, self._form, self._quality = service, labels, form, quality
        self._body, self._parse = body, parse
        self.value_range, self.num_classes = value_range, labels.num_classes
        how = "png" if form == "png" else f"jpeg {quality}"
        self.identity = f"{service.shown} {how} {labels.num_classes} classes"

    def as_sent(self, images: Tensor) -> Tensor:
        """``images`` as the service finds them in its files: 256 levels, and after JPEG what is left of them."""
        levels = as_levels(images, self.value_range)
        if self._form == "jpeg":
            levels = np.stack([decoded(encoded(image, "jpeg", self._quality)) for image in levels])
        return from_levels(levels, self.value_range, like=images)

    def __call__(self, images: Tensor) -> Tensor:
        """Ask about an image.

        Raises:
            Refused: the service did no work; TooManyAtOnce for several images. TeacherUnavailable: that is open.
            TeacherAnswerError: it answered something else.
        """
        if len(images) != 1:
            raise TooManyAtOnce(
                f"{self._service.shown} takes one image a call, and {len(images):,} were handed in: nothing was sent"
            )
        (levels,) = as_levels(images, self.value_range)
        content = encoded(levels, self._form, self._quality)
        kind = f"image/{self._form}"
        if self._body is not None:
            content, kind = json.dumps(self._body(content)).encode(), "application/json"
        reply = self._service.send("POST", "", content, content_type=kind)
        answer = self._service.json_of(reply.body)
        try:
            rows = [(str(label), float(score)) for label, score in self._parse(answer)]
        except MekdError:
            raise
        except Exception as error:  # parse= is anybody's code
            raise TeacherAnswerError(
                f"parse= cannot read what {self._service.shown} answered ({type(error).__name__}: {error})"
            ) from error
        return torch.from_numpy(self._labels.probabilities(rows)[None])


def image_endpoint(
    url: str,
    *,
    classes: Sequence[str] | Mapping[str, int],
    encode: str = "png",
    quality: int = 95,
    body: str | Body = "bytes",
    parse: Parse = labels_and_scores,
    top_k: int | None = None,
    min_confidence: float | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    token_from: str | None = None,
    headers_from: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> ImageEndpoint:
    """A service that labels one image a call. Nothing is asked.

    Give it to ``BlackBox(endpoint, "probabilities", endpoint.num_classes, concurrent=8, retry=Retry(jitter=0.5))``;
    with ``"hard"`` only the best label is used.

    Args:
        url: where images are posted.
        classes: the service's labels in the order of the class indices, or a mapping from labels to indices.
        encode: ``"png"``, which rounds to 256 levels, or ``"jpeg"``, which changes pixels. A bank keeps images as they
            were sent.
        quality: of JPEG, 1 to 100.
        body: ``"bytes"`` posts the file itself; ``"hugging-face"`` its JSON, ``{"inputs": base64, "parameters":
            {"top_k": ...}}``; or a function from the file's bytes to the JSON to post.
        parse: the service's JSON -> pairs of label and score; by default ``[{"label": ..., "score": ...}]``.
        top_k: how many labels an answer has at most; None where it has all of ``classes``.
        min_confidence: the score below which the service leaves labels out; None where it does not.
        value_range: smallest and largest pixel value of the images, as the black box's.
        token_from: name of the environment variable with a token, sent as ``Authorization: Bearer``.
        headers_from: further headers, each with the name of the environment variable that holds its value.
        timeout: seconds for one call.

    Raises:
        InputError: an argument cannot be used.
    """
    as_one_of("encode", encode, ("png", "jpeg"))
    if not callable(parse):
        raise InputError(f"parse={parse!r}: expected a function from the service's JSON to pairs (label, score)")
    labels = LabelMap(classes, top_k=top_k, min_confidence=min_confidence)
    made: Body | None
    if callable(body):
        made = body
    else:
        as_one_of("body", body, ("bytes", "hugging-face"))
        wanted = len(classes) if top_k is None else top_k
        made = None if body == "bytes" else lambda content: _hugging_face(content, wanted)
    service = Service(url, token_from=token_from, headers_from=headers_from, timeout=timeout)
    quality = as_whole("quality", quality, at_least=1, at_most=100, strict=True)
    return ImageEndpoint(service, labels, encode, quality, as_range("value_range", value_range), made, parse)


def _hugging_face(content: bytes, top_k: int) -> dict[str, Any]:
    return {"inputs": base64.b64encode(content).decode(), "parameters": {"top_k": top_k}}
