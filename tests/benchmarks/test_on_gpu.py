"""What becomes of a step that fails, hangs, skips or comes too late; and a whole call on a CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import on_gpu
import pytest
from on_gpu import Step, complaint, read_tests

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(tmp_path: Path, code: str, *, limit: float = 60, left: float = 100) -> dict:
    step = Step("tried", limit, ("-c", code, "{out}"))
    return on_gpu.run(step, tmp_path, time.time() + left)


def test_what_a_step_wrote_is_its_result(tmp_path):
    record = run(tmp_path, "import sys, time; time.sleep(0.2); open(sys.argv[1], 'w').write('{\"found\": 3}')")
    assert record["ok"] and record["reason"] is None and record["result"] == {"found": 3}
    assert record["seconds"] >= 0.2 and "end_of_log" not in record


def test_a_failure_gives_its_last_words_without_this_machines_paths(tmp_path):
    code = f"import atexit; atexit.register(print, 'bye'); raise ValueError('no such thing in {on_gpu.CHECKOUT}/x')"
    record = run(tmp_path, code)
    assert not record["ok"]
    assert record["reason"] == "ended with status 1: ValueError: no such thing in x"
    assert str(on_gpu.CHECKOUT) not in json.dumps(record)


def test_a_log_names_packages_and_not_where_they_are():
    log = "/tmp/x/lib/python3.12/site-packages/ot/datasets.py:189: SyntaxWarning\n/home/me/mekd/tests/test_a.py: no"
    said = on_gpu.without_places(log, [Path("/home/me/mekd")])
    assert said == "site-packages/ot/datasets.py:189: SyntaxWarning\ntests/test_a.py: no"


def test_a_step_is_stopped_at_its_limit_with_all_that_it_started(tmp_path):
    code = (
        "import subprocess, sys, time, pathlib; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "pathlib.Path('child').write_text(str(child.pid)); time.sleep(60)"
    )
    began = time.monotonic()
    record = run(tmp_path, code, limit=3)
    assert record["reason"].startswith("stopped after 3 s, its limit") and time.monotonic() - began < 30
    child = Path(f"/proc/{(tmp_path / 'tried' / 'child').read_text()}/stat")
    for _ in range(50):  # until its new parent has taken note of its end
        if not child.exists() or child.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("what the step had started went on")


def test_what_the_whole_has_no_time_for_does_not_begin(tmp_path):
    record = run(tmp_path, "open('/nowhere/at/all')", left=1)
    assert not record["ok"] and record["reason"].startswith("not begun") and record["seconds"] == 0


def test_a_result_that_cannot_be_read_is_a_failure(tmp_path):
    record = run(tmp_path, "import sys; open(sys.argv[1], 'w').write('{')")
    assert not record["ok"] and "cannot be read" in record["reason"]


def test_a_skipped_test_fails_a_step_that_has_its_gpu():
    junit = """<testsuites><testsuite>
        <testcase name="a" time="0.5"/>
        <testcase name="b"><skipped message="needs a GPU"/></testcase>
        <testcase name="c"><failure message="assert 1 == 2&#10;more"/></testcase>
    </testsuite></testsuites>"""
    found = read_tests(ElementTree.fromstring(junit))
    assert found == {"passed": {"a": 0.5}, "failed": {"c": "assert 1 == 2"}, "skipped": {"b": "needs a GPU"}}
    assert complaint(found, skips_allowed=False) == "skipped: b"
    assert complaint(found, skips_allowed=True) is None
    nothing = {"passed": {}, "failed": {}, "skipped": {}}
    assert complaint(nothing, skips_allowed=False) == "no test ran"


@pytest.mark.slow
def test_one_step_in_a_call_of_the_script(tmp_path):
    """The shell script itself: it finds the package without an installation, and keeps a record."""
    command = [str(BENCHMARKS / "on_gpu.sh"), "--cpu", "--quick", "--out", str(tmp_path), "--only", "contract"]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    record = json.loads((tmp_path / "contract.json").read_text())
    assert record["ok"] and record["device"] == "cpu" and record["card"] is None and record["date"]
    assert len(record["result"]["passed"]) >= 3 and not record["result"]["failed"]
    assert "1 of 1 steps went well" in ended.stdout


def test_an_unknown_step_is_named(tmp_path):
    command = [str(BENCHMARKS / "on_gpu.sh"), "--cpu", "--out", str(tmp_path), "--only", "stage3"]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 1 and "--only stage3: expected stage1_speed, stage2_speed" in ended.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHON": sys.executable}
