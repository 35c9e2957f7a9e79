"""Problems that cannot be solved: every door refuses them, in words that say why, before the teacher is asked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mekd_plugin as mekd
from mekd_plugin.errors import MekdError
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student

NAN, INF = float("nan"), float("inf")
IMAGES = toy_images(40, seed=1)
SHORT = {"recipe": mekd.Recipe(steps=3, batch_size=16), "device": "cpu"}
DOORS = {"distill": mekd.distill, "host": mekd.host, "plan": mekd.plan}
WHOLE, NUMBER, FLAG = "expected a whole number", "expected a number", "expected True or False"
SEED = f"{WHOLE} from 0 to 4294967295"
NAMES = "expected a name of mekd_plugin.available(), a subclass of Distiller, or an instance"


def solve(door, toy, given):
    """A problem that is right but for what is given; ``box`` holds the black box's own arguments."""
    options = {} if door == "plan" else {"progress": False}
    settings = {"student": toy_student(), "images": IMAGES, "method": "kd", **SHORT, **options, **given}
    described = {"responses": "logits", "num_classes": CLASSES, "budget": 100, **settings.pop("box", {})}
    return DOORS[door](**{"teacher": mekd.BlackBox(toy, **described), **settings})


def spoilt():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    nn.init.constant_(network[1].bias, NAN)
    return network


PROBLEMS = [
    ({"images": None}, "images=None: say image_shape=(channels, height, width)"),
    ({"images": 5}, "images=5: expected a tensor (N, channels, height, width), a dataset, or a loader"),
    ({"images": "photos"}, "photos is no folder of image files: expected some of .bmp"),
    ({"images": IMAGES.numpy()}, "item 0 of images is ndarray: expected a tensor (channels, height, width)"),
    ({"images": {"train": IMAGES}}, "item 0 of images is str: expected a tensor"),
    ({"images": []}, "images is empty: expected at least 2 unlabelled images"),
    ({"images": IMAGES[:1]}, "1 images: expected at least 2 unlabelled images"),
    ({"images": IMAGES.to_sparse()}, "images with layout torch.sparse_coo on cpu: expected a dense tensor"),
    ({"images": IMAGES.to("meta")}, "on meta: expected a dense tensor with its values"),
    ({"images": torch.nested.nested_tensor([IMAGES[0], IMAGES[1]])}, "expected a dense tensor with its values"),
    ({"images": (IMAGES * 127).byte()}, "and torch.uint8: expected floating point (N, channels, height, width)"),
    ({"images": torch.zeros(4, 1, 0, 0)}, "images of shape (4, 1, 0, 0) and torch.float32: expected floating point"),
    ({"images": IMAGES * NAN}, "the images hold NaN or infinite values; clean them"),
    ({"images": IMAGES * 5}, "outside the teacher's value_range (-1, 1); scale them"),
    ({"images": IMAGES.expand(-1, 3, -1, -1)}, "the student cannot take images of shape (2, 3, 8, 8)"),
    ({"image_shape": 5}, "image_shape=5: expected (channels, height, width)"),
    ({"image_shape": (1, 9, 9)}, "image_shape=(1, 9, 9), but the images are (1, 8, 8): leave it out"),
    ({"images": None, "image_shape": (1, 0, 8)}, f"image_shape=0: {WHOLE} from 1"),
    ({"pool": 5}, "pool=5: expected a tensor (N, channels, height, width), a dataset, or a loader"),
    ({"student": "resnet8"}, "student='resnet8': expected an nn.Module from images to logits"),
    ({"student": nn.Linear}, "student=<class 'torch.nn.modules.linear.Linear'>: expected an nn.Module"),
    ({"student": nn.Sequential()}, "the student Sequential has no weight that requires a gradient"),
    ({"student": nn.Sequential(nn.Flatten(), nn.Linear(64, 7))}, "3 classes, and 7 are expected"),
    ({"student": toy_student().to("meta")}, "lies on the meta device, where weights have no values: build it"),
    ({"teacher": None}, "a teacher of type NoneType: expected an nn.Module, a function from images to answers"),
    ({"teacher": len}, "responses= is missing: say what the teacher returns"),
    ({"budget": 5}, "budget belongs to the BlackBox that was handed in: say it there, not twice"),
    ({"num_classes": 7}, "num_classes=7, but the student has 3 outputs: they must be equal"),
    ({"num_classes": "3"}, f"num_classes='3': {WHOLE} from 2"),
    ({"box": {"budget": 0}}, "0 queries for stage 'transfer_set': expected at least 2; raise the budget"),
    ({"box": {"budget": 1}}, "1 queries for stage 'transfer_set': expected at least 2; raise the budget"),
    ({"queries": 5000}, "and the query budget of 100 has 100 left (0 of 100 images sent"),
    ({"method": "ml", "box": {"responses": "hard"}}, "LogitMimicry needs soft responses, and this teacher answers"),
    ({"method": None}, f"method=None: {NAMES}"),
    ({"method": ["kd"]}, f"method=['kd']: {NAMES}"),
    ({"method": nn.Linear}, NAMES),
    ({"method": "kd "}, "unknown method 'kd ': expected one of"),
    ({"recipe": {}}, "recipe={}: expected a mekd_plugin.Recipe, such as Recipe(steps=2000), or None"),
    ({"recipe": "quick"}, "recipe='quick': expected a mekd_plugin.Recipe"),
    ({"preset": None}, "unknown preset of kd None: expected one of fast, paper, quick, thorough"),
    ({"preset": []}, "unknown preset of kd []: expected one of fast, paper, quick, thorough"),
    ({"seed": "a"}, f"seed='a': {SEED}"),
    ({"seed": None}, f"seed=None: {SEED}"),
    ({"seed": -1}, f"seed=-1: {SEED}"),
    ({"seed": 10**23}, f"seed=100000000000000000000000: {SEED}"),
    ({"seed": 2**63 - 1}, f"seed=9223372036854775807: {SEED}"),
    ({"device": "abacus"}, "device='abacus' cannot be used here"),
    ({"device": None}, "device=None cannot be used here (it names nothing that computes)"),
    ({"device": "meta"}, "device='meta' cannot be used here (it names nothing that computes)"),
    ({"validation": NAN}, f"validation=nan: {NUMBER} from 0 below 1"),
    ({"validation": -0.5}, f"validation=-0.5: {NUMBER} from 0 below 1"),
    ({"validation": 5}, f"validation=5: {NUMBER} from 0 below 1"),
    ({"probe": "no"}, f"probe='no': {FLAG}"),
    ({"tempature": 3}, "unknown hyperparameter of KD 'tempature'"),
    ({"steps": 3}, "unknown hyperparameter of KD 'steps': expected one of"),
    ({"emulation.steps": 7}, "unknown hyperparameter of KD 'emulation.steps'"),
    ({"hyperparameters": {"temperature": 3}}, "unknown hyperparameter of KD 'hyperparameters'"),
]
RUNS = [
    ("distill", {"student": spoilt()}, "returns NaN or infinite logits before it is trained: look at its weights"),
    ("distill", {"directory": 5}, "directory=5: expected a path"),
    ("distill", {"directory": "a\0b"}, "directory='a\\x00b': expected a path"),
    ("distill", {"directory": "x" * 300}, "expected names of at most 255 bytes in a path"),
    ("distill", {"cache": 5}, "cache=5: expected a path"),
    ("distill", {"resume": True}, "resume without directory=: say where the run is kept"),
    ("distill", {"snapshots": 2}, "snapshots without directory=: say where the run is kept"),
    ("distill", {"resume": "yes"}, f"resume='yes': {FLAG}"),
    ("distill", {"tensorboard": "logs"}, f"tensorboard='logs': {FLAG}"),
    ("distill", {"progress": None}, f"progress=None: {FLAG}"),
    ("distill", {"recorded": "no"}, f"recorded='no': {FLAG}"),
    ("distill", {"snapshots": -1}, f"snapshots=-1: {WHOLE} from 0"),
    ("distill", {"checkpoint_steps": 0}, f"checkpoint_steps=0: {WHOLE} from 1"),
    ("distill", {"log_steps": NAN}, f"log_steps=nan: {WHOLE} from 1"),
    ("distill", {"evaluate": 5}, "evaluate=5: expected a function from the student to names and numbers"),
    ("distill", {"evaluate_steps": 5}, "evaluate_steps=5: expected a list of steps"),
    ("distill", {"evaluate_steps": [-1]}, f"evaluate_steps=-1: {WHOLE} from 0"),
    ("host", {"stepwise": "yes"}, f"stepwise='yes': {FLAG}"),
    ("host", {"method": "kd", "recipe": []}, "recipe=[]: expected a mekd_plugin.Recipe"),
    ("plan", {"price_per_1000": -1}, f"price_per_1000=-1: {NUMBER} from 0"),
    ("plan", {"price_per_1000": INF}, f"price_per_1000=inf: {NUMBER} from 0"),
]
METHODS = {
    "kd": [
        ({"temperature": 0}, f"temperature=0: {NUMBER} above 0"),
        ({"temperature": "hot"}, f"temperature='hot': {NUMBER} above 0"),
        ({"temperature": True}, f"temperature=True: {NUMBER} above 0"),
        ({"smoothing": 1}, f"smoothing=1: {NUMBER} from 0 below 1"),
        ({"queries": 1}, f"queries=1: {WHOLE} from 2"),
        ({"queries": 2.5}, f"queries=2.5: {WHOLE} from 2"),
    ],
    "distribution_alignment": [
        ({"divergence_weight": -1}, f"divergence_weight=-1: {NUMBER} from 0"),
        ({"adversarial_weight": NAN}, f"adversarial_weight=nan: {NUMBER} from 0"),
        ({"critic_learning_rate": 0}, f"critic_learning_rate=0: {NUMBER} above 0"),
    ],
    "mekd": [
        ({"mode": None}, 'mode=None: expected "bank" (asked once) or "fresh"'),
        ({"mode": "fresh"}, 'mode="fresh" has no bank to measure the spread of scores on: give latent_temperature'),
        ({"norm": "l3"}, "norm='l3': expected one of l1, l2"),
        ({"balance": "yes"}, f"balance='yes': {FLAG}"),
        ({"trust_bank": 1}, f"trust_bank=1: {FLAG}"),
        ({"image_weight": NAN}, f"image_weight=nan: {NUMBER} from 0"),
        ({"latent_temperature": 0}, f"latent_temperature=0: {NUMBER} above 0"),
        ({"hard_scale": -1}, f"hard_scale=-1: {NUMBER} above 0"),
        ({"generator": 5}, "generator=5: expected a trained Generator, or the file of one"),
        ({"generator": "/nowhere"}, "no generator at /nowhere: expected generator.safetensors of a run"),
        ({"bank": "/nowhere"}, "bank='/nowhere' was drawn by a generator: give that one too"),
        ({"emulation": "gna"}, "unknown emulation 'gna': expected one of"),
        ({"emulation": None}, "emulation=None: expected the name of one, or a subclass of Emulation"),
        ({"emulation_preset": "slow"}, "emulation_preset='slow': expected one of quick, fast, thorough, paper, tiny"),
        ({"emulation_settings": 5}, "emulation_settings=5: expected names and values"),
        ({"emulation_settings": {3: 1}}, "unknown setting of emulation Mixture 3: expected one of"),
        ({"emulation.stpes": 7}, "unknown setting of emulation Mixture 'stpes'"),
        ({"emulation": "gan", "emulation.average": 2}, f"emulation.average=2: {NUMBER} above 0 below 1"),
        ({"emulation.steps": -1}, f"emulation.steps=-1: {WHOLE} from 1"),
        ({"gan_steps": 7}, "gan_steps of mekd is now emulation_settings={'steps': 7} (on the command line: --set"),
        ({"style_dim": 7}, "style_dim of mekd is now emulation_settings={'style_dim': 7}"),
    ],
}


def cases():
    for door in DOORS:
        yield from ((door, *problem) for problem in PROBLEMS)
    yield from RUNS
    for name, settings in METHODS.items():
        yield from (("distill", {"method": name, **given}, words) for given, words in settings)


@pytest.mark.parametrize(
    ("door", "given", "words"), [pytest.param(*case, id=f"{case[0]}-{case[2][:40]}") for case in cases()]
)
def test_it_is_refused_and_nothing_is_asked(door, given, words):
    toy = ToyTeacher()
    with pytest.raises(MekdError) as refused:
        solve(door, toy, given)
    assert words in str(refused.value)
    assert toy.count == 0


@pytest.mark.parametrize("door", DOORS)
def test_the_same_problem_is_solved_where_nothing_is_wrong(door):
    """Else every case above could be refused for another reason."""
    toy = ToyTeacher()
    solve(door, toy, {})
    assert toy.count == (0 if door == "plan" else 100)


class Ending(nn.Module):
    def forward(self, images):
        raise SystemExit(0)


@pytest.mark.parametrize("teacher", [Ending(), Ending().forward], ids=["a module", "a function"])
def test_a_teacher_that_ends_the_process_is_an_error(teacher):
    with pytest.raises(MekdError, match=r"it raised SystemExit\(0\): a teacher answers or raises an error"):
        mekd.distill(toy_student(), mekd.BlackBox(teacher, "logits", CLASSES, budget=60), IMAGES, "kd", **SHORT)


def test_what_an_evaluation_returns_is_named():
    with pytest.raises(MekdError, match="evaluate returned 0.9: expected names and numbers"):
        solve("distill", ToyTeacher(), {"evaluate": lambda student: 0.9})
