"""Batches decoded ahead, in threads, without changing a single draw."""

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

Share = Callable[[], tuple[int, int]]
"""Gives (rank, count): the rank takes the items whose running number leaves it when divided by the count."""


def whole() -> tuple[int, int]:
    """Everything: one process, or testing, which only the first rank does."""
    return 0, 1


Tops = tuple[np.ndarray, ...]


class Source(Protocol):
    """What a data layer reads from."""

    shapes: list[tuple[int, ...]]
    """The tops' shapes at set-up."""

    def draw(self) -> Any:
        """Choose the next batch: moves the position and the generators, decodes nothing."""

    def load(self, drawn: Any) -> Tops:
        """The tops of a drawn batch, float32; runs on any thread and changes nothing."""

    def items(self, drawn: Any) -> list[str]:
        """What each of a drawn batch is, for messages: file, line and name."""

    def state(self) -> dict[str, Any]:
        """Position, order and generators as plain data, which JSON can hold."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state()` was taken."""


WORKERS = min(4, os.cpu_count() or 1)
"""Threads that decode for one layer; OpenCV and NumPy release Python's lock while they work."""


class Prefetcher:
    """Runs a source: `ahead` batches are drawn and being decoded while one is used; 0 loads on demand.

    Args:
        finish: what is to be made of a loaded batch, on the thread that loaded it.

    Attributes:
        waited: seconds that `next` has waited for decoding so far.
    """

    def __init__(self, source: Source, ahead: int, finish: Callable[[Tops], Any]):
        self.source, self.ahead, self._finish = source, ahead, finish
        self.waited = 0.0
        self._pool: ThreadPoolExecutor | None = None
        self._coming: deque[tuple[Any, Future, dict[str, Any]]] = deque()
        self._consumed = source.state()
        self._drawn: Any = None

    def next(self) -> Any:
        """The next batch, finished.

        Raises:
            InputError: what reading that batch came upon.
        """
        if not self.ahead:
            self._drawn = self.source.draw()
            self._consumed = self.source.state()
            return self._load(self._drawn)
        while len(self._coming) <= self.ahead:
            self._send()
        self._drawn, loading, after = self._coming.popleft()
        began = time.perf_counter()
        tops = loading.result()
        self.waited += time.perf_counter() - began
        self._consumed = after
        return tops

    def items(self) -> list[str]:
        """What each of the last batch is, for messages."""
        return [] if self._drawn is None else self.source.items(self._drawn)

    def state(self) -> dict[str, Any]:
        """The source's state just after the last batch that `next` gave."""
        return self._consumed

    def restore(self, state: dict[str, Any]) -> None:
        """Forget what was read ahead and go on where `state()` was taken."""
        self._coming.clear()
        self.source.restore(state)
        self._consumed = self.source.state()

    def _load(self, drawn: Any) -> Any:
        return self._finish(self.source.load(drawn))

    def _send(self) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="prefetch")
        drawn = self.source.draw()
        loading = self._pool.submit(self._load, drawn)
        self._coming.append((drawn, loading, self.source.state()))


"""Gives (rank, count): the rank takes the items whose running number leaves it when divided by the count."""
