"""Threads that compute a part of an image each, alone.

PyTorch's own threads meet after every operation and wait for the next one by spinning. Where others compute
meanwhile, as ours do, they take the processor from whoever has work: so within `alone` they have none.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from threading import Barrier
from typing import Any

import torch

_given: ContextVar[int] = ContextVar("threads", default=1)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """PyTorch's operations run on the calling thread only; `in_parts` has the threads that they had before."""
    threads = torch.get_num_threads()
    if threads == 1:  # also within another `alone`
        yield
        return
    before = _given.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _given.reset(before)


def workers() -> int:
    """How many parts are computed at the same time, within `alone`."""
    return _given.get()


def in_parts(function: Callable[..., None], parts: Sequence[tuple[Any, ...]]) -> None:
    """Call `function(*part)` for each part, on as many threads as there are workers; within `alone`."""
    if workers() == 1 or len(parts) == 1:
        for part in parts:
            function(*part)
    else:
        list(_pool(workers()).map(function, *zip(*parts, strict=True)))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, "part", initializer=torch.set_num_threads, initargs=(1,))
    # What one thread sets is what every new one starts with. So all start now, before `alone` sets it back.
    together = Barrier(threads)
    list(pool.map(lambda _: together.wait(), range(threads)))
    return pool
