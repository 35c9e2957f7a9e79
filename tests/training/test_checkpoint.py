import pickle

import pytest
import torch
from torch import nn

from mekd_plugin.errors import CheckpointError, DamagedFile, InputError
from mekd_plugin.files import writable_directory, write_atomically
from mekd_plugin.training.checkpoint import load_state, load_weights_into, restore_optimizer, save_state, save_weights


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {
        "tensors": [torch.arange(6).view(2, 3), torch.tensor(2.5, dtype=torch.float64)],
        1: ("tuple", None, True, {"deep": torch.zeros(0)}),
        "betas": (0.5, 0.999),
    }
    save_state(tmp_path / "state.safetensors", state)
    loaded = load_state(tmp_path / "state.safetensors")
    assert torch.equal(loaded["tensors"][0], state["tensors"][0])
    assert loaded["tensors"][1].dtype == torch.float64 and loaded["tensors"][1].dim() == 0
    assert loaded[1][:3] == ("tuple", None, True) and loaded["betas"] == (0.5, 0.999)
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, {"weights": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"state\.safetensors is not a checkpoint .* or was cut off"):
        load_state(path)


def test_a_pickle_that_poses_as_a_checkpoint_is_not_run(tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))
    with pytest.raises(CheckpointError, match="is not a checkpoint of this package"):
        load_state(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist; start the run without resuming"):
        load_state(tmp_path / "nothing.safetensors")


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not fit Linear: size mismatch for weight"):
        load_weights_into(nn.Linear(3, 2), nn.Linear(4, 2).state_dict(), origin="the file")


def test_weights_are_plain_safetensors(tmp_path):
    from safetensors.torch import load_file

    module = nn.Conv2d(1, 2, 3).to(memory_format=torch.channels_last)
    save_weights(module, tmp_path / "weights.safetensors", config={"width": 2})
    assert torch.equal(load_file(tmp_path / "weights.safetensors")["weight"], module.weight)


def test_an_optimizers_state_takes_the_layout_of_its_weights(tmp_path):
    module = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    images = torch.randn(2, 4, 5, 5)
    optimizer = torch.optim.Adam(module.parameters())
    module(images).sum().backward()
    optimizer.step()
    save_state(tmp_path / "state.safetensors", optimizer.state_dict())
    other = torch.optim.Adam(module.parameters())
    restore_optimizer(other, load_state(tmp_path / "state.safetensors"))
    restored, kept = other.state[module.weight], optimizer.state[module.weight]
    assert restored["exp_avg"].stride() == module.weight.stride()
    assert torch.equal(restored["exp_avg"], kept["exp_avg"]) and torch.equal(restored["step"], kept["step"])


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write .*file.*: .*; free some space or name another directory"):
        writable_directory(tmp_path / "file" / "below")


def test_a_full_disk_leaves_no_partial_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_atomically(tmp_path / "old", b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("old", b"old")]


def test_every_byte_of_a_checkpoint_counts(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, {"weights": torch.randn(5), "step": 3}, identity="a run")
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in (1, 16, 128):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            with pytest.raises(DamagedFile, match=r"state\.safetensors is not a checkpoint .* delete it and resume"):
                load_state(path)
    for content in (b"", whole[:4], whole[: len(whole) // 2], whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(DamagedFile):
            load_state(path)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    save_state(path, {"step": 3}, identity="one run")
    assert load_state(path) == load_state(path, identity="one run") == {"step": 3}
    with pytest.raises(CheckpointError, match="belongs to another run: one run there, another expected") as caught:
        load_state(path, identity="another")
    assert not isinstance(caught.value, DamagedFile)


def test_equal_weights_are_equal_files(tmp_path):
    module = nn.Linear(3, 2)
    for name in ("one", "other"):
        save_weights(module, tmp_path / name, config={"width": 2}, identity="a run")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_changed_weights_file_is_found(tmp_path):
    from mekd_plugin.networks import read_weights

    path = tmp_path / "weights.safetensors"
    save_weights(nn.Linear(3, 2), path)
    assert read_weights(path).keys() == {"weight", "bias"}
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedFile, match="is truncated or damaged"):
        read_weights(path)
