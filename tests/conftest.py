"""A skipped test is an error, unless it stands here with its reason."""

from __future__ import annotations

import pytest

EXPECTED_SKIPS: dict[str, str] = {
    "tests/blackbox/test_teacher.py::test_answers_come_back_on_the_images_device": "needs a GPU",
    "tests/blackbox/test_bank.py::test_rows_that_come_back_from_a_gpu_have_arrived": "needs a GPU",
    "tests/blackbox/remote/test_real_servers.py::test_a_real_server_is_a_teacher[kserve]": (
        "its environment takes more than a minute to install: benchmarks/real_servers.sh makes it, and runs this"
    ),
    "tests/blackbox/remote/test_real_servers.py::test_binary_tensors_of_a_real_server[kserve]": (
        "its environment takes more than a minute to install: benchmarks/real_servers.sh makes it, and runs this"
    ),
    "tests/training/test_recording.py": "needs a GPU",
    # Flower 1.42 takes other versions of typer, rich, packaging and protobuf than the tests have.
    "tests/integrations/test_flower.py": "runs in `tox -e federated`",
    "tests/integrations/test_flower_app.py": "runs in `tox -e federated`",
}
"""Node id of a test to the reason why it may be skipped."""


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    skipped = {report.nodeid for report in reporter.stats.get("skipped", [])}
    if unexpected := sorted(skipped - set(EXPECTED_SKIPS)):
        reporter.write_line(f"skipped without standing in EXPECTED_SKIPS: {', '.join(unexpected)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
