"""Every file of a run, emptied, halved, changed by a byte or swapped with a sibling's: never other weights in silence.

Advice in the messages is tested by following it.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch

from mekd_plugin import BlackBox, distill
from mekd_plugin.errors import CheckpointError, MekdError
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training.recipe import Recipe

STEPS = 20
BUDGET = 40
COMMON = (
    "run.json",
    "ledger-0.jsonl",
    "journal-0.bin",
    "metrics.jsonl",
    "initial.safetensors",
    "checkpoint.safetensors",
)
FILES = {
    ("kd", "interrupted"): (
        *COMMON,
        *(f"banks/transfer_set/{name}" for name in ("bank.json", "images-0.npy", "response-0.npy")),
    ),
    ("mekd", "interrupted"): (
        *COMMON,
        "stages/0-deprivatization.safetensors",
        "generator.safetensors",
        "discriminator.safetensors",
        *(
            f"banks/bank/{name}"
            for name in ("bank.json", "images-0.npy", "response-0.npy", "style-0.npy", "target-1.npy")
        ),
    ),
}
FILES |= {
    ("kd", "finished"): (
        *FILES["kd", "interrupted"],
        "stages/1-student.safetensors",
        "student.safetensors",
        "report.json",
    ),
    ("mekd", "finished"): (
        *(file.replace("target-1", "target-2") for file in FILES["mekd", "interrupted"]),  # computed anew on resuming
        "stages/2-alignment.safetensors",
        "student.safetensors",
        "report.json",
    ),
}
DAMAGES = ("emptied", "halved", "first byte", "middle byte", "last byte", "swapped")
CASES = [(method, state, file) for (method, state), files in FILES.items() for file in files]


def stop(student):
    raise InterruptedError


def run(method: str, seed: int, directory: Path, *, budget: int = BUDGET, teacher: ToyTeacher | None = None, **options):
    return distill(
        toy_student(),
        BlackBox(teacher or ToyTeacher(), "logits", CLASSES, budget=budget),
        toy_images(30, seed=1),
        method,
        preset="tiny" if method == "mekd" else "quick",
        recipe=Recipe(steps=STEPS, batch_size=16, translate=0),
        seed=seed,
        directory=directory,
        resume=True,
        device="cpu",
        validation=0.0,
        checkpoint_steps=5,
        evaluate_steps=[STEPS // 2 + 2],
        progress=False,
        **{
            **({"emulation": "gan", "surrogate": None} if method == "mekd" else {}),
            **({"queries": 40} if budget > BUDGET else {}),
            **options,
        },
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """``runs(method, state, seed)`` -> a directory, made once; and the weights that an undisturbed run ends with."""
    known: dict[tuple, Path] = {}
    weights: dict[str, dict[str, torch.Tensor]] = {}

    def made(method: str, state: str, seed: int = 0) -> Path:
        key = (method, state, seed)
        if key not in known:
            directory = tmp_path_factory.mktemp("-".join(map(str, key)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if state == "interrupted":
                    with pytest.raises(InterruptedError):
                        run(method, seed, directory, evaluate=stop)
                else:
                    shutil.copytree(made(method, "interrupted", seed), directory, dirs_exist_ok=True)
                    run(method, seed, directory)
            known[key] = directory
        return known[key]

    def undisturbed(method: str) -> dict[str, torch.Tensor]:
        if method not in weights:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                student = run(method, 0, tmp_path_factory.mktemp(method)).student
            weights[method] = student.state_dict()
        return weights[method]

    made.undisturbed = undisturbed
    return made


def equal(student, weights) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize(("method", "state"), FILES)
def test_the_list_of_files_is_whole(runs, method, state):
    directory = runs(method, state)
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert {name for name in found if not name.endswith(".lock")} == set(FILES[method, state])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "state"), FILES)
def test_without_damage_the_weights_are_the_same(runs, tmp_path, method, state):
    shutil.copytree(runs(method, state), tmp_path / "run")
    assert equal(run(method, 0, tmp_path / "run").student, runs.undisturbed(method))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("method", "state", "file"), CASES, ids=["-".join(case) for case in CASES])
def test_damage_is_harmless_or_an_error(runs, tmp_path, method, state, file, damage):
    directory = tmp_path / "run"
    shutil.copytree(runs(method, state), directory)
    path = directory / file
    content = bytearray(path.read_bytes())
    if damage == "emptied":
        content = bytearray()
    elif damage == "halved":
        del content[len(content) // 2 :]
    elif damage == "swapped":
        content = bytearray((runs(method, state, 1) / file).read_bytes())
    else:
        at = {"first byte": 0, "middle byte": len(content) // 2, "last byte": -1}[damage]
        if content:
            content[at] ^= 0x10
    path.write_bytes(content)
    try:
        student = run(method, 0, directory).student
    except MekdError as error:
        assert str(error)
        return
    assert equal(student, runs.undisturbed(method)), f"{file} {damage}: other weights without a word"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["kd", "mekd"])
def test_a_damaged_checkpoint_is_deleted_as_advised(runs, tmp_path, method):
    directory = tmp_path / "run"
    shutil.copytree(runs(method, "interrupted"), directory)
    checkpoint = directory / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match="delete it and resume to start that stage again"):
        run(method, 0, directory)
    checkpoint.unlink()
    teacher = ToyTeacher()
    resumed = run(method, 0, directory, teacher=teacher)
    assert teacher.count == 0 and resumed.ledger.total == BUDGET
    assert equal(resumed.student, runs.undisturbed(method))


@pytest.mark.parametrize("method", ["kd", "mekd"])
def test_a_damaged_bank_is_moved_away_as_advised(tmp_path, method):
    directory, teacher = tmp_path / "run", ToyTeacher()
    with pytest.raises(InterruptedError):
        run(method, 0, directory, budget=3 * BUDGET, evaluate=stop)
    bank = next((directory / "banks").iterdir())
    (bank / "response-0.npy").write_bytes(b"")
    with pytest.raises(CheckpointError, match="move it away to ask again, which the query budget has to pay for"):
        run(method, 0, directory, budget=3 * BUDGET)
    bank.rename(tmp_path / "away")
    with pytest.warns(UserWarning, match="they are asked again, and counted again"):
        resumed = run(method, 0, directory, budget=3 * BUDGET, teacher=teacher)
    assert teacher.count == BUDGET and resumed.ledger.total == 2 * BUDGET
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = run(method, 0, tmp_path / "undisturbed", budget=3 * BUDGET).student.state_dict()
    assert equal(resumed.student, expected)
