"""MEKD and the baselines against ART's own extraction attacks, in one run, under one meter.

    python benchmarks/art_head_to_head.py [--data-root DIR] [--quick]

With ``--data-root`` MNIST at 32x32, 5,000 unlabelled images of the edge; without it the digits, 1,000. Each attack gets
the same images, may ask about as many as there are, and trains the same LeNet5-Half with the same Adam, batch size and
epochs, in ART's own loop, without augmentation; nothing was tuned for any of them. The victim is a LeNet5 that answers
with probabilities; an attack that says ``labels`` uses only the arg max. Three seeds of images, student and attack;
the test set is read once, after the last step. What is asked is counted where ART's attacks call their victim.

``CopycatCNN`` and the random ``KnockoffNets`` are one algorithm in ART: draw, ask, fit. The adaptive ``KnockoffNets``
draws with replacement, always learns from labels, takes one step of a single image after each query before it trains
like the others, and chooses by the true labels of the images, which it alone is given.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.extraction import CopycatCNN, KnockoffNets
from art.estimators.classification import PyTorchClassifier
from measuring import environment, finish
from torch import Tensor, nn

from mekd_plugin.bench.statistics import mean_interval
from mekd_plugin.bench.teachers import LabelledImages, trained_teacher
from mekd_plugin.data import edge_images, load
from mekd_plugin.data.datasets import ImageData
from mekd_plugin.harness.art import SUITE, black_box_classifier
from mekd_plugin.harness.art.guest import attack_of
from mekd_plugin.harness.meter import Counted
from mekd_plugin.networks import build
from mekd_plugin.prediction import predict
from mekd_plugin.registry import available, distillers
from mekd_plugin.training.evaluation import accuracy

TEACHER, STUDENT = "lenet5", "lenet5_half"
BATCH, LEARNING_RATE = 50, 1e-3
SHARES, NUMBERS = ("accuracy", "agreement"), ("sent", "distinct", "steps", "seconds", "processor_seconds")
QUICK = dict.fromkeys(("mekd", "mekd_bank"), {"emulation_settings": {"surrogate_steps": 20}, "surrogate_steps": 20})


@dataclass(frozen=True)
class Edge:
    """What an attack is given in a run: images and their labels, and how many it may ask about."""

    images: Tensor
    labels: Tensor
    seed: int
    epochs: int
    cache: Path
    quick: bool

    @property
    def queries(self) -> int:
        return len(self.images)


Arm = Callable[[Any, Edge], Any]
"""Victim, edge -> attack."""


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    data = load("mnist", root=options.data_root) if options.data_root else load("digits")
    training = LabelledImages(data.train_images, data.train_labels, data.num_classes)
    teacher, _ = trained_teacher(TEACHER, training, steps=options.teacher_steps)
    answered = predict(teacher, data.test_images).argmax(dim=1)
    victim = black_box_classifier(teacher, data.image_shape, data.num_classes, probabilities=True)
    began = environment()
    rows: dict[str, dict[str, Any]] = {name: {**said, "runs": []} for name, (said, _) in arms().items()}
    for seed in range(options.seeds):
        split = edge_images(data, real_images=options.images, seed=seed)
        with tempfile.TemporaryDirectory() as cache:
            edge = Edge(
                split.images, data.train_labels[split.indices], seed, options.epochs, Path(cache), options.quick
            )
            for name, (_, arm) in arms().items():
                rows[name]["runs"].append(run(arm, victim, edge, data, answered))
                print(name, rows[name]["runs"][-1], flush=True)
    record = {
        "benchmark": f"extraction attacks in ART {SUITE.version()}, {data.name}, {TEACHER} to {STUDENT}",
        "environment": began,
        "teacher_accuracy": accuracy(teacher, data.test_images, data.test_labels),
        "setting": {
            "images": options.images,
            "queries": options.images,
            "batch_size": BATCH,
            "epochs": options.epochs,
            "optimizer": f"Adam, learning rate {LEARNING_RATE}, constant",
            "threads": 1,
        },
        "attacks": {name: {**summary(row), **ahead(row, rows)} for name, row in rows.items()},
    }
    finish("art_head_to_head" if options.data_root else "art_head_to_head_digits", record, keep=not options.quick)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder with MNIST; without it, the digits")
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch, 200 images; nothing is kept")
    options = parser.parse_args()
    options.teacher_steps = 4000 if options.data_root else 600
    options.images = 5000 if options.data_root else 1000
    options.seeds, options.epochs = 3, 20 if options.data_root else 100  # 2,000 steps, either way
    if options.quick:
        options.seeds, options.epochs, options.images = 1, 1, 200
    return options


def arms() -> dict[str, tuple[dict[str, Any], Arm]]:
    """Name to what an attack sees and sends, and how it is made."""
    found: dict[str, tuple[dict[str, Any], Arm]] = {}
    for soft, answers in ((True, "probabilities"), (False, "labels")):
        said = {"answers": answers, "leaves_edge": "real images"}
        found[f"KnockoffNets, random, {answers}"] = said, knockoff("random", soft)
        found[f"CopycatCNN, {answers}"] = said, copycat(soft)
    told = {"answers": "labels", "leaves_edge": "real images", "beyond": "true labels of the images, to choose by"}
    found["KnockoffNets, adaptive, labels"] = told, knockoff("adaptive", soft=False)
    for method in available():
        needs = distillers().get(method).needs
        for soft, answers in ((True, "probabilities"), (False, "labels")):
            if needs.responses in ("either", "soft" if soft else "hard") and needs.queries == "once":
                said = {"answers": answers, "leaves_edge": needs.leaves_edge}
                found[f"{method}, {answers}"] = said, ours(method, "probabilities" if soft else "hard")
    return found


def knockoff(strategy: str, soft: bool) -> Arm:
    return lambda victim, edge: KnockoffNets(
        victim, sampling_strategy=strategy, use_probability=soft, verbose=False, **_settings(edge)
    )


def copycat(soft: bool) -> Arm:
    return lambda victim, edge: CopycatCNN(victim, use_probability=soft, **_settings(edge))


def ours(method: str, responses: str) -> Arm:
    return lambda victim, edge: attack_of(method)(
        victim,
        responses=responses,
        seed=edge.seed,
        cache=edge.cache,
        validation=0.0,
        verbose=False,
        **_settings(edge),
        **(QUICK.get(method, {}) if edge.quick else {}),
    )


def _settings(edge: Edge) -> dict[str, int]:
    sizes = {"batch_size_fit": BATCH, "batch_size_query": 256}
    return {**sizes, "nb_epochs": edge.epochs, "nb_stolen": edge.queries}


def run(arm: Arm, victim: Any, edge: Edge, data: ImageData, answered: Tensor) -> dict[str, Any]:
    """One attack on one seed: how good the thieved classifier is, what was asked, and how long it took."""
    torch.manual_seed(edge.seed)
    np.random.seed(edge.seed)  # ART draws from the global generators
    student = build(STUDENT, data.num_classes, data.image_shape, seed=edge.seed)
    steps: list[None] = []
    optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE)
    optimizer.register_step_post_hook(lambda *_: steps.append(None))
    thieved = PyTorchClassifier(
        student,
        nn.CrossEntropyLoss(),
        input_shape=data.image_shape,
        nb_classes=data.num_classes,
        optimizer=optimizer,
        clip_values=(-1.0, 1.0),
        device_type="cpu",
    )
    attack, counted, shared = arm(victim, edge), Counted(), any(edge.cache.iterdir())
    labels = edge.labels.numpy() if getattr(attack, "sampling_strategy", "") == "adaptive" else None
    began = time.perf_counter(), time.process_time()
    with SUITE.metered(counted):
        thieved = attack.extract(edge.images.numpy(), labels, thieved_classifier=thieved)
    seconds, processor = time.perf_counter() - began[0], time.process_time() - began[1]
    guessed = torch.from_numpy(thieved.predict(data.test_images.numpy())).argmax(dim=1)
    return {
        "seed": edge.seed,
        "accuracy": float((guessed == data.test_labels).double().mean()),
        "agreement": float((guessed == answered).double().mean()),
        "sent": counted.ledger.total,
        "distinct": counted.ledger.distinct,
        "steps": len(steps),
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "generator": "taken over, its seconds are in the row before" if shared and _generates(attack) else "",
    }


def _generates(attack: Any) -> bool:
    return hasattr(attack, "method") and distillers().get(attack.method).needs.leaves_edge == "synthetic images"


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """The row with means over the seeds, and for shares the 95 % interval of the mean."""
    runs = row["runs"]
    means = {name: mean_interval([run[name] for run in runs])._asdict() for name in SHARES}
    numbers = {name: sum(run[name] for run in runs) / len(runs) for name in NUMBERS}
    return {**row, **means, **numbers}


def ahead(row: dict[str, Any], rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How far its accuracy is ahead of the random KnockoffNets', which learns from the same answers, seed by seed."""
    rival = rows[f"KnockoffNets, random, {row['answers']}"]
    gaps = [own["accuracy"] - other["accuracy"] for own, other in zip(row["runs"], rival["runs"], strict=True)]
    return {"ahead_of_knockoff": mean_interval(gaps)._asdict()}


if __name__ == "__main__":
    main()
