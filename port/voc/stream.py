"""A network over a dataset: reading ahead of it, writing behind it, and going on where it was stopped."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from port.voc.each import killed_workers
from prototxt.errors import InputError
from prototxt.files import read_text
from weights.files import remove_partial, write_json
from weights.progress import counted

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Made = TypeVar("Made")
Result = TypeVar("Result")


def stream(
    todo: Sequence[Item],
    load: Callable[[Item], Loaded],
    network: Callable[[list[Loaded]], list[Made | InputError]],
    write: Callable[[Loaded, Made], Result],
    *,
    writers: Executor,
    writing: int,
    readers: int,
    batch: int,
    what: str,
) -> Iterator[tuple[Item, Result | InputError]]:
    """Each item and what `write` made of it, or the InputError of its reading, its network pass or its writing.

    While the network has a batch, the next two are read and those before are written, in the order of `todo`.
    So many are in memory: three batches, and two and `writing` images that wait to be written. Progress is
    told, as `what`.

    Args:
        load: in one of `readers` threads.
        network: in this thread; one answer for each of a batch. An InputError that it raises ends everything.
        write: in one of the `writing` workers of `writers`, which is shut down by an error; picklable where
            these are processes.

    Raises:
        InputError: raised by `network`; a worker that was killed.
    """
    writes: deque[tuple[Item, Future]] = deque()
    with (
        killed_workers(),
        ThreadPoolExecutor(readers) as pool,
        counted(what, len(todo), "images") as advance,
    ):
        try:
            for reads in _ahead(pool, load, todo, batch):
                loaded = {item: _result(read) for item, read in reads}
                good = {item: own for item, own in loaded.items() if not isinstance(own, InputError)}
                made = dict(zip(good, network(list(good.values())) if good else [], strict=True))
                for item, own in loaded.items():
                    answer = made.get(item, own)
                    if isinstance(answer, InputError):
                        advance(1)
                        yield item, answer
                    else:
                        writes.append((item, writers.submit(write, own, answer)))
                while writes and (len(writes) > 2 * batch + writing or writes[0][1].done()):
                    yield _settled(writes.popleft(), advance)
            while writes:
                yield _settled(writes.popleft(), advance)
        finally:
            pool.shutdown(cancel_futures=True)
            if writes:
                writers.shutdown(cancel_futures=True)


def _ahead(
    pool: Executor, load: Callable[[Item], Loaded], todo: Sequence[Item], batch: int
) -> Iterator[list[tuple[Item, Future]]]:
    """Batches of reads, of which the next two are under way while one is used."""
    waiting: deque[list[tuple[Item, Future]]] = deque()
    for start in range(0, len(todo), batch):
        waiting.append([(item, pool.submit(load, item)) for item in todo[start : start + batch]])
        if len(waiting) > 2:
            yield waiting.popleft()
    yield from waiting


def _settled(write: tuple[Item, Future], advance: Callable[[int], None]) -> tuple[Item, Any]:
    item, future = write
    result = _result(future)
    advance(1)
    return item, result


def _result(future: Future) -> Any:
    try:
        return future.result()
    except InputError as error:
        return error
    except MemoryError as error:
        return InputError(
            f"memory does not suffice for an image ({error}): give smaller ones, or fewer --workers"
        )


def present_files(out: Path, own: set[str]) -> set[str]:
    """Which of `own`, paths within `out`, are there. What killed runs left half-written is removed.

    An empty file counts for nothing: it is what a loss of power leaves of one that was just written.
    """
    for folder in {(out / name).parent for name in own}:
        remove_partial(folder)
    return {name for name in own if (out / name).is_file() and (out / name).stat().st_size}


def keep_settings(path: Path, own: Iterable[str], settings: dict, what: str) -> None:
    """Write the settings to `path`, in an empty folder.

    Args:
        own: the files that are to be made, as paths within the folder.
        what: they are, for messages.

    Raises:
        InputError: the folder holds files of other settings, or some of `own` and no settings.
    """
    out = path.parent
    try:
        kept = json.loads(read_text(path))
    except FileNotFoundError:
        kept = None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: choose another --out") from error
    if kept is None:
        if any((out / name).exists() for name in own):
            raise InputError(
                f"{out}: holds {what}, and no {path.name} tells their settings: choose another --out"
            )
        write_json(path, settings, sync=True)
    elif kept != settings:
        other = ", ".join(
            name for name in settings if not isinstance(kept, dict) or kept.get(name) != settings[name]
        )
        raise InputError(f"{out}: holds {what} made with another {other or 'setting'}: choose another --out")
