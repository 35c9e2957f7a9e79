"""One run of a benchmark: everything that decides its numbers, and how its directory says so."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from mekd_plugin.bench.teacher_names import kind_of_teacher
from mekd_plugin.errors import CheckpointError
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.version import __version__

__all__ = ["KeptSpec", "RunSpec"]

_FOLDER = "imagefolder:"


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides one run's numbers; two equal ones are the same run.

    Attributes are those of :class:`~mekd_plugin.bench.settings.BenchConfig`, one value each; ``method`` is canonical,
    ``label`` what tables call the run (the method, or a variant of it), ``teacher_size`` the side of the images that
    reach the teacher (None: as they are; `mekd distill` sets it), ``responses`` and ``answers`` their canonical names,
    ``device`` a kind of device (``"cpu"``, ``"cuda"``), ``teacher_steps`` None for a teacher not trained here,
    ``teacher_digest`` a hash of the content of a teacher's file, None where the teacher is not a file, and
    ``teacher_seed`` that of a teacher's first weights and order of images where it is trained here.
    """

    dataset: str
    image_size: int | None
    teacher: str
    teacher_steps: int | None
    teacher_digest: str | None
    student: str
    method: str
    responses: str
    real_fraction: float | None
    real_images: int | None
    disjoint: bool
    query_budget: int | None
    preset: str
    steps: int | None
    validation: float
    seed: int
    hyperparameters: Mapping[str, Any]
    recipe: Mapping[str, Any]
    device: str
    threads: int
    label: str = ""
    pool_dataset: str | None = None
    white_box: bool = False
    adapt: bool = False
    answers: str = "full"
    edge_dataset: str | None = None
    teacher_size: int | None = None
    teacher_seed: int = 0
    method_digest: str | None = None
    version: str = __version__
    torch: str = field(default_factory=lambda: version("torch"))

    def keep(self, directory: Path, data_root: str | None) -> None:
        """Write it to a run's directory, with the place of the data, for whoever looks at the run later.

        Paths stay as they were given, which the key hashes; what they were relative to stands beside them.
        """
        content = {"spec": asdict(self), "data_root": data_root, "working_directory": str(Path.cwd())}
        write_atomically(writable_directory(directory) / "spec.json", json.dumps(content, indent=1).encode())

    @classmethod
    def of_run(cls, directory: Path) -> KeptSpec:
        """The settings of a kept run, and where its files are.

        Raises:
            CheckpointError: the directory does not say.
        """
        try:
            content = json.loads((directory / "spec.json").read_text())
            return KeptSpec(cls(**content["spec"]), content["data_root"], Path(content.get("working_directory", ".")))
        except FileNotFoundError as error:
            expected = "expected a directory of `mekd distill --out`, or one below runs/ of `mekd bench --out`"
            if (directory / "run.json").is_file():
                expected = (
                    "mekd_plugin.distill(directory=) wrote it, or `mekd distill --edge-images`, which cannot write how "
                    "student, teacher and images are made again. Put the questions in Python, where they are: fill a "
                    "mekd_plugin.bench.diagnosis.subject.Subject, and hand it to "
                    "mekd_plugin.bench.diagnosis.command.ask"
                )
            raise CheckpointError(
                f"{directory} does not say which run it holds (there is no spec.json in it): {expected}"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{directory / 'spec.json'} does not say which run the directory holds ({type(error).__name__}: "
                f"{error}): put the file back, or name another directory"
            ) from error

    @property
    def key(self) -> str:
        """Name of the run's directory: readable, and a hash of every setting."""
        settings = asdict(self)
        added = {"adapt": False, "answers": "full", "edge_dataset": None, "teacher_size": None, "teacher_seed": 0}
        for name, usual in added.items():
            if settings[name] == usual:
                del settings[name]  # so that runs without it keep the directories that they have
        canonical = json.dumps(settings, sort_keys=True)
        readable = re.sub(r"[^a-zA-Z0-9_]+", "-", f"{self.label}-{self.dataset}-seed{self.seed}")[:60]
        return f"{readable}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"

    def teacher_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """``(channels, height, width)`` of what reaches the teacher, for images of ``image_shape``."""
        size = self.teacher_size
        return image_shape if size is None else (image_shape[0], size, size)

    def signature(self) -> str:
        """One line for a run that did not end, its settings as given; a finished run brings its own signature."""
        settings = asdict(self)  # a seed of 0 equals False, and is a setting
        told = (name for name, value in settings.items() if value is not None and value is not False and value != {})
        return " ".join(f"{name}={settings[name]}" for name in told)


class KeptSpec(NamedTuple):
    """What a run's directory says about it.

    Attributes:
        spec: the settings, with paths as they were given.
        data_root: where the data was, as it was given.
        working_directory: where the run was started, which relative paths begin at.
    """

    spec: RunSpec
    data_root: str | None
    working_directory: Path

    def located(self) -> tuple[RunSpec, str | None]:
        """The settings, and where the data is, with relative paths that are found from anywhere."""
        root = None if self.data_root is None else self._found(self.data_root)
        spec = self.spec
        kind = kind_of_teacher(spec.teacher)
        if kind in ("file", "onnx", "recorded"):
            before, mark, path = spec.teacher.rpartition(":" if kind == "recorded" else "@")
            spec = replace(spec, teacher=f"{before}{mark}{self._found(path)}")
        for name in ("dataset", "edge_dataset", "pool_dataset"):
            value = getattr(spec, name)
            if value is not None and value.startswith(_FOLDER):
                found: dict[str, Any] = {name: _FOLDER + self._found(value.removeprefix(_FOLDER))}
                spec = replace(spec, **found)
        return spec, root

    def _found(self, path: str) -> str:
        """``path`` from where the run was started, if something is there; else as it was given."""
        there = self.working_directory / Path(path).expanduser()
        return str(there) if there.exists() else path
