"""The journal: answers since the last checkpoint, by the order of asking, so that none is paid for twice.

A run that was interrupted is replayed from its last checkpoint. The questions it asks again are answered from here, as
long as they are the same questions; from the end of the journal on the teacher is asked.

The file: a head (magic, an identity, the number of its first question), then records of *length, checksum, body*; a
body is a safetensors block of the answers and the questions' fingerprints. A record torn by a kill is cut on opening.
"""

from __future__ import annotations

import json
import struct
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from mekd_plugin.errors import CheckpointError, ReplayDiverged
from mekd_plugin.files import AppendedFile, writable_directory, write_atomically
from mekd_plugin.responses import Kind, Response

__all__ = ["Journal"]

_HEAD = struct.Struct("<8s16sQ")  # magic, identity, number of the first question
_RECORD = struct.Struct("<QIIQ")  # length and checksum of the body, images in it, number of the question in the ledger
_MAGIC = b"mekdjrn1"


@dataclass(frozen=True)
class _Entry:
    offset: int  # of the body in the file
    length: int
    images: int
    serial: int


class Journal:
    """Answers that were kept since the last checkpoint, keyed by the order of asking.

    Args:
        path: of the file, opened if it exists, else made.

    Raises:
        InputError: the file cannot be written.
        CheckpointError: it is damaged elsewhere than at its end, or not a journal.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = writable_directory(Path(path).parent) / Path(path).name
        self._entries: list[_Entry] = []
        if not self._path.exists() or self._path.stat().st_size < _HEAD.size:
            write_atomically(self._path, _HEAD.pack(_MAGIC, uuid.uuid4().bytes, 0))
        content = self._path.read_bytes()
        magic, identity, first = _HEAD.unpack_from(content)
        if magic != _MAGIC:
            raise CheckpointError(f"{self._path} is not a journal that this version can read: move it away")
        self.identity: str = identity.hex()
        self._first: int = first
        self._length = self._index(content)
        self._file = AppendedFile(self._path, self._length)
        self._position: int = first

    @property
    def position(self) -> int:
        """Number of the next question, a batch, counted from 0 over all lives of the run."""
        return self._position

    @property
    def first(self) -> int:
        """Number of the first question that the journal may hold an answer to: those before it were forgotten."""
        return self._first

    @property
    def end(self) -> int:
        """Number of the first question that the journal holds no answer to."""
        return self._first + len(self._entries)

    @property
    def images_ahead(self) -> int:
        """Images whose answers are kept from the present position on."""
        return sum(entry.images for entry in self._entries[max(0, self._position - self._first) :])

    @property
    def last_serial(self) -> int | None:
        """Number in the ledger of the last question whose answer was kept; None where none is, or it had no image."""
        return (self._entries[-1].serial or None) if self._entries else None

    def rewind(self, position: int) -> None:
        """Make ``position`` the number of the next question: where a checkpoint stood.

        Raises:
            ReplayDiverged: the journal has not come so far, so it is not the one of that checkpoint.
        """
        if not 0 <= position <= self.end:
            raise ReplayDiverged(
                f"position {position} of {self._path}, which ends at {self.end}: the checkpoint and the journal are "
                "not of the same run; put back the files that belong together, or start a new run"
            )
        self._position = position

    def replay(self, fingerprints: Tensor, stage: str, kind: Kind) -> Response | None:
        """The answers kept for the next question, on the CPU; None at the end of the journal.

        Raises:
            ReplayDiverged: the next question is not the one that was asked there.
        """
        if self._position == self.end:
            return None
        if self._position < self._first:
            raise ReplayDiverged(
                f"question {self._position} ({stage!r}) was asked before the last checkpoint, and its answer is no "
                f"longer kept: the journal begins at {self._first}; resume from the latest checkpoint"
            )
        tensors, about = self._read(self._entries[self._position - self._first])
        if not torch.equal(tensors["fingerprints"], fingerprints):
            raise self._diverged(f"{len(tensors['fingerprints'])} other images", about["stage"], stage)
        if about["stage"] != stage or about["kind"] != kind:
            raise self._diverged(f"{about['kind']} responses", about["stage"], f"{stage}, {kind}")
        self._position += 1
        return Response(tensors["values"], kind, int(about["num_classes"]))

    def append(self, response: Response, fingerprints: Tensor, stage: str, serial: int) -> None:
        """Keep the answers to the question at the end of the journal; on the disk when this returns."""
        body = save(
            {"values": response.values.detach().cpu().contiguous(), "fingerprints": fingerprints.contiguous()},
            metadata={"kind": response.kind, "num_classes": str(response.num_classes), "stage": stage},
        )
        head = _RECORD.pack(len(body), zlib.crc32(body), len(response), serial)
        self._file.append(head + body)
        self._entries.append(_Entry(self._length + _RECORD.size, len(body), len(response), serial))
        self._length += _RECORD.size + len(body)
        self._position += 1

    def forget(self, position: int) -> None:
        """Drop the answers before ``position``, which a checkpoint now holds the results of; atomic.

        Raises:
            ReplayDiverged: the journal has not come so far.
        """
        if position <= self._first:
            return
        if position > self.end:
            raise ReplayDiverged(f"cannot forget up to position {position} of {self._path}, which ends at {self.end}")
        dropped = self._entries[: position - self._first]
        start = dropped[-1].offset + dropped[-1].length
        with self._path.open("rb") as file:
            file.seek(start)
            rest = file.read(self._length - start)
        write_atomically(self._path, _HEAD.pack(_MAGIC, bytes.fromhex(self.identity), position) + rest)
        self._file.close()
        moved = start - _HEAD.size
        kept = self._entries[len(dropped) :]
        self._entries = [_Entry(entry.offset - moved, entry.length, entry.images, entry.serial) for entry in kept]
        self._first, self._length = position, _HEAD.size + len(rest)
        self._file = AppendedFile(self._path, self._length)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _diverged(self, before: str, stage: str, now: str) -> ReplayDiverged:
        return ReplayDiverged(
            f"the replay diverged at question {self._position}: before the interruption it asked ({stage!r}) about "
            f"{before}, now {now!r}. Nothing was sent. Resume with the code, settings, seed and thread count of the "
            "first life, or start a new run"
        )

    def _index(self, content: bytes) -> int:
        """Find the records; returns the bytes of the file up to the end of the last whole one."""
        offset = _HEAD.size
        while offset + _RECORD.size <= len(content):
            length, checksum, images, serial = _RECORD.unpack_from(content, offset)
            start, stop = offset + _RECORD.size, offset + _RECORD.size + length
            if stop > len(content):
                break
            if zlib.crc32(content[start:stop]) != checksum:
                if stop == len(content):
                    break
                raise CheckpointError(
                    f"{self._path} is damaged at question {self.end}: the answers behind it cannot be trusted; restore "
                    "the file, or start a new run in another directory"
                )
            self._entries.append(_Entry(start, length, images, serial))
            offset = stop
        return offset

    def _read(self, entry: _Entry) -> tuple[dict[str, Tensor], dict[str, str]]:
        with self._path.open("rb") as file:
            file.seek(entry.offset)
            body = file.read(entry.length)
        (size,) = struct.unpack_from("<Q", body)
        return load(body), _metadata(body[8 : 8 + size])


def _metadata(header: bytes) -> dict[str, str]:
    """What ``safetensors.torch.save`` was given as metadata: its ``load`` does not hand it back."""
    metadata: dict[str, str] = json.loads(header)["__metadata__"]
    return metadata
