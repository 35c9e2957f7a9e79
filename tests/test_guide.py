"""The guide and README are true: Python runs, command lines are accepted, links lead somewhere, names exist.

Steps are cut to a few, and methods take their smallest preset; everything else is as it is printed.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import threading
from collections.abc import Iterator
from contextlib import chdir
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from PIL import Image
from torch import Tensor, nn

import mekd_plugin as mekd
from mekd_plugin import cli, errors
from mekd_plugin.bench.settings import BenchConfig
from mekd_plugin.mekd.method import MEKD
from mekd_plugin.training.export import export_onnx

ROOT = Path(__file__).parents[1]
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
README = ROOT / "README.md"
PAGES = [*GUIDE, README]
WITH_CODE = [*PAGES, ROOT / "docs" / "reference" / "index.rst"]
COMMAND = typer.main.get_command(cli.app)
FEW = 4


def _blocks(page: Path, language: str) -> list[str]:
    text = page.read_text()
    if page.suffix == ".md":
        return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return [re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in indented]


def _with_python() -> list[Path]:
    return [page for page in WITH_CODE if _blocks(page, "python")]


def _command_lines(page: Path) -> list[list[str]]:
    """The words after ``mekd`` of every line of a shell block that calls it."""
    lines = [line for block in _blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    found = [re.sub(r"^(?:\w+=\S+ )+", "", line) for line in lines]
    return [shlex.split(line, comments=True)[1:] for line in found if line.startswith("mekd ")]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default preset is smaller than the smallest one."""
    surrogate = {"surrogate": "lenet5", "surrogate_steps": FEW}
    monkeypatch.setitem(MEKD.presets, "quick", {**MEKD.presets["tiny"], **surrogate, "emulation_settings": surrogate})
    monkeypatch.setattr(
        mekd.Recipe, "preset", classmethod(lambda cls, name, **changes: cls(**{"steps": FEW, **changes}))
    )


@pytest.fixture
def reader() -> nn.Module:
    """A teacher of sorts: what the guide's code shows does not depend on what it has learnt."""
    return mekd.networks.build("lenet5", 10, (1, 16, 16), seed=0).eval()


@pytest.fixture
def named(reader: nn.Module) -> dict[str, Any]:
    """What the pages say stands for the reader's own."""
    digits = mekd.data.load("digits")

    def labels_of(images: Tensor) -> Tensor:
        with torch.no_grad():
            return reader(images).argmax(dim=1)

    def train(student: nn.Module, module: nn.Module, images: Tensor) -> None:
        loss = (student(images) - module(images)).square().mean()
        loss.backward()

    def student(seed: int) -> nn.Module:
        return mekd.networks.build("lenet5_half", 10, (1, 16, 16), seed=seed)

    return {
        "__name__": "guide",
        "mekd": mekd,
        "torch": torch,
        "digits": digits,
        "model": reader,
        "student": student(0),
        "another_student": student(1),
        "images": mekd.data.edge_images(digits, real_images=40, seed=0).images,
        "teacher": mekd.BlackBox(reader, responses="logits", num_classes=10, budget=2000),
        "someone_elses_model": mekd.networks.build("lenet5", 10, (1, 32, 32), seed=0).eval(),
        "post": lambda url, images: SimpleNamespace(status=200, labels=labels_of(images)),
        "train": train,
    }


class _Service(BaseHTTPRequestHandler):
    """A server of the Open Inference Protocol, and one that labels images: ``model`` answers for both."""

    model: nn.Module
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def do_GET(self) -> None:
        sizes = {"inputs": [-1, 1, 16, 16], "outputs": [-1, 10]}
        tensors = {kind: [{"name": kind, "datatype": "FP32", "shape": shape}] for kind, shape in sizes.items()}
        self._reply({"name": "digits", **tensors} if self.path == "/v2/models/digits" else {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/classify":
            pixels = np.asarray(Image.open(io.BytesIO(body)), dtype=np.float32)
            chances = self._answers(torch.from_numpy(pixels)[None, None] / 127.5 - 1).softmax(dim=1)[0].tolist()
            self._reply([{"label": name, "score": chance} for name, chance in zip(self.names, chances, strict=True)])
            return
        question = json.loads(body)
        images = torch.tensor(question["inputs"][0]["data"]).view(question["inputs"][0]["shape"])
        found = self._answers(images)
        answer = {"name": "outputs", "datatype": "FP32", "shape": list(found.shape), "data": found.flatten().tolist()}
        self._reply({"id": question["id"], "outputs": [answer]})

    def _answers(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.model(images)
        return found

    def _reply(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def address(reader: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the service of the page on teachers is in fact."""
    monkeypatch.setenv("MY_TOKEN", "a token")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Service", (_Service,), {"model": reader}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _smaller(code: str, address: str) -> str:
    """The same code with fewer steps, images and questions, and a service that is there."""
    code = code.replace("localhost:8000", address)
    for pattern, replacement in (
        (r"steps=\d[\d_]*", f"steps={FEW}"),
        (r"budget=(2000|5000|1000|50_000)\b", "budget=400"),
        (r"real_images=\d+", "real_images=40"),
    ):
        code = re.sub(pattern, replacement, code)
    return code


@pytest.mark.parametrize("page", _with_python(), ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # a generator of a few steps is unwell, and says so
def test_python_on_the_page_runs(
    page: Path, small: None, named: dict[str, Any], reader: nn.Module, address: str, tmp_path: Path
) -> None:
    if page.stem in ("faq", "privacy"):  # they go on with the run of another page
        resnet = mekd.networks.build("resnet8", 10, (1, 16, 16))
        mekd.distill(resnet, named["teacher"], named["images"], directory=tmp_path / "run", queries=100, progress=False)
    shutil.copytree(ROOT / "results" / "digits", tmp_path / "mekd-results")
    with chdir(tmp_path):
        if page.stem == "your-teacher":
            export_onnx(reader, Path("model.onnx"), (1, 16, 16))
        Path("photos").mkdir()
        Image.new("L", (16, 16)).save("photos/one.png")
        for code in _blocks(page, "python"):
            exec(compile(_smaller(code, address), str(page), "exec"), named)


def test_the_guide_has_python_and_commands() -> None:
    assert len(_with_python()) >= 8
    assert sum(len(_command_lines(page)) for page in GUIDE) >= 30


@pytest.mark.parametrize("page", [page for page in PAGES if _command_lines(page)], ids=lambda page: page.stem)
def test_command_lines_are_accepted(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in ("bench", "distill"):
        monkeypatch.setattr(f"mekd_plugin.bench.commands.{name}", lambda *_, name=name, **__: called.append(name) or 0)
    with chdir(ROOT):
        for words in _command_lines(page):
            command, *rest = COMMAND.commands[words[0]], *words[1:]  # type: ignore[attr-defined]
            while hasattr(command, "commands"):
                command, *rest = command.commands[rest[0]], *rest[1:]
            with command.make_context(words[0], rest) as context:
                if words[0] in ("bench", "distill"):  # so that the values are checked as well
                    with pytest.raises(typer.Exit):
                        command.invoke(context)
                    assert called.pop() == words[0]


def test_a_wrong_flag_would_be_noticed() -> None:
    with pytest.raises(Exception, match="no-such-flag"):
        COMMAND.commands["bench"].make_context("bench", ["--no-such-flag"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.stem)
def test_yaml_on_the_page_is_a_benchmark(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        BenchConfig.from_mapping(yaml.safe_load(block))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    flags = {"--help", "--version"}
    every = list(COMMAND.commands.values())  # type: ignore[attr-defined]
    every += [inner for command in every for inner in getattr(command, "commands", {}).values()]
    flags |= {flag for command in every for item in command.params for flag in item.opts}
    for flag in re.findall(r"`(?:mekd [^`]*)?(--[a-z][a-z0-9-]*)", text):
        assert flag in flags, flag
    for command in re.findall(r"`mekd ([a-z]+)", text):
        assert command in COMMAND.commands, command  # type: ignore[attr-defined]
    groups = {group.removeprefix("mekd.") for group in entry_points().groups if group.startswith("mekd.")}
    for name in re.findall(r"`mekd\.(\w+)", text):
        assert hasattr(mekd, name) or name in groups, name


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "docs" / "index.md", ROOT / "docs" / "published.md"], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        place = page if not file else (page.parent / file).resolve()
        assert place.exists(), target
        if heading:
            assert heading in _anchors(place), target


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


def test_every_error_is_explained() -> None:
    anchors = _anchors(ROOT / "docs" / "guide" / "troubleshooting.md")
    for name in errors.__all__:
        assert name.lower() in anchors or name == "MekdError", name


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = (ROOT / "docs" / "guide" / "index.md").read_text().partition("{toctree}")[2].split()
    assert {page.stem for page in GUIDE} - {"index"} <= set(listed)
