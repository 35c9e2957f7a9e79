"""kill -9 in stage 1, while asking, and in stage 2; resumed, the run ends with the very same weights."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killable.py")


def run(directory, place, number=0):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(directory), place, str(number)],
        env=environment,
        capture_output=True,
        text=True,
    )


def weights(directory):
    return (directory / "student.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = run(directory, "never")
    assert finished.returncode == 0, finished.stderr
    return directory


def asked(directory):
    return sum(int(line) for line in (directory.parent / f"{directory.name}.asked").read_text().split())


@pytest.mark.slow
def test_killed_at_every_kind_of_place_a_run_ends_with_the_same_weights(undisturbed, tmp_path):
    directory = tmp_path / "run"
    lives = [("before", 30), ("after", 15), ("after", 17), ("student", 15), ("student", 45)]
    for place, number in lives:
        killed = run(directory, place, number)
        assert killed.returncode == -signal.SIGKILL, (place, killed.stderr)
    finished = run(directory, "never")
    assert finished.returncode == 0, finished.stderr
    assert weights(directory) == weights(undisturbed)
    ledger = json.loads(finished.stdout)
    assert ledger["uncertain"] > 0
    assert asked(directory) <= ledger["total"] <= asked(directory) + ledger["uncertain"]
    assert (directory / "generator.safetensors").read_bytes() == (undisturbed / "generator.safetensors").read_bytes()


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(undisturbed):
    before = asked(undisturbed)
    again = run(undisturbed, "before", 0)
    assert again.returncode == 0, again.stderr
    assert asked(undisturbed) == before
