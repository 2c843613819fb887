"""Which part of a training set each of several ranks reads."""

from collections.abc import Callable

Share = Callable[[], tuple[int, int]]
"""Gives (rank, count): the rank takes the items whose running number leaves it when divided by the count."""


def whole() -> tuple[int, int]:
    """Everything: one process, or testing, which only the first rank does."""
    return 0, 1
