"""The journal: the answers since the last checkpoint, in the order of asking, so that none is paid for twice.

An interrupted run is replayed from its last checkpoint. The journal answers the questions that it asks again, provided
that they are the same questions; after the journal's last answer, the teacher is asked.

The file is a head (the teacher, the number of the first question, what was asked before it) and then records of
*length, checksum, body*; a body is a safetensors block of answers and fingerprints of the images. Heads and bodies
carry checksums. A record that a kill cut short is removed when the file is opened.
"""

from __future__ import annotations

import json
import struct
import uuid
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from mekd_plugin.blackbox.spending import Question
from mekd_plugin.errors import CheckpointError, ReplayDiverged
from mekd_plugin.files import AppendedFile, writable_directory, write_atomically
from mekd_plugin.responses import Kind, Response

__all__ = ["Forgotten", "Journal"]

_START = struct.Struct("<8sII")  # magic; length and checksum of the head, which is JSON
_RECORD = struct.Struct("<QIIQBI")  # length and checksum of the body, images, question's number, flags; own checksum
_EVALUATION, _EARLY, _GOES_ON = 1, 2, 4
_MAGIC = b"mekdjrn2"


@dataclass(frozen=True)
class _Entry:
    offset: int  # of the body in the file
    length: int
    images: int
    serial: int
    evaluation: bool
    early: bool = False
    goes_on: bool = False  # whether it is about the first images of a question, and the others were asked about apart


class Forgotten(NamedTuple):
    """What was asked before the journal's first question.

    Answers that were given up are among it, and with them every question up to theirs, kept or not.

    Attributes:
        serial: number in the ledger of the last question with images; 0 for none.
        questions: images whose answers were kept, by stage.
    """

    serial: int = 0
    questions: tuple[Question, ...] = ()


class Journal:
    """The answers since the last checkpoint, in the order of asking.

    Args:
        path: of the file, which is created if it does not exist.
        teacher: the identity of the teacher that answers; None if it is not known.

    Attributes:
        strict: whether another question than the one that was asked there is an error. A loop that is not ours may ask
            otherwise after an interruption: the answers that are left are then given up, with a warning, and what is
            asked in their place is kept instead.

    Raises:
        InputError: the file cannot be written.
        CheckpointError: it is damaged before its last record, is not a journal, or holds another teacher's answers.
    """

    def __init__(self, path: str | Path, teacher: str | None = None) -> None:
        self._path = writable_directory(Path(path).parent) / Path(path).name
        self.strict = True
        self._entries: list[_Entry] = []
        self._early: list[_Entry] = []  # answers to questions that come later than one without an answer
        if not self._path.exists() or self._path.stat().st_size < _START.size:
            write_atomically(self._path, _head(uuid.uuid4().hex, 0, Forgotten(), teacher))
        content = self._path.read_bytes()
        head, self._start = self._read_head(content)
        self.identity: str = head["identity"]
        self._teacher: str | None = head["teacher"]
        self._first: int = head["first"]
        self._forgotten = Forgotten(head["serial"], tuple(Question(*question) for question in head["asked"]))
        if teacher is not None and self._teacher not in (None, teacher):
            raise CheckpointError(
                f"{self._path} holds answers of the teacher {self._teacher}, and {teacher} is asked now: resume with "
                "the same teacher, or start a new run in another directory"
            )
        self._length = self._index(content)
        self._file = AppendedFile(self._path, self._length)
        self._position: int = self._first

    @property
    def position(self) -> int:
        """Number of the next question, counted from 0 since the run first began; a question is a batch."""
        return self._position

    @property
    def first(self) -> int:
        """Number of the first question whose answers are kept; those before it were forgotten."""
        return self._first

    @property
    def end(self) -> int:
        """Number of the first question that has no answers yet."""
        return self._first + len(self._entries)

    @property
    def images_ahead(self) -> int:
        """How many images the questions from :attr:`position` on are about, those answered early among them."""
        ahead = self._entries[max(0, self._position - self._first) :]
        return sum(entry.images for entry in [*ahead, *self._early])

    @property
    def has_early(self) -> bool:
        """Whether there are answers to questions whose turn has not come yet."""
        return bool(self._early)

    @property
    def last_serial(self) -> int | None:
        """The ledger's number of the last question with images that was answered; None if there was none."""
        return max([self._forgotten.serial, *self.serials]) or None

    @property
    def serials(self) -> frozenset[int]:
        """The ledger's numbers of the questions whose answers are kept here."""
        return frozenset(entry.serial for entry in [*self._entries, *self._early])

    @property
    def forgotten(self) -> Forgotten:
        """What was asked before :attr:`first`, or given up."""
        return self._forgotten

    def questions_after(self, serial: int) -> Iterator[tuple[int, Question, np.ndarray]]:
        """Each later question: its number in the ledger, itself, and the fingerprints of its images."""
        for entry in sorted([*self._entries, *self._early], key=lambda entry: entry.serial):
            if entry.serial > serial:
                tensors, about = self._read(entry)
                yield (
                    entry.serial,
                    Question(about["stage"], entry.images, entry.evaluation),
                    tensors["fingerprints"].numpy(),
                )

    def rewind(self, position: int) -> None:
        """Go back to question ``position``, the next one when a checkpoint was written.

        Raises:
            ReplayDiverged: the journal ends before it, so it does not belong to that checkpoint.
        """
        if not 0 <= position <= self.end:
            raise ReplayDiverged(
                f"position {position} of {self._path}, which ends at {self.end}: the checkpoint and the journal do not "
                "belong to the same run; restore files that belong together, or start a new run"
            )
        self._position = position

    def replay(self, fingerprints: Tensor, stage: str, kind: Kind, evaluation: bool = False) -> Response | None:
        """The kept answers to the next question, on the CPU; None at the end of the journal, unless it came early.

        Where a question was asked in parts, these are the answers to its first ones, and the rest is the next question.

        Raises:
            ReplayDiverged: another question was asked at this position, and the journal is strict.
        """
        if self._position == self.end:
            return self._take_early(fingerprints, stage, kind, evaluation)
        if self._position < self._first:
            raise ReplayDiverged(
                f"question {self._position} ({stage!r}) was asked before the last checkpoint, and its answer is no "
                f"longer kept: the journal begins at question {self._first}. Nothing was sent. Put a copy of "
                "the checkpoint back; without one, a stage that asks at every step has to start in a new directory"
            )
        entry = self._entries[self._position - self._first]
        tensors, about = self._read(entry)
        error = self._difference(entry, tensors, about, fingerprints, stage, kind, evaluation)
        if error is not None:
            if self.strict:
                raise error
            warnings.warn(
                f"the loop that was interrupted asks other questions now: {self.images_ahead:,} answers that were paid "
                f"for are given up, and the teacher is asked from here on ({stage!r}). They count all the same",
                stacklevel=2,
            )
            self._give_up()
            return self._take_early(fingerprints, stage, kind, evaluation)
        self._position += 1
        return Response(tensors["values"], kind, int(about["num_classes"]))

    def kept(self, parts: Iterable[Tensor], stage: str, kind: Kind, evaluation: bool = False) -> int:
        """How many images the next questions are about whose answers are kept, where ``parts`` are to be asked.

        What was answered in its turn answers whatever comes next if the journal is strict, or raises an error; else
        only what it was asked before. What came early answers its own question alone.

        Args:
            parts: the fingerprints of each question.
            stage: theirs.
            kind: of the answers.
            evaluation: whether they are evaluations.
        """
        parts = list(parts)
        ahead = self._entries[max(0, self._position - self._first) :]
        if self.strict:
            count = min(sum(entry.images for entry in ahead), sum(map(len, parts)))
        else:
            count, left = 0, iter(ahead)
            for part in parts:
                rest = part
                while len(rest) and (entry := next(left, None)) is not None:
                    if self._difference(entry, *self._read(entry), rest, stage, kind, evaluation) is not None:
                        return count
                    rest = rest[entry.images :]
                    count += entry.images
        return count + int(self._is_early(parts, stage, kind, evaluation, after=count).sum())

    def early_from(self, fingerprints: Tensor, stage: str, kind: Kind, evaluation: bool = False) -> int:
        """At which image of a question the first part begins that was answered early; how many it has, if none was."""
        found = self._is_early([fingerprints], stage, kind, evaluation).nonzero()
        return int(found[0]) if len(found) else len(fingerprints)

    def _is_early(self, parts: list[Tensor], stage: str, kind: Kind, evaluation: bool, *, after: int = 0) -> Tensor:
        """Of each image of the questions ``parts``, whether its answer came early; an answer serves one question.

        The images before ``after`` have answers already.
        """
        ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        found = torch.zeros(sum(map(len, parts)), dtype=torch.bool)
        for entry in self._early:
            tensors, about = self._read(entry)
            prints = tensors["fingerprints"]
            if (about["stage"], about["kind"], entry.evaluation) != (stage, kind, evaluation):
                continue
            whole = torch.cat(parts) if parts else prints[:0]
            for start in (whole == prints[0]).nonzero().flatten().tolist():
                stop = start + entry.images
                end = int(ends[torch.searchsorted(ends, start, right=True)])  # of the question
                in_one = stop <= end if entry.goes_on else stop == end
                if in_one and start >= after and torch.equal(whole[start:stop], prints) and not found[start:stop].any():
                    found[start:stop] = True
                    break
        return found

    def _difference(
        self,
        entry: _Entry,
        tensors: dict[str, Tensor],
        about: dict[str, str],
        fingerprints: Tensor,
        stage: str,
        kind: Kind,
        evaluation: bool,
    ) -> ReplayDiverged | None:
        """How a question differs from the one that was asked in its place; None if it is the same."""
        asked = fingerprints[: entry.images] if entry.goes_on else fingerprints
        if not torch.equal(tensors["fingerprints"], asked):
            return self._diverged(f"{len(tensors['fingerprints'])} other images", about["stage"], stage)
        if about["stage"] != stage or about["kind"] != kind:
            return self._diverged(f"{about['kind']} responses", about["stage"], f"{stage}, {kind}")
        if entry.evaluation != evaluation:
            paid = {True: "an evaluation", False: "what counts against the budget"}
            return self._diverged(paid[entry.evaluation], about["stage"], paid[evaluation])
        return None

    def _take_early(self, fingerprints: Tensor, stage: str, kind: Kind, evaluation: bool) -> Response | None:
        """The answers to this question, if they came before its turn; they take their place in the order of asking."""
        for entry in self._early:
            tensors, about = self._read(entry)
            if self._difference(entry, tensors, about, fingerprints, stage, kind, evaluation) is None:
                response = Response(tensors["values"], kind, int(about["num_classes"]))
                prints, flags = tensors["fingerprints"], {"evaluation": evaluation, "goes_on": entry.goes_on}
                self.append(response, prints, stage, entry.serial, **flags)
                self._early.remove(entry)
                return response
        return None

    def append(
        self,
        response: Response,
        fingerprints: Tensor,
        stage: str,
        serial: int,
        *,
        evaluation: bool = False,
        early: bool = False,
        goes_on: bool = False,
    ) -> None:
        """Add the answers to a new question; they are on the disk when this returns.

        Those that are ``early`` answer a question whose turn comes later: one that is open at the same time, and
        before it, has failed. If a question ``goes_on``, these are the answers to a part of it that others follow.
        """
        body = save(
            {"values": response.values.detach().cpu().contiguous(), "fingerprints": fingerprints.contiguous()},
            metadata={"kind": response.kind, "num_classes": str(response.num_classes), "stage": stage},
        )
        flags = _EVALUATION * evaluation + _EARLY * early + _GOES_ON * goes_on
        head = _RECORD.pack(len(body), zlib.crc32(body), len(response), serial, flags, 0)[:-4]
        self._file.append(head + struct.pack("<I", zlib.crc32(head)) + body, at=self._length)
        entry = _Entry(self._length + _RECORD.size, len(body), len(response), serial, evaluation, early, goes_on)
        (self._early if early else self._entries).append(entry)
        self._length += _RECORD.size + len(body)
        self._position += not early

    def forget(self, position: int) -> None:
        """Drop, atomically, the answers before ``position``: a checkpoint holds what came of them.

        Raises:
            ReplayDiverged: the journal ends before ``position``.
        """
        if position <= self._first:
            return
        if position > self.end:
            raise ReplayDiverged(f"cannot forget up to position {position} of {self._path}, which ends at {self.end}")
        dropped, kept = self._entries[: position - self._first], self._entries[position - self._first :]
        start = dropped[-1].offset + dropped[-1].length
        passed = [entry for entry in self._early if entry.offset < start]
        self._early = [entry for entry in self._early if entry.offset >= start]
        self._rewrite(position, kept, self._with([*dropped, *passed]), start, self._length)

    def _give_up(self) -> None:
        """Drop the answers from :attr:`position` on; the head goes on counting them."""
        kept, dropped = self._entries[: self._position - self._first], self._entries[self._position - self._first :]
        stop = dropped[0].offset - _RECORD.size
        given_up = [*self._entries, *self._early]
        self._early = [entry for entry in self._early if entry.offset < stop]
        self._rewrite(self._first, kept, self._with(given_up), self._start, stop)

    def _rewrite(self, first: int, entries: list[_Entry], forgotten: Forgotten, start: int, stop: int) -> None:
        """Put a new head before the bytes from ``start`` to ``stop``, which hold ``entries``, atomically."""
        with self._path.open("rb") as file:
            file.seek(start)
            rest = file.read(stop - start)
        head = _head(self.identity, first, forgotten, self._teacher)
        write_atomically(self._path, head + rest)
        self._file.close()
        moved = start - len(head)
        self._entries = [replace(entry, offset=entry.offset - moved) for entry in entries]
        self._early = [replace(entry, offset=entry.offset - moved) for entry in self._early]
        self._first, self._forgotten, self._start, self._length = first, forgotten, len(head), len(head) + len(rest)
        self._file = AppendedFile(self._path, self._length)

    def __str__(self) -> str:
        return f"the answers to {self.end - self._first} batches since the last checkpoint, in {self._path}"

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _diverged(self, before: str, stage: str, now: str) -> ReplayDiverged:
        return ReplayDiverged(
            f"the replay diverged at question {self._position}: before the interruption it asked ({stage!r}) about "
            f"{before}, now {now!r}. Nothing was sent. Resume with the same code, settings, seed and thread count as "
            "before, or start a new run"
        )

    def _with(self, dropped: list[_Entry]) -> Forgotten:
        """What was forgotten before, plus ``dropped``."""
        counts = {(question.stage, question.evaluation): question.images for question in self._forgotten.questions}
        for entry in {entry.serial: entry for entry in dropped}.values():
            if entry.images and entry.serial > self._forgotten.serial:  # else it is counted already
                key = (self._read(entry)[1]["stage"], entry.evaluation)
                counts[key] = counts.get(key, 0) + entry.images
        serial = max([self._forgotten.serial, *(entry.serial for entry in dropped)])
        return Forgotten(serial, tuple(Question(stage, count, apart) for (stage, apart), count in counts.items()))

    def _read_head(self, content: bytes) -> tuple[dict[str, Any], int]:
        """The head, and its length in the file."""
        magic, length, checksum = _START.unpack_from(content)
        if magic != _MAGIC:
            raise CheckpointError(
                f"{self._path} is not a journal that this version can read: resume with the version that wrote it, or "
                "start a new run in another directory"
            )
        text = content[_START.size : _START.size + length]
        if zlib.crc32(text) != checksum:
            raise CheckpointError(f"{self._path} is damaged in its head: {_REMEDY}")
        return json.loads(text), _START.size + length

    def _index(self, content: bytes) -> int:
        """Find the records; returns where in the file the last complete one ends."""
        offset = self._start
        while offset + _RECORD.size <= len(content):
            length, checksum, images, serial, flags, of_head = _RECORD.unpack_from(content, offset)
            start, stop = offset + _RECORD.size, offset + _RECORD.size + length
            if zlib.crc32(content[offset : start - 4]) != of_head:
                if not any(content[offset:]):
                    break  # a power failure may leave zeros at the end of a file
                raise CheckpointError(f"{self._path} is damaged at question {self.end}: {_REMEDY}")
            if stop > len(content):
                break
            if zlib.crc32(content[start:stop]) != checksum:
                if stop == len(content):
                    break
                raise CheckpointError(f"{self._path} is damaged at question {self.end}: {_REMEDY}")
            early = bool(flags & _EARLY)
            entry = _Entry(start, length, images, serial, bool(flags & _EVALUATION), early, bool(flags & _GOES_ON))
            (self._early if early else self._entries).append(entry)
            offset = stop
        in_place = {entry.serial for entry in self._entries} if self._early else set()
        self._early = [entry for entry in self._early if entry.serial not in in_place]
        return offset

    def _read(self, entry: _Entry) -> tuple[dict[str, Tensor], dict[str, str]]:
        with self._path.open("rb") as file:
            file.seek(entry.offset)
            body = file.read(entry.length)
        (size,) = struct.unpack_from("<Q", body)
        return load(body), _metadata(body[8 : 8 + size])


_REMEDY = "what follows cannot be trusted; restore the file, or start a new run in another directory"


def _head(identity: str, first: int, forgotten: Forgotten, teacher: str | None) -> bytes:
    head = {"identity": identity, "first": first, "serial": forgotten.serial, "asked": forgotten.questions}
    text = json.dumps({**head, "teacher": teacher}).encode()
    return _START.pack(_MAGIC, len(text), zlib.crc32(text)) + text


def _metadata(header: bytes) -> dict[str, str]:
    """The metadata given to ``safetensors.torch.save``, which ``load`` does not return."""
    metadata: dict[str, str] = json.loads(header)["__metadata__"]
    return metadata
