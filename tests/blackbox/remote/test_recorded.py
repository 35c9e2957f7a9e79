"""Recorded answers: a method runs with no service at all, and what is not on record is said."""

from __future__ import annotations

import csv

import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

import mekd_plugin as mekd
from mekd_plugin.blackbox import Bank
from mekd_plugin.blackbox.remote import recorded_teacher
from mekd_plugin.cli import app
from mekd_plugin.errors import CheckpointError, DamagedFile, InputError, RefusedForGood


def images_of(count, seed=0):
    levels = torch.randint(256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    return levels.float() / 127.5 - 1


def teacher(images):
    return images.flatten(1)[:, :3] * 2


def run(asked, directory=None, **settings):
    torch.manual_seed(0)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    return mekd.distill(
        student,
        asked,
        images_of(24),
        method="kd",
        queries=24,
        recipe=mekd.Recipe(steps=3),
        directory=directory,
        device="cpu",
        progress=False,
        **settings,
    )


@pytest.fixture
def bought(tmp_path):
    """A run that paid for its answers."""
    result = run(mekd.BlackBox(teacher, "logits", 3, identity="the teacher, version 3"), tmp_path / "run")
    return tmp_path / "run", result


def mekd_bank(*words):
    done = CliRunner().invoke(app, ["bank", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def as_box(recorded):
    return mekd.BlackBox(recorded, recorded.responses, recorded.num_classes, value_range=recorded.value_range)


@pytest.mark.parametrize("form", ["run", "bank", "tensors", "hashes", "files", "imported"])
def test_a_run_needs_no_service_any_more(bought, tmp_path, form):
    directory, paid = bought
    source = {"run": directory, "bank": next(directory.glob("banks/*"))}.get(form)
    if source is None:
        source = tmp_path / ("published" if form == "files" else "published.safetensors")
        extra = ["--hashes"] if form == "hashes" else []
        assert "24 answers of the teacher, version 3" in mekd_bank("export", directory, "--out", source, *extra)
    if form == "imported":
        mekd_bank("import", source, "--out", tmp_path / "bank")
        source = tmp_path / "bank"
    recorded = recorded_teacher(source)
    assert (recorded.responses, recorded.num_classes, len(recorded)) == ("logits", 3, 24)
    assert recorded.identity == "the teacher, version 3"
    again = run(as_box(recorded))
    expected = paid.student.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.student.state_dict().items())
    assert again.ledger.total == 24


def test_what_is_not_on_record_is_counted_and_costs_nothing(bought):
    directory, _ = bought
    box = as_box(recorded_teacher(directory))
    asked = torch.cat([images_of(24)[:3], images_of(5, seed=1)])
    with pytest.raises(RefusedForGood, match=r"5 of 8 images are not among the 24 on record in .*run: ask about"):
        box.query(asked)
    assert box.ledger.total == 0
    mixed = as_box(recorded_teacher(directory, on_missing=lambda images: teacher(images) + 1))
    assert torch.equal(mixed.query(asked).values, teacher(asked) + (torch.arange(8) >= 3)[:, None])
    with pytest.raises(InputError, match="on_missing='skip': expected"):
        recorded_teacher(directory, on_missing="skip")


def test_a_bank_that_was_imported_teaches_another_run(bought, tmp_path):
    directory, _ = bought
    mekd_bank("export", directory, "--out", tmp_path / "t.safetensors")
    mekd_bank("import", tmp_path / "t.safetensors", "--out", tmp_path / "bank")
    bank = Bank.load(tmp_path / "bank")
    assert len(bank) == 24 and bank.origin.teacher == "the teacher, version 3"
    assert torch.equal(bank.response.values, teacher(bank.images))
    with pytest.raises(InputError, match="holds a bank already"):
        mekd_bank("import", tmp_path / "t.safetensors", "--out", tmp_path / "bank")
    with pytest.raises(InputError, match="is there already: nothing is overwritten"):
        mekd_bank("export", directory, "--out", tmp_path / "t.safetensors")


def test_what_left_and_what_came_back_is_shown(bought, tmp_path):
    directory, _ = bought
    said = mekd_bank("show", directory)
    for words in ("24 images of 1x4x4 in [-1, 1], 24 distinct", "logits about 3 classes; 0: ", "when: 2", "version 3"):
        assert words in said
    mekd_bank("export", directory, "--out", tmp_path / "t.safetensors", "--hashes")
    assert "only their fingerprints were kept" in mekd_bank("show", tmp_path / "t.safetensors")
    assert b"images" not in (tmp_path / "t.safetensors").read_bytes()[:2000].split(b"__metadata__")[1].split(b"}")[1]
    with pytest.raises(InputError, match="a bank needs images, and only their fingerprints"):
        mekd_bank("import", tmp_path / "t.safetensors", "--out", tmp_path / "b")


def as_files(folder, count=6, label=lambda index: "cat" if index % 2 else "dog", header=("image", "label")):
    folder.mkdir()
    pixels = ((images_of(count) + 1) * 127.5).round().byte()
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for index, image in enumerate(pixels):
            PIL.Image.fromarray(image[0].numpy()).save(folder / f"{index}.png")
            writer.writerow([f"{index}.png", label(index)])
    return folder / "labels.csv"


def test_a_csv_of_file_names_and_labels(tmp_path):
    recorded = recorded_teacher(as_files(tmp_path / "a"), classes=["cat", "dog"])
    assert recorded.responses == "hard" and recorded.num_classes == 2
    told = as_box(recorded).query(images_of(6)).values
    assert told.tolist() == [1, 0, 1, 0, 1, 0]
    numbers = recorded_teacher(as_files(tmp_path / "b", label=lambda index: index % 3), num_classes=5)
    assert as_box(numbers).query(images_of(6)).values.tolist() == [0, 1, 2, 0, 1, 2] and numbers.num_classes == 5


@pytest.mark.parametrize(
    ("table", "settings", "words"),
    [
        ({}, {}, "does not tell how many classes there are"),
        ({}, {"classes": ["cat", "cow"]}, "line 2: label 'dog': expected one of cat, cow"),
        ({"label": lambda index: 7}, {"num_classes": 3}, "line 2: label '7': expected one of 0 to 2"),
        ({"header": ("picture", "class")}, {}, "has the columns picture, class: expected file, and label"),
        ({"header": ("file", "score_0")}, {"num_classes": 2}, 'has scores: say what they are, responses="logits"'),
        ({"count": 0}, {}, "holds no row"),
    ],
)
def test_a_csv_that_does_not_say_enough(tmp_path, table, settings, words):
    path = as_files(tmp_path / "a", **table)
    with pytest.raises((InputError, CheckpointError), match=words):
        recorded_teacher(path, **settings)


def test_files_that_are_gone_or_damaged(bought, tmp_path):
    directory, _ = bought
    path = as_files(tmp_path / "a")
    (tmp_path / "a" / "3.png").unlink()
    with pytest.raises(InputError, match=r"line 5: .*3.png cannot be read"):
        recorded_teacher(path, classes=["cat", "dog"])
    with pytest.raises(CheckpointError, match="no recorded answers at"):
        recorded_teacher(tmp_path / "nowhere")
    mekd_bank("export", directory, "--out", tmp_path / "t.safetensors")
    content = bytearray((tmp_path / "t.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(DamagedFile, match="is damaged, or no table"):
        recorded_teacher(tmp_path / "t.safetensors")


def test_a_teacher_by_name(bought):
    from mekd_plugin.bench.teacher_names import kind_of_teacher
    from mekd_plugin.bench.teachers import load_teacher

    directory, _ = bought
    assert (
        kind_of_teacher("recorded:runs/a@b") == "recorded" and kind_of_teacher("https://h:1/v2/models/a@b") == "service"
    )
    assert len(load_teacher(f"recorded:{directory}", num_classes=3, image_shape=(1, 4, 4))) == 24
    with pytest.raises(
        CheckpointError, match=r"answers about 3 classes and images of \(1, 4, 4\), and the data has 10"
    ):
        load_teacher(f"recorded:{directory}", num_classes=10, image_shape=(1, 4, 4))
