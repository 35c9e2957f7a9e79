import numpy as np
import pytest

from mekd_plugin.checks import as_number, as_one_of, as_whole
from mekd_plugin.errors import InputError


def test_a_number_spelled_as_text_is_that_number():
    assert as_number("t", "1e-3") == 1e-3 and as_whole("n", "20") == 20 and as_whole("n", np.int64(3)) == 3
    assert isinstance(as_whole("n", np.float32(3.0)), int)


@pytest.mark.parametrize("value", [True, None, "three", [1], {}, float("nan"), float("inf"), 1j, np.zeros(2)])
def test_what_is_not_a_number_is_refused(value):
    with pytest.raises(InputError, match="t=.*: expected a number above 0"):
        as_number("t", value, above=0)
    with pytest.raises(InputError, match="n=.*: expected a whole number from 1 to 9"):
        as_whole("n", value, at_least=1, at_most=9)


def test_large_whole_numbers_stay_exact():
    assert as_whole("seed", "9007199254740993") == 9007199254740993
    assert as_whole("seed", 2**63 - 1, at_least=0, at_most=2**63 - 1) == 2**63 - 1
    with pytest.raises(InputError, match="expected a whole number from 0 to"):
        as_whole("seed", 2**63, at_least=0, at_most=2**63 - 1)


def test_bounds_are_kept():
    for wrong in (0, -1):
        with pytest.raises(InputError, match="above 0"):
            as_number("t", wrong, above=0)
    with pytest.raises(InputError, match="from 0 below 1"):
        as_number("t", 1, at_least=0, below=1)
    with pytest.raises(InputError, match="whole number"):
        as_whole("n", 1.9)
    assert as_whole("n", 2**70) == 2**70


def test_a_name_is_one_of_the_known_ones():
    assert as_one_of("norm", "l1", ("l1", "l2")) == "l1"
    with pytest.raises(InputError, match="norm='l3': expected one of l1, l2"):
        as_one_of("norm", "l3", ("l1", "l2"))
