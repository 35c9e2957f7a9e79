"""Rows that were asked about: a bank of kept ones, asked once, and rows asked anew at every step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from mekd_plugin.blackbox.asking import affordable, ask_together
from mekd_plugin.blackbox.columns import Columns, Fill, Origin
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.checks import as_path, as_whole
from mekd_plugin.errors import CheckpointError, InputError, NeedsNotMet, QueryBudgetExceeded
from mekd_plugin.responses import Kind, Response
from mekd_plugin.rows import Rows, Shard, ShuffledIndices, WeightedIndices, check_weights

__all__ = ["Bank", "FreshQueries"]

_CHUNK = 256  # rows drawn at a time, and asked about unless the teacher takes more at once
_IMAGES, _RESPONSE = "images", "response"


class Bank:
    """Images, the teacher's responses to them, and further columns: asked once, learnt from ever after.

    A bank in a directory (:meth:`keep`) outlives its run and can serve others. While it is filled, a killed run loses
    nothing that the teacher's journal holds.

    Args:
        name: of the bank, for messages and directories.
        memory_limit: bytes; a larger column lies in the bank's directory, if it has one, mapped into memory.
        drawn_by: digest of the generator that draws the images; None for a method that has none.
    """

    def __init__(self, name: str = "bank", *, memory_limit: int = 256 * 2**20, drawn_by: str | None = None) -> None:
        if not isinstance(name, str) or not name or name.strip(".") == "" or set(name) & set("/\\\0"):
            raise InputError(f"name={name!r}: expected a text that may name a directory, such as 'bank'")
        self.name = name
        self._columns = Columns(as_whole("memory_limit", memory_limit, at_least=0, of="bytes"))
        self._count = 0
        self._held_out = 0
        self._asked: int | None = None
        self._seed = 0
        self._weights: Tensor | None = None
        self._indices: ShuffledIndices | None = None
        self._drawn_by, self._trusted, self._loaded = drawn_by, False, False

    def __len__(self) -> int:
        """Rows to learn from: those held out are not among them."""
        return self._count - self._held_out

    @property
    def asked(self) -> int:
        """Rows that the teacher answered, which come first; the others were answered by a surrogate."""
        return len(self) if self._asked is None else self._asked

    @property
    def origin(self) -> Origin:
        """Whose answers it holds, and to which images."""
        return self._columns.origin

    @property
    def images(self) -> Tensor:
        """``(len, channels, height, width)``."""
        return self.rows().images

    @property
    def response(self) -> Response:
        """The teacher's answers to ``images``."""
        return self.rows().answers()

    @property
    def extra(self) -> dict[str, Tensor]:
        """Further columns by name, each with ``len`` entries."""
        return dict(self.rows().extra)

    def rows(self) -> Rows:
        """All rows to learn from; views, not copies.

        Raises:
            InputError: the bank is empty.
        """
        return self._slice(0, len(self))

    def drawn_with(self, generator: str | None) -> None:
        """Note the digest of the generator that draws the images from here on; None for none."""
        self._drawn_by = generator

    def keep(self, directory: str | Path, *, identity: str = "") -> None:
        """Keep the bank in ``directory``; the rows of a complete bank there are taken over.

        In a run of several processes each names a directory of its own. Every file there is read once, to compare its
        checksum.

        Args:
            directory: of the bank, made if it does not exist.
            identity: of the run that the bank belongs to; "" for none, which takes over any run's.

        Raises:
            InputError: rows were asked about already, or the directory cannot be written.
            CheckpointError: the bank in it is damaged, of another run, or drawn by another generator.
        """
        if self._count:
            raise InputError(f"bank {self.name!r} holds {self._count} rows already: keep(directory) comes before fill")
        self._open(as_path("directory", directory), identity)

    @classmethod
    def load(cls, directory: str | Path, *, drawn_by: str | None = None, trust: bool = False) -> Self:
        """A bank that a run kept in ``directory``, to learn from; the directory is only read.

        Args:
            directory: banks/NAME of a run.
            drawn_by: digest of the generator that must have drawn its images; None does not ask.
            trust: take the bank though another teacher answered it, or another generator drew it. Damage is refused
                all the same.

        Raises:
            CheckpointError: there is no whole bank, it is damaged, or another generator drew it.
        """
        folder = as_path("directory", directory)
        if not (folder / "bank.json").is_file():
            raise CheckpointError(
                f"no bank in {folder}: expected the directory of one that was filled, banks/NAME of a run"
            )
        bank = cls(folder.resolve().name, drawn_by=drawn_by)
        bank._trusted, bank._loaded = trust, True
        bank._open(folder, "")
        bank._columns.let_go()
        return bank

    def fill(
        self,
        teacher: BlackBox,
        draw: Callable[[int, int], Rows],
        size: int,
        *,
        stage: str,
        label: Callable[[BlackBox, Rows], Response] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Ask until the bank has ``size`` rows; the rows it has already cost nothing.

        Args:
            teacher: asked in chunks of 256 rows, or of as many times 256 as its ``batch_size`` holds; in a run of
                several processes each asks its share of every chunk.
            draw: ``draw(start, stop)`` -> rows to ask about, a pure function of the range.
            size: rows of the full bank; where it has more, only the first ones show.
            stage: name of the queries in the ledger.
            label: asks in its own way, ``label(teacher, rows) -> response``, with as many queries a row as it needs,
                and may make scores out of classes; None sends each image once.
            progress: is told ``(rows so far, rows wanted)`` after every chunk.

        Raises:
            QueryBudgetExceeded: the budget does not suffice; then nothing was asked. Where it is short by no more than
                was spent on answers that were lost, the bank gets as many rows as it reaches for, with a warning.
            CheckpointError: a kept bank is gone, and the run went on after it.
            InputError: another teacher answered the rows that there are, rows are held out already, or ``draw`` or
                ``label`` does not return what it was asked for.
            NeedsNotMet: ``label`` in a run of several processes.
        """
        if not isinstance(teacher, BlackBox):
            raise InputError(f"teacher={teacher!r}: expected a BlackBox, mekd_plugin.BlackBox(teacher, ...)")
        size = as_whole("size", size, at_least=1, of=f"rows for bank {self.name!r}")
        if not callable(draw):
            raise InputError(f"draw={draw!r}: expected a function draw(start, stop) -> rows")
        if self._held_out:
            raise InputError(f"bank {self.name!r} has rows held out: hold them out after the last fill")
        if label is not None and teacher.ledger.peers.world > 1:
            raise NeedsNotMet(f"bank {self.name!r} is asked in the method's own way, which takes a single process")
        self._indices = None
        self._check_origin(teacher, other_kind=label is not None)
        if self._loaded:
            self._check_shape(draw(0, 1).images)
        if self._take_over(teacher, size):
            return
        self._skip_forgotten(teacher, stage)
        begin = self._columns.rows
        reach = size if label is not None else begin + affordable(teacher, size - begin, stage, self.name, begin)
        journal = teacher.journal
        chunk = _CHUNK if label is not None else max(1, teacher.batch_size // _CHUNK) * _CHUNK
        try:
            while begin < reach:
                end, planned = min(begin + chunk, reach), min(begin + chunk, size)
                # Drawn as it was planned, and cut: a shorter range may draw other images than those in the journal.
                rows = _drawn(draw, begin, planned)[: end - begin]
                position = 0 if journal is None else journal.position
                try:
                    response = ask_together(teacher, rows, stage, label)
                except QueryBudgetExceeded:
                    if label is not None:
                        raise
                    # Answers were lost since the reach was found; what the journal kept of this chunk is asked again.
                    if journal is not None:
                        journal.rewind(position)
                    nearer = begin + affordable(teacher, reach - begin, stage, self.name, begin)
                    if nearer >= reach:
                        raise
                    reach = nearer
                    continue
                columns = {**rows.extra, _IMAGES: teacher.as_kept(rows.images), _RESPONSE: response.values}
                self._columns.write(begin, reach, columns, (response.kind, response.num_classes))
                begin = end
                if progress is not None:
                    progress(end, reach)
            fill = Fill(reach) if journal is None else Fill(reach, journal.identity, journal.position)
            self._columns.origin = self._origin_of(teacher)
            self._columns.finish(size, fill)
        except BaseException:
            self._columns.discard_unfinished()
            raise
        self._count = reach

    def add_column(self, name: str, column: Tensor | Callable[[Rows], Tensor]) -> None:
        """Give every row a further entry; an old column of that name is replaced, and one added is gone after a fill.

        Args:
            name: an identifier other than ``images`` and ``response``.
            column: ``(len, ...)``; or a function from rows to it, called for 256 rows at a time, so that a large column
                need never be in memory whole.

        Raises:
            InputError: the name cannot be used, or the column has another number of entries.
        """
        if not isinstance(name, str) or name in (_IMAGES, _RESPONSE) or not name.isidentifier():
            raise InputError(f"column {name!r}: expected an identifier other than {_IMAGES!r} and {_RESPONSE!r}")
        if not isinstance(column, Tensor) and not callable(column):
            raise InputError(f"column {name!r} is {type(column).__name__}: expected a tensor, or a function of rows")
        if isinstance(column, Tensor) and len(column) != len(self):
            raise InputError(f"column {name!r} has {len(column)} entries: expected one for each of {len(self)} rows")
        chunks = [(begin, min(begin + _CHUNK, len(self))) for begin in range(0, len(self), _CHUNK)]

        def part(begin: int, end: int) -> Tensor:
            if isinstance(column, Tensor):
                return column[begin:end]
            entries = column(self._slice(begin, end))
            if len(entries) != end - begin:
                raise InputError(
                    f"column {name!r} got {len(entries)} entries: expected one for each of {end - begin} rows"
                )
            return entries

        self._columns.add(name, len(self), ((begin, part(begin, end)) for begin, end in chunks))

    def hold_out(self, count: int) -> Rows:
        """Take the last ``count`` rows, once, out of what is learnt from: for validation.

        Returns:
            Those rows.

        Raises:
            InputError: rows are held out already, or none would stay.
        """
        if self._held_out:
            raise InputError(f"bank {self.name!r} holds out {self._held_out} rows already: hold out once")
        count = as_whole("count", count)
        if not 0 <= count < self._count:
            raise InputError(f"hold_out({count}): bank {self.name!r} has {self._count} rows, and one must stay")
        held = self._slice(self._count - count, self._count)
        self._held_out, self._indices = count, None
        return held

    def with_answers(self, response: Response) -> Bank:
        """The same images with other answers, in memory; for a control with shuffled ones.

        Further columns stay: those computed from the answers have to be computed again.

        Raises:
            InputError: not one answer for each row.
        """
        if len(response) != len(self):
            raise InputError(f"{len(response)} answers: expected one for each of {len(self)} rows")
        other = Bank(self.name)
        other._columns = self._columns.replaced(_RESPONSE, response.values, (response.kind, response.num_classes))
        other._count, other._seed, other._weights = len(self), self._seed, self._weights
        return other

    def joined(self, scores: Tensor, others: Iterable[Rows], count: int) -> Bank:
        """These rows, and others that a surrogate answered, as one bank; this one stays as it is.

        On the CPU a column above the memory limit is mapped to a file in this bank's directory, where it has one; the
        system removes it with the last use.

        Args:
            scores: what the teacher's answers to these rows stand for, ``(len, C)``.
            others: answered by scores, a part at a time; a further column of the bank stays if they have it too.
            count: how many they are in all.

        Raises:
            InputError: the bank is empty, or images or answers do not fit together.
        """
        own = self.rows()
        place = own.images.device  # a column on the disk stays on the CPU when the others move
        begin, total, joined = len(self), len(self) + count, Bank(self.name)
        if place.type == "cpu":
            joined._columns = self._columns.beside()
        joined._columns.to(place)
        for part in others:
            added = part.answers().scores()
            if own.images.shape[1:] != part.images.shape[1:] or scores.shape != (len(self), added.shape[1]):
                raise InputError(
                    f"rows of {tuple(part.images.shape[1:])} with {added.shape[1]} scores cannot join {len(self)} rows "
                    f"of {tuple(own.images.shape[1:])} with scores of shape {tuple(scores.shape)}"
                )
            shared = [name for name in part.extra if name in own.extra]
            answers: tuple[Kind, int] = ("logits", added.shape[1])
            if begin == len(self):
                first = {name: own.extra[name] for name in shared}
                joined._columns.write(0, total, {**first, _IMAGES: own.images, _RESPONSE: scores}, answers)
            further = {name: part.extra[name] for name in shared}
            joined._columns.write(begin, total, {**further, _IMAGES: part.images, _RESPONSE: added}, answers)
            begin += len(part)
        if begin != total:
            raise InputError(f"{begin - len(self)} rows came to join, and {count} were announced")
        joined._columns.finish(total, Fill(total))
        joined._count, joined._asked = total, self.asked
        return joined

    def order(self, seed: int, weights: Tensor | None = None) -> Self:
        """Set the order of the batches.

        Args:
            seed: of the order.
            weights: ``(len,)``, at least 0; rows are then drawn with replacement, in proportion to them. None shows
                every row equally often.

        Raises:
            InputError: unusable weights.
        """
        self._seed, self._weights, self._indices = as_whole("seed", seed, at_least=0), weights, None
        if weights is not None:
            self._weights = check_weights(weights, len(self))
        return self

    def to(self, device: torch.device | str) -> Self:
        """Move the columns that are in memory to ``device``, in place; mapped ones stay on disk."""
        self._columns.to(device)
        return self

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        """``size`` rows for this process at ``step``, in the order that was set."""
        rows = self.rows()
        places = {column.device for column in (rows.images, rows.answers().values, *rows.extra.values())}
        return rows[self.numbers(step, size, shard, places.pop() if len(places) == 1 else "cpu")]

    def numbers(self, step: int, size: int, shard: Shard, device: torch.device | str = "cpu") -> Tensor:
        """Which rows :meth:`batch` gives, ``(size,)`` int64 on ``device``."""
        if self._indices is None:
            if self._weights is None:
                self._indices = ShuffledIndices(len(self), self._seed)
            else:
                self._indices = WeightedIndices(check_weights(self._weights, len(self)), self._seed)
        return self._indices.batch(step, size, shard, device)

    def _slice(self, begin: int, end: int) -> Rows:
        """Rows ``begin`` to ``end``, with the further columns that reach so far."""
        if self._columns.answers is None:
            raise InputError(f"bank {self.name!r} is empty: fill it before learning from it")
        kind, num_classes = self._columns.answers
        extra = {
            name: self._columns[name][begin:end]
            for name, length in self._columns.lengths().items()
            if name not in (_IMAGES, _RESPONSE) and length >= end
        }
        response = Response(self._columns[_RESPONSE][begin:end], kind, num_classes)
        return Rows(self._columns[_IMAGES][begin:end], response, extra)

    def _open(self, directory: Path, identity: str) -> None:
        self._columns.keep(directory, read_only=self._loaded)
        origin = self._columns.origin
        if self._columns.rows and identity and origin.run and origin.run != identity:
            raise CheckpointError(
                f"the bank in {directory} belongs to another run: {origin.run} there, {identity} expected; put back "
                "this run's own, or move it away to ask again, which the query budget has to pay for"
            )
        if self._columns.rows and not self._trusted and self._drawn_by not in (None, origin.drawn_by):
            raise CheckpointError(
                f"the bank in {directory} was drawn by {_generator(origin.drawn_by)}, and this method draws by "
                f"{_generator(self._drawn_by)}: give the generator.safetensors of the bank's own run" + self._way_out()
            )
        self._columns.origin = replace(origin, run=identity or origin.run)
        self._count = self._columns.rows

    def _origin_of(self, teacher: BlackBox) -> Origin:
        drawn_by = self._drawn_by if self._drawn_by is not None else self._columns.origin.drawn_by
        return Origin(self._columns.origin.run, teacher.identity, teacher.value_range, drawn_by)

    def _check_origin(self, teacher: BlackBox, *, other_kind: bool) -> None:
        """Refuse a teacher that did not give the answers that are here, which may be of another kind than its own."""
        if self._columns.answers is None or not self._columns.rows:
            return
        kind, classes = self._columns.answers
        if kind != teacher.responses and not other_kind:
            raise InputError(
                f"bank {self.name!r} holds {kind!r} responses and the teacher answers {teacher.responses!r}: "
                "fill another bank"
            )
        teacher.expect_classes(classes)
        origin = self._columns.origin
        if self._trusted:
            return
        if origin.value_range not in (None, teacher.value_range):
            raise InputError(
                f"bank {self.name!r} holds images in {origin.value_range}, and the teacher takes "
                f"{teacher.value_range}: fill another bank" + self._way_out()
            )
        if origin.teacher and origin.teacher != teacher.identity:
            raise InputError(
                f"bank {self.name!r} was answered by the teacher {origin.teacher}, and this one is {teacher.identity}: "
                "fill another bank" + self._way_out()
            )

    def _check_shape(self, drawn: Tensor) -> None:
        here = tuple(self._columns[_IMAGES].shape[1:])
        if here != tuple(drawn.shape[1:]):
            raise InputError(
                f"bank {self.name!r} holds images of {here}, and this run's are {tuple(drawn.shape[1:])}: "
                "fill another bank"
            )

    def _way_out(self) -> str:
        return ", or say trust_bank=True (trust=True of Bank.load) if it is meant" if self._loaded else ""

    def _skip_forgotten(self, teacher: BlackBox, stage: str) -> None:
        """Skip past questions whose answers the journal does not keep, where a kept bank of them is gone."""
        journal, ledger = teacher.journal, teacher.ledger
        if journal is None or not journal.first:
            return
        kept = self._columns.rows + journal.images_ahead
        if journal.position < journal.first < journal.end:
            raise CheckpointError(
                f"bank {self.name!r} is gone, and the run asked further questions after it: put back a copy of the "
                "bank, or start a new run in another directory"
            )
        if journal.position < journal.first or ledger.by_stage.get(stage, 0) - ledger.uncertain > kept:
            warnings.warn(
                f"bank {self.name!r} is gone, and so are the answers that were kept for it: they are asked again, and "
                "counted again",
                stacklevel=3,
            )
        journal.rewind(max(journal.position, journal.first))

    def _take_over(self, teacher: BlackBox, size: int) -> bool:
        """Show ``size`` rows, if finished fills hold them; a replay then continues after the questions they took."""
        fill = self._columns.fills.get(size)
        if fill is not None and teacher.journal is not None and fill.journal == teacher.journal.identity:
            teacher.journal.rewind(fill.position)
            self._count = fill.rows
            return True
        self._count = min(size, self._columns.rows)
        return self._count == size


def _generator(digest: str | None) -> str:
    return "no generator that it names" if digest is None else f"generator {digest}"


def _drawn(draw: Callable[[int, int], Rows], begin: int, end: int) -> Rows:
    """Rows drawn 256 at a time, however many are asked about at once: a longer range may draw other images."""
    parts: list[Rows] = []
    for start in range(begin, end, _CHUNK):
        stop = min(start + _CHUNK, end)
        rows = draw(start, stop)
        if not isinstance(rows, Rows):
            raise InputError(f"draw({start}, {stop}) returned {type(rows).__name__}: expected Rows(images)")
        if len(rows) != stop - start:
            raise InputError(f"draw({start}, {stop}) returned {len(rows)} rows: expected {stop - start}")
        parts.append(rows)
    if len(parts) == 1:
        return parts[0]
    extra = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra}
    return Rows(torch.cat([part.images for part in parts]), extra=extra)


class FreshQueries:
    """Rows that are drawn and asked about at every step: a source as costly as it is fresh.

    Args:
        teacher: asked about every batch.
        draw: ``draw(step, size, shard)`` -> rows; by these three, or by torch's global generator, which a run restores.
        stage: name of the queries in the ledger.
    """

    def __init__(self, teacher: BlackBox, draw: Callable[[int, int, Shard], Rows], *, stage: str) -> None:
        self._teacher, self._draw, self._stage = teacher, draw, stage

    def batch(self, step: int, size: int, shard: Shard) -> Rows:
        """``size`` new rows for this process, answered; costs that many queries."""
        rows = self._draw(step, size, shard)
        return rows.answered(self._teacher.query(rows.images, stage=self._stage))
