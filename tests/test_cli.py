"""The command line, as a user calls it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import mekd_plugin as mekd
from mekd_plugin import cli
from mekd_plugin.bench.diagnosis.subject import open_run
from mekd_plugin.bench.settings import PANELS, BenchConfig
from mekd_plugin.errors import InputError, MekdError, UnknownName
from mekd_plugin.records import RunRecord
from mekd_plugin.version import __version__

RUNNER = CliRunner()
SMALL = ["--teacher", "lenet5", "--student", "lenet5_half", "--methods", "kd", "--teacher-steps", "30", "--steps", "20",
         "--real-images", "60", "--query-budget", "200", "--seeds", "0", "--device", "cpu"]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MEKD_CACHE", str(tmp_path / "cache"))


def call(*words: str) -> str:
    """What a command prints; its error is raised."""
    result = RUNNER.invoke(cli.app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_version() -> None:
    assert call("--version").strip() == __version__


def test_no_word_between_colons_becomes_a_picture() -> None:
    """Rich takes ``:B:`` for the name of an emoji, in help and in messages."""
    names = list(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    pages = [call(name, "--help") for name in names]
    assert "ROW:OTHER:METRIC" in "".join(pages)
    assert not re.search("[\U0001f000-\U0001faff]", "".join(pages))
    with cli.console.capture() as printed:
        cli.console.print("a:b:c")
    assert printed.get() == "a:b:c\n"


class TestList:
    def test_names_and_aliases(self) -> None:
        listing = {row["name"]: row for row in json.loads(call("list", "--json"))}
        assert listing["logit_mimicry"]["aliases"] == ["ml"]
        assert listing["mekd"]["package"] == f"mekd-plugin {__version__}"
        assert "distribution_alignment" in call("list")

    def test_needs(self) -> None:
        listing = {row["name"]: row for row in json.loads(call("list", "--json", "--needs"))}
        assert listing["mekd"]["leaves_edge"] == "synthetic images"
        assert listing["kd"]["gradients"] is False


LISTING = """
from typer.testing import CliRunner
from mekd_plugin import cli
assert CliRunner().invoke(cli.app, ["list"]).exit_code == 0
"""
GRID = """
import mekd_plugin as mekd, mekd_plugin.bench.commands, mekd_plugin.bench.worker
for name in mekd.available():
    mekd.registry.distillers().get(name)
"""


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        (LISTING, {"torch", "numpy", "matplotlib", "scipy"}),
        (GRID, {"ot", "scipy.stats", "sklearn", "pandas", "torchvision", "torch._dynamo"}),
    ],
    ids=["the list", "a benchmark and its workers, with every method"],
)
def test_nothing_is_loaded_that_may_never_be_used(code: str, heavy: set[str]) -> None:
    """Every run of a grid is a process of its own, for which all of this would be loaded again."""
    code += f"import sys\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "mekd_plugin", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip().split()[-1]) == (0, __version__), done.stderr


class TestHelp:
    @pytest.mark.parametrize("command", ["bench", "distill"])
    def test_flags_are_grouped_and_typed(self, command, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "120")
        said = call(command, "--help")
        titles = [line.split("─ ")[1].split(" ─")[0] for line in said.splitlines() if line.startswith("╭─ ")]
        assert set(titles) == {"Options", *PANELS}, "a flag without a panel is shown under Options, with --help"
        options = said[said.index("─ Options") : said.index("╰")]
        assert options.count("│ --") == 1 and "--help" in options
        assert re.search(r"--real-images +<int>", said) and re.search(r"--validation +<float>", said)
        assert "factory(num_classes=C, image_shape=(channels," in said, "how a student of one's own is called"

    @pytest.mark.parametrize(
        "command", ["list", "bench", "distill", "teacher", "student", "diagnose", "harness", "tutorials"]
    )
    def test_every_command_has_an_example_that_it_would_take(self, command, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "160")
        (example,) = [
            line.partition("Example: ")[2] for line in call(command, "--help").splitlines() if "Example:" in line
        ]
        words = shlex.split(example)
        assert words[:2] == ["mekd", command]
        made = typer.main.get_command(cli.app).commands[command].make_context(command, words[2:])
        assert made.params

    @pytest.mark.parametrize("command", ["", "export", "import", "show"])
    def test_every_command_of_a_bank_has_one_too(self, command, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "160")
        told = call("bank", *command.split(), "--help").splitlines()
        (example,) = [line.partition("Example: ")[2] for line in told if "Example:" in line]
        assert example.startswith(f"mekd bank {command}".rstrip() + " ")
        _, name, inner, *rest = shlex.split(example)
        assert typer.main.get_command(cli.app).commands[name].commands[inner].make_context(inner, rest).params

    def test_every_setting_of_the_grid_is_in_one_panel(self) -> None:
        named = [name for names in PANELS.values() for name in names]
        settings = {item.name for item in fields(BenchConfig)} - {"hyperparameters", "variants", "comparisons"}
        assert sorted(named) == sorted(settings)


class TestBench:
    def test_a_dry_run_asks_and_writes_nothing(self, tmp_path) -> None:
        said = call("bench", *SMALL, "--dry-run", "--out", str(tmp_path / "out"), "--price-per-1000", "1000")
        assert "kd on digits, soft" in said and "Nothing was asked." in said and "$200.00" in said
        free = call("bench", *SMALL, "--dry-run", "--out", str(tmp_path / "out"))
        assert "Nothing was asked." in free and "$" not in free and "Price" not in free, "a local teacher has no price"
        assert not (tmp_path / "out").exists()

    def test_a_file_s_settings_and_flags_over_them(self, tmp_path) -> None:
        (tmp_path / "settings.yaml").write_text("teacher: lenet5\nstudent: lenet5_half\nmethods: [kd, ml]\n"
                                                "real-images: 60\nquery_budget: 100\nseeds: [0]\nsteps: 20\n"
                                                "hyperparameters: {recipe: {batch_size: 16}}\n")  # fmt: skip
        said = call("bench", "--config", str(tmp_path / "settings.yaml"), "--methods", "kd", "--query-budget", "120",
                    "--device", "cpu", "--dry-run")  # fmt: skip
        assert "kd on digits" in said and "logit_mimicry" not in said and "120" in said

    def test_comparisons_by_flag_stand_in_place_of_the_files(self, tmp_path) -> None:
        (tmp_path / "settings.yaml").write_text("comparisons: [{a: kd, b: mekd}]\nmethods: [kd, ml]\n")
        words = [*SMALL[:4], *SMALL[6:], "--config", str(tmp_path / "settings.yaml"), "--dry-run"]
        with pytest.raises(UnknownName, match="unknown label of a comparison 'mekd'"):
            call("bench", *words)
        assert "Nothing was asked." in call("bench", *words, "--compare", "kd:ml")
        with pytest.raises(InputError, match="comparison ml:kd of student_accuracy is there twice"):
            call("bench", *words, "--compare", "kd:ml", "--compare", "ml:kd")


def test_an_error_is_one_line_and_status_2(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mekd", "bench", "--methods", "mekt"])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: unknown method 'mekt'") and said.count("\n") == 1


def test_an_interruption_says_how_to_go_on(capsys, monkeypatch) -> None:
    def interrupted() -> None:
        raise SystemExit(cli.INTERRUPTED)

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr(sys, "argv", ["mekd", "bench", "--out", "my results"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "mekd bench --out 'my results' --resume" in capsys.readouterr().err


def test_teacher_then_distill_then_resume(tmp_path) -> None:
    file, out = str(tmp_path / "teacher.safetensors"), tmp_path / "student"
    assert "lenet5: test accuracy" in call("teacher", "lenet5", "--steps", "30", "--out", file, "--device", "cpu")
    words = ["distill", "--teacher", file, "--student", "lenet5_half", "--method", "kd", "--steps", "20", "--out",
             str(out), "--real-images", "60", "--query-budget", "200", "--device", "cpu"]  # fmt: skip
    planned = call(*words, "--dry-run")
    assert "Nothing was asked." in planned and "$" not in planned, "a file of one's own has no price"
    assert not out.exists()
    words += ["--price-per-1000", "1.5"]
    said = call(*words)
    assert "test accuracy" in said and "200 of 200 images sent" in said and "price $0.30" in said
    weights = (out / "student.safetensors").read_bytes()
    call(*words, "--resume")
    assert (out / "student.safetensors").read_bytes() == weights
    planned = call(*words, "--resume", "--dry-run")
    assert "All together: 0 queries" in planned and "Left out: 1 finished run" in planned
    settings = (out / "spec.json").read_bytes()
    record = json.loads((out / "record.json").read_text())
    assert RunRecord.from_json(record).status == "finished" and record["method"] == record["label"] == "kd"
    assert record["seed"] == 0 and record["budget"] == record["queries"]["total"] == 200 and record["price"] == 0.3
    assert 0 < record["student_accuracy"] <= 1 and record["teacher_accuracy"] is None and record["agreement"] is None
    with pytest.raises(MekdError, match="holds a run already"):
        call(*words)
    for other in (["--seed", "1"], ["--query-budget", "1"]):
        with pytest.raises(MekdError, match="holds another run"):
            call(*words, *other, "--resume")
    assert (out / "spec.json").read_bytes() == settings  # what was refused does not describe what is there
    assert json.loads((out / "record.json").read_text()) == record


def test_a_folder_of_photographs_is_distilled_from(tmp_path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for number in range(30):
        Image.new("L", (20 + number, 24), number * 8).save(photos / f"{number}.{'jpg' if number % 2 else 'png'}")
    file = str(tmp_path / "teacher.safetensors")
    call("teacher", "lenet5", "--steps", "2", "--out", file, "--device", "cpu")
    words = ["distill", "--teacher", file, "--student", "lenet5_half", "--method", "kd", "--steps", "5",
             "--device", "cpu", "--query-budget", "60", "--out", str(out), "--edge-images", str(photos),
             "--validation", "0.4"]  # fmt: skip
    with pytest.raises(InputError, match="and others are 20x24: set --image-size N to scale them all"):
        call(*words)
    words += ["--image-size", "16"]
    assert "60 queries" in call(*words, "--dry-run") and not out.exists()
    names = ",".join(f"kind {label}" for label in range(10))
    said = call(*words, "--classes", names)
    assert "60 of 60 images sent" in said and "of 24 held-out real images" in said
    record = RunRecord.from_json(json.loads((out / "record.json").read_text()))
    assert record.status == "finished" and record.student_accuracy is None and record.real_images == 30
    found = mekd.load_student(out).predict(photos)
    assert len(found.names) == 30 and set(found.names) <= set(names.split(","))
    said = call("student", str(out), "--images", str(photos), "--int8", str(tmp_path / "small.onnx"))
    assert "lenet5_half, images (1, 16, 16) in [-1, 1]" in said and "10 classes: kind 0, kind 1" in said
    assert "of 24 held-out real images" in said and "of 30 images" in said and "kB" in said
    assert (tmp_path / "small.onnx").is_file() and not (out / "student.onnx").exists()
    with pytest.raises(InputError, match="--classes is missing: counted:ask does not say"):
        call("distill", "--teacher", "counted:ask", "--edge-images", str(photos), "--out", str(tmp_path / "other"))
    with pytest.raises(InputError, match="without --edge-images"):
        call("distill", "--teacher", file, "--classes", "10", "--out", str(tmp_path / "other"))


def test_a_teacher_of_another_size_is_sent_that_size(tmp_path) -> None:
    file, photos = str(tmp_path / "teacher.safetensors"), tmp_path / "photos"
    call("teacher", "lenet5", "--steps", "2", "--out", file, "--device", "cpu", "--image-size", "24")
    words = ["distill", "--teacher", file, "--student", "lenet5_half", "--method", "kd", "--steps", "5",
             "--device", "cpu", "--query-budget", "40", "--real-images", "30"]  # fmt: skip
    with pytest.raises(
        MekdError, match=r"images of \(1, 24, 24\), and the data has 10 and \(1, 16, 16\).*--teacher-size"
    ):
        call(*words, "--out", str(tmp_path / "refused"))
    words += ["--teacher-size", "24"]
    assert "40 queries" in call(*words, "--out", str(tmp_path / "run"), "--dry-run")
    assert "40 of 40 images sent" in call(*words, "--out", str(tmp_path / "run"))
    assert "teacher_size=24x24" in json.loads((tmp_path / "run" / "record.json").read_text())["signature"]
    assert open_run(tmp_path / "run").teacher.teacher_size == (24, 24), "a diagnosis asks it likewise"
    grid = ["bench", "--methods", "kd,mekd", "--teacher", file, "--teacher-size", "24", "--student", "lenet5_half"]
    grid += ["--seeds", "0", "--steps", "5", "--device", "cpu", "--query-budget", "40", "--real-images", "30"]
    call(*grid, "--set", "mekd.surrogate_steps=5", "--audit", "20", "--jobs", "1", "--out", str(tmp_path / "grid"))
    runs = json.loads((tmp_path / "grid" / "results.json").read_text())["runs"]
    assert [run["status"] for run in runs] == ["finished", "finished"], [run["error"] for run in runs]
    assert all("teacher_size=24x24" in run["signature"] and run["agreement"] is not None for run in runs)
    assert runs[0]["sent"]["membership"]["auc"]["value"] == 1, (
        "real images are found in the size that they were sent in"
    )
    assert runs[0]["teacher_accuracy"] == runs[1]["teacher_accuracy"] and runs[1]["generator"]["audited"] == 20
    with pytest.raises(InputError, match="teacher_size=24: resnet20 is trained here, on images of the data's own size"):
        call("bench", "--teacher-size", "24", "--out", str(tmp_path / "trained"))
    photos.mkdir()
    for number in range(10):
        Image.new("L", (16, 16), number * 20).save(photos / f"{number}.png")
    said = call(*words, "--out", str(tmp_path / "other"), "--edge-images", str(photos))
    assert "40 of 40 images sent" in said and mekd.load_student(tmp_path / "other").image_shape == (1, 16, 16)


def test_teacher_imports_weights(tmp_path) -> None:
    first, second = str(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    call("teacher", "lenet5", "--steps", "2", "--out", first, "--device", "cpu")
    call("teacher", "lenet5", "--weights", first, "--out", str(second))
    assert second.exists()
    with pytest.raises(InputError, match="expected a name that ends in .safetensors"):
        call("teacher", "lenet5", "--weights", first, "--out", str(tmp_path / "b.pt"))


def test_tutorials_are_copied_and_nothing_is_overwritten(tmp_path) -> None:
    said = call("tutorials", str(tmp_path / "lessons"))
    assert "jupyter lab" in said and list((tmp_path / "lessons").iterdir())
    with pytest.raises(InputError, match="already: name another directory"):
        call("tutorials", str(tmp_path / "lessons"))
