import pytest

from mekd_plugin.training.metrics import Metrics


def test_records_are_appended_and_read_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.write({"stage": "a", "step": 1, "loss": 0.5})
    metrics.write({"stage": "a", "step": 2, "loss": 0.25})
    assert Metrics(path).history == metrics.history and metrics.position == 2


def test_a_torn_last_line_is_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    Metrics(path).write({"stage": "a", "step": 1})
    with path.open("a") as stream:
        stream.write('{"stage": "a", "st')
    metrics = Metrics(path)
    metrics.write({"stage": "a", "step": 2})
    assert [record["step"] for record in Metrics(path).history] == [1, 2]


def test_rewinding_drops_what_will_be_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in range(5):
        metrics.write({"stage": "a", "step": step})
    metrics.rewind(2)
    assert [record["step"] for record in Metrics(path).history] == [0, 1]


def test_tensorboard_files_are_written(tmp_path):
    metrics = Metrics(tensorboard=tmp_path)
    metrics.write({"stage": "a", "step": 1, "loss": 0.5})
    metrics.close()
    assert list(tmp_path.glob("events.out.tfevents.*"))


@pytest.mark.parametrize("garbage", [b"\xff\x00\n\x80\n", b"5\n[]\n", b'{"stage": 1}\n{}\n', b"[" * 100_000 + b"\n\n"])
def test_garbage_is_cut_with_a_warning(tmp_path, garbage):
    path = tmp_path / "metrics.jsonl"
    Metrics(path).write({"stage": "a", "step": 1})
    kept = path.read_bytes()
    path.write_bytes(kept + garbage + b'{"stage": "a", "step": 2}\n')
    with pytest.warns(UserWarning, match=r"metrics.jsonl is damaged from line 2 on"):
        assert Metrics(path).history == [{"stage": "a", "step": 1}]
    assert path.read_bytes() == kept
