"""Progress on a terminal: what, how far, how fast, how long yet."""

from typing import Any

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


def plain_console(**settings: Any) -> Console:
    """A console that prints text as it is: names from files are no markup, and hold no emoji codes."""
    return Console(markup=False, emoji=False, **settings)


def progress_bar(unit: str = "") -> Progress:
    """A bar on stderr that vanishes when done; nothing where stderr is not a terminal.

    With a `unit`, such as "images", it tells the rate.
    """
    shown = plain_console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *([RateColumn(unit)] if unit else []),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=shown,
        disable=not shown.is_terminal,
        transient=True,
    )
