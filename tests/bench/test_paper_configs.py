"""The paper's tables as configurations: each can be planned, and says what is missing where its data is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision
from PIL import Image

from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.errors import DataMissing
from mekd_plugin.flags import read_yaml

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "paper").glob("*.yaml"))
TABLE = ["mekd", "kd", "logit_mimicry", "distribution_alignment", "dkd", "knockoff", "active_mixup", "db3kd"]
FILES = {
    "cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "digits_to_svhn": "train_32x32.mat",
    "imagenet": "imagenet is not an image folder", "mnist": "MNIST/raw", "tiny_imagenet": "tiny-imagenet-200",
}  # fmt: skip


def config_of(path: Path, **changes) -> BenchConfig:
    values = read_yaml(path)
    assert values["methods"] == TABLE
    return BenchConfig.from_mapping({**values, **changes})


def write_images(folder: Path, count: int, size: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{folder.name}_{index}.JPEG")


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A few images of every data set, in its own form."""

    def reader(classes: int, channels_first: bool = False):
        def read(root, download, **split):
            pixels = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
            labels = np.arange(200) % classes
            if channels_first:
                return SimpleNamespace(data=pixels.transpose(0, 3, 1, 2), labels=labels)
            return SimpleNamespace(data=pixels, targets=labels.tolist())

        return read

    def grey(root, download, **split):
        pixels = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
        return SimpleNamespace(data=pixels, targets=(np.arange(200) % 10).tolist())

    for name, replacement in (
        ("MNIST", grey), ("CIFAR10", reader(10)), ("CIFAR100", reader(100)), ("SVHN", reader(10, True)),
    ):  # fmt: skip
        monkeypatch.setattr(torchvision.datasets, name, replacement)
    monkeypatch.setattr("mekd_plugin.data.datasets._RENDERED_IMAGES", (200, 50))
    tiny = tmp_path / "tiny-imagenet-200"
    for name in ("n001", "n002"):
        write_images(tiny / "train" / name / "images", 10, 64)
    write_images(tiny / "val" / "images", 2, 64)
    (tiny / "wnids.txt").write_text("n001\nn002\n")
    lines = [f"images_{index}.JPEG\tn00{index + 1}\t0\t0\t9\t9\n" for index in range(2)]
    (tiny / "val" / "val_annotations.txt").write_text("".join(lines))
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            write_images(tmp_path / "imagenet" / part / name, 10, 48)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_table_of_the_paper_has_its_configuration() -> None:
    assert {path.stem for path in CONFIGS} == FILES.keys()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_dry_run_plans_every_row(path, data) -> None:
    benchmark = Benchmark(config_of(path, data_root=str(data)), data / "out")
    ruled_out = benchmark.check()
    assert {spec.method for spec in benchmark.specs if spec.key not in ruled_out} >= {"mekd", "kd"}
    # Rehearsed is one row alone: the others differ in the network, or are other tests' matter.
    few = config_of(path, data_root=str(data), methods="kd", comparisons=[], responses="soft", student="lenet5_half")
    (planned,) = Benchmark(few, data / "out").plan()
    assert planned.seeds == 3 and planned.plan.total == few.query_budget[0]
    assert not (data / "out").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_where_the_data_is_not_a_dry_run_names_what_is_missing(path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_of(path, data_root=str(tmp_path))
    with pytest.raises(DataMissing, match=FILES[path.stem]):
        Benchmark(config, tmp_path / "out").plan()
