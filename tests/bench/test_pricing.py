"""Prices."""

from __future__ import annotations

import pytest

from mekd_plugin.bench.pricing import format_price, price_of


def test_price() -> None:
    assert price_of(5000, 1.5) == 7.5
    assert price_of(5000, None) is None


@pytest.mark.parametrize(("price", "text"), [(None, "-"), (0.0, "$0.00"), (7.5, "$7.50"), (18900.4, "$18,900")])
def test_text(price, text) -> None:
    assert format_price(price) == text
