"""Black-box distillation from a federation's clients, against FedAvg, FedDF and FedMD: the digits, three splits.

    python examples/federated/compare.py
    python examples/federated/compare.py --alphas 1 --seeds 0    # one run of the nine

Each run is the app beside this file, started by ``flwr run`` on a SuperLink of this script's own, in simulation. Runs
that are there already, in ``runs/``, are not repeated; ``table.md`` is written anew from all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mekd_plugin.bench.statistics import mean_interval
from mekd_plugin.bench.table import format_interval

HERE = Path(__file__).resolve().parent
METHODS = ("mekd", "mekd_from_clients", "kd", "fedavg", "feddf", "fedmd")
LONG = 60
"""Rounds of a second FedAvg, to see where more of them lead."""
_LONG = f"fedavg, {LONG} rounds"
ROWS = {
    "best client alone": "nothing",
    "mean client alone": "nothing",
    "all clients, asked": "answers",
    "mekd": "answers about generated images",
    "mekd_from_clients": "the same, and generated images",
    "kd": "answers about the server's images",
    "fedmd, mean client": "scores of the server's images",
    "fedmd, best client": "scores of the server's images",
    "fedavg": "weights, each round",
    _LONG: "weights, each round",
    "feddf": "weights, each round",
}
"""The table's rows, and what leaves a client."""
_WAIT = 60.0  # seconds for a SuperLink to come up


@contextlib.contextmanager
def superlink(folder: Path) -> Iterator[dict[str, str]]:
    """A SuperLink for simulations on a free port; the environment in which ``flwr run`` finds it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    tools = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": "local",  # a Ray of its own, whatever else runs on this machine
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        tools / "flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", port,
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    with open(folder / "superlink.log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            deadline = time.monotonic() + _WAIT
            while not _is_up(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no SuperLink came up: {(folder / 'superlink.log').read_text()}")
                time.sleep(0.5)
            yield environment
        finally:
            process.terminate()
            process.wait()


def run_app(environment: dict[str, str], out: Path, **config: Any) -> dict[str, Any]:
    """One run of the app in simulation, on one core; its record.

    Ray gives itself 30 seconds to start, which is little on a busy machine, so it may try three times.

    Raises:
        RuntimeError: it left no record; its log is in the message.
    """
    given = " ".join(
        f"{name.replace('_', '-')}={json.dumps(value)}" for name, value in {**config, "out": str(out)}.items()
    )
    clients = config.get("clients", 5)
    command = [
        "flwr", "run", str(HERE), "--stream", "--run-config", given,
        "--federation-config", f"num-supernodes={clients} client-resources-num-cpus=1 init-args-num-cpus=1",
    ]  # fmt: skip
    record = out / "results.json"
    for _ in range(3):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if record.is_file() or "timed out during startup" not in done.stdout:
            break
    if not record.is_file():
        raise RuntimeError(f"the app left no {record.name}:\n{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(record.read_text())
    return found


def figures(record: dict[str, Any]) -> dict[str, float]:
    """The accuracies of one run, by row of the table."""
    alone = [client["accuracy"] for client in record["clients"]]
    methods = record["methods"]
    found = {"best client alone": max(alone), "mean client alone": sum(alone) / len(alone)}
    found["all clients, asked"] = record["ensemble"]
    found |= {name: methods[name]["accuracy"] for name in methods if name != "fedmd"}
    return {**found, "fedmd, mean client": methods["fedmd"]["accuracy"], "fedmd, best client": methods["fedmd"]["best"]}


def table(records: list[dict[str, Any]]) -> str:
    """Accuracies over the seeds by alpha, with what they cost in rounds, images and bytes."""
    alphas = sorted({record["config"]["alpha"] for record in records})
    lines = [
        "| | " + " | ".join(f"alpha {alpha:g}" for alpha in alphas)
        + " | rounds | images to each client | kB to each | kB back | leaves a client |",
        "|---|" + "---:|" * (len(alphas) + 4) + "---|",
    ]  # fmt: skip
    for row, leaves in ROWS.items():
        cells = [_accuracies(records, row, alpha) for alpha in alphas]
        lines.append(f"| {row} | " + " | ".join([*cells, *_costs(records, row), leaves]) + " |")
    return "\n".join(lines) + "\n"


def _accuracies(records: list[dict[str, Any]], row: str, alpha: float) -> str:
    found = [figures(record).get(row) for record in records if record["config"]["alpha"] == alpha]
    values = [100 * value for value in found if value is not None]
    if not values:
        return ""
    return format_interval(mean_interval(values)._asdict(), unit=1)


def _costs(records: list[dict[str, Any]], row: str) -> list[str]:
    """Means over all runs; the bytes of one client."""
    method = row if row == _LONG else row.split(",")[0]
    found = [record["config"] | record["methods"][method] for record in records if method in record["methods"]]
    if not found:
        return ["", "", "", ""]
    means = {
        key: sum(entry[key] / (entry["clients"] if key.startswith("bytes") else 1) for entry in found) / len(found)
        for key in ("rounds", "images", "bytes_to_clients", "bytes_from_clients")
    }
    kilobytes = [f"{means[key] / 1000:,.0f}" for key in ("bytes_to_clients", "bytes_from_clients")]
    return [f"{means['rounds']:g}", f"{means['images']:,.0f}", *kilobytes]


def _is_up(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.1, 1.0, 100.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "results" / "federated" / "digits")
    given = parser.parse_args()
    runs = given.out.resolve() / "runs"
    failed = 0
    with tempfile.TemporaryDirectory() as home, superlink(Path(home)) as environment:
        for seed in given.seeds:
            for alpha in given.alphas:
                kept = runs / f"alpha-{alpha:g}-seed-{seed}.json"
                record = json.loads(kept.read_text()) if kept.is_file() else None
                if record is not None and _LONG in record["methods"]:
                    continue
                began = time.monotonic()
                out = Path(home) / kept.stem
                try:
                    if record is None:
                        record = run_app(environment, out, alpha=alpha, seed=seed, methods=",".join(METHODS))
                    further = run_app(environment, out / "long", alpha=alpha, seed=seed, methods="fedavg", rounds=LONG)
                    record["methods"][_LONG] = further["methods"]["fedavg"]
                except RuntimeError as error:
                    failed += 1
                    print(f"{kept.stem} failed, and the others go on: {error}", flush=True)
                    continue
                runs.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(record, indent=1))
                print(f"{kept.stem}: {time.monotonic() - began:.0f} s, {figures(record)}", flush=True)
    records = [json.loads(path.read_text()) for path in sorted(runs.glob("*.json"))]
    page = table(records)
    (given.out / "table.md").write_text(_HEAD + page + _FOOT)
    print(page)
    if failed:
        sys.exit(f"{failed} runs failed: the same command runs them again")


_HEAD = """# A federation on the digits
Five clients, 1,132 training images split among them by Dirichlet alpha (Flower's partitioner), 125 unlabelled ones at
the server, 540 test images; mean of three seeds ± half the 95 % interval, in per cent. Made by
`python examples/federated/compare.py` (flwr 1.42, simulation). The student, and every network under `fedavg` and
`feddf`, is a LeNet5; the clients' own teachers are ResNet-8 and LeNet5 in turn. `rounds` are rounds of messages, bytes
those of the records in them.

"""
_FOOT = """
`mekd` and `kd` ask about 2,000 images, `fedmd` about the public ones in each round, which every client is given
beforehand. Nothing was tuned on the test images; settings are in `examples/federated/pyproject.toml`.
"""

if __name__ == "__main__":
    main()
