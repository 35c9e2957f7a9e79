"""Records go to JSON and come back."""

from __future__ import annotations

import json

import pytest

from mekd_plugin.errors import InputError
from mekd_plugin.records import SCHEMA, Queries, Results, RunRecord, Seconds, describe_environment

RECORD = RunRecord("kd", 0, "digits", "resnet20", "resnet8", "hard", "finished", "kd|seed:0",
                   queries=Queries({"ask": 3}, 3, 2, 1), seconds=Seconds(1.0, 2.0), warnings=["look"])  # fmt: skip


def test_a_record_survives_json() -> None:
    assert RunRecord.from_json(json.loads(json.dumps(RECORD.to_json()))) == RECORD


def test_results_survive_json_and_begin_with_the_schema() -> None:
    results = Results({"python": "3"}, {"seeds": [0]}, [RECORD], [{"method": "kd"}])
    content = json.loads(json.dumps(results.to_json()))
    assert next(iter(content)) == "schema" and content["schema"] == SCHEMA == 2
    assert Results.from_json(content) == results


def test_every_promised_key_is_there() -> None:
    promised = (
        "method seed dataset teacher student responses teacher_accuracy student_accuracy best_test_accuracy agreement "
        "queries budget real_images pool leaves_edge price white_box status error steps seconds processor "
        "peak_memory_mb signature"
    )
    content = RECORD.to_json()
    assert set(promised.split()) <= set(content)
    assert set(content["queries"]) == {"by_stage", "total", "distinct", "uncertain", "evaluation"}
    assert set(content["seconds"]) == {"prepare", "distill", "processor"}


def test_keys_of_a_newer_version_are_ignored() -> None:
    assert RunRecord.from_json({**RECORD.to_json(), "invented_later": 1}) == RECORD


def test_a_missing_key_is_named() -> None:
    content = RECORD.to_json()
    del content["method"], content["seed"]
    with pytest.raises(InputError, match="a RunRecord without method, seed"):
        RunRecord.from_json(content)


def test_something_else_is_no_record() -> None:
    with pytest.raises(InputError, match="a RunRecord is a JSON object, not list"):
        RunRecord.from_json([])


def test_another_schema_is_refused() -> None:
    with pytest.raises(InputError, match="results with schema 1: this version reads schema 2"):
        Results.from_json({"schema": 1})


def test_the_environment_names_no_host_and_no_user() -> None:
    environment = describe_environment(device="cpu", jobs=2, threads=1)
    assert {"date", "python", "platform", "processor", "cores", "device", "jobs", "threads_per_job", "packages"} == set(
        environment
    )
    assert environment["packages"]["torch"]
