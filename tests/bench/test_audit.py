"""What an audit says of generators that are known, and how a benchmark asks for one."""

from __future__ import annotations

import json
import os

import pytest
import torch
from torch import nn

from mekd_plugin.bench.audit import audit, wants_audit
from mekd_plugin.bench.benchmark import Benchmark
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.bench.statistics import summarize
from mekd_plugin.bench.table import panels
from mekd_plugin.distiller import Inverse
from mekd_plugin.errors import InputError
from mekd_plugin.responses import Response, ScoreNormalisation, centre_scores

CLASSES, COUNT = 4, 200


class Drawn(nn.Module):
    """A generator that paints its latent's class coordinates, or always the same image."""

    def __init__(self, constant: bool = False) -> None:
        super().__init__()
        self.size, self.constant, self.seen = nn.Parameter(torch.tensor(0.1)), constant, list[torch.Tensor]()

    def forward(self, latent):
        self.seen.append(latent)
        images = self.size * latent[:, :CLASSES].view(-1, 1, 2, 2)
        return torch.zeros_like(images) if self.constant else images


def asked(images, kind="logits"):
    """A teacher that undoes it."""
    scores = images.flatten(1) / 0.1 * 2.5
    values = {"logits": scores + 3.0, "probabilities": scores.softmax(1), "hard": scores.argmax(1)}[kind]
    return Response(values, kind, CLASSES)


def answers(kind="logits", count=COUNT):
    scores = torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(1))
    return asked(0.1 * centre_scores(scores).view(-1, 1, 2, 2) / 2.5, kind)


def audited(generator, kind="logits", **settings):
    wanted = {"count": COUNT, "value_range": (-1.0, 1.0), "seed": 0, **settings}
    normalisation, known = ScoreNormalisation.by_temperature(2.5), wanted.pop("hard_scores", None)
    inverse = Inverse(generator, normalisation, style_dim=3, hard_scale=2.0, hard_scores=known)
    return audit(
        inverse, wanted.pop("real", answers(kind, count=2 * COUNT)), lambda images: asked(images, kind), **wanted
    )


def test_a_hard_answer_is_wanted_as_the_scores_that_the_inverse_knows_of_its_class():
    turned = centre_scores(torch.eye(CLASSES).roll(1, 0))  # row c stands for another class
    for known, match in ((None, 1.0), (2 * centre_scores(torch.eye(CLASSES)), 1.0), (turned, 0.0)):
        assert audited(Drawn(), "hard", hard_scores=known)["class_match"] == match


@pytest.mark.parametrize("kind", ["logits", "probabilities", "hard"])
def test_an_exact_inverse_is_found_to_be_one(kind):
    found = audited(Drawn(), kind)
    assert found["class_match"] == 1.0 and found["audited"] == COUNT
    assert found["coverage"] > 0.9 * found["expected_coverage"]
    assert found["score_error"] == pytest.approx(0, abs=1e-6)
    low, high = found["class_match_interval"]
    assert 0.97 < low < high == pytest.approx(1.0)


def test_a_generator_that_ignores_the_answer_is_found_out():
    wanted = answers()
    found = audited(Drawn(constant=True), real=wanted)
    assert found["class_match"] == pytest.approx(float((wanted.labels == 0).float().mean()))  # all scores tie: class 0
    error = (wanted.values.softmax(1) - 1 / CLASSES).abs().mean()
    assert found["score_error"] == pytest.approx(float(error), rel=1e-5)
    found = audited(Drawn(constant=True))
    assert found["coverage"] < 0.1 < found["expected_coverage"]


def test_some_answers_are_asked_for_each_with_noise_of_its_own_and_the_others_are_to_be_covered():
    generator, known = Drawn(), answers(count=90)
    found = audited(generator, real=known, count=50)
    (latents,) = generator.seen
    assert found["audited"] == 50 and latents.shape == (50, CLASSES + 3)
    all_of_them = centre_scores(known.values) / 2.5
    matched = [int((all_of_them - row).abs().sum(1).argmin()) for row in latents[:, :CLASSES]]
    assert len(set(matched)) == 50 and sorted(matched) != list(range(50)), "drawn at random, each once"
    torch.testing.assert_close(latents[:, :CLASSES], all_of_them[matched])
    assert len(latents[:, CLASSES:].unique(dim=0)) == 50
    again = Drawn()
    audited(again, real=known, count=50)
    assert torch.equal(again.seen[0], latents)
    everything = audited(Drawn(), real=known, count=500)
    assert everything["audited"] == 90 and everything["coverage"] is None, "none is left to be covered"


def test_without_answers_to_real_images_there_is_nothing_to_be_asked_for(record):
    for nothing in (None, answers(count=5)):
        found = audited(Drawn(), real=nothing)
        assert (found["class_match"], found["audited"]) == (None, 0)
    assert wants_audit(record(generator={"confidence": 0.9}), 50)
    assert not wants_audit(record(generator=found), 50), "it would be tried again and again"
    assert not wants_audit(record(), 50) and not wants_audit(record(generator={}), 0)


def test_the_table_has_the_share_over_seeds_and_of_a_single_run(record):
    def cell(*shares):
        runs = [
            record("mekd", seed, generator={"class_match": share, "audited": 100}) for seed, share in enumerate(shares)
        ]
        (panel,) = panels(summarize(runs))
        return dict(zip([column.title for column in panel.columns], panel.cells[0], strict=True)).get("Class match %")

    assert cell(0.5) == "50.00 [40.38, 59.62]" and cell(0.5, 0.7) == "60.00 (50.00, 70.00)" and cell(None) is None


def test_too_few_questions_are_refused():
    with pytest.raises(InputError, match="audit=5: expected at least 20 questions, or 0 for none"):
        BenchConfig(audit=5)


TEACHER = """
import os
import torch

weights = torch.randn(256, 10, generator=torch.Generator().manual_seed(0))

def ask(images):
    place = os.environ["ASKED"]
    with open(place, "a") as stream:
        stream.write(f"{len(images)} ")
    if os.path.exists(place + ".broken") and len(images) == 44:
        raise ConnectionError("the second batch of the audit is lost")
    return images.flatten(1) @ weights
"""


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A teacher that is a function in another process; returns how many images it was sent so far."""
    (tmp_path / "audited_service.py").write_text(TEACHER)
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda: sum(map(int, (tmp_path / "asked").read_text().split()))


@pytest.mark.slow
def test_a_finished_benchmark_is_audited_without_training_again(tmp_path, service):
    settings = {"teacher": "audited_service:ask", "student": "lenet5_half", "methods": "mekd,kd", "steps": 10,
                "real_images": 60, "query_budget": 350, "seeds": "0", "device": "cpu", "preset": "quick", "jobs": 1,
                "hyperparameters": {"mekd": {"surrogate_steps": 10, "emulation.surrogate_steps": 10}}}  # fmt: skip
    out = tmp_path / "out"

    def run(**changes):
        benchmark = Benchmark(BenchConfig.from_mapping({**settings, **changes}), out)
        return benchmark.execute(resume=True, observe=lambda *_: None)

    before = run()
    asked_for_the_runs = service()
    mekd, kd = before.runs
    assert mekd.generator["class_match"] is None and "audited" not in mekd.generator and kd.generator is None

    (tmp_path / "asked.broken").touch()
    torn = run(audit=300)
    assert [item.status for item in torn.runs] == ["finished", "finished"]
    assert torn.runs[0] == mekd, "an audit that failed undoes nothing"
    (tmp_path / "asked.broken").unlink()
    after = run(audit=300)

    mekd_audited, kd_again = after.runs
    assert kd_again == kd
    generator = mekd_audited.generator
    assert generator["audited"] == 300 and 0 <= generator["class_match"] <= 1 and 0 < generator["score_error"] <= 0.2
    assert 0 <= generator["coverage"] <= 1 and generator["distance_to_real"] == mekd.generator["distance_to_real"]
    assert mekd_audited.queries.total == mekd.queries.total == 350
    assert mekd_audited.queries.evaluation == mekd.queries.evaluation + 344  # 44 were lost, and asked once more
    assert service() == asked_for_the_runs + 344
    assert (mekd_audited.seconds, mekd_audited.curve) == (mekd.seconds, mekd.curve)
    row = json.loads((out / "results.json").read_text())["summary"][0]
    assert row["class_match"]["mean"] == generator["class_match"] and row["class_match"]["kind"] == "wilson"
    run(audit=300)
    assert service() == asked_for_the_runs + 344, "asked twice"
