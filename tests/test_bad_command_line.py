"""Bad flags and bad files: one line that says what is wrong, no traceback, before anything is trained or asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mekd_plugin import cli
from mekd_plugin.errors import MekdError

BASE = {"methods": "kd", "teacher": "counted:ask", "student": "lenet5_half", "device": "cpu", "steps": "5",
        "seeds": "0", "real_images": "60", "query_budget": "100"}  # fmt: skip
MODULES = {
    "counted": "import torch\nasked = []\ndef ask(images):\n    asked.append(len(images))\n    return torch.eye(10)[:1]"
    ".repeat(len(images), 1)\nVALUE = 3\ndef no_images():\n    return 1\n",
    "raising": "raise ZeroDivisionError('on import')",
    "ending": "import sys\nsys.exit(0)",
}
LONG = "x" * 300
WHOLE, NUMBER = "expected a whole number", "expected a number"
SEED = f"{WHOLE} from 0 to 4294967295"
FUNCTION = "expected package.module:function, on PYTHONPATH"
DEVICE = "cannot be used here"


def shown(value: str | list[str]) -> str:
    return (value if isinstance(value, str) else " ".join(value))[:40]


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A module that counts what its teacher is asked."""
    for name, content in MODULES.items():
        (tmp_path / f"{name}.py").write_text(content)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path / "cache"))
    import counted

    return counted


def refusal(words: list[str]) -> str:
    """What a command says when it refuses; anything else that it does fails the test."""
    result = CliRunner().invoke(cli.app, words, env={"COLUMNS": "200"})
    if isinstance(result.exception, MekdError):
        return str(result.exception)
    assert isinstance(result.exception, SystemExit), f"{result.exception!r} would be a traceback"
    assert result.exit_code == 2, result.output
    return result.output


FLAGS = [
    (["--steps", "many"], f"steps='many': {WHOLE}"),
    (["--steps", "nan"], f"steps='nan': {WHOLE}"),
    (["--steps", "1e400"], f"steps='1e400': {WHOLE}"),
    (["--steps", ""], f"steps='': {WHOLE}"),
    (["--steps", "0"], f"steps=0: {WHOLE} from 1"),
    (["--teacher-steps", "0"], f"teacher_steps=0: {WHOLE} from 1"),
    (["--threads", "-1"], f"threads=-1: {WHOLE} from 1"),
    (["--jobs", "inf"], f"jobs='inf': {WHOLE}"),
    (["--seeds", "9223372036854775807"], f"seeds=9223372036854775807: {SEED}"),
    (["--seeds", "1" + 23 * "0"], f"seeds=100000000000000000000000: {SEED}"),
    (["--seeds", "0.5"], f"seeds='0.5': {WHOLE}"),
    (["--seeds", "1,,2"], f"seeds='': {WHOLE}"),
    (["--seeds", "0,0"], "seeds=0,0: expected each value once"),
    (["--validation", "nan"], f"validation='nan': {NUMBER}"),
    (["--validation", "1"], f"validation=1.0: {NUMBER} from 0 below 1"),
    (["--price-per-1000", "inf"], f"price_per_1000='inf': {NUMBER}"),
    (["--price-per-1000", "1e308"], f"price_per_1000=1e+308: {NUMBER} from 0 to 1e+09"),
    (["--real-images", "0"], f"real_images=0: {WHOLE} from 2"),
    (["--real-images", "99999"], "real_images=99999: digits has only 1257 training images"),
    (["--real-fraction", "0.1"], "real_fraction=0.1 and real_images=60: give one of the two"),
    (["--query-budget", "-5"], f"query_budget=-5: {WHOLE} of images from 0 to 1000000000, or 0 for no limit"),
    (["--query-budget", "1e30"], f"{WHOLE} of images from 0 to 1000000000, or 0 for no limit"),
    (["--query-budget", "1"], "no run of this grid can be done: a budget of 1 buys nothing"),
    (["--image-size", "3"], "image_size=3: expected at least 4 pixels"),
    (
        ["--image-size", "5", "--methods", "mekd", "--student", "resnet8", "--set", "mekd.emulation=gan"],
        "image_shape (1, 5, 5): too small for 3 stride-2",
    ),
    (["--methods", "ml", "--responses", "hard"], "no run of this grid can be done: LogitMimicry needs soft responses"),
    (["--methods", "mekt"], "unknown method 'mekt': expected one of"),
    (["--methods", "KD"], "unknown method 'KD': expected one of"),
    (["--methods", "ml,logit_mimicry"], "methods=ml,logit_mimicry: a method is there twice, under an alias"),
    (["--responses", "loud"], "responses='loud': expected \"logits\""),
    (["--preset", "slow"], "preset='slow': expected one of quick, fast, thorough, paper"),
    (["--dataset", "digit"], "unknown data set 'digit': did you mean 'digits'?"),
    (["--dataset", "mnist"], "mnist needs a folder with its files: say where with --data-root DIR"),
    (["--dataset", "imagefolder:/nowhere"], "/nowhere is not an image folder: expected /nowhere/train"),
    (["--pool-dataset", "nope"], "unknown data set 'nope'"),
    (["--device", ""], f"device='' {DEVICE}"),
    (["--device", "meta"], f"device='meta' {DEVICE}"),
    (["--device", "cpu,abacus"], f"device='abacus' {DEVICE}"),
    (["--student", "resnet9"], "unknown network 'resnet9': did you mean 'resnet8'?"),
    (["--student", "raising:make"], "network 'raising:make': ZeroDivisionError: on import; expected package.module"),
    (["--student", "ending:make"], "network 'ending:make': SystemExit: 0; expected package.module:factory"),
    (
        ["--student", "counted:VALUE"],
        "counted:VALUE fails: TypeError: 'int' object is not callable; expected a function",
    ),
    (["--student", "counted:ask"], "counted:ask fails: TypeError: ask() got an unexpected keyword argument"),
    (["--teacher", ""], "unknown network ''"),
    (["--teacher", ":f"], f"teacher ':f': ValueError: Empty module name; {FUNCTION}"),
    (["--teacher", "counted:nothing"], f"has no attribute 'nothing'; {FUNCTION}"),
    (["--teacher", "counted:VALUE"], "teacher 'counted:VALUE' is a int: expected a function, images (N,"),
    (["--teacher", "counted:no_images"], "is a function that does not take images: expected a function, images (N,"),
    (["--teacher", "raising:ask"], f"teacher 'raising:ask': ZeroDivisionError: on import; {FUNCTION}"),
    (["--teacher", "ending:ask"], f"teacher 'ending:ask': SystemExit: 0; {FUNCTION}"),
    (["--teacher", "nowhere.safetensors"], "no teacher at nowhere.safetensors: expected a file that `mekd teacher`"),
    (["--teacher", "nowhere.onnx"], "nowhere.onnx is not a file: expected an .onnx model"),
    (["--teacher", "resnet20@nowhere.pt"], "no weights at nowhere.pt: expected a .safetensors, .pt, .pth or .ckpt"),
    (["--out", LONG], "expected names of at most 255 bytes in a path"),
    (["--out", "/proc/1/mekd"], "cannot write /proc/1/mekd"),
    (["--config", "/nowhere.yaml"], "--config /nowhere.yaml: No such file or directory; expected a YAML file"),
    (["--config", "/"], "--config /: Is a directory; expected a YAML file"),
    (["--set", "image_weight"], "--set image_weight: expected METHOD.NAME=VALUE, such as mekd.emulation.steps=2500"),
    (["--set", ".x=3"], "--set .x=3: expected METHOD.NAME=VALUE"),
    (["--set", "x.y=["], "--set x.y=[: the value is not YAML"),
    (["--set", "kd.temperature=!!python/name:os.system"], "the value is not YAML (could not determine a constructor"),
    (["--set", "kd.temperature=2026-99-99"], "the value is not YAML (month must be in 1..12)"),
    (["--set", "kd.temperature=2026-09-09"], "value=datetime.date(2026, 9, 9) (date): expected a number, a text"),
    (["--set", "kd.temperature=.nan"], "--set kd.temperature=.nan: value=nan: expected a finite number"),
    (["--set", "kd.temperature={a: 1, a: 2}"], "'a' appears twice"),
    (["--set", "kd.temperature={[a]: 1}"], "a list or a mapping stands where a name is expected"),
    (["--set", "kd.temperature=&a [*a]"], "holds itself: write its values out"),
    (["--set", "kd.temperature=2", "--set", "kd.temperature=3"], "kd.temperature is set twice: keep one of them"),
    (["--set", "ml.queries=3", "--set", "logit_mimicry.queries=4"], "ml and logit_mimicry are one method"),
    (["--set", "kd.seed=4"], "kd.seed: the grid sets it for every method; see --seeds"),
    (["--set", "kd.tempereture=3"], "unknown hyperparameter of KD 'tempereture'"),
    (
        ["--set", "mekd.imge_weight=3"],
        "hyperparameters of mekd, which no run of this grid uses: unknown hyperparameter of MEKD 'imge",
    ),
    (["--set", "mekd.emulation.stpes=3"], "unknown setting of emulation Mixture 'stpes'"),
    (["--set", "mekd.emulation.style_dim=3"], "it is one of emulation 'conditional' and 'gan'"),
    (["--set", "mekd.gan_steps=3"], "on the command line: --set METHOD.emulation.steps=3"),
    (["--set", "nope.x=3"], "unknown method 'nope'"),
    (["--set", "recipe.lr=3"], "a recipe has no setting ['lr']"),
    (["--set", "recipe.steps=7"], "steps=5 and recipe.steps: both are the student's steps, keep one of them"),
    (["--set", "recipe.learning_rate=-1"], f"learning_rate=-1: {NUMBER} above 0"),
    (["--nope"], "No such option: --nope"),
]
FILES = [
    ("- 1\n", "holds list: expected lines such as `dataset: digits`"),
    ("", "holds NoneType: expected lines such as"),
    ("a: [", "is not YAML: while parsing a flow"),
    ("dataset: digits\ndataset: digits", "'dataset' appears twice, the second time in line 2"),
    ("image-size: 16\nimage_size: 16", "'image_size' appears twice, once spelled with a dash: keep one of them"),
    ("stepps: 3", "unknown benchmark setting 'stepps'"),
    ("3: 4", "3 is a int: expected a name; quote what should be a text"),
    ("? [a, b]\n: 3", "line 1: a list or a mapping stands where a name is expected"),
    ("steps: 2026-99-99", "is not YAML: month must be in 1..12"),
    ("steps: 2026-09-09", "steps=datetime.date(2026, 9, 9) (date): expected a number, a text"),
    ("steps: true", f"steps=True: {WHOLE}"),
    ("steps: 1.9", f"steps=1.9: {WHOLE}"),
    ("steps: .nan", "steps=nan: expected a finite number"),
    ("steps: !!python/name:os.system", "could not determine a constructor for the tag"),
    ("steps: &a {b: *a}", "steps.b holds itself: write its values out"),
    ("seeds: [0.5]", f"seeds=0.5: {WHOLE}"),
    ("seeds: {a: 1}", f"seeds={{'a': 1}}: {WHOLE}"),
    ("methods: null", "methods=None: expected a list of str"),
    ("teacher: {a: 1}", "teacher={'a': 1}: expected a list of str"),
    ("device: [cpu]", "device=['cpu']: expected str"),
    ("download: 'yes'", "download='yes': expected bool"),
    ("price_per_1000: .inf", "price_per_1000=inf: expected a finite number"),
    ("hyperparameters: 3", "hyperparameters=3: expected names and values"),
    ("hyperparameters: []", "hyperparameters=[]: expected names and values"),
    ("hyperparameters: {kd: 3}", "hyperparameters of kd: 3: expected names and values"),
    ("hyperparameters: {3: {}}", "hyperparameters: 3 is a int: expected a name"),
    ("hyperparameters: {kd: {3: 4}}", "hyperparameters.kd: 3 is a int: expected a name"),
    ("hyperparameters: {kd: {temperature: .inf}}", "hyperparameters.kd.temperature=inf: expected a finite number"),
    ("hyperparameters: {kd: {temperature: 2}, kd: {}}", "'kd' appears twice"),
    ("hyperparameters: {ml: {}, logit_mimicry: {}}", "ml and logit_mimicry are one method: give both under one name"),
    ("variants: []", "variants=[]: expected names and values"),
    ("variants: {a: null}", "variants: a: None: expected {method: NAME"),
    ("variants: {a: {method: [kd]}}", "variants: a: of which method? expected {method: NAME"),
    ("variants: {a: {method: kd, set: {seed: 4}}}", "a.seed: the grid sets it for every method"),
    ("variants: {a: {method: kd, set: {temprature: 4}}}", "unknown hyperparameter of KD 'temprature'"),
    (
        "variants: {a: {method: kd}, 'a ': {method: kd}}",
        "variants: 'a ': expected a name of its own, a text of one line",
    ),
    ("variants: {a: {method: kd}, A: {method: kd}}", "variants: A: tables and files would not tell it from a"),
    ("variants: {'': {method: kd}}", "variants: '': expected a name of its own"),
    ("variants: {3: {method: kd}}", "variants: 3 is a int: expected a name"),
    ('variants: {"a\\nb": {method: kd}}', "variants: 'a\\nb': expected a name of its own, a text of one line"),
    ("variants: {KD: {method: kd}}", "variants: KD: tables and files would not tell it from kd"),
    ("variants: {mekd: {method: kd}}", "variants: mekd: mekd is another method: call the variant something else"),
    ("variants: {ML: {method: kd}}", "variants: ML: ml is another method: call the variant something else"),
]
DISTILL = [
    (["--seed", "1" + 23 * "0"], f"seeds=100000000000000000000000: {SEED}"),
    (["--seed", "a"], "Invalid value for '--seed'"),
    (["--query-budget", "1"], "1 queries for stage 'transfer_set': expected at least 2"),
    (["--set", "seed=4"], "kd.seed: the grid sets it for every method; see --seeds"),
    (["--set", "x.y=["], "--set x.y=[: the value is not YAML"),
    (["--set", "temperature=2", "--set", "kd.temperature=3"], "kd.temperature is set twice: keep one of them"),
    (["--method", "ml", "--responses", "hard"], "LogitMimicry needs soft responses"),
    (["--teacher", "lenet5"], "names a network: train one first, `mekd teacher lenet5 --out FILE`"),
    (["--teacher", "ending:ask"], f"teacher 'ending:ask': SystemExit: 0; {FUNCTION}"),
    (["--white-box"], "a WhiteBox of a function: expected an nn.Module"),
    (["--out", LONG], "expected names of at most 255 bytes in a path"),
    (["--out", "/proc/1/mekd"], "cannot write /proc/1/mekd"),
]
OTHERS = [
    (["teacher", "nope", "--out", "t.safetensors"], "unknown network 'nope'"),
    (["teacher", "lenet5", "--out", "t.pt"], "--out t.pt: expected a name that ends in .safetensors"),
    (["teacher", "lenet5", "--out", f"{LONG}.safetensors"], "expected names of at most 255 bytes in a path"),
    (
        ["teacher", "lenet5", "--out", "t.safetensors", "--image-size", "-3"],
        "image_size=-3: expected at least 4 pixels",
    ),
    (["teacher", "lenet5", "--out", "t.safetensors", "--weights", "/nowhere.pt"], "no weights at /nowhere.pt"),
    (["teacher", "raising:f", "--out", "t.safetensors"], "network 'raising:f': ZeroDivisionError: on import"),
    (["diagnose", "/nowhere"], "/nowhere is not a directory: expected one of `mekd bench --out`"),
    (["diagnose", LONG], "expected names of at most 255 bytes in a path"),
    (["harness", "nope", "--check"], "unknown suite 'nope': expected one of"),
    (["harness", "timm", "--record", "--seeds", "a"], f"seeds='a': {SEED}"),
    (["harness", "timm", "--record", "--seeds", "1" + 23 * "0"], f"seeds='100000000000000000000000': {SEED}"),
    (["harness", "timm", "--", "/nowhere.py"], "/nowhere.py is not a file here: name the suite's own script"),
    (["tutorials", LONG], "expected names of at most 255 bytes in a path"),
    (["nope"], "No such command 'nope'"),
]


@pytest.mark.parametrize(("given", "words"), FLAGS, ids=shown)
def test_flags_of_a_benchmark(given, words, counted, tmp_path):
    base = [word for name, value in BASE.items() for word in (f"--{name.replace('_', '-')}", value)]
    out = tmp_path / "out"
    assert words in refusal(["bench", *base, "--out", str(out), *given])
    assert not counted.asked and not out.exists()


@pytest.mark.parametrize(("content", "words"), FILES, ids=shown)
def test_files_of_a_benchmark(content, words, counted, tmp_path):
    """What a file says stands in the place of the flag."""
    kept = {name: value for name, value in BASE.items() if f"{name}:" not in content.replace("-", "_")}
    base = [word for name, value in kept.items() for word in (f"--{name.replace('_', '-')}", value)]
    path, out = tmp_path / "settings.yaml", tmp_path / "out"
    path.write_text(content)
    assert words in refusal(["bench", "--config", str(path), *base, "--out", str(out)])
    assert not counted.asked and not out.exists()


def test_a_file_that_is_not_text(counted, tmp_path):
    path = tmp_path / "settings.yaml"
    for content in (bytes(range(256)), b"\xff\xfe\x00", b"steps: 1\x00"):
        path.write_bytes(content)
        assert "is not YAML" in refusal(["bench", "--config", str(path), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(("given", "words"), DISTILL, ids=shown)
def test_flags_of_a_distillation(given, words, counted, tmp_path):
    names = {"methods": "method", "seeds": "seed"}
    base = [word for name, value in BASE.items() for word in (f"--{names.get(name, name).replace('_', '-')}", value)]
    assert words in refusal(["distill", *base, "--out", str(tmp_path / "out"), *given])
    assert not counted.asked


@pytest.mark.parametrize(("command", "words"), OTHERS, ids=shown)
def test_other_commands(command, words, counted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(command)
    assert not (tmp_path / "t.safetensors").exists()


def test_a_teacher_that_ends_the_process_ends_no_distillation(counted, tmp_path):
    """Its status 0 would say that there is a student."""
    (tmp_path / "quitting.py").write_text("def ask(images):\n    raise SystemExit(0)\n")
    out = tmp_path / "out"
    said = refusal(["distill", "--teacher", "quitting:ask", "--method", "kd", "--steps", "5", "--real-images", "60",
                    "--query-budget", "100", "--device", "cpu", "--out", str(out)])  # fmt: skip
    assert "it raised SystemExit(0): a teacher answers or raises an error" in said
    assert not (out / "student.safetensors").exists()


def test_the_same_command_goes_through_with_good_values(counted, tmp_path):
    """Else every case above could be refused for another reason."""
    base = [word for name, value in BASE.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = CliRunner().invoke(cli.app, ["bench", *base, "--dry-run", "--out", str(Path(tmp_path) / "out")])
    assert done.exit_code == 0 and "Nothing was asked." in done.output
