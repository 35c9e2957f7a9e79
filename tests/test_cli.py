"""The command line, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mekd_plugin import cli
from mekd_plugin.errors import InputError, MekdError, UnknownName
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

    def test_no_torch(self) -> None:
        code = (
            "import sys; from typer.testing import CliRunner; from mekd_plugin import cli\n"
            "assert CliRunner().invoke(cli.app, ['list']).exit_code == 0\n"
            "heavy = {'torch', 'numpy', 'matplotlib', 'scipy'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class TestBench:
    def test_a_dry_run_asks_and_writes_nothing(self, tmp_path) -> None:
        said = call("bench", *SMALL, "--dry-run", "--out", str(tmp_path / "out"), "--price-per-1000", "1000")
        assert "kd on digits, soft" in said and "Nothing was asked." in said and "$200.00" in said
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

    @pytest.mark.parametrize(
        ("words", "error", "message"),
        [
            (["--methods", "mekt"], UnknownName, "unknown method 'mekt'.*did you mean 'mekd'"),
            (["--steps", "many"], InputError, "steps='many': expected a whole number"),
            (["--set", "image_weight"], InputError, "--set image_weight: expected METHOD.NAME=VALUE"),
            (["--set", "mekd.queries=["], InputError, "the value is not YAML"),
            (["--set", "mekd.queries=!!python/name:os.system"], InputError, "the value is not YAML"),
            (["--set", "mekd.gan_steps=3"], InputError, "gan_steps of mekd is now .*--set METHOD.emulation.steps=3"),
            (["--set", "mekd.emulation.stpes=3"], InputError, "'stpes'.*did you mean 'steps'"),
            (["--seeds", "1" + 23 * "0"], InputError, "expected a whole number from 0 to"),
            (["--validation", "nan"], InputError, "validation='nan': expected a number"),
            (["--set", "kd.tempereture=3", "--methods", "kd"], InputError, "tempereture.*did you mean 'temperature'"),
            (["--dataset", "digit"], UnknownName, "unknown data set 'digit'"),
            (["--student", "resnet9"], UnknownName, "unknown network 'resnet9'"),
            (["--device", "abacus"], InputError, "device='abacus' cannot be used here"),
            (["--real-fraction", "0.1", "--real-images", "5"], InputError, "give one of the two"),
        ],
    )
    def test_bad_flags(self, words, error, message, tmp_path) -> None:
        with pytest.raises(error, match=message):
            call("bench", *words, "--dry-run", "--out", str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("- 1\n", "holds list: expected"),
            ("a: [", "is not YAML"),
            ("steps: 3\nsteps: 4", "'steps' appears twice, the second time in line 2"),
            ("stepps: 3", "did you mean 'steps'"),
            ("hyperparameters: 3", "hyperparameters=3: expected names and values"),
            ("hyperparameters: {kd: 3}", "hyperparameters=.*: expected names and values"),
        ],
    )
    def test_bad_files(self, content, message, tmp_path) -> None:
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(MekdError, match=message):
            call("bench", "--config", str(tmp_path / "bad.yaml"), "--dry-run")

    @pytest.mark.parametrize("teacher", [":f", "a.b:", "raises_on_import:ask"])
    def test_a_teacher_that_cannot_be_imported(self, teacher, tmp_path, monkeypatch) -> None:
        (tmp_path / "raises_on_import.py").write_text("raise ZeroDivisionError('on import')")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(UnknownName, match="expected package.module:function"):
            call("bench", "--teacher", teacher, "--methods", "kd", "--out", str(tmp_path / "out"), "--device", "cpu")

    def test_a_name_that_is_too_long(self, tmp_path) -> None:
        with pytest.raises(InputError, match="File name too long"):
            call("bench", "--methods", "kd", "--out", str(tmp_path / (300 * "x")), "--device", "cpu")

    def test_a_file_that_is_not_text(self, tmp_path) -> None:
        (tmp_path / "bad.yaml").write_bytes(bytes(range(256)))
        with pytest.raises(InputError, match="is not YAML"):
            call("bench", "--config", str(tmp_path / "bad.yaml"), "--dry-run")

    def test_a_missing_file(self, tmp_path) -> None:
        with pytest.raises(InputError, match="--config .*gone.yaml: No such file"):
            call("bench", "--config", str(tmp_path / "gone.yaml"))


def test_an_error_is_one_line_and_status_2(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mekd", "bench", "--methods", "mekt"])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: unknown method 'mekt'") and said.count("\n") == 1


def test_seeds_of_a_record_are_numbers() -> None:
    with pytest.raises(InputError, match="seeds='a': expected a whole number from 0"):
        call("harness", "timm", "--record", "--seeds", "a")


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
    assert "Nothing was asked." in call(*words, "--dry-run")
    assert not out.exists()
    said = call(*words)
    assert "test accuracy" in said and "200 of 200 images sent" in said and "price $0.30" in said
    weights = (out / "student.safetensors").read_bytes()
    call(*words, "--resume")
    assert (out / "student.safetensors").read_bytes() == weights
    with pytest.raises(MekdError, match="holds a run already"):
        call(*words)


def test_distill_wants_a_teacher_that_exists(tmp_path) -> None:
    with pytest.raises(InputError, match="names a network: train one first, `mekd teacher lenet5"):
        call("distill", "--teacher", "lenet5", "--out", str(tmp_path / "out"), "--device", "cpu")


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
