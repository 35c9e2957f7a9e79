"""Recorded answers as a table: images or their fingerprints, what a teacher answered, when, and who it was.

Three forms. A kept bank's directory; a ``.safetensors`` file, which any tool can read, with images or, where those must
not be published, with their fingerprints alone; and a CSV of file names and labels, alone or in a directory with an
``answers.json`` beside it. Images in files have 256 levels, and are known by these.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.columns import Columns, Fill, Origin
from mekd_plugin.blackbox.image_hashes import image_hashes
from mekd_plugin.blackbox.remote.pictures import as_levels, decoded, encoded, from_levels
from mekd_plugin.checks import as_path, as_range, as_whole
from mekd_plugin.errors import CheckpointError, DamagedFile, InputError
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.responses import Response, resolve_kind
from mekd_plugin.sealing import CHECKSUM, check_seal, metadata_of, seal_tensors

__all__ = ["Table", "read_table", "write_bank", "write_table"]

_FORM = "mekd answers"
_CSV, _ABOUT, _FILES = "answers.csv", "answers.json", "images"
_FILE_COLUMNS = ("file", "filename", "file_name", "path", "image")


@dataclass(frozen=True)
class Table:
    """Answers to images.

    Attributes:
        fingerprints: ``(N,)`` int64 of the images as they were sent, or of their levels.
        response: N answers.
        images: ``(N, channels, height, width)``; None where only fingerprints were kept.
        value_range: smallest and largest pixel value.
        teacher: identity of who answered; "" where that is not known.
        answered: when the last answer came, as a date; "" where that is not known.
        by_levels: whether the fingerprints are those of the images' 256 levels.
    """

    fingerprints: Tensor
    response: Response
    images: Tensor | None = None
    value_range: tuple[float, float] = (-1.0, 1.0)
    teacher: str = ""
    answered: str = ""
    by_levels: bool = False

    def __len__(self) -> int:
        return len(self.fingerprints)

    @property
    def identity(self) -> str:
        """Of the teacher; a digest of the answers where nobody noted it."""
        if self.teacher:
            return self.teacher
        digest = hashlib.sha256(self.fingerprints.numpy().tobytes())
        digest.update(self.response.values.contiguous().numpy().tobytes())
        return f"recorded {digest.hexdigest()[:12]}"

    def keys_of(self, images: Tensor) -> Tensor:
        """The fingerprints by which ``images`` are looked up."""
        if not self.by_levels:
            return image_hashes(images)
        levels = torch.from_numpy(as_levels(images, self.value_range))
        return image_hashes(levels.permute(0, 3, 1, 2).float())


def read_table(
    source: str | Path,
    *,
    responses: str | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Table:
    """The answers that ``source`` holds.

    Args:
        source: a bank's or a run's directory, a ``.safetensors`` file, a CSV, or a directory that was exported.
        responses: kind of the scores of a CSV that does not say it.
        num_classes: C of such a CSV; None takes it from ``classes`` or from its scores.
        classes: labels of such a CSV in the order of their indices, where they are texts.
        value_range: that of the images of such a CSV; None is (-1, 1).

    Raises:
        CheckpointError: there are no such answers, or they are damaged. InputError: what they are is not said.
    """
    path = as_path("source", source)
    if path.is_file() and path.suffix == ".safetensors":
        return _from_tensors(path)
    if (path / "bank.json").is_file():
        return _from_bank(path)
    if (path / _CSV).is_file():
        path = path / _CSV
    if path.is_file() and path.suffix == ".csv":
        return _from_csv(path, responses, num_classes, classes, value_range)
    banks = sorted(marker.parent for marker in path.glob("banks/*/bank.json"))
    if len(banks) == 1:
        return _from_bank(banks[0])
    if banks:
        raise CheckpointError(f"{path} holds several banks: name one of {', '.join(str(bank) for bank in banks)}")
    raise CheckpointError(
        f"no recorded answers at {path}: expected a bank's directory (banks/NAME of a run), a .safetensors file that "
        "`mekd bank export` wrote, or a CSV of file names and labels"
    )


def write_table(table: Table, path: Path, *, hashes_only: bool = False) -> None:
    """Write a ``.safetensors`` file, or a directory with the images as PNG files.

    Args:
        table: what to write.
        path: the file, or the directory, which is made.
        hashes_only: leave the images out of the file: who has them can look their answers up.

    Raises:
        InputError: it cannot be written, is there already, or the images are wanted and only fingerprints are known.
    """
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise InputError(f"{path} is there already: nothing is overwritten; name another")
    about = {
        _FORM: "1",
        "kind": table.response.kind,
        "num_classes": str(table.response.num_classes),
        "value_range": json.dumps(table.value_range),
        "teacher": table.teacher,
        "answered": table.answered,
        "by_levels": json.dumps(table.by_levels),
    }
    if path.suffix == ".safetensors":
        columns = {"fingerprints": table.fingerprints, "values": table.response.values.contiguous()}
        if table.images is not None and not hashes_only:
            columns["images"] = table.images.contiguous()
        write_atomically(writable_directory(path.parent) / path.name, seal_tensors(save(columns), about))
        return
    if table.images is None or hashes_only:
        raise InputError(
            f"{path}: files need the images, and only fingerprints are to be had: name a .safetensors file"
        )
    folder = writable_directory(path / _FILES)
    names = []
    for number, levels in enumerate(as_levels(table.images, table.value_range)):
        names.append(f"{_FILES}/{number:06d}.png")
        (folder.parent / names[-1]).write_bytes(encoded(levels, "png", 0))
    _write_csv(path / _CSV, names, table.response)
    write_atomically(path / _ABOUT, json.dumps(about, indent=1).encode())


def write_bank(table: Table, directory: Path) -> None:
    """Make a bank of the answers, as a run keeps one, for ``bank=`` and ``Bank.load``.

    Raises:
        InputError: there is a bank already, or only fingerprints are known.
    """
    if (directory / "bank.json").exists():
        raise InputError(f"{directory} holds a bank already: name another directory")
    if table.images is None:
        raise InputError(
            "a bank needs images, and only their fingerprints were recorded: recorded_teacher answers by those"
        )
    columns = Columns(0)
    columns.keep(directory)
    values = {"images": table.images, "response": table.response.values}
    columns.write(0, len(table), values, (table.response.kind, table.response.num_classes))
    columns.origin = Origin("", table.identity, table.value_range, None)
    columns.finish(len(table), Fill(len(table)))


def _from_bank(folder: Path) -> Table:
    bank = Bank.load(folder)
    rows, origin = bank.rows(), bank.origin
    moment = datetime.datetime.fromtimestamp((folder / "bank.json").stat().st_mtime, datetime.UTC)
    return Table(
        image_hashes(rows.images),
        rows.answers(),
        rows.images,
        origin.value_range or (-1.0, 1.0),
        origin.teacher,
        moment.isoformat(timespec="seconds"),
    )


def _from_tensors(path: Path) -> Table:
    try:
        content = path.read_bytes()
        about = metadata_of(content)
        if about.get(_FORM) != "1":
            raise ValueError("it is no table of answers")
        check_seal(content, about.get(CHECKSUM))
        columns = load(content)
        response = Response(columns["values"], resolve_kind(about["kind"]), int(about["num_classes"]))
        low, high = json.loads(about["value_range"])
        prints, images = columns["fingerprints"], columns.get("images")
        if len(prints) != len(response) or (images is not None and len(images) != len(response)):
            raise ValueError("columns of different lengths")
    except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
        raise DamagedFile(f"{path} is damaged, or no table that `mekd bank export` wrote ({error})") from error
    by_levels = about.get("by_levels") == "true"
    return Table(prints, response, images, (low, high), about["teacher"], about["answered"], by_levels)


def _from_csv(
    path: Path,
    responses: str | None,
    num_classes: int | None,
    classes: Sequence[str] | None,
    value_range: tuple[float, float] | None,
) -> Table:
    about = _about(path.parent / _ABOUT)
    value_range = as_range("value_range", value_range or about.get("value_range", (-1.0, 1.0)))
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): expected a CSV in UTF-8") from error
    if not rows:
        raise CheckpointError(f"{path} holds no row: expected a line of names, file,label, and a line for each image")
    columns = [name for name in rows[0] if name]
    named = next((name for name in columns if name.strip().lower() in _FILE_COLUMNS), None)
    scored = [name for name in columns if name.startswith("score_")]
    if named is None or not (scored or "label" in columns):
        raise InputError(
            f"{path} has the columns {', '.join(columns)}: expected file, and label or score_0, score_1, ..."
        )
    count = num_classes or about.get("num_classes") or (len(classes) if classes else None) or (len(scored) or None)
    if count is None:
        raise InputError(
            f"{path} does not tell how many classes there are: say num_classes=, or classes= in their order"
        )
    count = as_whole("num_classes", count, at_least=2)
    if scored:
        kind = resolve_kind(responses or about.get("kind") or _unsaid(path))
        numbers = [[_number(path, line, row[name]) for name in scored] for line, row in enumerate(rows, 2)]
        if len(scored) != count:
            raise InputError(f"{path} has {len(scored)} scores a row, and {count} classes are expected")
        response = Response(torch.tensor(numbers, dtype=torch.float32), kind, count)
        response = replace(response, values=response.labels, kind="hard") if kind == "hard" else response
    else:
        labels = [_label(path, line, row["label"], classes, count) for line, row in enumerate(rows, 2)]
        response = Response(torch.tensor(labels), "hard", count)
    levels = [_picture(path, line, row[named]) for line, row in enumerate(rows, 2)]
    if len({image.shape for image in levels}) > 1:
        shapes = sorted({str(image.shape) for image in levels})
        raise InputError(f"{path} names images of different shapes, {', '.join(shapes)}: resize them to one")
    stacked = np.stack(levels)
    prints = image_hashes(torch.from_numpy(stacked).permute(0, 3, 1, 2).float())
    images = from_levels(stacked, value_range, like=torch.empty(0))
    teacher, answered = str(about.get("teacher", "")), str(about.get("answered", ""))
    return Table(prints, response, images, value_range, teacher, answered, by_levels=True)


def _about(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        about: dict[str, Any] = json.loads(path.read_text())
        return {**about, "value_range": json.loads(about["value_range"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(
            f"{path} is damaged ({error}): put a copy back, or delete it and say what the CSV is"
        ) from error


def _write_csv(path: Path, names: Sequence[str], response: Response) -> None:
    scores = [f"score_{index}" for index in range(response.num_classes)] if response.soft else []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", *scores])
        for name, label, values in zip(names, response.labels.tolist(), response.values, strict=True):
            # Nine digits: as many as float32 needs to come back the same.
            writer.writerow([name, label, *(f"{value:.9g}" for value in values.tolist())] if scores else [name, label])


def _unsaid(path: Path) -> str:
    raise InputError(f'{path} has scores: say what they are, responses="logits" or "probabilities"')


def _number(path: Path, line: int, text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"{path}, line {line}: {text!r} is no finite number")
    return number


def _label(path: Path, line: int, text: str | None, classes: Sequence[str] | None, count: int) -> int:
    text = (text or "").strip()
    if classes is not None and text in classes:
        return list(classes).index(text)
    if classes is None and text.isdecimal() and int(text) < count:
        return int(text)
    expected = f"0 to {count - 1}; texts need classes=" if classes is None else ", ".join(list(classes)[:10])
    raise InputError(f"{path}, line {line}: label {text!r}: expected one of {expected}")


def _picture(path: Path, line: int, name: str | None) -> np.ndarray:
    file = path.parent / (name or "")
    try:
        return decoded(file.read_bytes())
    except (OSError, InputError) as error:
        raise InputError(
            f"{path}, line {line}: {file} cannot be read ({error}); files are looked for beside it"
        ) from error
