"""What a teacher behind a service costs above a bare httpx loop: the same batches to the same server, by turns.

    python benchmarks/service_cost.py [--quick] [--milliseconds 2]

The server is a process of its own that keeps connections, speaks the Open Inference Protocol, and answers so many
milliseconds after a batch came in. The bare loop encodes and decodes as a careful user would, with one client that
keeps its connection. Ratios are medians over the turns of an arm's time to the bare loop's in the same turn; with eight
requests at a time, beside the bare loop in eight threads. On a busy machine the wall's clock measures the others, so
there is a second ratio: of this process's own processor time, plus the service's milliseconds. Counting, fingerprints,
checks and the two writes of a directory come on top of the request, whatever that costs, so a slower service makes all
ratios smaller.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from measuring import environment, finish
from torch import Tensor

import mekd_plugin as mekd
from mekd_plugin.blackbox.remote import open_inference_teacher

CLASSES, SHAPE, BATCH = 10, (1, 16, 16), 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few turns; nothing is kept")
    parser.add_argument("--milliseconds", type=float, default=2.0, help="that the server takes for a batch")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve / 1000))
        return
    torch.set_num_threads(1)
    command = [sys.executable, __file__, "--serve", str(given.milliseconds)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/v2/models/m"
        with tempfile.TemporaryDirectory() as folder:
            record = {
                "benchmark": f"a batch of {BATCH} images {SHAPE} to a service of {given.milliseconds:g} ms a batch",
                "environment": environment(),
                "tensors": {
                    form: measured(url, form, Path(folder) / form, 5 if given.quick else 60, given.milliseconds)
                    for form in ("bytes", "JSON")
                },
            }
    finally:
        server.kill()
        server.wait()
    finish("service_cost", record, keep=not given.quick)


def measured(url: str, form: str, folder: Path, turns: int, served: float) -> dict[str, Any]:
    """Milliseconds a batch, and the ratios to the bare loop's."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, *SHAPE, generator=generator) * 2 - 1
    eight = torch.rand(8 * BATCH, *SHAPE, generator=generator) * 2 - 1
    client = httpx.Client(timeout=30.0, limits=httpx.Limits(max_keepalive_connections=8))
    pool = ThreadPoolExecutor(8)

    def bare(batch: Tensor) -> Any:
        return (by_bytes if form == "bytes" else by_json)(client, url, batch.numpy())

    def boxed(**settings: Any) -> mekd.BlackBox:
        teacher = open_inference_teacher(url, binary="yes" if form == "bytes" else "no")
        return mekd.BlackBox(teacher, "logits", CLASSES, batch_size=BATCH, **settings)

    kept = boxed(on_drift="ignore")
    kept.keep(folder)
    arms: dict[str, tuple[Callable[[Tensor], Any], Tensor, str]] = {
        "bare loop": (bare, images, "bare loop"),
        "black box": (boxed().query, images, "bare loop"),
        "black box in a directory": (kept.query, images, "bare loop"),
        "bare loop, eight threads": (
            lambda batch: list(pool.map(bare, batch.split(BATCH))),
            eight,
            "bare loop, eight threads",
        ),
        "black box, concurrent=8": (boxed(concurrent=8).query, eight, "bare loop, eight threads"),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(turns + 3):
        for name, (ask, batch, _) in arms.items():
            wall, processor = time.perf_counter(), time.process_time()
            ask(batch)
            taken[name].append((1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - processor)))
    kept.release()
    pool.shutdown()

    def median(name: str, clock: int) -> float:
        return statistics.median(turn[clock] for turn in taken[name][3:])  # the first ones connect

    def ratio(name: str, beside: str) -> float:
        pairs = zip(taken[name][3:], taken[beside][3:], strict=True)
        return round(statistics.median(ours[0] / other[0] for ours, other in pairs), 3)

    return {
        name: {
            "images": len(batch),
            "milliseconds": round(median(name, 0), 2),
            "processor_milliseconds": round(median(name, 1), 2),
            "ratio": ratio(name, beside),
            "ratio_of_processor_time_and_service": round((served + median(name, 1)) / (served + median(beside, 1)), 3),
        }
        for name, (_, batch, beside) in arms.items()
    }


def by_json(client: httpx.Client, url: str, batch: np.ndarray) -> np.ndarray:
    tensor = {"name": "x", "shape": list(batch.shape), "datatype": "FP32", "data": batch.ravel().tolist()}
    reply = client.post(f"{url}/infer", json={"inputs": [tensor]})
    reply.raise_for_status()
    (output,) = reply.json()["outputs"]
    return np.array(output["data"], dtype=np.float32).reshape(output["shape"])


def by_bytes(client: httpx.Client, url: str, batch: np.ndarray) -> np.ndarray:
    tensor = {
        "name": "x",
        "shape": list(batch.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": batch.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    reply = client.post(f"{url}/infer", content=head + batch.tobytes(), headers=headers)
    reply.raise_for_status()
    length = int(reply.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(reply.content[:length])["outputs"]
    return np.frombuffer(reply.content[length:], dtype=np.float32).reshape(output["shape"])


async def serve(seconds: float) -> None:
    """A server that answers every batch with the same scores, and prints its port."""
    scores = np.linspace(-3, 3, BATCH * CLASSES, dtype=np.float32).reshape(BATCH, CLASSES)
    output = {"name": "y", "datatype": "FP32", "shape": [BATCH, CLASSES]}
    metadata = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, *SHAPE]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, CLASSES]}],
    }
    as_json = json.dumps({"outputs": [{**output, "data": scores.ravel().tolist()}]}).encode()
    head = json.dumps({"outputs": [{**output, "parameters": {"binary_data_size": scores.nbytes}}]}).encode()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            except asyncio.IncompleteReadError:
                return
            came = time.perf_counter()
            fields = dict(line.split(": ", 1) for line in lines.split("\r\n")[1:] if line)
            await reader.readexactly(int(fields.get("content-length", 0)))
            further = ""
            if not lines.startswith("post"):
                content = json.dumps(metadata).encode()
            elif "inference-header-content-length" in fields:
                content, further = head + scores.tobytes(), f"Inference-Header-Content-Length: {len(head)}\r\n"
            else:
                content = as_json
            await asyncio.sleep(max(0.0, seconds - (time.perf_counter() - came)))
            writer.write(f"HTTP/1.1 200 OK\r\n{further}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    main()
