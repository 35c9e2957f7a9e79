"""A bank knows whose answers it holds, and to which images; what cannot be a bank is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mekd_plugin.blackbox import Bank, BlackBox
from mekd_plugin.errors import CheckpointError, DamagedFile, InputError
from mekd_plugin.rows import Rows
from mekd_plugin.sealing import file_checksum, seal

SIZE = 50


@pytest.fixture
def draw(some_images):
    pool = some_images(2 * SIZE)
    return lambda start, stop: Rows(pool[start:stop])


@pytest.fixture
def kept(probe, draw, tmp_path):
    """``kept(kind)`` -> the directory of a bank of the probe's answers."""

    def made(kind="logits", *, identity="", memory_limit=2**30, **settings):
        bank = Bank(memory_limit=memory_limit, **settings)
        bank.keep(tmp_path / "bank", identity=identity)
        bank.fill(BlackBox(probe, kind, 3), draw, SIZE, stage="ask")
        return tmp_path / "bank"

    return made


def rewrite(directory, changes=None, **columns):
    """Give a bank other columns, sealed as if it had been written so."""
    marker = directory / "bank.json"
    entries = json.loads(marker.read_text())
    del entries["checksum"]
    for name, values in columns.items():
        entry = entries["columns"][name]
        np.save(directory / entry["file"], values)
        entry |= {"checksum": file_checksum(directory / entry["file"]), "dtype": str(values.dtype)}
    marker.write_bytes(seal({**entries, **(changes or {})}))


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_every_byte_of_a_bank_counts(kept, memory_limit):
    directory = kept(memory_limit=memory_limit)
    for path in directory.iterdir():
        whole = path.read_bytes()
        places = range(0, len(whole), 7 if path.suffix == ".json" else 97)
        for at in places:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(DamagedFile, match="is damaged"):
                Bank.load(directory)
        for content in (b"", whole[: len(whole) // 2]):
            path.write_bytes(content)
            with pytest.raises(DamagedFile, match="is damaged"):
                Bank.load(directory, trust=True)
        path.write_bytes(whole)
    assert len(Bank.load(directory)) == SIZE


def scores(value=0.0, classes=3):
    values = np.zeros((SIZE, classes), dtype=np.float32)
    values[7, 0] = value
    return values


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        ("logits", {"response": scores(float("nan"))}, "'response' holds values that are not finite"),
        ("logits", {"response": scores(classes=10)}, r"shape \(50, 10\), expected scores of shape \(50, 3\) about 3"),
        ("probabilities", {"response": scores(1.5)}, "'response' holds values from 0 to 1.5"),
        ("hard", {"response": np.zeros(SIZE, dtype=np.float32)}, "hard responses of torch.float32.*whole numbers"),
        ("hard", {"response": np.full(SIZE, 3)}, "'response' holds values from 3 to 3"),
        ("logits", {"images": np.full((SIZE, 1, 4, 4), np.inf, dtype=np.float32)}, "'images' holds values that are"),
        ("logits", {"images": np.zeros((SIZE, 16), dtype=np.float32)}, r"images of torch.float32, shape \(50, 16\)"),
    ],
)
def test_what_cannot_be_a_bank_is_refused(probe, draw, tmp_path, kind, columns, message):
    bank = Bank()
    bank.keep(tmp_path / "bank")
    teacher = (lambda images: probe(images).softmax(1)) if kind == "probabilities" else probe
    bank.fill(BlackBox(teacher, kind, 3), draw, SIZE, stage="ask")
    rewrite(tmp_path / "bank", **columns)
    with pytest.raises(DamagedFile, match=message):
        Bank.load(tmp_path / "bank", trust=True)


def test_a_bank_of_another_teacher_is_refused(kept, new_probe, draw):
    directory, other = kept(), new_probe()
    with torch.no_grad():
        other.head.bias += 1
    box = BlackBox(other, "logits", 3)
    with pytest.raises(InputError, match=rf"answered by the teacher \w+, and this one is {box.identity}.*trust_bank"):
        Bank.load(directory).fill(box, draw, SIZE, stage="ask")
    trusted = Bank.load(directory, trust=True)
    trusted.fill(box, draw, SIZE, stage="ask")
    assert len(trusted) == SIZE and box.ledger.total == 0


def test_a_bank_of_another_range_or_kind_is_refused(kept, new_probe, draw):
    directory = kept()
    with pytest.raises(InputError, match=r"images in \(-1.0, 1.0\), and the teacher takes \(-2.0, 2.0\)"):
        Bank.load(directory).fill(BlackBox(new_probe(), "logits", 3, value_range=(-2, 2)), draw, SIZE, stage="ask")
    with pytest.raises(InputError, match="holds 'logits' responses and the teacher answers 'hard'"):
        Bank.load(directory, trust=True).fill(BlackBox(new_probe(), "hard", 3), draw, SIZE, stage="ask")


def test_a_bank_of_another_image_shape_is_refused(kept, new_probe):
    bank = Bank.load(kept())
    with pytest.raises(InputError, match=r"images of \(1, 4, 4\), and this run's are \(1, 8, 8\)"):
        bank.fill(BlackBox(new_probe(), "logits", 3), lambda a, b: Rows(torch.zeros(b - a, 1, 8, 8)), SIZE, stage="ask")


def test_a_bank_of_another_generator_is_refused(kept):
    directory = kept(drawn_by="abc")
    assert len(Bank.load(directory, drawn_by="abc")) == len(Bank.load(directory)) == SIZE
    with pytest.raises(CheckpointError, match="drawn by generator abc, and this method draws by generator def.*trust"):
        Bank.load(directory, drawn_by="def")
    assert len(Bank.load(directory, drawn_by="def", trust=True)) == SIZE
    with pytest.raises(CheckpointError, match="drawn by generator abc"):
        Bank(drawn_by="def").keep(directory)


def test_a_bank_of_another_run_is_refused(kept):
    directory = kept(identity="one run")
    Bank().keep(directory, identity="one run")
    with pytest.raises(CheckpointError, match="belongs to another run: one run there, another expected"):
        Bank().keep(directory, identity="another")
    assert len(Bank.load(directory)) == SIZE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_half_precision_images_come_back_bit_by_bit(probe, draw, tmp_path, dtype, memory_limit):
    bank = Bank(memory_limit=memory_limit)
    bank.keep(tmp_path)
    images = draw(0, SIZE).images.to(dtype)
    bank.fill(BlackBox(probe, "logits", 3), lambda start, stop: Rows(images[start:stop]), SIZE, stage="ask")
    again = Bank(memory_limit=memory_limit)
    again.keep(tmp_path)
    for one in (bank, again):
        assert one.images.dtype == dtype and torch.equal(one.images, images)


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_many_small_failures_leave_a_shorter_bank(new_probe, draw, tmp_path, memory_limit):
    probe, calls = new_probe().eval(), [0]

    def unreliable(images):
        calls[0] += 1
        if calls[0] % 5 == 3:
            raise ConnectionError("out of reach")
        return probe(images)

    def life() -> tuple[Bank, BlackBox]:
        box = BlackBox(unreliable, "logits", 3, budget=SIZE, batch_size=4)
        box.keep(tmp_path / "run")
        bank = Bank(memory_limit=memory_limit)
        bank.keep(tmp_path / "bank")
        bank.fill(box, draw, SIZE, stage="ask")
        return bank, box

    with pytest.warns(UserWarning, match="rows fewer: that many answers were paid for and lost"):
        for _ in range(20):
            try:
                bank, box = life()
                break
            except ConnectionError:
                continue
    assert 0 < len(bank) < SIZE and box.ledger.total == SIZE
    assert torch.equal(bank.images, draw(0, len(bank)).images)
    torch.testing.assert_close(bank.response.values, probe(bank.images).detach())


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_attempts_that_are_repeated_shorten_the_bank(new_probe, some_images, tmp_path, memory_limit):
    """What an attempt that has to be repeated takes from the budget while the bank is filled."""
    pool = some_images(600)
    probe = new_probe()
    box = BlackBox(probe, "logits", 3, budget=600, batch_size=16)
    box.keep(tmp_path / "run")
    bank = Bank(memory_limit=memory_limit)
    bank.keep(tmp_path / "bank")

    def lose(done, wanted):
        if done == 256:
            box.ledger.intend(torch.arange(40), "ask")

    with pytest.warns(UserWarning, match="gets 40 rows fewer: that many answers were paid for and lost"):
        bank.fill(box, lambda start, stop: Rows(pool[start:stop]), 600, stage="ask", progress=lose)
    assert len(bank) == 560 and box.ledger.total == 600
    again = Bank(memory_limit=memory_limit)
    again.keep(tmp_path / "bank")
    assert torch.equal(again.images, pool[:560]) and torch.equal(again.response.values, bank.response.values)
