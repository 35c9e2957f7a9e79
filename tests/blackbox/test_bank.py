from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from mekd_plugin.blackbox import Bank, BlackBox, FreshQueries
from mekd_plugin.errors import CheckpointError, InputError, QueryBudgetExceeded
from mekd_plugin.responses import Response
from mekd_plugin.rows import Rows, Shard, WeightedIndices

SIZE = 600  # three chunks, the last one short


@pytest.fixture
def draw(some_images):
    pool = some_images(3 * SIZE)

    def drawn(start: int, stop: int) -> Rows:
        return Rows(pool[start:stop], extra={"latent": torch.arange(start, stop).float()[:, None].expand(-1, 2)})

    return drawn


def filled(bank, probe, draw, size=SIZE, **settings):
    bank.fill(BlackBox(probe, "logits", 3), draw, size, stage="ask", **settings)
    return bank


def assert_same_rows(one: Rows, other: Rows):
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.answers().values, other.answers().values)
    assert set(one.extra) == set(other.extra)
    assert all(torch.equal(one.extra[name], other.extra[name]) for name in one.extra)


def test_holds_each_row_with_its_answer(probe, draw):
    progress = []
    bank = filled(Bank(), probe, draw, progress=lambda done, wanted: progress.append((done, wanted)))
    assert len(bank) == SIZE and progress == [(256, 600), (512, 600), (600, 600)]
    assert torch.equal(bank.images, draw(0, SIZE).images)
    torch.testing.assert_close(bank.response.values, probe.eval()(bank.images).detach())
    assert bank.extra["latent"][:, 0].tolist() == list(range(SIZE))
    assert probe.sent[:3] and [len(batch) for batch in probe.sent[:3]] == [256, 256, 88]


@pytest.mark.parametrize("responses", ["logits", "hard"])
def test_a_mapped_bank_is_the_one_in_memory(probe, draw, tmp_path, responses):
    banks = {}
    for name, bank in {
        "memory": Bank(),
        "saved": Bank(),
        "mapped": Bank(memory_limit=0),
        "images mapped": Bank(memory_limit=20_000),
    }.items():
        if name != "memory":
            bank.keep(tmp_path / name)
        bank.fill(BlackBox(probe, responses, 3), draw, SIZE, stage="ask")
        bank.add_column("target", lambda rows: rows.images * 2)
        banks[name] = bank
    for name in ("saved", "mapped", "images mapped"):
        assert_same_rows(banks["memory"].rows(), banks[name].rows())
        reopened = Bank(memory_limit=0)
        reopened.keep(tmp_path / name)
        assert_same_rows(banks["memory"].rows(), reopened.rows())
        step = (7, 32, Shard(1, 2))
        assert_same_rows(banks["memory"].order(3).batch(*step), reopened.order(3).batch(*step))


def test_a_large_column_is_mapped_and_a_small_one_is_not(probe, draw, tmp_path):
    bank = Bank(memory_limit=20_000)  # images: 38,400 bytes; answers: 7,200
    bank.keep(tmp_path)
    filled(bank, probe, draw)
    assert isinstance(bank._columns._columns["images"].mapped, np.memmap)
    assert bank._columns._columns["response"].mapped is None


def test_writing_into_a_reopened_bank_does_not_reach_its_file(probe, draw, tmp_path):
    bank = Bank(memory_limit=0)
    bank.keep(tmp_path)
    filled(bank, probe, draw)
    reopened = Bank(memory_limit=0)
    reopened.keep(tmp_path)
    reopened.images.zero_()
    last = Bank()
    last.keep(tmp_path)
    assert torch.equal(last.images, draw(0, SIZE).images)


def test_a_kept_bank_costs_nothing(probe, draw, tmp_path):
    bank = Bank()
    bank.keep(tmp_path)
    filled(bank, probe, draw)
    asked = probe.images
    again = Bank()
    again.keep(tmp_path)
    filled(again, probe, draw)
    assert probe.images == asked and len(again) == SIZE
    filled(again, probe, draw, size=100)
    assert probe.images == asked and len(again) == 100 and torch.equal(again.images, draw(0, 100).images)


@pytest.mark.parametrize("memory_limit", [0, 2**30])
@pytest.mark.parametrize("kept", [False, True])
def test_a_bank_grows(probe, draw, tmp_path, memory_limit, kept):
    bank = Bank(memory_limit=memory_limit)
    if kept:
        bank.keep(tmp_path)
    filled(bank, probe, draw, size=300)
    bank.add_column("target", torch.zeros(300))
    filled(bank, probe, draw, size=700)
    assert len(bank) == 700 and probe.images == 700
    assert torch.equal(bank.images, draw(0, 700).images)
    assert set(bank.extra) == {"latent"}, "a column added for fewer rows is gone"
    if kept:
        assert len(list(tmp_path.glob("*.npy"))) == 3, "no file of the smaller bank stays"
        again = Bank()
        again.keep(tmp_path)
        filled(again, probe, draw, size=300)
        assert len(again) == 300
        filled(again, probe, draw, size=700)
        assert_same_rows(again.rows(), bank.rows())
        assert probe.images == 700


def test_budget_is_refused_before_anything_is_asked(probe, draw):
    box = BlackBox(probe, "logits", budget=SIZE - 1)
    with pytest.raises(
        QueryBudgetExceeded, match="'synthetic' needs 600 more answers for 'ask'.* 599 left.*nothing was"
    ):
        Bank("synthetic").fill(box, draw, SIZE, stage="ask")
    assert probe.images == 0 and box.ledger.total == 0


def test_a_killed_fill_is_resumed(new_probe, killed, draw, tmp_path):
    expected = filled(Bank(), new_probe(), draw)
    first, second = new_probe(), new_probe()
    first.die_in_batch = 2
    for probe in (first, second):
        box = BlackBox(probe, "logits", budget=SIZE + 256)
        box.keep(tmp_path)
        bank = Bank(memory_limit=0)
        bank.keep(tmp_path / "bank")
        if probe is first:
            with pytest.raises(killed):
                bank.fill(box, draw, SIZE, stage="ask")
            assert not list((tmp_path / "bank").iterdir()), "no partial file stays behind"
        else:
            bank.fill(box, draw, SIZE, stage="ask")
    assert_same_rows(bank.rows(), expected.rows())
    assert second.images == SIZE - 256
    assert (box.ledger.total, box.ledger.uncertain) == (SIZE + 256, 256)


def test_files_of_a_killed_fill_do_not_matter(probe, draw, tmp_path):
    (tmp_path / "images-0.npy").write_bytes(b"torn")
    bank = Bank()
    bank.keep(tmp_path)
    assert len(bank) == 0
    filled(bank, probe, draw)
    again = Bank()
    again.keep(tmp_path)
    assert_same_rows(again.rows(), bank.rows())


def test_lost_answers_make_the_bank_smaller_by_as_many_rows(new_probe, killed, draw, tmp_path):
    first = new_probe()
    first.die_in_batch = 2
    box = BlackBox(first, "logits", budget=SIZE)
    box.keep(tmp_path)
    with pytest.raises(killed):
        Bank().fill(box, draw, SIZE, stage="ask")
    for life in range(2):  # the second life ends before its bank is kept; the third finds the same
        second = new_probe()
        again = BlackBox(second, "logits", budget=SIZE)
        again.keep(tmp_path)
        bank = Bank()
        with pytest.warns(UserWarning, match="gets 256 rows fewer"):
            bank.fill(again, draw, SIZE, stage="ask")
        assert len(bank) == SIZE - 256 and again.ledger.total == SIZE
        assert second.images == (0 if life else SIZE - 512)
        assert torch.equal(bank.images, draw(0, SIZE - 256).images)


def test_a_shorter_bank_asks_about_the_rows_that_the_longer_one_would_have(new_probe, killed, tmp_path):
    def drawn(start, stop):  # as augmentations do: what is drawn for a row hangs on the whole range
        rng = torch.Generator().manual_seed(start)
        return Rows(torch.rand(4, stop - start, 4, generator=rng).permute(1, 0, 2).unsqueeze(1) * 2 - 1)

    first, second = new_probe(), new_probe()
    first.die_in_batch = 3
    for probe in (first, second):
        box = BlackBox(probe, "logits", 3, budget=300, batch_size=64)
        box.keep(tmp_path)
        bank = Bank()
        if probe is first:
            with pytest.raises(killed):
                bank.fill(box, drawn, 300, stage="ask")
            box.release()
        else:
            with pytest.warns(UserWarning, match="gets 64 rows fewer"):
                bank.fill(box, drawn, 300, stage="ask")
    assert len(bank) == 300 - 64 and second.images == 300 - 3 * 64
    assert torch.equal(bank.images, drawn(0, 256).images[: len(bank)])


def test_nothing_is_left_to_fill(new_probe, killed, draw, tmp_path):
    first = new_probe()
    first.die_in_batch = 1
    box = BlackBox(first, "logits", budget=100)
    box.keep(tmp_path)
    with pytest.raises(killed):
        Bank().fill(box, draw, 100, stage="ask")
    again = BlackBox(new_probe(), "logits", budget=100)
    again.keep(tmp_path)
    with pytest.raises(QueryBudgetExceeded, match="0 left"):
        Bank().fill(again, draw, 100, stage="ask")


def test_a_bank_that_grows_can_do_without_its_last_rows(new_probe, killed, draw, tmp_path):
    first = new_probe()
    first.die_in_batch = 2
    for probe in (first, new_probe(), new_probe()):
        box = BlackBox(probe, "logits", budget=100)
        box.keep(tmp_path / "run")
        bank = Bank()
        bank.keep(tmp_path / "bank")
        bank.fill(box, draw, 60, stage="ask")
        if probe is first:
            with pytest.raises(killed):
                bank.fill(box, draw, 100, stage="ask")
            box.release()
            continue
        with warnings.catch_warnings(record=True) as told:
            bank.fill(box, draw, 100, stage="ask")
        box.release()
        assert len(bank) == 60 and torch.equal(bank.images, draw(0, 60).images) and not probe.sent
        assert len(told) <= 1 and all("gets 40 rows fewer" in str(warning.message) for warning in told)


def test_rows_that_were_paid_for_stay_though_more_than_the_budget_was_spent(new_probe, killed, draw, tmp_path):
    first = new_probe()
    first.die_in_batch = 2
    box = BlackBox(first, "logits", budget=100)
    box.keep(tmp_path / "run")
    bank = Bank()
    bank.keep(tmp_path / "bank")
    bank.fill(box, draw, 20, stage="ask")
    with pytest.raises(killed):
        bank.fill(box, draw, 100, stage="ask")
    box.release()
    again = BlackBox(new_probe(), "logits", budget=100)
    again.query(draw(0, 10).images, stage="elsewhere")
    again.keep(tmp_path / "run")
    assert again.ledger.remaining == -10
    bank = Bank()
    bank.keep(tmp_path / "bank")
    bank.fill(again, draw, 20, stage="ask")
    with pytest.warns(UserWarning, match="gets 20 rows fewer"):
        bank.fill(again, draw, 40, stage="ask")
    assert len(bank) == 20 and len(Bank.load(tmp_path / "bank")) == 20


def test_a_bank_is_named_after_its_directory_wherever_one_stands(probe, draw, tmp_path, monkeypatch):
    bank = Bank()
    bank.keep(tmp_path / "mine")
    filled(bank, probe, draw, 4)
    monkeypatch.chdir(tmp_path / "mine")
    assert Bank.load(".").name == "mine"


def test_a_whole_bank_moves_the_replay_behind_its_questions(new_probe, draw, some_images, tmp_path):
    for life in range(2):
        probe = new_probe()
        box = BlackBox(probe, "logits")
        box.keep(tmp_path)
        box.query(some_images(3), stage="before")
        bank = Bank()
        bank.keep(tmp_path / "bank")
        bank.fill(box, draw, SIZE, stage="ask")
        assert box.journal.position == 4
        box.query(some_images(4), stage="after")
        assert probe.images == (0 if life else SIZE + 7)


def test_a_bank_of_another_run_does_not_move_the_replay(new_probe, draw, tmp_path):
    box = BlackBox(new_probe(), "logits")
    box.keep(tmp_path / "one run")
    bank = Bank()
    bank.keep(tmp_path / "bank")
    bank.fill(box, draw, SIZE, stage="ask")
    other = BlackBox(new_probe(), "logits")
    other.keep(tmp_path / "another run")
    again = Bank()
    again.keep(tmp_path / "bank")
    again.fill(other, draw, SIZE, stage="ask")
    assert other.journal.position == 0 and other.ledger.total == 0 and len(again) == SIZE


def test_a_method_can_ask_in_its_own_way(probe, draw):
    box = BlackBox(probe, "logits", 3)

    def twice(teacher, rows):
        first, second = teacher.query(rows.images), teacher.query(rows.images.flip(3))
        return Response((first.values + second.values) / 2, first.kind, first.num_classes)

    bank = Bank()
    bank.fill(box, draw, 300, stage="search", label=twice)
    assert box.ledger.by_stage == {"search": 600}
    expected = (probe.eval()(bank.images) + probe(bank.images.flip(3))).detach() / 2
    torch.testing.assert_close(bank.response.values, expected)


def test_scores_that_a_method_makes_of_classes_are_taken_over_from_disk(probe, draw, tmp_path):
    def scored(teacher, rows):
        labels = teacher.query(rows.images).labels
        return Response(torch.nn.functional.one_hot(labels, 3).float(), "logits", 3)

    for life in range(2):
        bank, box = Bank(), BlackBox(probe, "hard", 3)
        bank.keep(tmp_path / "bank")
        bank.fill(box, draw, 20, stage="search", label=scored)
        assert bank.response.soft and box.ledger.total == (0 if life else 20)
    again = Bank()
    again.keep(tmp_path / "bank")
    with pytest.raises(InputError, match="holds 'logits' responses and the teacher answers 'hard'"):
        again.fill(BlackBox(probe, "hard", 3), draw, 20, stage="search")


def test_held_out_rows_are_the_last_ones_and_never_in_a_batch(probe, draw):
    bank = filled(Bank(), probe, draw, size=50)
    held = bank.hold_out(10)
    assert len(bank) == 40 and held.extra["latent"][:, 0].tolist() == list(range(40, 50))
    seen = torch.cat([bank.batch(step, 16, Shard()).extra["latent"][:, 0] for step in range(10)])
    assert seen.max() == 39 and len(seen.unique()) == 40
    bank.add_column("target", torch.arange(40))
    assert bank.extra["target"].tolist() == list(range(40))


def test_none_held_out(probe, draw):
    bank = filled(Bank(), probe, draw, size=50)
    assert len(bank.hold_out(0)) == 0 and len(bank) == 50


def test_batches_show_every_row_equally_often_and_shares_differ(probe, draw):
    bank = filled(Bank(), probe, draw, size=40).order(seed=5)
    shares = [bank.batch(step, 5, Shard(rank, 2)) for step in range(4) for rank in range(2)]
    assert sorted(torch.cat([rows.extra["latent"][:, 0] for rows in shares]).tolist()) == list(range(40))
    for rows in shares:
        index = rows.extra["latent"][:, 0].long()
        assert torch.equal(rows.images, bank.images[index])
        assert torch.equal(rows.answers().values, bank.response.values[index])


def test_weights_are_the_rates_of_the_rows(probe, draw):
    bank = filled(Bank(), probe, draw, size=4).order(1, weights=torch.tensor([0.0, 1.0, 2.0, 1.0]))
    drawn = torch.cat([bank.batch(step, 50, Shard()).extra["latent"][:, 0] for step in range(40)]).long()
    rates = drawn.bincount(minlength=4) / len(drawn)
    torch.testing.assert_close(rates, torch.tensor([0.0, 0.25, 0.5, 0.25]), atol=0.04, rtol=0)
    again = bank.order(1, weights=torch.tensor([0.0, 1.0, 2.0, 1.0])).batch(39, 50, Shard())
    assert torch.equal(again.extra["latent"][:, 0].long(), drawn[-50:])


def test_a_weighted_stream_can_be_taken_anywhere():
    stream = WeightedIndices(torch.rand(7), seed=2)
    whole = stream.take(0, 100)
    assert torch.equal(torch.cat([stream.take(at, at + 10) for at in range(0, 100, 10)]), whole)


def test_shuffled_answers_for_a_control(probe, draw):
    bank = filled(Bank(), probe, draw, size=50)
    shuffled = bank.response[torch.randperm(50)]
    control = bank.with_answers(shuffled)
    assert torch.equal(control.images, bank.images) and torch.equal(control.response.values, shuffled.values)
    assert not torch.equal(bank.response.values, shuffled.values)
    hard = bank.with_answers(Response(bank.response.labels, "hard", 3))
    assert hard.batch(0, 8, Shard()).answers().kind == "hard"


def test_moves_to_a_device(probe, draw):
    bank = filled(Bank(), probe, draw, size=50).to("meta")
    rows = bank.rows()
    assert {rows.images.device.type, rows.answers().values.device.type, rows.extra["latent"].device.type} == {"meta"}


def test_fresh_queries_ask_at_every_step(probe, some_images):
    box = BlackBox(probe, "logits", budget=16)
    source = FreshQueries(box, lambda step, size, shard: Rows(some_images(size, seed=step)), stage="align")
    rows = source.batch(1, 8, Shard())
    torch.testing.assert_close(rows.answers().values, probe.eval()(some_images(8, seed=1)).detach())
    source.batch(2, 8, Shard())
    assert box.ledger.by_stage == {"align": 16}
    with pytest.raises(QueryBudgetExceeded):
        source.batch(3, 8, Shard())


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (lambda rows: rows[:-1], r"draw\(0, 50\) returned 49 rows: expected 50"),
        (lambda rows: Rows(rows.images[:, :, :3]), "cannot be multiplied|shape"),
    ],
)
def test_a_draw_that_fails_leaves_nothing_behind(probe, draw, tmp_path, drawn, message):
    bank = Bank(memory_limit=0)
    bank.keep(tmp_path)
    with pytest.raises((InputError, RuntimeError), match=message):
        filled(bank, probe, lambda start, stop: drawn(draw(start, stop)), size=50)
    assert not list(tmp_path.iterdir()) and len(bank) == 0
    filled(bank, probe, draw, size=50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: Rows(rows.images),
            r"columns \['images', 'response'\]: expected \['images', 'latent', 'response'\]",
        ),
        (
            lambda rows: Rows(rows.images, extra={"latent": torch.ones(len(rows), 3)}),
            r"of shape \(3,\) a row: expected",
        ),
        (
            lambda rows: Rows(rows.images, extra={"latent": torch.ones(len(rows), 2).long()}),
            "'latent' holds torch.int64",
        ),
    ],
)
@pytest.mark.parametrize("where", ["second chunk", "second fill"])
def test_all_rows_have_the_same_columns(probe, draw, change, message, where):
    bank, first = Bank(), 256 if where == "second chunk" else 100
    if where == "second fill":
        filled(bank, probe, draw, size=100)
    with pytest.raises(InputError, match=message):
        filled(bank, probe, lambda start, stop: (change if start >= first else lambda rows: rows)(draw(start, stop)))
    assert len(bank) == (100 if where == "second fill" else 0)


def test_one_teacher_a_bank(probe, draw):
    bank = filled(Bank(), probe, draw, size=50)
    with pytest.raises(InputError, match="holds 'logits' responses and the teacher answers 'hard'"):
        bank.fill(BlackBox(probe, "hard", 3), draw, 60, stage="ask")
    with pytest.raises(InputError, match="num_classes=3: this teacher answers about 4 classes"):
        bank.fill(BlackBox(probe, "logits", 4), draw, 60, stage="ask")


def test_what_cannot_be_done_with_a_bank(probe, draw, tmp_path):
    bank = Bank("mine")
    for use in (bank.rows, lambda: bank.images, lambda: bank.response, lambda: bank.batch(0, 1, Shard())):
        with pytest.raises(InputError, match="empty|no rows"):
            use()
    with pytest.raises(InputError, match="size=0: expected a whole number of rows for bank 'mine' from 1"):
        filled(bank, probe, draw, size=0)
    with pytest.raises(InputError, match="label returned 5 answers for 50 rows"):
        filled(bank, probe, draw, size=50, label=lambda teacher, rows: teacher.query(rows.images[:5]))
    filled(bank, probe, draw, size=50)
    with pytest.raises(InputError, match="holds 50 rows already: keep"):
        bank.keep(tmp_path)
    with pytest.raises(InputError, match=r"hold_out\(50\): bank 'mine' has 50 rows"):
        bank.hold_out(50)
    with pytest.raises(InputError, match=r"hold_out\(-1\)"):
        bank.hold_out(-1)
    with pytest.raises(InputError, match="7 answers: expected one for each of 50"):
        bank.with_answers(bank.response[:7])
    for name in ("images", "response", "../target", "a b"):
        with pytest.raises(InputError, match="expected an identifier other than"):
            bank.add_column(name, torch.zeros(50))
    with pytest.raises(InputError, match="'target' has 49 entries"):
        bank.add_column("target", torch.zeros(49))
    with pytest.raises(InputError, match="'target' got 1 entries: expected one for each of 50"):
        bank.add_column("target", lambda rows: torch.zeros(1))
    for weights in (torch.ones(49), -torch.ones(50), torch.zeros(50), torch.full((50,), float("nan"))):
        with pytest.raises(InputError, match=r"expected \(50,\) finite values of at least 0"):
            bank.order(0, weights)
    bank.hold_out(5)
    with pytest.raises(InputError, match="holds out 5 rows already"):
        bank.hold_out(5)
    with pytest.raises(InputError, match="hold them out after the last fill"):
        filled(bank, probe, draw, size=60)


def test_a_column_that_fails_leaves_nothing_behind(probe, draw, tmp_path):
    bank = Bank(memory_limit=0)
    bank.keep(tmp_path)
    filled(bank, probe, draw)
    files = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="got 1 entries"):
        bank.add_column("target", lambda rows: torch.zeros(len(rows) if len(rows) == 256 else 1))
    assert sorted(tmp_path.iterdir()) == files
    with pytest.raises(InputError, match="'target' is torch.float8_e4m3fn, which no .npy file holds"):
        bank.add_column("target", torch.zeros(SIZE, dtype=torch.float8_e4m3fn))
    assert sorted(tmp_path.iterdir()) == files


def test_a_column_can_be_replaced(probe, draw, tmp_path):
    bank = Bank()
    bank.keep(tmp_path)
    filled(bank, probe, draw, size=50)
    for value in (1.0, 2.0):
        bank.add_column("target", torch.full((50,), value))
    again = Bank()
    again.keep(tmp_path)
    assert again.extra["target"].tolist() == [2.0] * 50 and len(list(tmp_path.glob("target*"))) == 1


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_a_full_disk_is_an_error_and_leaves_nothing(probe, draw, tmp_path, monkeypatch, memory_limit):
    bank = Bank(memory_limit=memory_limit)
    bank.keep(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(InputError, match="No space left on device; free some space"):
        patched.setattr("os.posix_fallocate" if memory_limit == 0 else "os.fsync", full)
        filled(bank, probe, draw)
    assert not list(tmp_path.iterdir()) and len(bank) == 0
    filled(bank, probe, draw)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        Bank().keep(tmp_path / "file")


def damage_marker(tmp_path):
    (tmp_path / "bank.json").write_text("{")


def damage_schema(tmp_path):
    content = json.loads((tmp_path / "bank.json").read_text())
    (tmp_path / "bank.json").write_text(json.dumps({**content, "mekd bank": 9}))


def truncate_column(tmp_path):
    path = next(tmp_path.glob("images*"))
    path.write_bytes(path.read_bytes()[:-10])


def remove_column(tmp_path):
    next(tmp_path.glob("images*")).unlink()


def pickle_in_place(tmp_path):
    path = next(tmp_path.glob("images*"))
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)


def shorten_column(tmp_path):
    np.save(next(tmp_path.glob("images*")), np.zeros((2, 1, 4, 4), dtype=np.float32))


@pytest.mark.parametrize(
    "damage", [damage_marker, damage_schema, truncate_column, remove_column, pickle_in_place, shorten_column]
)
def test_a_damaged_bank_is_an_error(probe, draw, tmp_path, damage):
    bank = Bank()
    bank.keep(tmp_path)
    filled(bank, probe, draw, size=50)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match="is damaged .*: put back a copy of the directory, or move it away"):
        Bank().keep(tmp_path)


def test_a_loaded_bank_reads_its_directory_and_never_writes_there(probe, draw, tmp_path):
    bank = Bank()
    bank.keep(tmp_path)
    filled(bank, probe, draw)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    loaded = Bank.load(tmp_path)
    assert torch.equal(loaded.images, bank.images) and torch.equal(loaded.response.values, bank.response.values)
    loaded.add_column("target", torch.zeros(SIZE, 1))
    loaded.hold_out(10)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept
    with pytest.raises(CheckpointError, match="no bank in"):
        Bank.load(tmp_path / "elsewhere")


def test_a_column_that_comes_later_joins_the_others_on_their_device(probe, draw):
    bank = filled(Bank(), probe, draw).to("meta")
    bank.add_column("target", torch.zeros(SIZE, 1))
    assert {column.device.type for column in bank.extra.values()} == {"meta"}


def test_a_teacher_that_takes_more_at_once_is_asked_as_seldom_about_the_same_rows(new_probe):
    def drawn(start, stop):  # what is drawn for a row hangs on the whole range
        rng = torch.Generator().manual_seed(start)
        images = torch.rand(4, stop - start, 4, generator=rng).permute(1, 0, 2).unsqueeze(1) * 2 - 1
        return Rows(images, extra={"style": torch.arange(start, stop)})

    banks, batches = {}, {}
    for size in (256, 600, 10_000):
        probe, banks[size] = new_probe(), Bank()
        banks[size].fill(BlackBox(probe, "logits", 3, batch_size=size), drawn, 1100, stage="ask")
        batches[size] = probe.batches
        assert torch.equal(banks[size].images, banks[256].images)
        assert torch.equal(banks[size].response.values, banks[256].response.values)
        assert torch.equal(banks[size].rows().extra["style"], torch.arange(1100))
    assert batches == {256: 5, 600: 3, 10_000: 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a copy to the host can be read too early")
def test_rows_that_come_back_from_a_gpu_have_arrived():
    """Home rows join a bank on the CPU while the GPU still computes them."""
    wanted = torch.full((64, 1, 32, 32), 3.0)
    on_gpu = torch.ones(64, 1, 32, 32, device="cuda")
    torch.cuda._sleep(100_000_000)  # the copy waits in the queue behind this
    rows = Rows(on_gpu + 2, Response(on_gpu[:, 0, 0, :2] + 2, "logits", 2), {"style": on_gpu + 2}).to("cpu")
    assert torch.equal(rows.images.clone(), wanted)
    assert torch.equal(rows.extra["style"].clone(), wanted)
    assert torch.equal(rows.answers().values.clone(), torch.full((64, 2), 3.0))
