"""The directory of a benchmark: whole files, tolerant reads, claims that die with their process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mekd_plugin.bench.store import Store
from mekd_plugin.errors import InputError
from mekd_plugin.records import Results


def test_a_record_is_kept(tmp_path, record) -> None:
    store = Store(tmp_path / "out")
    store.write(record())
    assert store.read("kd-0") == record()
    assert store.finished("kd-0") and not store.finished("kd-1")
    assert [path.name for path in store.directory("kd-0").iterdir()] == ["record.json"]


def test_a_failed_run_is_not_finished(tmp_path, record) -> None:
    store = Store(tmp_path)
    store.write(record(status="failed", error="no luck"))
    assert not store.finished("kd-0")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"method": "kd"}'])
def test_a_damaged_record_is_none(tmp_path, record, content) -> None:
    store = Store(tmp_path)
    store.write(record())
    (store.directory("kd-0") / "record.json").write_text(content)
    assert store.read("kd-0") is None


def test_results_are_not_overwritten_unasked(tmp_path, record) -> None:
    Store(tmp_path).write(record())
    with pytest.raises(InputError, match="holds results already: add --resume"):
        Store(tmp_path)
    assert Store(tmp_path, resume=True).finished("kd-0")


def test_an_empty_directory_may_be_resumed(tmp_path) -> None:
    assert Store(tmp_path / "new", resume=True).read("kd-0") is None


def test_a_file_is_no_directory(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: name a directory"):
        Store(tmp_path / "file")


def test_strangers(tmp_path, record) -> None:
    store = Store(tmp_path)
    store.write(record())
    store.write(record("mekd"))
    assert store.strangers({"kd-0"}) == 1


def test_results_hold_no_nan(tmp_path, record) -> None:
    store = Store(tmp_path)
    path = store.write_results(Results({}, {}, [record()], []))
    assert json.loads(path.read_text())["runs"][0]["method"] == "kd"
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_results(Results({}, {}, [record(price=float("nan"))], []))


def test_a_killed_process_lets_go_of_its_claim(tmp_path) -> None:
    code = (
        "import os, sys, pathlib\n"
        "from mekd_plugin.bench.store import Store\n"
        "with Store(pathlib.Path(sys.argv[1]), resume=True).claim('kd-0'):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    with Store(tmp_path, resume=True).claim("kd-0"):
        pass
