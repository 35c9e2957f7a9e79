"""A benchmark's settings: flags of the command line, keys of its YAML file, arguments in Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import InitVar, asdict, dataclass, field, fields
from typing import Any

from mekd_plugin.bench.comparisons import Comparison
from mekd_plugin.bench.values import (
    canonical_answers,
    canonical_kind,
    check_label,
    check_names,
    converted_value,
    hyperparameters,
    variant_of,
)
from mekd_plugin.checks import as_flag, as_number, as_seed, as_whole
from mekd_plugin.errors import InputError
from mekd_plugin.registry import distillers, unknown_name

__all__ = ["FEWEST_AUDITED", "PANELS", "BenchConfig", "setting"]

_LARGEST_BUDGET = 10**9
_LARGEST_PRICE = 1e9
"""What lies beyond them was meant otherwise, and would overflow a table."""
FEWEST_AUDITED = 20
"""Questions about a generator below which a share would be a guess."""


def setting(default: Any, help: str, **metadata: Any) -> Any:  # noqa: A002 (the command line's own word)
    """A field of a configuration that is a flag of the command line and a key of its YAML file too."""
    return field(default=default, metadata={"help": help, **metadata})


PANELS = {
    "Data": ("dataset", "data_root", "download", "edge_dataset", "image_size", "real_fraction", "real_images",
             "disjoint", "pool_dataset"),
    "Teacher": ("teacher", "teacher_steps", "teacher_per_seed", "teacher_size", "responses", "answers", "white_box"),
    "Student": ("student", "steps", "validation", "adapt"),
    "Method": ("methods", "preset", "seeds", "audit", "published"),
    "Budget": ("query_budget", "price_per_1000"),
    "Where and how": ("device", "threads", "jobs", "executor", "ray", "cpus_per_run", "gpus_per_run"),
}  # fmt: skip
"""The settings as `--help` groups them."""


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
    teacher_per_seed: bool = setting(
        False,
        "Train a teacher for each seed; by default all have one, and intervals say nothing of other teachers.",
    )
    teacher_size: int | None = setting(
        None,
        "Side of the square that the teacher wants: each image is resized to it as the last thing before it is sent. "
        "All else stays in --image-size.",
    )
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
        metadata={"help": "Rows to compare seed by seed, declared beforehand: ROW:OTHER, or {a: , b: , metric: }."},
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
        object.__setattr__(self, "answers", tuple(canonical_answers(text) for text in self.answers))
        for name in ("dataset", "teacher", "student", "methods", "responses", "answers", "query_budget", "seeds"):
            values = getattr(self, name)
            if not values and (name != "methods" or not (self.variants or own)):
                raise InputError(f"{name} is empty: expected at least one value")
            if len(set(values)) != len(values):
                raise InputError(f"{name}={','.join(map(str, values))}: expected each value once")
        for name in ("download", "disjoint", "teacher_per_seed", "white_box", "adapt", "published"):
            as_flag(name, getattr(self, name))
        for name in ("teacher_steps", "teacher_size", "steps", "threads", "jobs", "image_size"):
            if getattr(self, name) is not None:
                as_whole(name, getattr(self, name), at_least=1)
        if self.real_images is not None:
            as_whole("real_images", self.real_images, at_least=2)
        if self.real_fraction is not None:
            as_number("real_fraction", self.real_fraction, above=0, at_most=1)
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
            check_names(name, values)
        if self.steps is not None and "steps" in self.hyperparameters.get("recipe", {}):
            raise InputError(f"steps={self.steps} and recipe.steps: both are the student's steps, keep one of them")
        labels = {name.casefold(): name for name in [*self.methods, *canonical]}
        for label, variant in self.variants.items():
            found = variant_of(label, variant, taken=[*self.methods, *canonical])
            check_label(label, found.method, labels)
        for kind in self.responses:
            canonical_kind(kind)

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
            converted[name] = converted_value(name, str(known[name].type), value)
        return cls(**converted, own=own)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as it stands in ``results.json``."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content
