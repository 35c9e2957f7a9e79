import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from mekd_plugin.networks import build
from mekd_plugin.training.checkpoint import save_weights
from mekd_plugin.training.export import export_onnx


@pytest.mark.parametrize("name", ["resnet8", "lenet5_half"])
def test_a_student_comes_back_from_both_files(tmp_path, name):
    shape = (1, 16, 16)
    student = build(name, 4, shape, seed=0)
    student(torch.randn(8, *shape))  # batch norms have seen something
    student.eval()
    images = torch.rand(5, *shape) * 2 - 1
    expected = student(images).detach()
    export_onnx(student, tmp_path / "student.onnx", shape)
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    save_weights(student, tmp_path / "student.safetensors")
    other = build(name, 4, shape, seed=1)
    other.load_state_dict(load_file(tmp_path / "student.safetensors"))
    assert torch.equal(other.eval()(images), expected)


def test_the_mode_of_the_student_is_put_back(tmp_path):
    student = build("lenet5_half", 3, (1, 16, 16), seed=0).train()
    export_onnx(student, tmp_path / "student.onnx", (1, 16, 16))
    assert student.training
