"""Batches decoded ahead, in threads, without changing a single draw."""

import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

WORKERS = min(4, os.cpu_count() or 1)
"""Threads that decode for one layer; OpenCV and NumPy release Python's lock while they work."""


class Source(Protocol):
    """What a data layer reads from."""

    shapes: list[tuple[int, ...]]
    """The tops' shapes at set-up."""

    def draw(self) -> Any:
        """Choose the next batch: moves the position and the generators, decodes nothing."""

    def load(self, drawn: Any) -> tuple[np.ndarray, ...]:
        """The tops of a drawn batch, float32; runs on any thread and changes nothing."""

    def state(self) -> dict[str, Any]:
        """Position, order and generators as plain data, which JSON can hold."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state()` was taken."""


class Prefetcher:
    """Runs a source: `ahead` batches are drawn and being decoded while one is used; 0 loads on demand.

    Attributes:
        waited: seconds that `next` has waited for decoding so far.
    """

    def __init__(self, source: Source, ahead: int):
        self.source, self.ahead = source, ahead
        self.waited = 0.0
        self._pool: ThreadPoolExecutor | None = None
        self._coming: deque[tuple[Future, dict[str, Any]]] = deque()
        self._consumed = source.state()

    def next(self) -> tuple[np.ndarray, ...]:
        """The next batch.

        Raises:
            InputError: what reading that batch came upon.
        """
        if not self.ahead:
            tops = self.source.load(self.source.draw())
            self._consumed = self.source.state()
            return tops
        while len(self._coming) <= self.ahead:
            self._send()
        loading, after = self._coming.popleft()
        began = time.perf_counter()
        tops = loading.result()
        self.waited += time.perf_counter() - began
        self._consumed = after
        return tops

    def state(self) -> dict[str, Any]:
        """The source's state just after the last batch that `next` gave."""
        return self._consumed

    def restore(self, state: dict[str, Any]) -> None:
        """Forget what was read ahead and go on where `state()` was taken."""
        self._coming.clear()
        self.source.restore(state)
        self._consumed = self.source.state()

    def _send(self) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="prefetch")
        drawn = self.source.draw()
        self._coming.append((self._pool.submit(self.source.load, drawn), self.source.state()))
