"""C's `rand()` as glibc has it, which Caffe's HDF5Data shuffles with (std::random_shuffle of libstdc++).

Nothing in Caffe seeds it, `random_seed` neither, so that every process begins alike, as if by `srand(1)`.
Source: the additive feedback generator that glibc's manual page random(3) describes.
"""

from collections import deque


class CRandom:
    """The sequence of `rand()` after `srand(seed)`."""

    def __init__(self, seed: int = 1):
        seed = seed or 1
        table = [seed]
        for _ in range(30):
            # glibc divides with truncation and lifts what is negative: the same as Python's modulo.
            table.append(16807 * table[-1] % 2147483647)
        self._table = deque([*table, *table[:3]], maxlen=31)
        for _ in range(310):
            self._next()

    def rand(self) -> int:
        """The next number, 0 … 2³¹ - 1."""
        return self._next() >> 1

    def shuffle(self, items: list) -> None:
        """Reorder `items` in place: std::random_shuffle, each from the second on swaps with one up to it."""
        for i in range(1, len(items)):
            j = self.rand() % (i + 1)
            items[i], items[j] = items[j], items[i]

    def state(self) -> list[int]:
        return list(self._table)

    def restore(self, state: list[int]) -> None:
        """Raises ValueError for anything but 31 words of 32 bits."""
        if len(state) != 31 or not all(type(word) is int and 0 <= word < 1 << 32 for word in state):
            raise ValueError("a generator's state has 31 words")
        self._table = deque(state, maxlen=31)

    def _next(self) -> int:
        word = (self._table[-3] + self._table[-31]) & 0xFFFFFFFF
        self._table.append(word)
        return word


process_random = CRandom()
"""The one that all layers of a process share, as in C."""
