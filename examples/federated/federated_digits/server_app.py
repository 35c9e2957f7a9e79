"""The server: distils one student from the clients' answers, or runs one of the methods to compare with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

import mekd_plugin as mekd
from federated_digits import task
from federated_digits.strategies import FedDF, FedMD
from mekd_plugin.errors import TeacherUnavailable
from mekd_plugin.integrations.flower import CountedGrid, Federation

app = ServerApp()
torch.set_num_threads(1)
_FAST_MEKD = {"preset": "fast", "emulation": "mixture"}
Config = Mapping[str, Any]
Record = dict[str, Any]


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the methods one after another on the same clients, and keep what came out of each."""
    config = context.run_config
    methods = [name.strip() for name in str(config["methods"]).split(",")]
    if unknown := sorted(set(methods) - set(METHODS)):
        raise ValueError(f"methods={config['methods']!r}: no {', '.join(unknown)}; there are {', '.join(METHODS)}")
    folder = Path(str(config["out"]))
    folder.mkdir(parents=True, exist_ok=True)
    while len(list(grid.get_node_ids())) < config["clients"]:
        time.sleep(0.5)
    settings = {name: value for name, value in config.items() if name != "out"}
    record: Record = {"config": settings, "clients": train_teachers(grid, config), "methods": {}}
    print(f"teachers of the clients: {', '.join(format(row['accuracy'], '.3f') for row in record['clients'])}")
    for method in methods:
        counted, began = CountedGrid(grid), time.process_time()
        outcome = METHODS[method](counted, config)
        sent, received = sum(counted.sent.values()), sum(counted.received.values())
        outcome |= {"bytes_to_clients": sent, "bytes_from_clients": received}
        record["methods"][method] = {**outcome, "server_seconds": time.process_time() - began}
        print(f"{method}: accuracy {outcome['accuracy']:.3f}, {sent:,} bytes to the clients and {received:,} back")
    record["ensemble"] = ensemble_accuracy(grid, config)
    (folder / "results.json").write_text(json.dumps(record, indent=1))


def train_teachers(grid: Grid, config: Config) -> list[Record]:
    """Have every client train its own network on its own data; how good each is on the test images."""
    return [dict(reply.content.metric_records["metrics"]) for reply in _ask_all(grid, "train.teacher", config)]


def ensemble_accuracy(grid: Grid, config: Config) -> float | None:
    """Of the clients' mean answer about the test images, asked for the table alone; None where nobody answers."""
    data = mekd.data.load("digits")
    try:
        answers = Federation(grid, task.NUM_CLASSES, timeout=config["timeout"])(data.test_images)
    except TeacherUnavailable as error:
        print(f"no accuracy of the ensemble: {error}")
        return None
    return (answers.argmax(dim=1) == data.test_labels).double().mean().item()


def distilled(grid: CountedGrid, config: Config, method: str, images: Tensor, **settings: Any) -> Record:
    """A student of the ensemble; each question is one round of messages."""
    federation = Federation(grid, task.NUM_CLASSES, timeout=config["timeout"])
    student = task.build(config["student"], seed=config["seed"])
    result = mekd.distill(
        student,
        federation.black_box(budget=config["queries"]),
        images,
        method,
        recipe=mekd.Recipe(steps=config["steps"]),
        seed=config["seed"],
        device="cpu",
        probe=False,  # it would be a round of messages about one image
        progress=False,
        **settings,
    )
    federation.collect()
    print(federation)
    return {
        "accuracy": task.test_accuracy(student),
        "rounds": federation.rounds,
        "images": result.ledger.total,
        "accounts": federation.as_record(),
    }


def mekd_of_server(grid: CountedGrid, config: Config) -> Record:
    """MEKD: the server fits the generator to its own unlabelled images, and asks about images that it draws."""
    return distilled(grid, config, "mekd", task.public_images(config), **_FAST_MEKD)


def mekd_from_clients(grid: CountedGrid, config: Config) -> Record:
    """The same without any image of the server's: each client fits a generator, and images drawn from those replace
    them.
    """
    replies = _ask_all(grid, "query.generated", config)
    levels = [torch.from_numpy(reply.content.array_records["images"].to_numpy_ndarrays()[0]) for reply in replies]
    record = distilled(grid, config, "mekd", torch.cat(levels).float() / 127.5 - 1, **_FAST_MEKD)
    return {**record, "rounds": record["rounds"] + 1}


def kd(grid: CountedGrid, config: Config) -> Record:
    """Plain distillation: the public images and views of them are sent."""
    return distilled(grid, config, "kd", task.public_images(config))


def averaged(grid: CountedGrid, config: Config, strategy: FedAvg) -> Record:
    """The shared network after the rounds of a strategy that averages weights."""
    network = task.build(config["student"], seed=config["seed"])
    result = strategy.start(
        grid=cast(Grid, grid),
        initial_arrays=ArrayRecord(network.state_dict()),
        num_rounds=config["rounds"],
        timeout=config["timeout"],
    )
    network.load_state_dict(result.arrays.to_torch_state_dict())
    return {"accuracy": task.test_accuracy(network), "rounds": config["rounds"], "images": 0}


def fedavg(grid: CountedGrid, config: Config) -> Record:
    """FedAvg of equal networks, Flower's own."""
    return averaged(grid, config, FedAvg(**_everyone(config)))


def feddf(grid: CountedGrid, config: Config) -> Record:
    """FedDF on the server's unlabelled images."""
    images = task.public_images(config)
    return averaged(grid, config, FedDF(partial(task.build, config["student"]), images, **_everyone(config)))


def fedmd(grid: CountedGrid, config: Config) -> Record:
    """FedMD from the clients' own networks; there is no student, so the accuracy is the clients' mean."""
    strategy = FedMD(**_everyone(config), train_metrics_aggr_fn=_mean_and_best)
    nothing = ArrayRecord([np.empty((0, task.NUM_CLASSES), dtype=np.float32)])
    rounds = config["fedmd-rounds"]
    result = strategy.start(grid=cast(Grid, grid), initial_arrays=nothing, num_rounds=rounds, timeout=config["timeout"])
    last = result.train_metrics_clientapp[rounds]
    images = config["public-images"] * rounds  # each client has the public images; their scores travel
    return {"accuracy": last["accuracy"], "best": last["best"], "rounds": rounds, "images": images}


METHODS: dict[str, Callable[[CountedGrid, Config], Record]] = {
    "mekd": mekd_of_server,
    "mekd_from_clients": mekd_from_clients,
    "kd": kd,
    "fedavg": fedavg,
    "feddf": feddf,
    "fedmd": fedmd,
}


def _everyone(config: Config) -> dict[str, Any]:
    """Settings of Flower's strategies: all clients train in every round, and the server alone scores the result."""
    return {"fraction_evaluate": 0.0, "min_train_nodes": config["clients"], "min_available_nodes": config["clients"]}


def _mean_and_best(contents: list[RecordDict], weighted_by: str) -> MetricRecord:
    accuracies = [float(content.metric_records["metrics"]["accuracy"]) for content in contents]
    return MetricRecord({"accuracy": sum(accuracies) / len(accuracies), "best": max(accuracies)})


def _ask_all(grid: Any, kind: str, config: Config) -> list[Message]:
    """The replies of all clients that give one, in the order of the clients' numbers."""
    content = RecordDict({"config": ConfigRecord({"count": config["generated-images"]})})
    messages = [Message(content, node, kind) for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages, timeout=config["timeout"]))
    for failed in (reply for reply in replies if reply.has_error()):
        print(f"{kind}: a client failed: {failed.error.reason}")
    return sorted(
        (reply for reply in replies if reply.has_content()),
        key=lambda reply: int(reply.content.metric_records["metrics"]["client"]),
    )
