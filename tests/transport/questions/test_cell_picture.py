from __future__ import annotations

import math

import pytest
import torch

from mekd_plugin.errors import InputError
from mekd_plugin.transport.questions.cell_picture import class_plane, project_cells, slice_cells


def arg_max(latent: torch.Tensor) -> torch.Tensor:
    return latent.argmax(dim=1)


@pytest.mark.parametrize(("classes", "shown"), [(3, (0, 1, 2)), (3, (2, 0, 1)), (10, (7, 1, 4))])
def test_the_plane_is_orthonormal_centred_and_of_the_shown_classes_only(classes, shown):
    axes = class_plane(classes, shown)
    torch.testing.assert_close(axes @ axes.T, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(axes.sum(1), torch.zeros(2, dtype=torch.float64))
    assert not axes[:, [c for c in range(classes) if c not in shown]].any()
    corners = axes[:, list(shown)].T  # of an equilateral triangle, the first up
    sides = torch.cdist(corners, corners)[[0, 0, 1], [1, 2, 2]]
    torch.testing.assert_close(sides, torch.full((3,), math.sqrt(2), dtype=torch.float64))
    assert corners[0, 1] > 0 and abs(corners[0, 0]) < 1e-12 and corners[1, 0] < 0 < corners[2, 0]


def test_three_classes_are_shown_whole_as_three_sectors_of_120_degrees():
    picture = slice_cells(arg_max, 3, resolution=101)
    assert picture.kind == "plane" and picture.grid == 101 and picture.note == "all centred latents"
    inside = picture.points.norm(dim=1) < 3
    shares = torch.bincount(picture.classes[inside], minlength=3) / inside.sum()
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.01, rtol=0)
    angle = torch.atan2(picture.points[:, 0], picture.points[:, 1]).rad2deg()  # from the first corner, upwards
    sector = inside & (picture.points.norm(dim=1) > 0.1) & ((angle.abs() - 60).abs() > 1)
    assert torch.equal((picture.classes == 0)[sector], (angle.abs() < 60)[sector])


def test_the_grid_runs_from_the_lower_left_row_by_row():
    picture = slice_cells(arg_max, 3, resolution=2, extent=5)
    assert picture.points.tolist() == [[-5, -5], [5, -5], [-5, 5], [5, 5]]
    assert picture.classes.tolist() == [1, 2, 0, 0]


def test_more_classes_are_a_slice_and_it_says_so():
    seen = []

    def classify(latent):
        seen.append(latent)
        return arg_max(latent[:, :6])

    style = torch.tensor([0.5, -0.5])
    picture = slice_cells(classify, 6, shown=(5, 0, 3), resolution=11, style=style)
    assert picture.kind == "slice" and "3 classes are 0" in picture.note and "style of 2" in picture.note
    (latent,) = seen  # one call, as many queries as grid points
    assert latent.shape == (121, 8) and latent.dtype == torch.float32
    assert not latent[:, [1, 2, 4]].any() and (latent[:, 6:] == style).all()
    assert set(picture.classes.tolist()) == {0, 3, 5}


def test_a_projection_of_centred_latents_of_three_classes_loses_nothing():
    z = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    centred = z - z.mean(1, keepdim=True)
    picture = project_cells(centred, arg_max(centred))
    assert picture.kind == "plane" and picture.grid is None
    torch.testing.assert_close(picture.points @ class_plane(3), centred.double(), atol=1e-6, rtol=0)
    nearest_corner = (picture.points @ picture.corners.T).argmax(1)
    assert torch.equal(nearest_corner, picture.classes)
    shadow = project_cells(z, arg_max(z))
    assert shadow.kind == "projection" and "1 of 3 directions" in shadow.note
    torch.testing.assert_close(shadow.points, picture.points, atol=1e-6, rtol=0)


def test_a_projection_of_more_classes_says_what_it_hides():
    z = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    picture = project_cells(z, arg_max(z), shown=(1, 2, 3))
    assert picture.kind == "projection" and "5 of 7 directions" in picture.note and picture.shown == (1, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_plane(2), "two classes leave a line"),
        (lambda: class_plane(5, (0, 1, 1)), "three different ones"),
        (lambda: class_plane(5, (0, 1, 5)), r"in \[0, 5\)"),
        (lambda: slice_cells(arg_max, 3, extent=0), "positive extent"),
        (lambda: slice_cells(arg_max, 3, resolution=1), "at least 2 points"),
        (lambda: slice_cells(lambda z: z, 3, resolution=4), "classes of the slice"),
        (lambda: project_cells(torch.zeros(4, 3), torch.tensor([0, 1, 2])), "classes of shape"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(InputError, match=message):
        call()
