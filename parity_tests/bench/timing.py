"""Actions timed side by side: in turn, round after round, so that what else the machine does falls on all alike."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Timing:
    """The seconds that something took in each round (or another figure: a `Part` tells its unit).

    Attributes:
        cpu: the processor's seconds in this process, of all its threads, where they were counted. What else the
            machine does adds little to them.
    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.seconds), max(self.seconds)

    def ratio(self, base: "Timing") -> float:
        """The median of the rounds' ratios to the base's of the same round.

        Rounds in which the clock saw no time pass for the base do not count; where none does, NaN.
        """
        ratios = [
            mine / theirs for mine, theirs in zip(self.seconds, base.seconds, strict=True) if theirs > 0
        ]
        return statistics.median(ratios) if ratios else math.nan


@dataclass
class Part:
    """One part's figures.

    Attributes:
        unit: "s", "ms" or "MB".
        base: the row that the others are compared with; "": none.
        notes: a line each: who is missing and why, and what else there is to say.
        columns: further ones, by their heading: what they say of which row.
        errors: of rows that compute scores, the largest difference from float64 over the largest score.
    """

    title: str
    unit: str
    base: str
    rows: dict[str, Timing]
    notes: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)


def side_by_side(
    actions: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: str = "cpu",
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time each action once a round, after a round that does not count.

    Args:
        device: "cuda": what was started there is waited for, before and after.
        tick: called after each action, also in the first round.
    """
    timings = {name: Timing() for name in actions}
    for turn in range(rounds + 1):
        gc.collect()
        for name, action in actions.items():
            cpu = time.process_time()
            seconds = timed(action, device)
            cpu = time.process_time() - cpu
            if turn:
                timings[name].seconds.append(seconds)
                timings[name].cpu.append(cpu)
            tick()
    return timings


def timed(action: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds that an action takes, what it started on the device included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
