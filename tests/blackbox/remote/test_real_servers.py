"""Servers that others wrote, each in an environment of its own, started as a user would start them.

MLServer is installed by the test session itself, in less than a minute, into ``build/servers`` (or the directory that
``MEKD_SERVERS`` names), once. KServe's server has the same test; it runs where its environment is there already,
which ``benchmarks/real_servers.sh`` makes: it takes longer than a test should.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import mekd_plugin as mekd
from mekd_plugin.blackbox.remote import open_inference_teacher
from mekd_plugin.errors import RefusedForGood, TeacherAnswerError, TeacherUnavailable
from mekd_plugin.networks import build
from mekd_plugin.training.export import export_onnx

ROOT = Path(__file__).resolve().parents[3]
SERVERS = Path(os.environ.get("MEKD_SERVERS", ROOT / "build" / "servers"))
RUNTIMES = Path(__file__).parent / "servers"
SHAPE = (1, 16, 16)


def environment(name: str, *packages: str, make: bool) -> Path:
    """The Python of a server's own environment, without torch."""
    folder = SERVERS / name
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if ready.exists():
        return python
    if not make:
        pytest.skip("KServe's environment is made by benchmarks/real_servers.sh")
    SERVERS.mkdir(parents=True, exist_ok=True)
    with FileLock(SERVERS / f"{name}.lock"):
        if not ready.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
            subprocess.run(pip, check=True)
            ready.touch()
    return python


def free_ports(count: int) -> list[int]:
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in with_sockets]
    for one in with_sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of this package as an ONNX file."""
    return Path(
        export_onnx(build("lenet5", 10, SHAPE, seed=0), tmp_path_factory.mktemp("model") / "digits.onnx", SHAPE)
    )


@pytest.fixture(scope="module", params=["mlserver", "kserve"])
def service(request, model, tmp_path_factory):
    """``(port, images that the server itself says it computed)``."""
    folder = tmp_path_factory.mktemp(request.param)
    ports = free_ports(3)
    if request.param == "mlserver":
        python = environment("mlserver-1.7.1", "mlserver==1.7.1", "onnxruntime", make=True)
        names = ("http_port", "grpc_port", "metrics_port")
        settings = dict(zip(names, ports, strict=True)) | {"host": "127.0.0.1", "parallel_workers": 0}
        (folder / "settings.json").write_text(json.dumps(settings))
        described = {
            "name": "digits",
            "implementation": "mlserver_runtime.OnnxModel",
            "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, *SHAPE]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
            "parameters": {"uri": str(model)},
        }
        (folder / "model-settings.json").write_text(json.dumps(described))
        command = [str(python.parent / "mlserver"), "start", str(folder)]
    else:
        python = environment("kserve-0.21", "kserve==0.21", "onnxruntime", make=False)
        command = [str(python), str(RUNTIMES / "kserve_server.py"), str(ports[0]), str(model)]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    computed = model.with_suffix(".computed")
    computed.unlink(missing_ok=True)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, env={**variables, "PYTHONPATH": str(RUNTIMES)}, cwd=folder, stdout=log, stderr=log
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{ports[0]}/v2/models/digits/ready", server, folder / "log")
        yield ports[0], lambda: sum(map(int, computed.read_text().split())) if computed.exists() else 0
    finally:
        server.terminate()
        server.wait(20)


def wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")


def distilled(url: str, images: torch.Tensor, **settings):
    torch.manual_seed(0)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))
    teacher = open_inference_teacher(url, timeout=10)
    patient = mekd.Retry(attempts=8, wait=0, on=(TeacherUnavailable, TeacherAnswerError))
    box = mekd.BlackBox(teacher, "logits", 10, batch_size=8, retry=patient, concurrent=4, **settings)
    recipe = mekd.Recipe(steps=4)
    return mekd.distill(
        student, box, images, method="kd", queries=len(images), recipe=recipe, device="cpu", progress=False
    )


def test_a_real_server_is_a_teacher(service, model, proxy, faults):
    port, computed = service
    images = torch.rand(96, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    url = f"http://127.0.0.1:{port}/v2/models/digits"
    teacher = open_inference_teacher(url)
    assert (teacher.num_classes, teacher.image_shape) == (10, SHAPE)
    local = mekd.blackbox.onnx_teacher(model, threads=1)
    told = mekd.BlackBox(teacher, "logits", 10, batch_size=32).query(images).values
    assert torch.allclose(told, local(images), atol=1e-5) and computed() == 96

    undisturbed = distilled(url, images)
    assert undisturbed.ledger.total == 96 and computed() == 192
    spoilt = [kind for kind in faults if kind != "silence"]
    between = proxy(*itertools.chain(*zip(spoilt, [None] * len(spoilt), strict=True)), port=port)
    disturbed = distilled(between.url, images, budget=400)
    own = computed() - 192
    assert set(spoilt) <= set(between.seen) and disturbed.ledger.total - disturbed.ledger.uncertain == 96
    assert own <= disturbed.ledger.total <= own + disturbed.ledger.uncertain
    expected = undisturbed.student.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in disturbed.student.state_dict().items())

    with pytest.raises(RefusedForGood, match="404"):
        open_inference_teacher(url.replace("digits", "letters"))


def test_binary_tensors_of_a_real_server(service, model):
    port, _ = service
    url = f"http://127.0.0.1:{port}/v2/models/digits"
    images = torch.rand(5, *SHAPE) * 2 - 1
    teacher = open_inference_teacher(url, binary="yes", timeout=10)
    box = mekd.BlackBox(teacher, "logits", 10)
    name = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/v2"))["name"]
    if name == "kserve":
        local = mekd.blackbox.onnx_teacher(model, threads=1)
        assert torch.allclose(box.query(images).values, local(images), atol=1e-5)
    else:  # MLServer has no binary tensors: said so, and not taken for an answer
        with pytest.raises(TeacherUnavailable, match="answered 500"):
            box.query(images)
        assert box.ledger.uncertain == 5
