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

from weights.output import TableConsole, is_quiet

QUIET_SECONDS = 30
"""Where there is no terminal, a line on progress after so long."""


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
    return TableConsole(markup=False, emoji=False, **settings)


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
        disable=is_quiet() or not (shown and console.is_terminal),
        transient=True,
    )


class ProgressLines:
    """A line on rate and time left every `QUIET_SECONDS`, for where there is no terminal.

    Args:
        what: is done; total: how many; unit: of what, such as "images".
        tell: takes a line.
        done: how many were done before: they count for how far, not for how fast.
    """

    def __init__(self, what: str, total: int, unit: str, tell: Callable[[str], None], done: int = 0):
        self.what, self.total, self.unit, self.tell, self.before = what, total, unit, tell, done
        self.start = self.told = time.monotonic()

    def update(self, count: int) -> None:
        """So many are done in all."""
        now = time.monotonic()
        if not is_quiet() and count > self.before and now - self.told >= QUIET_SECONDS:
            self.told = now
            rate = (count - self.before) / (now - self.start)
            left = (self.total - count) / rate / 60
            self.tell(f"{self.what}: {count}/{self.total}, {rate:.3g} {self.unit}/s, {left:.0f} min left")


@contextlib.contextmanager
def counted(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Count up to `total`: a bar, or without a terminal `ProgressLines` on stderr.

    Yields:
        What is to be called with how many more are done.
    """
    count = 0
    lines = ProgressLines(what, total, unit, lambda line: print(line, file=sys.stderr))
    with progress_bar(unit) as bar:
        task = bar.add_task(what, total=total)

        def advance(more: int) -> None:
            nonlocal count
            count += more
            bar.advance(task, more)
            if bar.disable:
                lines.update(count)

        yield advance
