"""Progress on a terminal: what, how far, how fast, how long yet; elsewhere, a line now and then."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

QUIET_SECONDS = 30
"""Where there is no terminal, `counted` writes a line after so long."""


class RateColumn(ProgressColumn):
    """How many of something a second."""

    def __init__(self, unit: str):
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self.unit}/s" if speed else "")


def plain_console(**settings: Any) -> Console:
    """A console that prints text as it is: names from files are no markup, and hold no emoji codes."""
    return Console(markup=False, emoji=False, **settings)


def progress_bar(unit: str = "", shown: bool = True) -> Progress:
    """A bar on stderr that vanishes when done; nothing where stderr is not a terminal.

    Args:
        unit: what is counted, such as "images": the bar tells the rate. "bytes" are told as kB, MB, …
        shown: False for none.
    """
    console = plain_console(stderr=True)
    if unit == "bytes":
        amount: list[ProgressColumn] = [DownloadColumn(), TransferSpeedColumn()]
    else:
        amount = [MofNCompleteColumn(), *([RateColumn(unit)] if unit else []), TimeElapsedColumn()]
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *amount,
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
        transient=True,
    )


@contextlib.contextmanager
def counted(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Count up to `total`: a bar, or without a terminal a line on stderr every `QUIET_SECONDS`.

    Yields:
        What is to be called with how many more are done.
    """
    count = 0
    start = told = time.monotonic()
    with progress_bar(unit) as bar:
        task = bar.add_task(what, total=total)

        def advance(more: int) -> None:
            nonlocal count, told
            count += more
            bar.advance(task, more)
            now = time.monotonic()
            if bar.disable and count and now - told >= QUIET_SECONDS:
                told, rate = now, count / (now - start)
                left = (total - count) / rate / 60
                print(f"{what}: {count}/{total}, {rate:.1f} {unit}/s, {left:.0f} min left", file=sys.stderr)

        yield advance
