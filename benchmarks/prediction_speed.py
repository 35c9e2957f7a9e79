"""What a network answers about many images: the package's batches against batches of 1,024, whatever the images' size.

    python benchmarks/prediction_speed.py [--quick]

A benchmark's run predicts the test set some ten times, and a diagnosis more often. Both arms answer about the same
images, by turns in one process on one thread, and their answers are equal to the bit.
"""

from __future__ import annotations

import argparse

import torch
from measuring import compare, environment, finish
from torch import Tensor

from mekd_plugin.networks import build
from mekd_plugin.prediction import predict

CASES = (("lenet5", (1, 32, 32)), ("resnet20", (1, 16, 16)), ("resnet8", (3, 32, 32)), ("resnet8", (3, 64, 64)))
IMAGES, CLASSES = 2048, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round; nothing is kept")
    given = parser.parse_args()
    rows = [case(network, shape, rounds=1 if given.quick else 5) for network, shape in CASES]
    record = {"benchmark": f"answers about {IMAGES} images", "environment": environment(), "timings": rows}
    finish("prediction_speed", record, keep=not given.quick)


def case(network: str, shape: tuple[int, int, int], rounds: int) -> dict[str, object]:
    """Milliseconds for all images."""
    module = build(network, CLASSES, shape, seed=0)
    images = torch.rand(IMAGES, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    answers: dict[str, Tensor] = {}

    def straightforward(steps: int) -> None:
        for _ in range(steps):
            answers["straightforward"] = predict(module, images, batch_size=1024)

    def product(steps: int) -> None:
        for _ in range(steps):
            answers["product"] = predict(module, images)

    found = compare(straightforward, product, threads=1, rounds=rounds, steps=1)
    equal = torch.equal(answers["straightforward"], answers["product"])
    kept = ("threads", "rounds", "milliseconds_a_step", "ratio", "ratio_by_round", "ratio_of_processor_time")
    return {"network": network, "image_shape": shape, **{name: found[name] for name in kept}, "equal": equal}


if __name__ == "__main__":
    main()
