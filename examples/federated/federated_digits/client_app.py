"""A client: it trains on its own data, and answers messages. Neither its data nor its teacher's weights leave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn import functional as F

import mekd_plugin as mekd
from federated_digits import task
from mekd_plugin.functional import logit_mse
from mekd_plugin.integrations.flower import answer_question

app = ClientApp()
torch.set_num_threads(1)


@app.train("teacher")
def train_teacher(message: Message, context: Context) -> Message:
    """Train a network of one's own on one's own data; what is told is how good it is, for the table."""
    number, config = _number(context), context.run_config
    part = task.client_part(config, number)
    network = task.teacher_network(config, number)
    task.fit(network, *part, F.cross_entropy, steps=config["local-steps"], seed=number, learning_rate=3e-3)
    context.state["teacher"] = ArrayRecord(network.state_dict())
    return _reply(message, number, {"accuracy": task.test_accuracy(network), "images": len(part.images)})


@app.query("teacher")
def teacher(message: Message, context: Context) -> Message:
    """Answer about images, within one's own budget, by one's own ledger."""
    number, config = _number(context), context.run_config
    network = task.teacher_network(config, number)
    network.load_state_dict(context.state["teacher"].to_torch_state_dict())
    if config["responses"] == "probabilities":
        network = torch.nn.Sequential(network, torch.nn.Softmax(dim=1))
    box = mekd.BlackBox(network, config["responses"], task.NUM_CLASSES, budget=config["client-budget"])
    return answer_question(message, box, directory=_directory(context), name=f"client {number}")


@app.query("generated")
def generated(message: Message, context: Context) -> Message:
    """Images drawn from a generator that was fitted here, as bytes."""
    number = _number(context)
    part = task.client_part(context.run_config, number)
    count = int(message.content.config_records["config"]["count"])
    levels = ((task.generated_images(part.images, count, seed=number) + 1) * 127.5).round().to(torch.uint8)
    return _reply(message, number, {}, images=ArrayRecord([levels.numpy()]))


@app.train()
def train_shared(message: Message, context: Context) -> Message:
    """A round of FedAvg: go on from the server's weights, and send them back."""
    number, config = _number(context), context.run_config
    part = task.client_part(config, number)
    network = task.build(config["student"])
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    epochs_of_two = max(1, 2 * len(part.images) // 32)
    task.fit(network, *part, F.cross_entropy, steps=epochs_of_two, seed=_round(message))
    metrics = MetricRecord({"num-examples": len(part.images)})
    return Message(RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics}), reply_to=message)


@app.train("scores")
def train_by_scores(message: Message, context: Context) -> Message:
    """A round of FedMD: digest the others' mean scores on the public images, revisit one's own, and score again."""
    number, config = _number(context), context.run_config
    network = task.teacher_network(config, number)
    network.load_state_dict(context.state["fedmd" if "fedmd" in context.state else "teacher"].to_torch_state_dict())
    public = task.public_images(config)
    mean = torch.from_numpy(message.content["arrays"].to_numpy_ndarrays()[0])
    if len(mean):
        task.fit(network, public, mean, logit_mse, steps=30, seed=_round(message))
        task.fit(network, *task.client_part(config, number), F.cross_entropy, steps=20, seed=_round(message))
    context.state["fedmd"] = ArrayRecord(network.state_dict())
    told = {"num-examples": 1, "accuracy": task.test_accuracy(network)}
    scores = ArrayRecord([mekd.predict(network, public).numpy()])
    return Message(RecordDict({"arrays": scores, "metrics": MetricRecord(told)}), reply_to=message)


def _number(context: Context) -> int:
    """Which client this is, as Flower's simulation or ``--node-config partition-id=N`` says."""
    return int(context.node_config["partition-id"])


def _directory(context: Context) -> Path:
    """Where this client keeps its ledger: a place of its own machine, or in a simulation a folder of the run's."""
    default = Path(str(context.run_config["out"])) / "ledgers" / f"client-{_number(context)}"
    return Path(str(context.node_config.get("ledger", default)))


def _round(message: Message) -> int:
    return int(message.content["config"]["server-round"])


def _reply(message: Message, number: int, metrics: dict[str, Any], **records: ArrayRecord) -> Message:
    told = MetricRecord({"client": number, **metrics})
    return Message(RecordDict({"metrics": told, **records}), reply_to=message)
