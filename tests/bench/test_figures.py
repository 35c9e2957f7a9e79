"""What the figures show, as numbers; that they are drawn, in both themes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from mekd_plugin.bench.figures import curves, dots, draw_all, draw_pictures, sent
from mekd_plugin.bench.public_spending import public_spending
from mekd_plugin.bench.query_frontier import draw_spending, frontier, spending
from mekd_plugin.records import Queries


def test_dots_hold_every_seed(record) -> None:
    (entry,) = dots([record(seed=seed, student_accuracy=value) for seed, value in enumerate((0.9, 0.95, 1.0))])
    assert entry.values == [0.9, 0.95, 1.0]
    assert entry.interval.mean == pytest.approx(0.95)


def test_a_curve_is_the_mean_at_the_steps_of_all_seeds(record) -> None:
    one = [{"step": 1, "accuracy": 0.2}, {"step": 5, "accuracy": 0.6}, {"step": 9, "accuracy": 0.8}]
    other = [{"step": 5, "accuracy": 0.8}, {"step": 9, "accuracy": 1.0}]
    (curve,) = curves([record(curve=one), record(seed=1, curve=other)])
    assert curve.steps == [5, 9]
    assert curve.mean == pytest.approx([0.7, 0.9])
    assert curve.low == [0.6, 0.8] and curve.high == [0.8, 1.0]


def test_spending_is_in_order_of_what_was_really_asked(record) -> None:
    runs = [
        record(budget=None, queries=Queries({"ask": 9000}, 9000), student_accuracy=0.97),
        record(budget=100, queries=Queries({"ask": 90}, 90), student_accuracy=0.8),
        record("free", queries=Queries(), student_accuracy=0.5),
    ]
    (entry,) = spending(runs)
    assert entry.method == "kd" and entry.queries == [90.0, 9000.0]
    assert [interval.mean for interval in entry.intervals] == [0.8, 0.97]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("per_1000", [None, 1.5])
def test_all_figures_are_drawn(tmp_path, record, theme, per_1000) -> None:
    (tmp_path / "kd-0").mkdir()
    np.savez(tmp_path / "kd-0" / "sent.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([0, 7]))
    runs = [record(method, seed) for method in ("kd", "mekd") for seed in (0, 1)]
    (shown,) = sent(runs, lambda key: tmp_path / key)
    assert shown.labels.tolist() == [0, 7]
    figures = draw_all(runs, runs, lambda key: tmp_path / key, per_1000=per_1000, theme=theme)
    assert list(figures) == ["accuracy", "learning_curves", "accuracy_against_queries", "images_sent"]
    assert all(content.startswith(b"\x89PNG") for content in figures.values())


def test_nothing_finished_draws_nothing(tmp_path, record) -> None:
    failed = [record(status="failed", student_accuracy=None)]
    assert draw_all(failed, failed, lambda key: tmp_path, per_1000=None, theme="light") == {}


def spent(record, label, budget, accuracy, **changes):
    return record(label, budget=budget, queries=Queries({"ask": budget}, budget), student_accuracy=accuracy, **changes)


def test_the_frontier_is_what_no_cheaper_point_reaches(record) -> None:
    runs = [spent(record, "kd", 100, 0.6), spent(record, "kd", 1000, 0.7), spent(record, "mekd", 100, 0.5),
            spent(record, "mekd", 500, 0.65), spent(record, "mekd", 1000, 0.9),
            spent(record, "ml", 5000, 0.8)]  # fmt: skip
    assert frontier(spending(runs)) == [(100, 0.6), (500, 0.65), (1000, 0.9)]


def test_whose_real_images_stay_at_home(record) -> None:
    told = {
        "real images": False,
        "mixtures": False,
        "synthetic images": True,
        "nothing of the edge": True,
    }
    runs = [record(label, leaves_edge=label) for label in told]
    assert {entry.method: entry.private for entry in spending(runs)} == told


def test_the_good_ones_are_told_apart_beside_poor_ones(record) -> None:
    """98 and 99.5 % are a hair's breadth apart beside 20 % on a linear axis."""

    def figure(*accuracies):
        runs = [spent(record, f"m{n}", budget, value) for n, value in enumerate(accuracies) for budget in (100, 1000)]
        drawn = draw_spending(
            spending(runs), look={f"m{n}": ("C0", "o") for n in range(3)}, teacher=0.998, per_1000=None
        )
        (axes,) = drawn.axes
        drawn.canvas.draw()
        heights = axes.transData.transform([(100, 100 * value) for value in accuracies])[:, 1] / axes.bbox.height
        plt.close(drawn)
        return axes.get_ylabel(), heights

    label, heights = figure(0.2, 0.98, 0.995)
    assert "scale of odds" in label and heights[2] - heights[1] > 0.1 and heights[1] - heights[0] > 0.3
    label, heights = figure(0.9, 0.98, 0.995)
    assert "odds" not in label and heights[2] - heights[1] > 0.08


def test_two_seeds_are_not_called_an_interval(record) -> None:
    for seeds, words in ((1, "95 % interval"), (2, "two seeds"), (3, "95 % interval")):
        runs = [
            spent(record, "kd", budget, 0.9 + 0.01 * seed, seed=seed) for seed in range(seeds) for budget in (9, 99)
        ]
        drawn = draw_spending(spending(runs), look={"kd": ("C0", "o")}, teacher=None, per_1000=None)
        assert words in drawn.axes[0].get_ylabel()
        plt.close(drawn)


def test_rows_of_two_seeds_beside_others_are_told_in_the_label(record) -> None:
    runs = [
        spent(record, label, budget, 0.9 + 0.01 * seed, seed=seed)
        for label, seeds in (("kd", 2), ("mekd", 3))
        for seed in range(seeds)
        for budget in (9, 99)
    ]
    look = {"kd": ("C0", "o"), "mekd": ("C1", "s")}
    drawn = draw_spending(spending(runs), look=look, teacher=None, per_1000=None)
    assert "95 % interval, or two seeds" in drawn.axes[0].get_ylabel()
    plt.close(drawn)


def test_public_spending_is_marked_where_it_concerns(record) -> None:
    def texts(dataset, *budgets):
        runs = [spent(record, "kd", budget, 0.9, dataset=dataset) for budget in budgets]
        drawn = draw_pictures(runs[:1], runs, lambda key: Path("nowhere"), per_1000=1.5, theme="light")
        return drawn["accuracy_against_queries"].svg.decode()

    assert public_spending("digits", "soft") == []
    soft, hard = (public_spending("mnist", kind) for kind in ("soft", "hard"))
    assert [one.asked for one in soft] == [1200, 6000, 35000, 16_420_000] and len(hard) == len(soft) + 2
    several = texts("mnist", 2000, 26000)
    assert "MEKD, public code: 16,420,000" in several and "frontier" in several and "$15,000" in several
    for other in (texts("digits", 2000, 26000), texts("mnist", 2000)):
        assert "public code" not in other
    assert texts("mnist", 2000, 26000) == several, "the same figure, the same bytes"
