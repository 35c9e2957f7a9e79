"""What a number of queries costs."""

from __future__ import annotations

from mekd_plugin.bench.teacher_names import kind_of_teacher

__all__ = ["format_price", "price_for", "price_of"]

_OF_A_SERVICE = 1.5
"""What image labels cost at a large provider, in dollars; one that costs nothing is 0."""


def price_for(teacher: str, per_1000: float | None) -> float | None:
    """The price of 1,000 of a teacher's answers: as given, else 1.5 of a service, and none of any other."""
    return _OF_A_SERVICE if per_1000 is None and kind_of_teacher(teacher) == "service" else per_1000


def price_of(queries: int, per_1000: float | None) -> float | None:
    """The price of ``queries`` at ``per_1000`` per thousand, in its currency; None where no price is known.

    A constant rate: free allowances and discounts for large numbers are left out, so it is an upper bound.
    """
    return None if per_1000 is None else queries * per_1000 / 1000


def format_price(price: float | None) -> str:
    """Two decimals, thousands separated by commas; a dash if there is no price.

    >>> format_price(18900), format_price(7.5), format_price(None)
    ('$18,900', '$7.50', '-')
    """
    if price is None:
        return "-"
    return f"${price:,.0f}" if price >= 1000 else f"${price:,.2f}"
