"""The app of ``examples/federated`` as a user starts it: ``flwr run``, Flower's simulation, all methods, tiny sizes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="runs in `tox -e federated`")

import mekd_plugin as mekd  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "federated"
METHODS = "mekd,mekd_from_clients,kd,fedavg,feddf,fedmd"
TINY = {
    "clients": 3,
    "alpha": 1.0,
    "networks": "lenet5,lenet5_half",
    "steps": 20,
    "local_steps": 30,
    "rounds": 2,
    "fedmd_rounds": 2,
    "queries": 200,
    "generated_images": 20,
    "client_budget": 3 * 200,  # the three distillations, and not the test images
}


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("compare", EXAMPLE / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished(compare, tmp_path_factory):
    """The record of one run, and where it was kept."""
    out = tmp_path_factory.mktemp("federated")
    home = tmp_path_factory.mktemp("home")
    with compare.superlink(home) as environment:
        return compare.run_app(environment, out, methods=METHODS, **TINY), out


@pytest.mark.slow
def test_every_method_ran_in_the_rounds_that_it_needs(finished):
    record, _ = finished
    rounds = {name: outcome["rounds"] for name, outcome in record["methods"].items()}
    assert rounds == {"mekd": 2, "mekd_from_clients": 3, "kd": 1, "fedavg": 2, "feddf": 2, "fedmd": 2}
    assert all(0 <= outcome["accuracy"] <= 1 for outcome in record["methods"].values())
    assert sum(client["images"] for client in record["clients"]) == 1257 - record["config"]["public-images"]


@pytest.mark.slow
def test_each_client_counted_what_it_answered_and_refused_the_rest(finished):
    record, out = finished
    for outcome in (record["methods"][name] for name in ("mekd", "mekd_from_clients", "kd")):
        assert [account["answered"] for account in outcome["accounts"]] == [200, 200, 200]
    for number in range(3):
        box = mekd.BlackBox(lambda images: images, "logits", 10)
        box.ledger.attach(out / "ledgers" / f"client-{number}")
        box.release()
        assert box.ledger.total == 600 and box.ledger.uncertain == 0
        [stage] = box.ledger.by_stage
        assert stage.startswith("run ")
    assert record["ensemble"] is None  # the question about the test images was beyond every client's budget


@pytest.mark.slow
def test_answers_are_smaller_than_weights_and_a_byte_a_pixel_is_sent(finished):
    methods = finished[0]["methods"]
    images, answers = 3 * 200 * 256, 3 * 200 * 10 * 4
    for name in ("mekd", "kd"):
        assert images < methods[name]["bytes_to_clients"] < images + 3 * 1000
        assert answers < methods[name]["bytes_from_clients"] < answers + 3 * 1000
    generated = methods["mekd_from_clients"]["bytes_from_clients"] - methods["mekd"]["bytes_from_clients"]
    assert 3 * 20 * 256 < generated < 3 * 20 * 256 + 3 * 1000
    weights = 4 * sum(weight.numel() for weight in mekd.networks.build("lenet5", 10, (1, 16, 16)).parameters())
    assert methods["fedavg"]["bytes_from_clients"] > 2 * 3 * weights
    assert methods["fedmd"]["bytes_from_clients"] > 2 * 3 * 125 * 10 * 4


@pytest.mark.slow
def test_a_table_is_made_of_the_records(compare, finished):
    record = {**finished[0], "ensemble": 0.5}
    other = json.loads(json.dumps(record))
    other["config"]["seed"], other["methods"]["kd"]["accuracy"] = 1, record["methods"]["kd"]["accuracy"] + 0.1
    lines = compare.table([record, other]).splitlines()
    assert lines[0].startswith("| | alpha 1 | rounds |") and len(lines) == 2 + len(compare.ROWS)
    [kd] = [line for line in lines if line.startswith("| kd |")]
    low = 100 * record["methods"]["kd"]["accuracy"]
    assert f"| {low + 5:.2f} ({low:.2f}, {low + 10:.2f}) | 1 | 200 |" in kd
