"""Values that no constructor or call takes: refused in words that say why, before the teacher is asked."""

from __future__ import annotations

import pytest
import torch

import mekd_plugin as mekd
from mekd_plugin.blackbox.bank import Bank
from mekd_plugin.blackbox.ledger import Ledger
from mekd_plugin.errors import MekdError
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images

NAN, INF = float("nan"), float("inf")
LONG = "x" * 300
IMAGES = toy_images(40, seed=1)


def box(toy, given):
    return mekd.BlackBox(**{"teacher": toy, "responses": "logits", "num_classes": CLASSES, **given})


def bank(toy, given):
    settings = {"teacher": box(toy, {"budget": 60}), "draw": lambda a, b: Rows(IMAGES[a:b]), "size": 20, "stage": "ask"}
    Bank().fill(**{**settings, **given})


CALLS = {
    "BlackBox": box,
    "query": lambda toy, given: box(toy, {"budget": 60}).query(**{"images": IMAGES[:2], **given}),
    "keep": lambda toy, given: box(toy, {}).keep(**given),
    "Retry": lambda toy, given: mekd.Retry(**given),
    "RateLimit": lambda toy, given: mekd.RateLimit(**given),
    "Bank": lambda toy, given: Bank(**given),
    "fill": bank,
    "load": lambda toy, given: Bank.load(**given),
    "Recipe": lambda toy, given: mekd.Recipe(**given),
    "preset": lambda toy, given: mekd.Recipe.preset(**given),
}
WHOLE, NUMBER = "expected a whole number", "expected a number"
PAIR = "expected two finite numbers (low, high), low below high"

CASES = {
    "BlackBox": [
        ({"teacher": None}, "a teacher of type NoneType: expected an nn.Module, a function"),
        ({"teacher": "resnet8", "responses": None}, "a teacher of type str: expected an nn.Module, a function"),
        ({"teacher": ToyTeacher}, "is a class: hand in an instance of it"),
        ({"responses": None}, "responses= is missing: say what the teacher returns"),
        ({"responses": ["soft"]}, "responses=['soft']: expected \"logits\""),
        ({"num_classes": "3"}, f"num_classes='3': {WHOLE} from 2"),
        ({"num_classes": 3.0}, f"num_classes=3.0: {WHOLE} from 2"),
        ({"num_classes": True}, f"num_classes=True: {WHOLE} from 2"),
        ({"num_classes": NAN}, f"num_classes=nan: {WHOLE} from 2"),
        ({"teacher": len, "num_classes": None}, "num_classes= is missing: a function does not tell"),
        ({"budget": -1}, f"budget=-1: {WHOLE} of images from 0, or None for no limit"),
        ({"budget": "5"}, f"budget='5': {WHOLE} of images from 0, or None for no limit"),
        ({"budget": INF}, f"budget=inf: {WHOLE} of images from 0, or None for no limit"),
        ({"value_range": 5}, f"value_range=5: {PAIR}"),
        ({"value_range": (1, 0)}, f"value_range=(1, 0): {PAIR}"),
        ({"value_range": (0, INF)}, f"value_range=(0, inf): {PAIR}"),
        ({"value_range": (NAN, 1)}, f"value_range=(nan, 1): {PAIR}"),
        ({"value_range": (0, 1, 2)}, f"value_range=(0, 1, 2): {PAIR}"),
        ({"batch_size": 0}, f"batch_size=0: {WHOLE} of images from 1"),
        ({"budget": 1, "ledger": Ledger()}, "budget=1 and ledger= are both given: a shared ledger brings its own"),
        ({"batch_size": "8"}, f"batch_size='8': {WHOLE} of images from 1"),
        ({"batch_size": None}, f"batch_size=None: {WHOLE} of images from 1"),
        ({"quantize": 8}, 'quantize=8: expected "uint8" or None'),
        ({"device": "x"}, "device='x': expected a device of this machine"),
        ({"device": []}, "device=[]: expected a device of this machine"),
        ({"answer": "logits"}, "answer='logits': expected a function of what the teacher returns"),
        ({"ledger": 5}, "ledger=5: expected that of another black box, box.ledger, or None"),
        ({"identity": 5}, "identity=5: expected a name for the teacher"),
        ({"retry": 3}, "retry=3: expected a Retry(...) or None"),
        ({"rate_limit": 3}, "rate_limit=3: expected a RateLimit(...) or None"),
        ({"timeout": 5}, "timeout=5 of a module: expected it of a function"),
        ({"teacher": len, "timeout": 0}, f"timeout=0: {NUMBER} above 0"),
        ({"teacher": len, "timeout": "5"}, f"timeout='5': {NUMBER} above 0"),
        ({"teacher": len, "timeout": 1e300}, f"timeout=1e+300: {NUMBER} above 0 to 86400"),
        ({"responses": "probabilities", "rounding": -1}, f"rounding=-1: {WHOLE} of decimals from 1"),
        ({"responses": "probabilities", "top_k": "5"}, f"top_k='5': {WHOLE} of classes from 1"),
        ({"top_k": 2}, "top_k=2 with responses='logits': it is about probabilities only"),
    ],
    "query": [
        ({"images": None}, "images of type NoneType: expected a tensor (N, channels, height, width)"),
        ({"images": [[1.0]]}, "images of type list: expected a tensor (N, channels, height, width)"),
        (
            {"images": IMAGES[:2].to_sparse()},
            "images of layout torch.sparse_coo: expected a dense tensor; images.to_dense()",
        ),
        ({"stage": 5}, "stage=5: expected the name of what the images are sent for"),
        ({"stage": ""}, "stage='': expected the name of what the images are sent for"),
    ],
    "keep": [
        ({"directory": 5}, "directory=5: expected a path"),
        ({"directory": "a\0b"}, "directory='a\\x00b': expected a path"),
        ({"directory": LONG}, "expected names of at most 255 bytes in a path"),
    ],
    "Retry": [
        ({"attempts": 0}, f"attempts=0: {WHOLE} from 1"),
        ({"attempts": True}, f"attempts=True: {WHOLE} from 1"),
        ({"attempts": "3"}, f"attempts='3': {WHOLE} from 1"),
        ({"wait": -1}, f"wait=-1: {NUMBER} from 0"),
        ({"wait": INF}, f"wait=inf: {NUMBER} from 0"),
        ({"wait": 3600}, f"wait=3600: {NUMBER} from 0 to 60"),
        ({"wait": None}, f"wait=None: {NUMBER} from 0"),
        ({"on": "ConnectionError"}, "on='ConnectionError': expected an exception class, or a tuple of them"),
        ({"on": ()}, "on=(): expected an exception class, or a tuple of them"),
        ({"on": KeyboardInterrupt}, "KeyboardInterrupt'>: expected an exception class, or a tuple of them"),
    ],
    "RateLimit": [
        ({"per_second": 0}, f"per_second=0: {NUMBER} above 0"),
        ({"per_second": NAN}, f"per_second=nan: {NUMBER} above 0"),
        ({"per_second": "5"}, f"per_second='5': {NUMBER} above 0"),
    ],
    "Bank": [
        ({"name": 5}, "name=5: expected a text that may name a directory"),
        ({"name": "../bank"}, "name='../bank': expected a text that may name a directory"),
        ({"name": ".."}, "name='..': expected a text that may name a directory"),
        ({"memory_limit": NAN}, f"memory_limit=nan: {WHOLE} of bytes from 0"),
    ],
    "fill": [
        ({"teacher": ToyTeacher()}, "expected a BlackBox, mekd_plugin.BlackBox(teacher, ...)"),
        ({"size": 0}, f"size=0: {WHOLE} of rows for bank 'bank' from 1"),
        ({"size": NAN}, f"size=nan: {WHOLE} of rows for bank 'bank' from 1"),
        ({"size": 61}, "bank 'bank' needs 61 more answers for 'ask', and the query budget of 60 has 60 left"),
        ({"draw": 5}, "draw=5: expected a function draw(start, stop) -> rows"),
        ({"draw": lambda a, b: IMAGES[a:b]}, "draw(0, 20) returned Tensor: expected Rows(images)"),
        ({"draw": lambda a, b: Rows(IMAGES[:1])}, "draw(0, 20) returned 1 rows: expected 20"),
    ],
    "load": [
        ({"directory": None}, "directory=None: expected a path"),
        ({"directory": "/nowhere"}, "no bank in /nowhere: expected the directory of one that was filled"),
    ],
    "Recipe": [
        ({"steps": True}, f"steps=True: {WHOLE} from 1"),
        ({"steps": 1.9}, f"steps=1.9: {WHOLE} from 1"),
        ({"steps": INF}, f"steps=inf: {WHOLE} from 1"),
        ({"batch_size": None}, f"batch_size=None: {WHOLE} from 2"),
        ({"optimizer": ["sgd"]}, "optimizer=['sgd']: expected one of adamw, sgd"),
        ({"learning_rate": NAN}, f"learning_rate=nan: {NUMBER} above 0"),
        ({"learning_rate": 10**400}, f"...: {NUMBER} above 0"),
        ({"learning_rate": torch.ones(3)}, f"learning_rate=tensor([1., 1., 1.]): {NUMBER} above 0"),
        ({"weight_decay": -1}, f"weight_decay=-1: {NUMBER} from 0"),
        ({"schedule": "cosine"}, "schedule='cosine': expected one of one_cycle, multistep, constant"),
        ({"translate": -2}, f"translate=-2: {WHOLE} from 0"),
        ({"precision": False}, "precision=False: expected one of no, bf16"),
        ({"channels_last": "no"}, "channels_last='no': expected True or False"),
    ],
    "preset": [
        ({"name": []}, "preset=[]: expected one of quick, fast, thorough, paper"),
        ({"name": "huge"}, "preset='huge': expected one of quick, fast, thorough, paper"),
        ({"name": "quick", "lr": 3}, "a recipe has no setting ['lr']; it has ['batch_size'"),
    ],
}


@pytest.mark.parametrize(
    ("call", "given", "words"),
    [pytest.param(call, *case, id=f"{call}-{case[1][:40]}") for call, cases in CASES.items() for case in cases],
)
def test_it_is_refused_and_nothing_is_asked(call, given, words):
    toy = ToyTeacher()
    with pytest.raises(MekdError) as refused:
        CALLS[call](toy, given)
    assert words in str(refused.value)
    assert toy.count == 0


def test_the_same_calls_go_through_with_good_values():
    """Else every case above could be refused for another reason."""
    toy = ToyTeacher()
    good = {"keep": {"directory": None}, "RateLimit": {"per_second": 5}, "preset": {"name": "quick"}}
    for call in CASES.keys() - {"load"}:
        CALLS[call](toy, good.get(call, {}))
    assert toy.count == 22
