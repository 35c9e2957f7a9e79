from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mekd_plugin.errors import CheckpointError
from mekd_plugin.networks import build, load_weights, read_weights


class Payload:
    """A pickle that leaves a trace when it is run."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.fixture
def network() -> nn.Module:
    return build("lenet5_half", 4, (1, 16, 16), seed=0)


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_come_back_bit_by_bit(network, tmp_path, suffix):
    path = write(network.state_dict(), tmp_path / f"weights{suffix}")
    other = build("lenet5_half", 4, (1, 16, 16), seed=1)
    assert load_weights(other, path) is other
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert read_weights(str(path)).keys() == network.state_dict().keys()


@pytest.mark.parametrize("key", ["state_dict", "model", "net"])
def test_weights_inside_a_training_checkpoint_are_found(network, tmp_path, key):
    path = write({key: network.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    assert read_weights(path).keys() == network.state_dict().keys()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_an_error_that_changes_nothing(network, tmp_path, suffix, share):
    path = write(network.state_dict(), tmp_path / f"weights{suffix}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    other = build("lenet5_half", 4, (1, 16, 16), seed=1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=f"weights{suffix} is truncated or damaged .*copy it again, or train anew"
    ):
        load_weights(other, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize(
    "save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x, protocol=2))], ids=["torch", "pickle"]
)
def test_a_pickle_posing_as_weights_is_refused_and_never_run(tmp_path, suffix, save):
    path, trace = tmp_path / f"weights{suffix}", tmp_path / "trace"
    save({"weight": Payload(trace)}, path)
    words = "truncated or damaged" if suffix == ".safetensors" else "could run code from it: save the weights with"
    with pytest.raises(CheckpointError, match=words) as caught:
        read_weights(path)
    assert not trace.exists()
    assert "weights_only=False" not in str(caught.value)  # torch's advice, not ours


def test_a_whole_module_is_refused(network, tmp_path):
    torch.save(network, tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match="not a file of tensors alone"):
        read_weights(tmp_path / "module.pt")


@pytest.mark.parametrize(
    "content", [{}, [1, 2], {"epoch": 3}, torch.zeros(3)], ids=["empty", "list", "number", "tensor"]
)
def test_a_file_without_weights_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="holds no weights: expected a module's state_dict"):
        read_weights(tmp_path / "x.pt")


def test_other_names_and_shapes_are_listed(network, tmp_path):
    other = write(build("resnet8", 4, (1, 16, 16)).state_dict(), tmp_path / "resnet8.safetensors")
    words = "does not fit this LeNet .missing: .* and 7 more; unexpected: .* and .* more.: build the network that"
    with pytest.raises(CheckpointError, match=words):
        load_weights(network, other)
    five = write(build("lenet5_half", 5, (1, 16, 16)).state_dict(), tmp_path / "five.safetensors")
    words = r"of another shape: classifier.5.weight: \(5, 42\) in the file, \(4, 42\) in the network"
    with pytest.raises(CheckpointError, match=words):
        load_weights(network, five)


def test_a_missing_file_and_another_suffix_are_named(tmp_path):
    with pytest.raises(
        CheckpointError, match="no weights at .*nothing.pt: expected a .safetensors, .pt, .pth or .ckpt file"
    ):
        read_weights(tmp_path / "nothing.pt")
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="expected a .safetensors, .pt, .pth or .ckpt file, not '.bin'"):
        read_weights(tmp_path / "weights.bin")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "student."])
def test_a_wrappers_prefix_is_left_out_with_a_warning(network, tmp_path, prefix):
    state = {prefix + name: value for name, value in network.state_dict().items()}
    path = write({"net": state}, tmp_path / "weights.ckpt")
    other = build("lenet5_half", 4, (1, 16, 16), seed=1)
    with pytest.warns(UserWarning, match=f"every name begins with '{prefix}', which was left out"):
        load_weights(other, path)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in network.state_dict().items())


def test_several_sets_of_weights_have_to_be_named(network, tmp_path):
    averaged = {name: value + 1 for name, value in network.state_dict().items()}
    path = write({"state_dict": network.state_dict(), "state_dict_ema": averaged}, tmp_path / "weights.pt")
    with pytest.raises(
        CheckpointError, match="several sets of weights, state_dict, state_dict_ema: say which, as .*:s"
    ):
        read_weights(path)
    for chosen, expected in (("state_dict", network.state_dict()), ("state_dict_ema", averaged)):
        read = read_weights(f"{path}:{chosen}")
        assert all(torch.equal(read[name], value) for name, value in expected.items())
    with pytest.raises(CheckpointError, match="has no key 'ema': there are state_dict, state_dict_ema"):
        read_weights(f"{path}:ema")


@pytest.mark.parametrize("key", ["model_state_dict", "weights", "net", "ema"])
def test_the_only_weights_of_a_checkpoint_are_found_whatever_their_key(network, tmp_path, key):
    """An optimiser's state beside them is none."""
    step = torch.optim.SGD(network.parameters(), 0.1).state_dict()
    path = write(
        {key: network.state_dict(), "epoch": 3, "optimizer": step, "optim": {"momentum": torch.ones(2)}},
        tmp_path / "w.ckpt",
    )
    read = read_weights(path)
    assert all(torch.equal(read[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("plain", ["", "model."])
def test_averaged_weights_among_the_plain_ones_are_chosen_by_what_stands_before_their_names(network, tmp_path, plain):
    own = network.state_dict()
    state = {plain + name: value for name, value in own.items()}
    path = write(
        {"state_dict": {**state, **{f"ema_model.{name}": value + 1 for name, value in own.items()}}},
        tmp_path / "w.ckpt",
    )
    other = build("lenet5_half", 4, (1, 16, 16), seed=1)
    with pytest.raises(
        CheckpointError, match=r"several sets of weights, under .*ema_model.*: say which, as .*w\.ckpt:ema_model"
    ):
        load_weights(other, path)
    load_weights(other, f"{path}:ema_model")
    assert all(torch.equal(other.state_dict()[name], value + 1) for name, value in own.items())
