"""Files that carry a checksum of themselves, so that a byte that changed since they were written is found.

The checksum is a SHA-256 of the whole file with zeros in the checksum's own place. In a safetensors file it stands in
the header's metadata, where any other tool leaves it alone; equal content gives equal files.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["CHECKSUM", "check_seal", "file_checksum", "metadata_of", "seal", "seal_tensors"]

CHECKSUM = "checksum"
"""The entry of JSON, or of a safetensors file's metadata, that holds it."""
_BLANK = "0" * 64
_LENGTH = struct.Struct("<Q")  # of a safetensors file's header, which follows it


def seal(entries: Mapping[str, Any]) -> bytes:
    """JSON of ``entries``, with their checksum before them."""
    return _filled_in(json.dumps({CHECKSUM: _BLANK, **entries}, indent=1).encode())


def seal_tensors(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The safetensors file ``content`` with other ``metadata``, in sorted order, and a checksum."""
    header, data = _split(content)
    header.pop("__metadata__", None)
    sealed = {CHECKSUM: _BLANK, **dict(sorted(metadata.items()))}
    packed = json.dumps({"__metadata__": sealed, **header}, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % _LENGTH.size)
    return _filled_in(_LENGTH.pack(len(packed)) + packed + data)


def metadata_of(content: bytes) -> dict[str, str]:
    """The metadata of the safetensors file ``content``.

    Raises:
        ValueError: it is not such a file.
    """
    metadata = _split(content)[0].get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is not a mapping")
    return metadata


def check_seal(content: bytes, checksum: Any) -> None:
    """Compare ``content`` with the ``checksum`` that was read from it.

    Raises:
        ValueError: they differ, or it is not a checksum.
    """
    if not isinstance(checksum, str) or len(checksum) != len(_BLANK):
        raise ValueError("it carries no checksum")
    at = content.find(checksum.encode())
    blank = content[:at] + _BLANK.encode() + content[at + len(_BLANK) :]
    if at < 0 or hashlib.sha256(blank).hexdigest() != checksum:
        raise ValueError("its bytes are not those that were written: the checksum differs")


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _filled_in(content: bytes) -> bytes:
    return content.replace(_BLANK.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    if len(content) < _LENGTH.size:
        raise ValueError(f"it has {len(content)} bytes")
    (length,) = _LENGTH.unpack_from(content)
    header = json.loads(content[_LENGTH.size : _LENGTH.size + length])
    if not isinstance(header, dict):
        raise ValueError("its header is not a mapping")
    return header, content[_LENGTH.size + length :]
