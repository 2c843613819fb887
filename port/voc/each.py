"""Doing one thing to each of many images, where a bad one never stops the rest."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

import cv2
import typer

from port.voc.settings import check_workers
from prototxt.errors import InputError
from prototxt.native_output import keep_own_stderr
from weights.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")

IMAGES_PER_PROCESS = 200
"""A process takes about two seconds to start: below so many images each, more of them do not pay."""


def for_each(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, description: str
) -> Iterator[tuple[Item, Result | InputError]]:
    """Each item and `work(item)`, or the InputError that it raised, in the order of `items`.

    Args:
        work: picklable, where there are several processes.
        workers: processes; 0 for one on each core, and fewer where there are few items.

    Raises:
        InputError: fewer than 0 workers; a process that was killed, as for memory.
    """
    check_workers(workers)
    processes = workers or min(_cores(), 1 + len(items) // IMAGES_PER_PROCESS)
    attempt = partial(_attempt, work)
    with progress_bar("images") as bar:
        results: Iterable
        if processes == 1:
            results = map(attempt, items)
            yield from zip(items, bar.track(results, len(items), description=description), strict=True)
            return
        context = multiprocessing.get_context("spawn")  # a forked torch or OpenCV may wait for lost threads
        with killed_workers(), ProcessPoolExecutor(processes, context, _begin) as pool:
            try:
                results = pool.map(attempt, items, chunksize=16)
                yield from zip(items, bar.track(results, len(items), description=description), strict=True)
            finally:
                pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In a new process."""
    keep_own_stderr()
    cv2.setNumThreads(1)


@contextlib.contextmanager
def killed_workers() -> Iterator[None]:
    """An InputError that says so, where a pool's process was killed."""
    try:
        yield
    except BrokenProcessPool as error:
        raise InputError(
            "a process was killed, perhaps for memory: run again with fewer --workers"
        ) from error


def report_failures(failed: Iterable[InputError], total: int | None = None) -> None:
    """One line on stderr for each failure, then how many of `total`; exit status 2 if there was any."""
    failed = list(failed)
    for error in failed:
        typer.echo(f"error: {error}", err=True)
    if failed and total is not None:
        typer.echo(f"{len(failed)} of {total} failed", err=True)
    if failed:
        raise typer.Exit(2)


def _attempt(work: Callable[[Item], Result], item: Item) -> Result | InputError:
    try:
        return work(item)
    except InputError as error:
        return error
    except MemoryError as error:
        return InputError(
            f"memory does not suffice for {item} ({error}): give smaller ones, or fewer --workers"
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
