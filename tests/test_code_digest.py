import functools
import subprocess
import sys
import types

import pytest

from mekd_plugin.code_digest import described_function
from mekd_plugin.training.signature import described_settings


def made(text, **known):
    module = types.ModuleType("somewhere")
    exec(compile(text, "somewhere.py", "exec"), vars(module) | {"__name__": "somewhere"} | known, known)
    return known["take"]


PLAIN = "def take(out):\n    return out['logits']\n"


def test_another_line_or_comment_is_the_same_function():
    assert described_function(made(PLAIN)) == described_function(made("# a comment\n\n" + PLAIN))
    assert described_function(made(PLAIN)).startswith("somewhere.take:")


@pytest.mark.parametrize(
    "other",
    [
        "def take(out):\n    return out['scores']\n",
        "def take(out):\n    return -out['logits']\n",
        "def take(out, name='logits'):\n    return out[name]\n",
        "def take(out):\n    return [key for key in out if key in {'a', 'b'}]\n",
    ],
)
def test_another_body_is_another_function(other):
    assert described_function(made(PLAIN)) != described_function(made(other))


def test_defaults_and_bound_arguments_count():
    one, other = (made(f"def take(out, which={which}):\n    return out[which]\n") for which in (0, 1))
    assert described_function(one) != described_function(other)
    bound = [described_function(functools.partial(one, which=which)) for which in (2, 3)]
    assert len({*bound, described_function(one)}) == 3


def test_a_method_of_an_object_and_what_is_not_written_in_python_have_a_name():
    class Taker:
        def take(self, out):
            return out

        def __call__(self, out):
            return out

    assert described_function(Taker().take) == described_function(Taker().take)
    assert ".Taker" in described_function(Taker())
    assert described_function(len) == "builtins.len"


def test_every_process_says_the_same():
    text = (
        "from mekd_plugin.code_digest import described_function\n"
        "print(described_function(lambda out, of=object, name='x': [out[key] for key in {'a', 'b', 'c', name}]))"
    )
    command = [sys.executable, "-c", text]
    said = {subprocess.check_output(command, env={"PYTHONHASHSEED": seed}) for seed in ("1", "2", "3")}
    assert len(said) == 1 and b"<lambda>:" in said.pop()


def test_a_hyperparameter_that_is_a_function_is_described_by_its_code_wherever_it_lies_in_memory():
    def settings(text):
        take = made(text)
        return described_settings({"take": take, "bound": functools.partial(take, 1)})

    again, other = settings(PLAIN), settings("def take(out):\n    return out\n")
    assert settings(PLAIN) == again != other
    assert " at 0x" not in again
