"""The steps of ``on_gpu.sh``: each in a process of its own, under a limit, with a record of its own.

A record ``OUT/STEP.json`` holds the card, its driver, versions, the date, the seconds it took, ``ok``, the reason where
it is not, and what the step itself wrote under ``result``. It is written as soon as the step ends, so that a machine
which is taken away leaves what was done by then.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import importlib.util
import json
import os
import platform
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
PYTEST = ("-m", "pytest", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-q")
SHORTEST = 5.0
"""Seconds; with fewer left of the whole, no step begins."""
RUNNING: list[subprocess.Popen[bytes]] = []
"""The steps under way, to be ended with us."""


@dataclass(frozen=True)
class Step:
    """What is run, and for how long at most.

    Attributes:
        name: of its record.
        limit: seconds.
        words: after the interpreter; ``{out}`` is where the step writes what it found.
        alone: whether nothing may run beside it, since it is timed.
        skips_allowed: whether tests may be skipped, as those that want a GPU are without one.
        variables: of its environment.
    """

    name: str
    limit: float
    words: tuple[str, ...]
    alone: bool = False
    skips_allowed: bool = False
    variables: dict[str, str] = field(default_factory=dict)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, end_with_all)
    known = all_steps(options)
    if unknown := set(options.only) - {step.name for step in known}:
        raise SystemExit(f"--only {' '.join(sorted(unknown))}: expected {', '.join(step.name for step in known)}")
    steps = [step for step in known if not options.only or step.name in options.only]
    machine = describe(options.device)
    print(f"{machine['card'] or machine['processor']}, torch {machine['torch']}: {len(steps)} steps", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:

        def do(step: Step) -> dict[str, Any]:
            record = {**machine, **run(step, Path(work), options.deadline)}
            (options.out / f"{step.name}.json").write_text(json.dumps(record, indent=1) + "\n")
            print(line_of(record), flush=True)
            return record

        records = [do(step) for step in steps if step.alone]
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            records += pool.map(do, [step for step in steps if not step.alone])
    summarize(records, options)
    raise SystemExit(0 if all(record["ok"] for record in records) else 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="on_gpu.sh", description="Everything that wants a GPU, in one call.")
    parser.add_argument("--cpu", action="store_true", help="try it without a GPU: all of it, small")
    parser.add_argument("--quick", action="store_true", help="few steps, some of the contract, one tutorial")
    parser.add_argument("--out", type=Path, help="folder of the records (results/gpu; build/gpu_on_cpu with --cpu)")
    parser.add_argument("--wheels", help="folder of the wheels (benchmarks/wheels)")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="these steps and no others")
    parser.add_argument("--total", type=float, help="seconds for everything (570; 1800 with --cpu)")
    parser.add_argument("--jobs", type=int, help="steps side by side, of those that are not timed")
    parser.add_argument("--began", type=float, default=time.time(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.device = "cpu" if options.cpu else "cuda"
    options.out = (options.out or CHECKOUT / ("build/gpu_on_cpu" if options.cpu else "results/gpu")).resolve()
    options.deadline = options.began + (options.total or (1800 if options.cpu else 570))
    options.jobs = options.jobs or (1 if options.cpu else max(1, min(9, (os.cpu_count() or 1) - 1)))
    return options


def all_steps(options: argparse.Namespace) -> list[Step]:
    """Every step, in order."""
    device = ("--device", options.device, "--out", "{out}")
    small: tuple[str, ...] = ("--quick",) if options.quick or options.cpu else ()
    if options.quick:
        small += ("--precisions", "float32", "bf16")
    slice_ = (*small, "--precisions", "float32") if options.quick else small
    some = ("-k", "meta or (ledger and logit_mimicry) or test_ours") if options.quick else ()
    sums = {"MEKD_DEVICE": options.device, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    tutorials = sorted((CHECKOUT / "tutorials").glob("0[1-8]*.py"))
    return [
        Step("stage1_speed", 110, (str(HERE / "stage1_speed.py"), *device, *small), alone=True),
        Step("stage2_speed", 110, (str(HERE / "stage2_speed.py"), *device, *small), alone=True),
        Step("paper_slice", 80, (str(HERE / "paper_slice.py"), *device, *slice_), alone=True),
        Step("gpu_tests", 60, (*PYTEST, "--junitxml", "{out}", *gpu_tests()), skips_allowed=options.cpu),
        Step(
            "contract",
            230,
            (*PYTEST, *side_by_side(options.jobs), "--junitxml", "{out}", str(HERE / "contract_on_device.py"), *some),
            variables=sums,
        ),
        *(Step(f"tutorial_{path.name[:2]}", 240, (str(path),)) for path in tutorials[: 1 if options.quick else None]),
    ]


def side_by_side(jobs: int) -> tuple[str, ...]:
    """What spreads the tests of one step over processes, where pytest-xdist is installed."""
    return ("-n", str(jobs)) if jobs > 1 and importlib.util.find_spec("xdist") else ()


def gpu_tests() -> list[str]:
    """Those that the suite skips where there is no GPU, by its own list."""
    skips = runpy.run_path(str(CHECKOUT / "tests" / "conftest.py"))["EXPECTED_SKIPS"]
    return [str(CHECKOUT / test) for test, reason in skips.items() if "GPU" in reason]


def run(step: Step, work: Path, deadline: float) -> dict[str, Any]:
    """Run one step to its end or its limit: its part of the record."""
    left = deadline - time.time()
    limit = min(step.limit, left)
    found: dict[str, Any] = {
        "step": step.name,
        "ok": False,
        "reason": None,
        "limit_seconds": step.limit,
        "seconds": 0.0,
    }
    if left < SHORTEST:
        return {**found, "reason": "not begun: the time for everything (--total) was used up"}
    folder = work / step.name
    folder.mkdir()
    written, log = folder / "written", folder / "log"
    command = [sys.executable, *(word.replace("{out}", str(written)) for word in step.words)]
    threads = "4" if step.alone and (os.cpu_count() or 1) >= 8 else "1"
    variables = {"OMP_NUM_THREADS": threads, "MEKD_CACHE": str(folder / "cache"), "MPLCONFIGDIR": str(folder)}
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **variables, **step.variables},
            start_new_session=True,
        )
        RUNNING.append(process)
        try:
            status = process.wait(limit)
            reason = None if status == 0 else f"ended with status {status}"
        except subprocess.TimeoutExpired:
            reason = f"stopped after {limit:.0f} s, its limit"
        finally:
            end_session(process)
            RUNNING.remove(process)
    found["seconds"] = round(time.monotonic() - began, 1)
    try:
        found["result"] = read_result(written)
    except (ValueError, ElementTree.ParseError) as error:
        reason = reason or f"what it wrote cannot be read: {error}"
    lines = without_places(log.read_text(errors="replace"), [folder, CHECKOUT]).splitlines()
    if reason is None:
        reason = complaint(found["result"], skips_allowed=step.skips_allowed)
    elif lines:
        reason = f"{reason}: {last_words(lines)}"
    if reason is not None:
        found["end_of_log"] = lines[-40:]
    return {**found, "ok": reason is None, "reason": reason}


def without_places(text: str, places: list[Path]) -> str:
    """``text`` without the paths of this machine: those of ``places``, and where packages are installed."""
    for place in map(str, places):
        text = text.replace(f"{place}/", "")
    return re.sub(r"[\w./-]*/(?=(?:site|dist)-packages/)", "", text)


def last_words(lines: list[str]) -> str:
    """The message of the last traceback in a log, which what is printed at exit may follow; else its last line."""
    begun = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    after = lines[begun[-1] + 1 :] if begun else []
    return next((line for line in after if line and not line[0].isspace()), lines[-1])


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End what the step left running: at its limit the step itself, else whatever it started and forgot."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue


def end_with_all(signum: int, frame: object) -> None:
    """Told to end: no step goes on without us."""
    for process in list(RUNNING):
        end_session(process)
    os._exit(128 + signum)


def read_result(written: Path) -> Any:
    """What a step wrote: JSON, or a JUnit file of tests; None for nothing."""
    if not written.exists():
        return None
    text = written.read_text()
    return read_tests(ElementTree.fromstring(text)) if text.startswith("<") else json.loads(text)


def read_tests(root: ElementTree.Element) -> dict[str, Any]:
    """Seconds of each test that passed, and the words of each that failed or was skipped."""
    found: dict[str, Any] = {"passed": {}, "failed": {}, "skipped": {}}
    for case in root.iter("testcase"):
        name = case.get("name", "")
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                kind = "skipped" if child.tag == "skipped" else "failed"
                found[kind][name] = (child.get("message") or "").partition("\n")[0]
                break
        else:
            found["passed"][name] = round(float(case.get("time", 0)), 2)
    return found


def complaint(result: Any, *, skips_allowed: bool) -> str | None:
    """What is wrong with the result of a step that ended well: tests that did not run."""
    if not isinstance(result, dict) or "skipped" not in result:
        return None
    if not result["passed"] and not skips_allowed:
        return "no test ran"
    if result["skipped"] and not skips_allowed:
        return f"skipped: {', '.join(result['skipped'])}"
    return None


def describe(device: str) -> dict[str, Any]:
    """What every record says of where and when it was made.

    Raises:
        SystemExit: there is no GPU, or no torch.
    """
    try:
        import torch
    except ImportError as error:
        raise SystemExit(f"{sys.executable} has no torch ({error}): set PYTHON to an interpreter that has") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"torch {torch.__version__} sees no CUDA device here; --cpu tries everything without one, small"
        )
    driver = answer_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "card": torch.cuda.get_device_name() if device == "cuda" else None,
        "driver": driver if device == "cuda" else None,
        "cuda": torch.version.cuda if device == "cuda" else None,
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": answer_of("git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def answer_of(*command: str) -> str | None:
    """The first line that a program prints; None where it is not there or fails."""
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return printed.partition("\n")[0].strip() or None


def line_of(record: dict[str, Any]) -> str:
    verdict = "ok" if record["ok"] else f"FAILED  {record['reason'][:150]}"
    return f"{record['step']:<14}{record['seconds']:>7.1f} s  {verdict}"


def summarize(records: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print what came out of every step, the failed ones last."""
    print("\n== what was found")
    for record in records:
        for line in headlines(record.get("result")):
            print(f"{record['step']:<14}{line}")
    failed = [record for record in records if not record["ok"]]
    print(
        f"\n== {len(records) - len(failed)} of {len(records)} steps went well, in {time.time() - options.began:.0f} s"
    )
    for record in failed:
        print(line_of(record))
    print(f"records: {options.out}")


def headlines(result: Any) -> list[str]:
    """The numbers of a step in a few lines."""
    if not isinstance(result, dict):
        return []
    lines = []
    if "skipped" in result:
        counts = ", ".join(f"{len(result[kind])} {kind}" for kind in ("passed", "failed", "skipped"))
        lines.append(counts)
        lines += [f"  {name}: {words[:120]}" for name, words in result["failed"].items()]
    for row in result.get("timings", []):
        lines.append(timing(row))
    for graph in result.get("cuda_graphs", []):
        lines += [timing(row) for row in graph["timings"]]
        if "helps" in graph:
            says = "helps" if graph["helps"] else "does not help"
            lines.append(f"  a graph {says}: {graph['times_as_fast_as_the_loop']} times as fast as the loop")
        else:
            lines.append(f"  no graph: {graph['not_recorded'][:120]}")
    for precision, found in result.get("by_precision", {}).items():
        steps = ", ".join(f"{stage} {value} ms a step" for stage, value in found["milliseconds_a_step"].items())
        hours = found["hours_of_the_whole_extrapolated"]["together"]
        lines.append(f"{precision}: {steps}; the whole would take {hours} h (extrapolated)")
    return lines


def timing(row: dict[str, Any]) -> str:
    what = f"{row['arm']}, {row['precision']}"
    return f"{what:<42}{row['milliseconds_a_step']:>9.2f} ms a step {row['images_a_second']:>9,} images/s"


if __name__ == "__main__":
    main()
