"""Progress: what, how far, how fast, how long yet; a bar on a terminal, else a line now and then."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """How many of something a second."""

    def __init__(self, unit: str):
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self.unit}/s" if speed else "")


def progress_bar(unit: str = "") -> Progress:
    """A bar on stderr that vanishes when done; nothing where stderr is not a terminal.

    With a `unit`, such as "images", it tells the rate.
    """
    shown = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *([RateColumn(unit)] if unit else []),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=shown,
        disable=not shown.is_terminal,
        transient=True,
    )


QUIET_SECONDS = 30
"""Where there is no terminal, a line on progress after so long."""


class ProgressLines:
    """A line on rate and time left every half minute, for where there is no terminal.

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
        if count > self.before and now - self.told >= QUIET_SECONDS:
            self.told = now
            rate = (count - self.before) / (now - self.start)
            left = (self.total - count) / rate / 60
            self.tell(f"{self.what}: {count}/{self.total}, {rate:.3g} {self.unit}/s, {left:.0f} min left")
