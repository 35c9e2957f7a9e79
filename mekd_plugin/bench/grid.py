"""A benchmark's settings, and the runs that they expand into."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field, fields, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mekd_plugin.bench.comparisons import Comparison, declared
from mekd_plugin.checks import as_flag, as_number, as_plain, as_seed, as_whole
from mekd_plugin.errors import CheckpointError, InputError
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.registry import distillers, unknown_name
from mekd_plugin.version import __version__

__all__ = [
    "ASKED",
    "FEWEST_AUDITED",
    "BenchConfig",
    "PANELS",
    "Cell",
    "KeptSpec",
    "RunSpec",
    "Variant",
    "cells",
    "expand",
    "file_of_teacher",
    "hyperparameters",
    "kind_of_teacher",
    "setting",
]

_FOLDER = "imagefolder:"
_LARGEST_BUDGET = 10**9
_LARGEST_PRICE = 1e9
"""What lies beyond them was meant otherwise, and would overflow a table."""
_PRICE_OF_A_SERVICE = 1.5
"""What image labels cost at a large provider, in dollars; one that costs nothing is 0."""
ASKED = ("onnx", "function", "service", "recorded")
"""Kinds of teachers that are no modules here, and can only be asked."""
FEWEST_AUDITED = 20
"""Questions about a generator below which a share would be a guess."""


def setting(default: Any, help: str, **metadata: Any) -> Any:  # noqa: A002 (the command line's own word)
    """A field of a configuration that is a flag of the command line and a key of its YAML file too."""
    return field(default=default, metadata={"help": help, **metadata})


PANELS = {
    "Data": ("dataset", "data_root", "download", "edge_dataset", "image_size", "real_fraction", "real_images",
             "disjoint", "pool_dataset"),
    "Teacher": ("teacher", "teacher_steps", "responses", "answers", "white_box"),
    "Student": ("student", "steps", "validation", "adapt"),
    "Method": ("methods", "preset", "seeds", "audit", "published"),
    "Budget": ("query_budget", "price_per_1000"),
    "Where and how": ("device", "threads", "jobs", "executor", "ray", "cpus_per_run", "gpus_per_run"),
}  # fmt: skip
"""The settings as `--help` groups them."""


class Variant(NamedTuple):
    """A method under a name of its own, with settings of its own: an ablation, or an old version beside a new one.

    Attributes:
        method: canonical name.
        settings: hyperparameters, beside those that the grid gives the method.
    """

    method: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class BenchConfig:
    """Every setting of `mekd bench`. Tuples are axes of the grid: a run for each combination."""

    dataset: tuple[str, ...] = setting(
        ("digits",), "Data sets: digits, rendered_digits:color, mnist, imagefolder:PATH, ..."
    )
    data_root: str | None = setting(None, "Where the data sets' files are; default $MEKD_DATA.", place=True)
    download: bool = setting(False, "Fetch missing data sets into --data-root.", place=True)
    edge_dataset: str | None = setting(
        None, "The edge's data set, in training and test, where the teacher's (--dataset) is of another domain."
    )
    image_size: int | None = setting(None, "Scale every image to this square size.")
    teacher: tuple[str, ...] = setting(
        ("resnet20",),
        "A network (trained on the data set's training images), a file that `mekd teacher` wrote, NETWORK@WEIGHTS, "
        "FILE.onnx, http(s)://HOST/v2/models/NAME, recorded:DIR, or package.module:function.",
    )
    teacher_steps: int = setting(2000, "Optimiser steps where the teacher is trained here.")
    student: tuple[str, ...] = setting(
        ("resnet8",),
        "Student networks: a name, torchvision:NAME, or package.module:factory, which is called as "
        "factory(num_classes=C, image_shape=(channels, height, width)) and returns a torch module.",
    )
    methods: tuple[str, ...] = setting(
        ("mekd", "kd", "logit_mimicry", "distribution_alignment"), "Names or aliases; `mekd list` shows them."
    )
    responses: tuple[str, ...] = setting(("soft",), "What the teacher answers: soft (logits), probabilities, or hard.")
    answers: tuple[str, ...] = setting(
        ("full",),
        "What is done to soft answers before anybody sees them: full, rounded:DECIMALS, top1, topk:CLASSES, "
        "noisy:DEVIATION.",
    )
    real_fraction: float | None = setting(None, "Share of the training images that the edge holds; default 0.1.")
    real_images: int | None = setting(None, "How many images the edge holds, instead of a share.")
    disjoint: bool = setting(False, "Take the edge's images out of the teacher's training data.")
    query_budget: tuple[int, ...] = setting((5000,), "Images that a run may send, in all stages together; 0: no limit.")
    preset: str = setting(
        "quick", "quick (sized for a CPU), fast, thorough or paper: methods' hyperparameters and training recipe."
    )
    steps: int | None = setting(None, "Student steps; default: the preset's.")
    validation: float = setting(0.02, "Share of the answers that is held out to validate the student without labels.")
    variants: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "Methods under names of their own: LABEL: {method: NAME, set: {HYPERPARAMETER: VALUE}}."},
    )
    comparisons: tuple[Comparison, ...] = field(
        default=(),
        metadata={"help": "Rows to compare seed by seed, declared beforehand: A:B, or {a: , b: , metric: }."},
    )
    audit: int = setting(0, "Questions about each finished generator, outside the budget: is it the teacher's inverse?")
    pool_dataset: str | None = setting(None, "Images of another domain, for methods that ask about those.")
    white_box: bool = setting(False, "Let methods that differentiate through the teacher do so: references, marked.")
    adapt: bool = setting(False, "Adapt each student's answers to the test images, too: adapted_accuracy.")
    published: bool = setting(
        False, "Show what others have published for the data set, in tables of their own.", place=True
    )
    seeds: tuple[int, ...] = setting((0, 1, 2), "Each has its own edge images, generator and student.")
    hyperparameters: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "Overrides: METHOD.NAME=VALUE, or recipe.NAME=VALUE for every student's training."},
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ...; several, as in cuda:0,cuda:1, take turns.")
    threads: int = setting(1, "CPU threads of a run; another number rounds differently.")
    jobs: int | None = setting(None, "Runs side by side; default: one a core on a CPU, one on a GPU.", place=True)
    executor: str = setting("local", "local: processes of this machine; ray: those of a Ray cluster.", place=True)
    ray: str | None = setting(None, "Address of the Ray cluster; default: $RAY_ADDRESS, or one made here.", place=True)
    cpus_per_run: float | None = setting(None, "CPUs that a run on Ray takes; default: its --threads.", place=True)
    gpus_per_run: float | None = setting(
        None, "GPUs that a run on Ray takes, such as 0.25; default: 1 with --device cuda, else 0.", place=True
    )
    price_per_1000: float | None = setting(
        None, "Price of 1,000 queries, for the table; default: 1.5 for a service, none else.", place=True
    )

    own: InitVar[bool] = False

    def __post_init__(self, own: bool) -> None:
        object.__setattr__(self, "answers", tuple(_answers(text) for text in self.answers))
        for name in ("dataset", "teacher", "student", "methods", "responses", "answers", "query_budget", "seeds"):
            values = getattr(self, name)
            if not values and (name != "methods" or not (self.variants or own)):
                raise InputError(f"{name} is empty: expected at least one value")
            if len(set(values)) != len(values):
                raise InputError(f"{name}={','.join(map(str, values))}: expected each value once")
        for name in ("download", "disjoint", "white_box", "adapt", "published"):
            as_flag(name, getattr(self, name))
        for name in ("teacher_steps", "steps", "threads", "jobs", "image_size"):
            if getattr(self, name) is not None:
                as_whole(name, getattr(self, name), at_least=1)
        if self.real_images is not None:
            as_whole("real_images", self.real_images, at_least=2)
        if self.real_fraction is not None:
            as_number("real_fraction", self.real_fraction, above=0, at_most=1)
        if self.price_per_1000 is None and any(kind_of_teacher(name) == "service" for name in self.teacher):
            object.__setattr__(self, "price_per_1000", _PRICE_OF_A_SERVICE)
        if self.price_per_1000 is not None:
            as_number("price_per_1000", self.price_per_1000, at_least=0, at_most=_LARGEST_PRICE)
        as_number("validation", self.validation, at_least=0, below=1)
        if self.edge_dataset is not None and self.disjoint:
            raise InputError(
                f"edge_dataset={self.edge_dataset} and disjoint: images of two data sets are apart already, leave "
                "disjoint out"
            )
        if self.edge_dataset in self.dataset:
            raise InputError(f"edge_dataset={self.edge_dataset} is the teacher's data set, too: leave edge_dataset out")
        self._check_executor()
        if self.audit and as_whole("audit", self.audit, at_least=0) < FEWEST_AUDITED:
            raise InputError(f"audit={self.audit}: expected at least {FEWEST_AUDITED} questions, or 0 for none")
        for budget in self.query_budget:
            as_whole(
                "query_budget", budget, at_least=0, at_most=_LARGEST_BUDGET, of="images", otherwise="0 for no limit"
            )
        for seed in self.seeds:
            as_seed("seeds", seed)
        if self.real_fraction is not None and self.real_images is not None:
            raise InputError(
                f"real_fraction={self.real_fraction} and real_images={self.real_images}: give one of the two"
            )
        registry = distillers()
        canonical = [registry.canonical(name) for name in self.methods]
        if len(set(canonical)) != len(canonical):
            raise InputError(f"methods={','.join(self.methods)}: a method is there twice, under an alias")
        object.__setattr__(self, "hyperparameters", hyperparameters(self.hyperparameters))
        owners: dict[str, str] = {}
        for name, values in self.hyperparameters.items():
            owner = "recipe" if name == "recipe" else registry.canonical(name)
            if owner in owners:
                raise InputError(
                    f"hyperparameters: {owners[owner]} and {name} are one method: give both under one name"
                )
            owners[owner] = name
            _check_names(name, values)
        if self.steps is not None and "steps" in self.hyperparameters.get("recipe", {}):
            raise InputError(f"steps={self.steps} and recipe.steps: both are the student's steps, keep one of them")
        labels = {name.casefold(): name for name in [*self.methods, *canonical]}
        for label, variant in self.variants.items():
            found = _variant(label, variant, taken=[*self.methods, *canonical])
            _check_label(label, found.method, labels)
        for kind in self.responses:
            _kind(kind)

    def _check_executor(self) -> None:
        if self.executor not in ("local", "ray"):
            raise InputError(f"executor={self.executor}: expected local or ray")
        on_ray = {name: getattr(self, name) for name in ("ray", "cpus_per_run", "gpus_per_run")}
        if self.executor != "ray" and (given := [name for name, value in on_ray.items() if value is not None]):
            raise InputError(f"{', '.join(given)} without a cluster: add --executor ray")
        if self.cpus_per_run is not None:
            as_number("cpus_per_run", self.cpus_per_run, above=0)
        if self.gpus_per_run is not None:
            as_number("gpus_per_run", self.gpus_per_run, at_least=0)
            if self.gpus_per_run > 1 and self.gpus_per_run % 1:
                raise InputError(f"gpus_per_run={self.gpus_per_run}: expected a fraction of one, or a whole number")
        if self.executor == "ray" and self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device={self.device}: expected auto, cpu or cuda; which GPU a run gets is Ray's choice")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, own: bool = False) -> BenchConfig:
        """From a parsed YAML file, or the command line's values; dashes in keys are underscores.

        Args:
            values: by name.
            own: whether methods that are objects are compared too, so that none need be named here.

        Raises:
            UnknownName: a key is not a setting. InputError: a value is of the wrong type.
        """
        known = {item.name: item for item in fields(cls)}
        converted: dict[str, Any] = {}
        for key, value in values.items():
            name = str(key).replace("-", "_")
            if name not in known:
                raise unknown_name("benchmark setting", key, known)
            if name in converted:
                raise InputError(f"{name} is given twice, once spelled with a dash: keep one of them")
            converted[name] = _convert(name, str(known[name].type), value)
        return cls(**converted, own=own)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as it stands in ``results.json``."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides one run's numbers; two equal ones are the same run.

    Attributes are those of :class:`BenchConfig`, one value each; ``method`` is canonical, ``label`` what tables call
    the run (the method, or a variant of it), ``teacher_size`` the side of the images that reach the teacher (None: as
    they are; `mekd distill` sets it), ``responses`` and ``answers`` their canonical names, ``device`` a kind of
    device (``"cpu"``, ``"cuda"``), ``teacher_steps`` None for a teacher not trained here, and ``teacher_digest`` a hash
    of the content of a teacher's file, None where the teacher is not a file.
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
        for name, usual in (("adapt", False), ("answers", "full"), ("edge_dataset", None), ("teacher_size", None)):
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
        settings = {name: value for name, value in asdict(self).items() if value not in (None, {}, False)}
        return " ".join(f"{name}={value}" for name, value in settings.items())


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


def hyperparameters(given: Any) -> dict[str, dict[str, Any]]:
    """Overrides by method, as a file or a caller gives them: plain values, which a run's key and its record hold.

    Raises:
        InputError: they are not such.
    """
    form = "expected names and values, such as {mekd: {image_weight: 0}}"
    if not isinstance(given, Mapping):
        raise InputError(f"hyperparameters={given!r}: {form}")
    for name, entries in given.items():
        if not isinstance(entries, Mapping):
            raise InputError(f"hyperparameters of {name}: {entries!r}: {form}")
    checked: dict[str, dict[str, Any]] = as_plain("hyperparameters", given)
    return checked


class Cell(NamedTuple):
    """A column of the grid: what tables call it, the method, its hyperparameters; of an object, a digest of itself."""

    label: str
    method: str
    hyperparameters: Mapping[str, Any]
    digest: str | None = None


def cells(config: BenchConfig) -> list[Cell]:
    """The methods of a grid, then its variants."""
    registry = distillers()
    given = {name: values for name, values in config.hyperparameters.items() if name != "recipe"}
    overrides = {registry.canonical(name): dict(values) for name, values in given.items()}
    names = [registry.canonical(name) for name in config.methods]
    plain = [Cell(name, name, overrides.get(name, {})) for name in names]
    named = [(label, _variant(label, values, taken=())) for label, values in config.variants.items()]
    return plain + [
        Cell(label, found.method, {**overrides.get(found.method, {}), **found.settings}) for label, found in named
    ]


def kind_of_teacher(name: str) -> Literal["onnx", "file", "function", "service", "recorded", "network"]:
    """What a teacher's name stands for; a ``"network"`` is trained by the benchmark."""
    if name.startswith(("http://", "https://")):
        return "service"
    if name.startswith("recorded:"):
        return "recorded"
    if name.endswith(".onnx"):
        return "onnx"
    if "@" in name or name.endswith((".safetensors", ".pt", ".pth")):
        return "file"
    return "function" if ":" in name and not name.startswith("torchvision:") else "network"


def expand(config: BenchConfig, *, device: str, columns: Sequence[Cell] | None = None) -> list[RunSpec]:
    """The runs of a grid. Seeds vary fastest, so that neighbours in the queue do not prepare the same thing.

    Args:
        config: the settings.
        device: the kind of device that ``config.device`` stands for on this machine.
        columns: methods and variants; None takes those of ``config``.
    """
    recipe = dict(config.hyperparameters.get("recipe", {}))
    fraction = 0.1 if config.real_fraction is None and config.real_images is None else config.real_fraction
    axes = product(
        config.dataset,
        config.teacher,
        config.responses,
        config.answers,
        config.student,
        config.query_budget,
        cells(config) if columns is None else columns,
        config.seeds,
    )
    return [
        RunSpec(
            dataset=dataset,
            image_size=config.image_size,
            teacher=teacher,
            teacher_steps=config.teacher_steps if kind_of_teacher(teacher) == "network" else None,
            teacher_digest=_digest(teacher),
            student=student,
            method=cell.method,
            responses=_kind(responses),
            real_fraction=fraction,
            real_images=config.real_images,
            disjoint=config.disjoint,
            query_budget=budget or None,
            preset=config.preset,
            steps=config.steps,
            validation=config.validation,
            seed=seed,
            hyperparameters=cell.hyperparameters,
            recipe=recipe,
            device=device,
            threads=config.threads,
            label=cell.label,
            pool_dataset=config.pool_dataset,
            white_box=config.white_box,
            adapt=config.adapt,
            edge_dataset=config.edge_dataset,
            answers=answers,
            method_digest=cell.digest,
        )
        for dataset, teacher, responses, answers, student, budget, cell, seed in axes
    ]


def _variant(label: str, values: Any, taken: Iterable[str]) -> Variant:
    """A variant as the YAML file gives it.

    Raises:
        InputError: it is not of that form, or its label is taken. UnknownName: there is no such method.
    """
    form = "{method: NAME, set: {HYPERPARAMETER: VALUE}}"
    if not isinstance(values, Mapping) or not isinstance(values.get("set", {}), Mapping):
        raise InputError(f"variants: {label}: {values!r}: expected {form}")
    if unknown := set(values) - {"method", "set"}:
        raise InputError(f"variants: {label}: {', '.join(sorted(map(str, unknown)))}: expected {form}")
    if not isinstance(values.get("method"), str):
        raise InputError(f"variants: {label}: of which method? expected {form}")
    settings = as_plain(f"variants.{label}", values.get("set", {}))
    if label in taken:
        raise InputError(f"variants: {label}: a method of the grid has that name: call the variant something else")
    _check_names(label, settings)
    return Variant(distillers().canonical(values["method"]), settings)


def _check_label(label: Any, method: str, labels: dict[str, str]) -> None:
    """Refuse a label that tables or files would not tell from another, or that promises another method.

    Args:
        label: the variant's.
        method: the canonical name of what it is a variant of.
        labels: those taken, by their form without case and spaces; the label is added.

    Raises:
        InputError: it is not a text of one line, is taken but for case and spaces, or names another method.
    """
    if not isinstance(label, str) or not label or label != label.strip() or not label.isprintable():
        raise InputError(
            f"variants: {label!r}: expected a name of its own, a text of one line without spaces around it; quote it "
            "if it looks like a number"
        )
    bare = "".join(label.casefold().split())
    if bare in labels:
        raise InputError(
            f"variants: {label}: tables and files would not tell it from {labels[bare]}: call the variant "
            "something else"
        )
    labels[bare] = label
    registry = distillers()
    known = {name.casefold(): name for entry in registry.entries() for name in (entry.name, *entry.aliases)}
    namesake = known.get(bare)
    if namesake is not None and registry.canonical(namesake) != method:
        raise InputError(f"variants: {label}: {namesake} is another method: call the variant something else")


def _check_names(owner: str, values: Mapping[str, Any]) -> None:
    """Refuse as hyperparameters what the grid gives to every run."""
    if taken := sorted({"num_classes", "image_shape", "seed"} & values.keys()):
        raise InputError(
            f"{', '.join(f'{owner}.{name}' for name in taken)}: the grid sets it for every method; see --seeds"
        )


def file_of_teacher(teacher: str) -> Path | None:
    """The file that a teacher's name names, of recorded answers their table; None where it names none that is there."""
    if kind_of_teacher(teacher) == "service":
        return None
    path = Path(teacher.removeprefix("recorded:").rpartition("@")[2])
    path = next((found for name in ("bank.json", "answers.csv") if (found := path / name).is_file()), path)
    return path if path.is_file() else None


def _digest(teacher: str) -> str | None:
    """A hash of a teacher's file: another file under the old name is another teacher."""
    path = file_of_teacher(teacher)
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _kind(responses: str) -> str:
    """``"soft"``, ``"probabilities"`` or ``"hard"``, as it stands in every record."""
    # Imported here: the command line reads this module for its flags, and `mekd list` must not load torch.
    from mekd_plugin.responses import resolve_kind

    kind = resolve_kind(responses)
    return "soft" if kind == "logits" else kind


def _answers(text: Any) -> str:
    """The one name of what is done to answers."""
    from mekd_plugin.blackbox.degradation import Degradation  # as above

    return str(Degradation.parse(text))


def _convert(name: str, annotation: str, value: Any) -> Any:
    """``value`` as the type that the field declares; a comma-separated text is a list."""
    if name == "comparisons":
        return declared(value)
    if value is None and "None" in annotation:
        return None
    if annotation.startswith("Mapping"):
        if not isinstance(value, Mapping):
            raise InputError(f"{name}={value!r}: expected names and values, such as {{mekd: {{image_weight: 0}}}}")
        return value
    kind = next((kind for kind in (int, float, bool) if re.search(rf"\b{kind.__name__}\b", annotation)), str)
    convert: Callable[[Any], Any] = {
        int: lambda item: as_whole(name, item),
        float: lambda item: as_number(name, item),
        bool: _truth,
        str: _text,
    }[kind]
    try:
        if annotation.startswith("tuple"):
            items: Iterable[Any] = value.split(",") if isinstance(value, str) else value
            items = items if isinstance(items, list | tuple | range) else [items]
            return tuple(convert(item.strip() if isinstance(item, str) else item) for item in items)
        return convert(value)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        expected = annotation.replace("tuple[", "a list of ").replace(", ...]", "")
        raise InputError(f"{name}={value!r}: expected {expected}") from error


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(value)
    return str(value)
