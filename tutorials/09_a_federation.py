# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 9. A federation
#
# Three hospitals each have a model, trained on images that may not leave the house. Their networks differ, so there is
# nothing to average. But each can *answer*: images in, class probabilities out. A server that asks all three and
# teaches one student from their mean answers needs neither their data nor their weights, only two rounds of messages.
#
# | | what a client gives away | rounds | networks |
# |---|---|---|---|
# | FedAvg | its weights, again and again | many | all equal |
# | FedMD | its scores of public images | several | its own |
# | this notebook | its answers, within a budget of its own | two | its own |
#
# The runtime is [Flower](https://flower.ai): `flwr run` starts an app of two files, a client and a server. Here the
# clients are simulated on this machine; on real ones the same files run. This notebook needs
# `pip install '.[federated]'` in a copy of the repository.

# %%
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from flwr_datasets.partitioner import DirichletPartitioner

import mekd_plugin as mekd

device = "cuda" if torch.cuda.is_available() else "cpu"  # of this process; the clients compute on the CPU
torch.set_num_threads(1)  # with one thread a CPU gives the same numbers at every run; take more for speed
warnings.filterwarnings("ignore")
work = Path(tempfile.mkdtemp())
os.chdir(work)
CLIENTS, QUERIES = 3, 600

# %% [markdown]
# ## Who has what
#
# The training images of scikit-learn's digits, less 125 that the server keeps, without their labels. Each class is
# divided among the clients in proportions drawn from a Dirichlet distribution: the smaller its $\alpha$, the more
# one-sided the shares. Flower has a partitioner for it.

# %%
data = mekd.data.load("digits")
server_images, private = data.train_images[:125], slice(125, None)
rows = Dataset.from_dict({
    "label": data.train_labels[private].tolist(), "row": list(range(125, len(data.train_images)))
})  # fmt: skip
Path("parts").mkdir()
for alpha in (100.0, 1.0, 0.1):
    partitioner = DirichletPartitioner(CLIENTS, "label", alpha, min_partition_size=100, seed=1)
    partitioner.dataset = rows
    parts = [partitioner.load_partition(number) for number in range(CLIENTS)]
    print(f"alpha {alpha:g}: images of each class")
    for number, part in enumerate(parts):
        counts = torch.bincount(torch.tensor(list(part["label"])), minlength=10)
        print(f"  client {number}: " + " ".join(f"{int(count):3d}" for count in counts) + f"   {len(part):3d} in all")
        if alpha == 1.0:
            Path(f"parts/{number}.json").write_text(json.dumps(list(part["row"])))

# %% [markdown]
# We take $\alpha = 1$: everyone has seen most digits, and nobody all of them equally.
#
# ## A client
#
# It handles two messages. On `train.teacher` it trains a network on its own images; each client has chosen another
# architecture. On `query.teacher` it answers. What answers is a `BlackBox`, as everywhere in this course: its `budget`
# is the **client's**, and `answer_question` keeps the ledger in the client's own folder, so that a server cannot start
# over with a clean slate.
#
# Two of our clients will make trouble. Client 1 allows only 200 images. Client 2 breaks down whenever it is asked.

# %%
Path("lesson").mkdir()

# %%
# %%writefile lesson/client.py
import json
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.integrations.flower import answer_question

app = ClientApp()
torch.set_num_threads(1)
NETWORKS, BUDGETS = ["lenet5", "resnet8", "lenet5"], [1000, 200, 1000]


def own_network(number):
    return mekd.networks.build(NETWORKS[number], 10, (1, 16, 16), seed=number)


@app.train("teacher")
def train(message, context):
    number, data = context.node_config["partition-id"], mekd.data.load("digits")
    own = json.loads(Path(context.run_config["folder"], f"parts/{number}.json").read_text())
    network = mekd.train_teacher(
        own_network(number),
        data.train_images[own],
        data.train_labels[own],
        num_classes=10,
        recipe=mekd.Recipe(steps=200),
        progress=False,
        device="cpu",
    )
    context.state["weights"] = ArrayRecord(network.state_dict())  # stays on the client
    right = mekd.accuracy(network, data.test_images, data.test_labels)
    return Message(RecordDict({"told": MetricRecord({"client": number, "accuracy": right})}), reply_to=message)


@app.query("teacher")
def teacher(message, context):
    number = context.node_config["partition-id"]
    if number == 2:
        raise OSError("the disk of client 2 is full")
    network = own_network(number)
    network.load_state_dict(context.state["weights"].to_torch_state_dict())
    box = mekd.BlackBox(nn.Sequential(network, nn.Softmax(dim=1)), "probabilities", 10, budget=BUDGETS[number])
    ledger = Path(context.run_config["folder"], f"ledgers/client-{number}")
    return answer_question(message, box, directory=ledger, name=f"client {number}")


# %% [markdown]
# ## The server
#
# `Federation(grid, ...)` is a function from images to the clients' mean answer, and `black_box()` puts it behind the
# boundary. From there on it is a teacher like any other, for any method. MEKD with the mixture of Gaussians fits a
# generator to the server's own unlabelled images, which **stay at the server**, and asks about images that it draws:
# once at random, once more for the answers that it wants. Those are the two rounds.

# %%
# %%writefile lesson/server.py
import json
import time
import warnings
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

import mekd_plugin as mekd
from mekd_plugin.integrations.flower import Federation

app = ServerApp()
torch.set_num_threads(1)
warnings.filterwarnings("ignore")


@app.main()
def main(grid, context):
    while len(clients := list(grid.get_node_ids())) < 3:
        time.sleep(0.5)
    messages = [Message(RecordDict({"config": ConfigRecord()}), node, "train.teacher") for node in clients]
    replies = [dict(reply.content["told"]) for reply in grid.send_and_receive(messages)]

    federation = Federation(grid, num_classes=10)
    data = mekd.data.load("digits")
    student = mekd.networks.build("lenet5", 10, (1, 16, 16), seed=0)
    result = mekd.distill(
        student,
        federation.black_box(budget=context.run_config["queries"]),
        data.train_images[:125],
        "mekd",
        preset="tiny",
        emulation="mixture",
        recipe=mekd.Recipe(steps=600),
        probe=False,
        progress=False,
        device="cpu",
    )
    record = {
        "clients": sorted(replies, key=lambda told: told["client"]),
        "student": mekd.accuracy(student, data.test_images, data.test_labels),
        "rounds": federation.rounds,
        "asked": result.ledger.total,
        "accounts": federation.as_record(),
    }
    Path(context.run_config["folder"], "record.json").write_text(json.dumps(record))


# %% [markdown]
# The third file says which is which, and which settings there are. `dependencies` is empty, for whatever stands there
# Flower installs anew at every run.

# %%
settings = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "lesson"
version = "1.0.0"
license = "MIT"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["lesson"]

[tool.flwr.app]
publisher = "mekd"

[tool.flwr.app.components]
serverapp = "lesson.server:app"
clientapp = "lesson.client:app"

[tool.flwr.app.config]
folder = "."
queries = 600
"""
Path("pyproject.toml").write_text(settings)
print(settings.count("\n"), "lines")

# %% [markdown]
# ## Run it
#
# A *SuperLink* passes messages between the server's app and the clients', and each client has a *SuperNode* that starts
# its app when there is a message for it. Here all are processes of this machine; on several machines they are started
# with the same commands, and with certificates instead of `--insecure`. (To simulate many clients, Flower uses Ray:
# `flwr run . --stream` does that by itself. And Flower reports every run to its makers unless
# `FLWR_TELEMETRY_ENABLED` is 0.)


# %%
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(program, *options):
    return subprocess.Popen([tools / program, "--insecure", *options], env=environment, stdout=log, stderr=log)


tools, home, port = Path(sys.executable).parent, Path(tempfile.mkdtemp()), free_port()
(home / "config.toml").write_text(
    f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
)
environment = {
    **os.environ,
    "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
    "FLWR_HOME": str(home),
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "OMP_NUM_THREADS": "1",
}
log = open(home / "log.txt", "w")
processes = [start("flower-superlink", "--port", port, "--disable-runtime-dependency-installation")]
for _ in range(240):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
        break
    except OSError:
        time.sleep(0.5)
for number in range(CLIENTS):
    options = ["--superlink", f"127.0.0.1:{port}", "--port", free_port(), "--node-config", f"partition-id={number}"]
    processes.append(start("flower-supernode", *options))

settings = f'folder="{work}" queries={QUERIES}'
done = subprocess.run(
    ["flwr", "run", ".", "--stream", "--run-config", settings], env=environment, capture_output=True, text=True
)
for process in processes[::-1]:
    process.terminate()
    process.wait()
log.close()
assert (work / "record.json").exists(), done.stdout + done.stderr + (home / "log.txt").read_text()

record = json.loads((work / "record.json").read_text())
print(f"{record['asked']} images in {record['rounds']} rounds")
for account in sorted(record["accounts"], key=lambda account: account["name"] or "z"):
    name = account["name"] or "a client that never got to its name"
    print(f"{name}: {account['answered']} answered, {account['refused']} refused, {account['failed']} failed")
    print(f"    {account['bytes_sent'] / 1000:.0f} kB to it, {account['bytes_received'] / 1000:.0f} kB back")

# %% [markdown]
# Each client was sent a byte a pixel, 256 for an image, and gave back forty for an answer. Client 1 answered the first
# round and **refused** the second, which was beyond its budget. Client 2 **failed** in both, before it could say who it
# was. The rounds went on without them. Client 1's own reason:

# %%
[strict] = [account for account in record["accounts"] if account["name"] == "client 1"]
print(re.sub(r"run \d+", "run N", strict["reason"]))

# %% [markdown]
# And the student? It has seen no private image, and no real one has been sent.

# %%
# Output not compared: what trained networks say depends on the processor's rounding.
for told in record["clients"]:
    print(f"client {told['client']}: {100 * told['accuracy']:.1f} %")
print(f"student:  {100 * record['student']:.1f} %")

# %% [markdown]
# ## A budget outlives a run
#
# Client 1 has answered 180 images, as its own ledger says, whatever the server believes. The next run, of whichever
# server, finds 20 left.

# %%
own = mekd.BlackBox(lambda images: images, "probabilities", 10, budget=200)
own.ledger.attach(work / "ledgers" / "client-1")
own.release()
print(re.sub(r"run \d+", "run N", str(own.ledger)))

# %% [markdown]
# ## What it costs, and where it loses
#
# FedAvg sends every weight both ways in every round. For this little student:

# %%
student = mekd.networks.build("lenet5", 10, (1, 16, 16), seed=0)
weights = sum(weight.numel() for weight in student.parameters())
answers, images, rounds = 4 * 10 * QUERIES, 256 * QUERIES, 15
print(f"{weights:,} weights, {rounds} rounds: {4 * weights * rounds:,} bytes to each client, and as many back")
print(f"{QUERIES} questions: {images:,} bytes to each client, {answers:,} back")

# %% [markdown]
# The networks' size is no part of the second line; with a ResNet-20 of 270,000 weights the first one is seventeen times
# as large. `examples/federated/compare.py` sets both beside FedDF and FedMD, on five clients and three splits.
#
# Answers lose where every client has seen but a few classes: each is sure of itself about what it has never seen, and
# the mean of such answers is a poor teacher. A student is hardly ever better than the ensemble that it asks.
#
# **What is not promised.** A client that lies moves the mean by its share, and nothing here finds out. The server sees
# each client's answers: there is no secure aggregation. Answers tell something about the images that a model was
# trained on; the budget limits how much, and no noise is added. Who needs more than that needs cryptography, or
# differential privacy.
#
# ## What was learned, as assertions

# %%
assert record["rounds"] == 2 and record["asked"] == QUERIES, "one generator, two rounds of messages"
assert record["student"] > 0.5, "the student has learnt from answers alone"
assert (strict["answered"], strict["refused"]) == (180, 420), "a client keeps to its own budget"
assert own.ledger.total == 180 and own.ledger.uncertain == 0, "and to its own ledger"
assert [account["failed"] for account in record["accounts"]].count(QUERIES) == 1, "the rounds go on without a client"
assert all(account["bytes_received"] < account["bytes_sent"] for account in record["accounts"])
print("all as expected")

# %% [markdown]
# ## Two exercises
#
# Neither needs Flower.
#
# 1. **When is a question cheaper than a weight?** For networks of 10,000 to 10 million weights and one round of FedAvg,
#    how many questions of 16 x 16 pixels cost as many bytes, there and back, for each client?
# 2. **One-sided clients.** Give three clients the digits 0 to 3, 4 to 6 and 7 to 9, or all digits each. Train their
#    networks, and compare the accuracy of their mean answer with the best client's. How sure is a client of what it has
#    never seen?
#
# Solutions, with what they printed, are in [solutions.md](solutions.md).
#
# That was the course. Where to go from here: `mekd bench --help`, the methods' contract in `mekd_plugin.testing`, and
# your own model.
#
# **References.** McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data* (FedAvg),
# AISTATS 2017. Guha, Talwalkar, Smith, *One-Shot Federated Learning*, 2019. Li and Wang, *FedMD: Heterogenous Federated
# Learning via Model Distillation*, 2019. Lin et al., *Ensemble Distillation for Robust Model Fusion in Federated
# Learning* (FedDF), NeurIPS 2020. Beutel et al., *Flower: A Friendly Federated Learning Research Framework*, 2020.
