from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from mekd_plugin.blackbox import BlackBox, onnx_teacher
from mekd_plugin.blackbox.backends import NameAlone, identity_of
from mekd_plugin.errors import CheckpointError, InputError, MissingDependency, TeacherAnswerError


def write_model(path, *, kind=TensorProto.FLOAT, shape=("N", 1, 4, 4), inputs=1, outputs=1):
    """A model that flattens its images; further inputs and outputs are copies."""
    names_in, names_out = [f"in{index}" for index in range(inputs)], [f"out{index}" for index in range(outputs)]
    nodes = [helper.make_node("Flatten", [names_in[0]], [name]) for name in names_out]
    graph = helper.make_graph(
        nodes,
        "flatten",
        [helper.make_tensor_value_info(name, kind, shape) for name in names_in],
        [helper.make_tensor_value_info(name, kind, None) for name in names_out],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.fixture
def model_path(tmp_path):
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
@pytest.mark.parametrize("fixed", ["N", 1, 4])
def test_an_onnx_model_answers_whatever_its_precision_and_batch_size(model_path, images, kind, fixed):
    box = BlackBox(onnx_teacher(write_model(model_path, kind=kind, shape=(fixed, 1, 4, 4)), threads=1), "logits", 16)
    values = box.query(images).values
    torch.testing.assert_close(values, images.flatten(1), atol=1e-3, rtol=0)
    assert values.dtype == torch.float32 and box.ledger.total == 10


def test_an_onnx_model_with_several_outputs_needs_one_named(model_path, images):
    write_model(model_path, outputs=2)
    with pytest.raises(InputError, match="output=None: .* answers with out0, out1; name one of them"):
        onnx_teacher(model_path)
    with pytest.raises(InputError, match="output='logits'"):
        onnx_teacher(model_path, output="logits")
    assert onnx_teacher(model_path, output="out1")(images).shape == (10, 16)


@pytest.mark.parametrize(
    "settings", [{"inputs": 2}, {"kind": TensorProto.UINT8}, {"shape": ("N", 16)}], ids=["two inputs", "bytes", "flat"]
)
def test_an_onnx_model_that_takes_something_else(model_path, settings):
    with pytest.raises(InputError, match="expected one input of floating point images"):
        onnx_teacher(write_model(model_path, **settings))


def test_an_onnx_model_names_the_size_it_takes(model_path, some_images):
    box = BlackBox(onnx_teacher(write_model(model_path, shape=("N", 1, 8, 8))), "logits", 16)
    with pytest.raises(InputError, match=r"images of \(1, 4, 4\): the ONNX model takes \(1, 8, 8\); resize"):
        box.query(some_images(2))


@pytest.mark.parametrize("shape", [("N", 4, 4, 1), ("N", "height", "width", 1), ("N", 8, 8, 1)])
def test_a_model_with_its_channels_last_says_so_and_is_asked_as_the_message_says(model_path, images, shape):
    model = onnx_teacher(write_model(model_path, shape=shape))
    with pytest.raises(InputError, match=r"its input is NHWC.*Transpose.*images\.permute\(0, 2, 3, 1\)") as refused:
        BlackBox(model, "logits", 16).query(images)
    assert "resize" not in str(refused.value)
    if shape[1] != 8:
        box = BlackBox(lambda images: model(images.permute(0, 2, 3, 1)), "logits", 16)
        torch.testing.assert_close(box.query(images).values, images.flatten(1))


def test_a_model_of_colour_images_asks_for_channels(model_path, images):
    box = BlackBox(onnx_teacher(write_model(model_path, shape=("N", 3, 4, 4))), "logits", 48)
    with pytest.raises(InputError, match=r"takes \(3, 4, 4\): convert them to 3 channels\n"):
        box.query(images)


@pytest.mark.parametrize("content", [None, b"", b"not a model", "truncated"])
def test_a_file_that_is_no_onnx_model(model_path, content):
    if content == "truncated":
        write_model(model_path)
        content = model_path.read_bytes()[:-40]
    if content is not None:
        model_path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a file: expected|not a whole .onnx model"):
        onnx_teacher(model_path)


def test_onnxruntime_is_an_option(model_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r'pip install "mekd-plugin\[onnx\]"'):
        onnx_teacher(model_path)


def text_lines() -> tuple[torch.Tensor, torch.Tensor]:
    """Rendered lines of text as the model below takes them, and whether each is upside down."""
    font = ImageFont.load_default(30)
    images, upside_down = [], []
    for words in ("Query budget", "boundary 2,048", "teacher and student", "What was spent?", "Response"):
        width = int(font.getlength(words)) + 12
        line = Image.new("RGB", (width, 48), "white")
        ImageDraw.Draw(line).text((6, 6), words, fill="black", font=font)
        for turned in (False, True):
            picture = line.rotate(180) if turned else line
            width = min(192, picture.width)
            values = np.zeros((48, 192, 3), dtype=np.float32)
            values[:, :width] = np.asarray(picture.resize((width, 48)))[..., ::-1] / 127.5 - 1  # BGR
            images.append(torch.from_numpy(values).permute(2, 0, 1))
            upside_down.append(int(turned))
    return torch.stack(images), torch.tensor(upside_down)


def test_a_teacher_that_nobody_here_made():
    """The text-orientation classifier of PaddleOCR, as ``rapidocr-onnxruntime`` ships it: upright, or upside down."""
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is None or package.origin is None:
        pytest.skip("rapidocr-onnxruntime is not installed: pip install --no-deps rapidocr-onnxruntime==1.4.4")
    path = Path(package.origin).parent / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    images, upside_down = text_lines()
    box = BlackBox(onnx_teacher(path, threads=1), "probabilities", 2, budget=len(images), batch_size=4)
    response = box.query(images, stage="ask")
    assert torch.equal(response.labels, upside_down)
    torch.testing.assert_close(response.values.sum(1), torch.ones(10))
    assert box.ledger.remaining == 0
    with pytest.raises(TeacherAnswerError, match="3 classes"):
        BlackBox(onnx_teacher(path, threads=1), "probabilities", 3).query(images)


def test_a_module_moves_where_it_is_told_to(probe, images):
    with pytest.raises(InputError, match="device='nonsense': expected a device of this machine"):
        BlackBox(probe, "logits", device="nonsense")
    BlackBox(probe, "logits", device="cpu").query(images)


def test_a_function_gets_its_images_where_it_wants_them(images):
    seen = []

    def teacher(batch):
        seen.append((batch.device.type, torch.is_grad_enabled()))
        return torch.zeros(len(batch), 2)

    with torch.enable_grad():
        BlackBox(teacher, "logits", 2, device="meta").query(images)
        BlackBox(teacher, "logits", 2).query(images)
    assert seen == [("meta", False), ("cpu", False)]


def test_a_module_without_parameters_is_asked_too(images):
    assert BlackBox(nn.Flatten(), "logits").query(images).num_classes == 16


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


@pytest.fixture
def quantised():
    """``quantised(seed)``: a linear classifier whose packed weights are no tensors of its state."""

    def make(seed: int) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's quantisation is deprecated, and models of it are about
            return torch.ao.quantization.quantize_dynamic(linear(seed), {nn.Linear}, dtype=torch.qint8)

    return make


class WithState(nn.Module):
    """Its state is whatever it is given."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def forward(self, images):
        return images.flatten(1)

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


class Sparse(nn.Module):
    def __init__(self, seed):
        super().__init__()
        weight = linear(seed)[1].weight.detach()
        self.register_buffer("weight", (weight * (weight > 0)).to_sparse())


class PerChannel(nn.Module):
    def __init__(self, scale):
        super().__init__()
        scales, zeros = torch.full((3,), scale), torch.zeros(3, dtype=torch.int64)
        quantised = torch.quantize_per_channel(torch.ones(3, 16) * scale, scales, zeros, 0, torch.qint8)
        self.register_buffer("weight", quantised)


def told(module):
    found = identity_of(module)
    return found.describe(), found.certain


def test_a_module_is_known_by_the_bytes_of_its_weights():
    module = nn.Sequential(linear(0), nn.BatchNorm1d(3))
    content = b"".join(value.numpy().tobytes() for value in module.state_dict().values())
    expected = hashlib.sha256(content).hexdigest()[:12], True
    assert told(module) == told(nn.Sequential(module)) == expected, "runs that are kept have this in their files"
    assert told(module.forward) == (f"torch.nn.modules.container.Sequential.forward {expected[0]}", True)


@pytest.mark.parametrize(
    "made",
    [
        lambda value, quantised: quantised(value),
        lambda value, quantised: torch.ao.nn.quantized.Conv2d.from_float(calibrated(value)),
        lambda value, quantised: PerChannel(1.0 + value),
        lambda value, quantised: Sparse(value),
        lambda value, quantised: WithState({"table": [torch.full((2,), value)], "of": (None, "letters")}),
        lambda value, quantised: WithState(io.BytesIO(bytes([value, 5]))),
        lambda value, quantised: WithState(np.full(2, value)),
        lambda value, quantised: WithState(f"version {value}"),
    ],
    ids=["packed", "static", "per channel", "sparse", "nested", "file", "array", "text"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's quantisation is deprecated
def test_a_module_is_known_by_what_its_state_holds_beside_plain_tensors(made, quantised):
    one, same, other = (told(made(value, quantised)) for value in (1, 1, 2))
    assert one == same and one[0] != other[0] and one[1] and other[1]


def calibrated(seed):
    torch.manual_seed(seed)
    layer = nn.Conv2d(1, 2, 3)
    layer.qconfig = torch.ao.quantization.get_default_qconfig()
    layer.activation_post_process = layer.qconfig.activation()
    layer.activation_post_process(torch.tensor([-1.0, 1.0]))
    return layer


class Service(nn.Module):
    """Asks somebody else; the empty tensor tells where."""

    def __init__(self):
        super().__init__()
        self.register_buffer("place", torch.empty(0))

    def forward(self, images):
        return images.flatten(1)


@pytest.mark.parametrize(
    "teacher", [nn.Flatten(), Service(), WithState(None), WithState([object()])], ids=lambda it: type(it).__name__
)
def test_a_module_that_its_state_does_not_tell_from_another_is_resumed_with_a_warning(teacher, images, tmp_path):
    identity, certain = told(teacher)
    assert type(teacher).__qualname__ in identity and not certain and told(teacher.forward)[1] is False
    box = BlackBox(teacher, "logits")
    box.keep(tmp_path)
    box.query(images)
    box.release()
    with pytest.warns(UserWarning, match="known by its name alone, .* Say which model it is with identity="):
        BlackBox(teacher, "logits").keep(tmp_path)


def test_weights_beside_something_unknown_tell_only_a_part():
    module = WithState(object())
    module.layer = linear(0)
    before, certain = told(module)
    module.layer = linear(1)
    assert not certain and told(module)[0] != before


def test_a_module_without_weights_may_say_what_it_is():
    service = Service()
    service.identity = "digits, version 3"
    assert told(service) == ("digits, version 3", True)
    assert told(service.forward)[1] is False
    layer = linear(0)
    layer.identity = "made up"
    assert told(layer) == told(linear(0)), "weights speak for themselves"


def test_an_identity_may_be_a_name_alone():
    declared = identity_of(nn.Flatten(), NameAlone("digits"))
    assert declared.describe() == "digits" and not declared.certain
    assert identity_of(nn.Flatten(), "digits").certain


def test_an_onnx_model_is_known_by_its_file(tmp_path):
    def identity(path, **settings):
        return BlackBox(onnx_teacher(path, **settings), "logits", 16).identity

    first = write_model(tmp_path / "first.onnx", outputs=2)
    same = tmp_path / "elsewhere.onnx"
    same.write_bytes(first.read_bytes())
    other = write_model(tmp_path / "other.onnx", kind=TensorProto.DOUBLE, outputs=2)
    assert identity(first, output="out0") == identity(same, output="out0")
    assert len({identity(first, output="out0"), identity(first, output="out1"), identity(other, output="out0")}) == 3
    assert identity(first, output="out0").startswith("onnx ")
    before = identity(first, output="out0")
    (tmp_path / "first.onnx.data").write_bytes(b"weights beside the file")
    assert identity(first, output="out0") != before


def test_an_onnx_run_is_not_resumed_with_another_model(tmp_path, images):
    run = tmp_path / "run"
    models = write_model(tmp_path / "a.onnx"), write_model(tmp_path / "b.onnx", kind=TensorProto.DOUBLE)
    box = BlackBox(onnx_teacher(models[0]), "logits", 16)
    box.keep(run)
    box.query(images)
    with pytest.raises(CheckpointError, match="holds answers of the teacher onnx .*, and onnx .* is asked now"):
        BlackBox(onnx_teacher(models[1]), "logits", 16).keep(run)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_an_onnx_model_takes_images_of_any_precision(model_path, images, dtype):
    box = BlackBox(onnx_teacher(write_model(model_path)), "logits", 16)
    torch.testing.assert_close(box.query(images.to(dtype)).values.float(), images.flatten(1), atol=1e-2, rtol=0)
