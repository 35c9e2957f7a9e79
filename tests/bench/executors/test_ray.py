"""A grid on a real cluster of two machines, one of which is killed in mid-run; they share no directory with home."""

from __future__ import annotations

import os
import re
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.executors.executor import Job
from mekd_plugin.bench.executors.ray import RayExecutor
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.store import Store
from mekd_plugin.errors import InputError

pytestmark = pytest.mark.slow

SMALL = {
    "teacher": "lenet5", "student": "lenet5_half", "methods": "kd,ml", "teacher_steps": 40, "steps": 400,
    "real_images": 60, "query_budget": 200, "seeds": "0", "device": "cpu",
}  # fmt: skip

PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")

TEACHER = """
import os, time
import torch

def ask(images):
    received = os.environ["TEST_RECEIVED"]
    with open(received, "a") as stream:
        stream.write(f"{len(images)} {os.getpid()}\\n")
    while len(images) == 88 and not os.path.exists(received + ".killed"):  # the last batch of the run
        time.sleep(0.05)
    return torch.stack([images.flatten(1).roll(k, 1)[:, ::5].sum(1) for k in range(10)], 1)
"""


def settings_of_a_machine() -> dict[str, int | bool]:
    """With ports of its own: else Ray gives its agents 15 seconds to start, and gives up on a busy machine."""
    sockets = [socket.socket() for _ in PORTS]
    for one in sockets:
        one.bind(("", 0))
    ports = {name: one.getsockname()[1] for name, one in zip(PORTS, sockets, strict=True)}
    for one in sockets:
        one.close()
    return {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_log_monitor": False, **ports}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def cluster(folder):
    """Its machines have a working directory and a cache of their own, and find the teacher's module."""
    (folder / "modules").mkdir()
    (folder / "modules" / "tests_of_ray.py").write_text(TEACHER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEKD_CACHE", str(folder / "cache of the machines, which nothing may use"))
        patch.setenv("PYTHONPATH", f"{folder / 'modules'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setenv("TEST_RECEIVED", str(folder / "received"))
        patch.syspath_prepend(folder / "modules")
        cluster = Cluster(initialize_head=True, head_node_args={**settings_of_a_machine(), "include_dashboard": False})
        patch.setenv("MEKD_CACHE", str(folder / "cache at home"))
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def machine(cluster):
    """A second machine of one CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEKD_CACHE", "/nowhere")
        return cluster.add_node(**settings_of_a_machine())


def power_off(cluster, node, process: int) -> None:
    """All at once, as nothing that ends in order does."""
    os.kill(process, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def attempts(directory: Path) -> list[tuple[str, int]]:
    """Machine and process of each attempt at a run, as far as home knows."""
    log = directory / "log.txt"
    found = re.findall(r"^attempt \d+ on machine (\w+), process (\d+)$", log.read_text() if log.exists() else "", re.M)
    return [(node, int(process)) for node, process in found]


def numbers(results):
    return [
        (run.label, run.status, run.student_accuracy, run.agreement, run.held_out_agreement, run.curve, run.queries)
        for run in results.runs
    ]


def test_a_machine_killed_in_mid_run_costs_no_row_and_no_digit(cluster, folder, monkeypatch) -> None:
    local = Benchmark(BenchConfig.from_mapping({**SMALL, "jobs": 2}), folder / "local")
    with monkeypatch.context() as patch:
        patch.setenv("MEKD_CACHE", str(folder / "cache of the local run"))
        expected = local.execute(resume=False, observe=lambda event, job, error: None)

    node = machine(cluster)
    killed: list[str] = []

    def kill(event, job, error) -> None:
        """Once the student of a run on that machine has trained a while."""
        for directory in (folder / "out/runs").glob("*"):
            tried, metrics = attempts(directory), directory / "metrics.jsonl"
            if killed or not tried or tried[-1][0] != node.node_id or not metrics.exists():
                continue
            if '"evaluation"' in metrics.read_text() and not (directory / "record.json").exists():
                power_off(cluster, node, tried[-1][1])
                killed.append(directory.name)

    config = BenchConfig.from_mapping({**SMALL, "executor": "ray", "ray": cluster.address})
    found = Benchmark(config, folder / "out").execute(resume=False, observe=kill)
    assert len(killed) == 1, "no run was killed"
    tried = attempts(folder / "out/runs" / killed[0])
    assert len(tried) == 2 and tried[0][0] == node.node_id != tried[1][0]
    assert numbers(found) == numbers(expected) and len(found.runs) == 2
    assert all(run.status == "finished" and run.queries.uncertain == 0 for run in found.runs)
    for run in found.runs:
        students = [folder / out / "runs" / run.key / "student.safetensors" for out in ("local", "out")]
        assert students[0].read_bytes() == students[1].read_bytes()
    # The teacher was trained once, away, and came home.
    trained = [sorted(path.name for path in (folder / cache / "teachers").glob("*.safetensors")) for cache in (
        "cache at home", "cache of the local run"
    )]  # fmt: skip
    assert trained[0] == trained[1] and len(trained[0]) == 1
    assert not (folder / "cache of the machines, which nothing may use").exists()


def test_what_a_dead_worker_asked_is_counted(cluster, folder) -> None:
    settings = {
        **SMALL,
        "teacher": "tests_of_ray:ask",
        "methods": "kd",
        "steps": 20,
        "real_images": 600,
        "hyperparameters": {"kd": {"queries": 600}},
    }
    config = BenchConfig.from_mapping({**settings, "query_budget": 1000, "executor": "ray", "ray": cluster.address})
    node = machine(cluster)
    benchmark = Benchmark(config, folder / "counted")
    (spec,) = benchmark.specs
    received = folder / "received"

    def kill(event, job, error) -> None:
        """While the teacher holds the run's last question, on whichever machine: its answer never comes."""
        lines = received.read_text().split("\n") if received.exists() else []
        asking = [line.split() for line in lines if line.startswith("88 ")]
        if asking and not (folder / "received.killed").exists():
            (folder / "received.killed").write_text("")
            os.kill(int(asking[0][1]), signal.SIGKILL)

    results = benchmark.execute(resume=False, observe=kill)
    cluster.remove_node(node)
    (run,) = results.runs
    assert run.status == "finished", run.error
    sent = [int(line.split()[0]) for line in received.read_text().split("\n") if line]
    assert sent.count(88) == 2 and len(attempts(folder / "counted/runs" / spec.key)) == 2
    assert run.queries.total == sum(sent) - run.queries.evaluation == 688
    assert run.queries.uncertain == 88 and run.queries.by_stage == {"transfer_set": 688}


def test_what_the_cluster_cannot_do_is_said_before_anything_is_sent(cluster, tmp_path) -> None:
    def executor(**settings):
        benchmark = Benchmark(BenchConfig.from_mapping({**SMALL, "executor": "ray", **settings}), tmp_path)
        return benchmark, benchmark._executor(Store(tmp_path))

    with pytest.raises(
        InputError, match=r"a run takes 9 CPU, and no machine of the cluster has that \(they have 1 CPU"
    ):
        executor(ray=cluster.address, cpus_per_run=9)
    with pytest.raises(InputError, match="a run takes 1 CPU, 0.5 GPU, and no machine"):
        executor(ray=cluster.address, gpus_per_run=0.5)
    with pytest.raises(InputError, match="ray=ray://head:10001: runs come home to this machine"):
        executor(ray="ray://head:10001")
    benchmark, found = executor(ray=cluster.address)
    try:
        assert isinstance(found, RayExecutor) and found.slots == 1
        other = replace(benchmark.specs[0], version="0.0.0")
        found.start(Job("run", other))
        while not (ended := found.poll()):
            pass
        assert re.match(r"mekd-plugin [\d.]+ and torch [\d.]+ on a machine of the cluster, 0.0.0 and", ended[0][1])
    finally:
        found.stop()


def test_settings_of_a_cluster_that_cannot_be_meant_are_named() -> None:
    for settings, words in (
        ({"executor": "slurm"}, "executor=slurm: expected local or ray"),
        ({"ray": "auto"}, "ray without a cluster: add --executor ray"),
        ({"executor": "ray", "gpus_per_run": 1.5}, "expected a fraction of one, or a whole number"),
        ({"executor": "ray", "cpus_per_run": 0}, "cpus_per_run=0"),
        ({"executor": "ray", "device": "cuda:1"}, "which GPU a run gets is Ray's choice"),
    ):
        with pytest.raises(InputError, match=words):
            BenchConfig.from_mapping(settings)
