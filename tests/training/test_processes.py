"""Two processes really run: other rows in each, one budget, one ledger, the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.training.processes import Processes

SCRIPT = Path(__file__).with_name("two_processes.py")


def launch(folder, method, budget, stop_at=None, signal="SIGKILL"):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    command += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        str(SCRIPT),
        str(folder),
        method,
        str(budget),
    ]
    command += [] if stop_at is None else [str(stop_at), signal]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if stop_at is not None and signal == "SIGKILL":
        assert done.returncode != 0
        return []
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"report-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mekd", "distribution_alignment"])
def test_two_processes_share_the_work_and_the_ledger(tmp_path, method):
    first, second = launch(tmp_path, method, budget=0 if method == "mekd" else 3000)
    assert first["asked"] > 0 and second["asked"] > 0
    assert first["ledger"] == second["ledger"]
    assert first["ledger"]["total"] == first["asked"] + second["asked"]
    assert first["weights"] == pytest.approx(second["weights"], rel=1e-12)
    if method == "mekd":  # it asks within its steps: each process foresees what all of them will ask together
        assert first["planned"] == second["planned"] == first["ledger"]["by_stage"]
    assert not set(first["rows"]) & set(second["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mekd", "fresh"])
def test_a_killed_run_of_two_processes_goes_on_to_the_same_weights(tmp_path, method):
    (tmp_path / "undisturbed").mkdir()
    undisturbed, _ = launch(tmp_path / "undisturbed", method, budget=0)
    launch(tmp_path, method, budget=0, stop_at=25)
    first, second = launch(tmp_path, method, budget=0)
    assert first["weights"] == second["weights"] == undisturbed["weights"]
    lost = first["ledger"]["uncertain"]
    assert first["ledger"]["total"] == second["ledger"]["total"] == undisturbed["ledger"]["total"] + lost


@pytest.mark.slow
def test_ctrl_c_in_one_process_stops_all_of_them_at_the_same_step(tmp_path):
    (tmp_path / "undisturbed").mkdir()
    undisturbed, _ = launch(tmp_path / "undisturbed", "fresh", budget=0)
    reports = launch(tmp_path, "fresh", budget=0, stop_at=13, signal="SIGINT")
    words = "stopped after step 20 of stage 'alignment'; go on with resume=True"
    assert [report.get("stopped") for report in reports] == [words, words]
    first, second = launch(tmp_path, "fresh", budget=0)
    assert first["weights"] == second["weights"] == undisturbed["weights"]
    assert first["ledger"] == second["ledger"] == undisturbed["ledger"]


@pytest.mark.slow
def test_the_budget_is_global(tmp_path):
    first, second = launch(tmp_path, "unforeseen", budget=600)
    assert "would pass the query budget of 600" in first["refused"] and "refused" in second
    assert first["asked"] + second["asked"] <= 600


def test_alone_a_process_gathers_and_averages_nothing():
    alone = Processes.join("cpu")
    values = torch.arange(3)
    assert alone.gather(values) is values and alone.main
    gradient = torch.ones(2)
    alone.average([gradient])
    assert gradient.tolist() == [1, 1]


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(InputError, match="device='cuda:99' cannot be used here"):
        Processes.join("cuda:99")
    with pytest.raises(InputError, match="device='abacus' cannot be used here"):
        Processes.join("abacus")
