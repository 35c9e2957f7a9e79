"""Drawings: what they show, and what they refuse."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from mekd_plugin import plotting
from mekd_plugin.errors import InputError


def pixels(picture: plotting.Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")).reshape(-1, 3)


def share(picture: plotting.Picture, colour: tuple[int, int, int]) -> float:
    """Of the picture's pixels, those of a colour, as far as scaling keeps it."""
    return float((abs(pixels(picture).astype(int) - colour) <= 2).all(axis=1).mean())


def test_images_are_shown_in_their_colours_and_with_their_titles() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(4, 3, 8, 8)
    grey = torch.zeros(4, 1, 8, 8)
    open_before = plt.get_fignums()
    drawn = plotting.images({"ours": red, "sent": grey}, columns=4, titles={"sent": ["seven", 8, 9, 0]})
    assert share(drawn, (255, 0, 0)) > 0.1 and share(drawn, (128, 128, 128)) > 0.1
    assert all(word in drawn.svg.decode() for word in ("ours", "sent", "seven"))
    assert plt.get_fignums() == open_before, "a drawing leaves no figure open"


def test_only_marked_titles_are_bold() -> None:
    rows, titles = {"sent": torch.zeros(2, 1, 8, 8)}, {"sent": ["wrong", "right"]}
    text = plotting.images(rows, columns=2, titles=titles, marked={"sent": [False, True]}).svg.decode()
    bold = [line for line in text.splitlines() if "font-weight: 700" in line and "</text>" in line]
    assert any("right" in line for line in bold) and not any("wrong" in line for line in bold)


def test_values_beyond_the_range_are_black_and_white() -> None:
    drawn = plotting.images({"x": torch.full((1, 1, 8, 8), -3.0)}, columns=1)
    assert share(drawn, (0, 0, 0)) > 0.3


def test_a_row_that_is_short_stays_open() -> None:
    assert plotting.images({"long": torch.zeros(3, 1, 8, 8), "short": torch.zeros(1, 1, 8, 8)}, columns=3).png


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plotting.images({}), "no rows: expected at least one row"),
        (lambda: plotting.images({"x": torch.zeros(0, 1, 8, 8)}), "at least one image"),
        (lambda: plotting.images({"x": torch.zeros(2, 2, 8, 8)}), r"'x' are \(2, 2, 8, 8\): expected \(N, 1 or 3"),
        (lambda: plotting.images({"x": torch.zeros(1, 1, 8, 8)}, titles={"y": [1]}), "'y': expected one of the rows"),
        (lambda: plotting.curves({"x": ([0], [1])}, x="", y="", bands={"y": ([0], [1])}), "bands of y: expected names"),
        (lambda: plotting.bars({"a": [1], "b": [1, 2]}, x="", y=""), "a, b: expected as many numbers"),
        (lambda: plotting.bars({}, x="", y=""), "nothing: expected as many"),
        (lambda: plotting.class_map([0, 1]), r"\(2,\): expected \(rows, columns\)"),
        (lambda: plotting.matched_points([[0]], [[1, 1]], {"a": [0]}, names=("a", "b")), r"\(1, 1\) and \(1, 2\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, words) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_curves_name_lines_levels_and_axes() -> None:
    lines = {"soft": ([60, 250], [70, 90]), "hard": ([60, 250], [60, 80])}
    drawn = plotting.curves(
        lines, x="queries", y="accuracy", levels={"teacher": 97}, bands={"soft": ([60, 85], [80, 95])}, log_x=True
    )
    text = drawn.svg.decode()
    assert all(word in text for word in ("soft", "hard", "teacher", "queries", "accuracy", ">250<"))


def test_intervals_take_records_that_go_on() -> None:
    from mekd_plugin.bench import mean_interval

    rows = {"mekd": mean_interval([0.9, 0.92, 0.94]), "kd": (0.95, 0.93, 0.97)}
    text = plotting.intervals(rows, x="accuracy", name="method").svg.decode()
    assert "mekd" in text and "kd" in text and "method" in text


def test_bars_of_tensors_and_of_lists() -> None:
    text = plotting.bars({"one": torch.tensor([1.0, 2]), "two": [2, 1]}, x="class", y="share", names=["cat", "dog"])
    assert all(word in text.svg.decode() for word in ("one", "two", "cat", "dog"))


def test_a_class_map_is_pale_where_the_network_is_unsure() -> None:
    labels = torch.zeros(6, 6, dtype=torch.int64)
    sure, unsure = (plotting.class_map(labels, confidence=torch.full((6, 6), value)) for value in (1.0, 0.0))
    blue = tuple(int(plotting.colours(1)[0][place : place + 2], 16) for place in (1, 3, 5))
    assert share(sure, blue) > 0.3 and share(unsure, blue) == 0
    assert ">0<" in sure.svg.decode(), "a class with room for it is named"


def test_points_are_joined_with_their_partners() -> None:
    earth, holes = torch.tensor([[0.0, 0], [0, 1]]), torch.tensor([[1.0, 1], [1, 0]])
    straight = plotting.matched_points(earth, holes, {"plan": [1, 0]}, names=("earth", "holes"))
    crossed = plotting.matched_points(earth, holes, {"plan": [0, 1]}, names=("earth", "holes"))
    assert straight.png != crossed.png and "holes" in straight.svg.decode()


def test_a_notebook_shows_a_picture_with_its_words_and_at_its_width() -> None:
    content, shown = plotting.curves({"a": ([0, 1], [0, 1])}, x="", y="", alt="a line that rises")._repr_png_()
    assert content.startswith(b"\x89PNG") and shown == {"width": 640, "alt": "a line that rises"}
    assert repr(plotting.Picture(b"", b"")) == "Picture: without a description"
