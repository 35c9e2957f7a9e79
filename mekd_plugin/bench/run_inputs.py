"""What a run begins with: where it works, its data, the edge's images, its recipe, and its method's own digest."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass

from torch import Tensor

from mekd_plugin import registry
from mekd_plugin.bench.run_spec import RunSpec
from mekd_plugin.data.datasets import ImageData, load
from mekd_plugin.data.splits import EdgeSplit, edge_images
from mekd_plugin.distiller import Distiller
from mekd_plugin.errors import InputError
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.signature import described_settings

__all__ = ["Method", "Place", "digest_of", "edge_of", "learnt_by_teacher", "load_data", "pool_of", "recipe_of"]

Method = type[Distiller] | Distiller
"""A method that is an object, in place of a registered one's name."""


@dataclass(frozen=True)
class Place:
    """Where a run works; it affects no number.

    Attributes:
        out: the benchmark's directory.
        device: such as ``"cuda:1"``.
        data_root: directory of the data sets.
        download: whether missing ones are fetched.
        audit: how many questions to ask about each finished run's generator, which changes nothing else of its record.
        teacher: the name under which the teacher's file is found there, in place of the run's own.
        cache: where trained teachers are kept there; None for the machine's own cache.
    """

    out: str
    device: str = "cpu"
    data_root: str | None = None
    download: bool = False
    audit: int = 0
    teacher: str | None = None
    cache: str | None = None


def digest_of(method: Method) -> str:
    """Tells a method that is an object from another: its class, the class's source where it is known, its settings."""
    cls = method if isinstance(method, type) else type(method)
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):
        source = ""
    settings = {} if isinstance(method, type) else registry.settings_of(method)
    described = f"{registry.method_name(method)}\n{source}\n{described_settings(settings)}"
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def load_data(spec: RunSpec, place: Place) -> ImageData:
    """The edge's data set, with the images that student and teacher are tested on."""
    return load(spec.edge_dataset or spec.dataset, place.data_root, place.download, spec.image_size)


def learnt_by_teacher(spec: RunSpec, place: Place, data: ImageData) -> ImageData:
    """The data set that a teacher which is trained here learns: the edge's, or one of another domain.

    Raises:
        InputError: its images or classes are not such as the edge's.
    """
    if spec.edge_dataset is None or spec.teacher_steps is None:
        return data
    learnt = load(spec.dataset, place.data_root, place.download, spec.image_size)
    found, expected = (learnt.image_shape, learnt.num_classes), (data.image_shape, data.num_classes)
    if found != expected:
        raise InputError(
            f"edge_dataset={spec.edge_dataset} has images of {expected[0]} and {expected[1]} classes, and the "
            f"teacher's {spec.dataset} {found[0]} and {found[1]}: expected the same; image_size= scales both"
        )
    return learnt


def edge_of(spec: RunSpec, data: ImageData) -> EdgeSplit:
    """The images that the edge holds in this run."""
    return edge_images(
        data,
        real_fraction=spec.real_fraction,
        real_images=spec.real_images,
        seed=spec.seed,
        disjoint=spec.disjoint,
    )


def pool_of(spec: RunSpec, place: Place) -> Tensor | None:
    """Images of another domain, as many as the edge's data set has, for methods that ask about those, or None."""
    if spec.pool_dataset is None:
        return None
    return load(spec.pool_dataset, place.data_root, place.download, spec.image_size).train_images


def recipe_of(spec: RunSpec) -> Recipe:
    """How the student is trained."""
    steps = {} if spec.steps is None else {"steps": spec.steps}
    return Recipe.preset(spec.preset, **{**spec.recipe, **steps})
