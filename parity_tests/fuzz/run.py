"""Trying broken files in a process that may die, hang or grow, and keeping the smallest that does it."""

import faulthandler
import hashlib
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from parity_tests.fuzz.edits import Edit, draw_edits
from parity_tests.fuzz.targets import TARGETS
from prototxt.errors import InputError

MOST_SECONDS = 5.0
"""Of processor time for a case: other work on the machine makes no hang."""

MOST_WAIT = 60.0
"""Seconds by the clock: for what waits without working."""

MOST_BYTES = 300 << 20
"""What a case may take, or ten times its file."""

_BATCH = 500  # cases in a process: what one leaves behind must not be blamed on another for long
_OK, _REFUSED, _FAULT, _HANG, _GREW = range(5)


@dataclass
class Outcome:
    """What came of a target.

    Attributes:
        found: the kind of each finding ("KeyError at hdf5.py:12", "killed by signal 7", …) and its file.
    """

    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    found: dict[str, Path] = field(default_factory=dict)


class _HangError(BaseException):
    """Nothing that is fuzzed may catch it."""


def _late(number: int, frame: object) -> None:
    raise _HangError


def fuzz(name: str, seconds: float, seed: int, out: Path, most_cases: int = 1 << 60) -> Outcome:
    """Try a target for so long, each case drawn from `seed` and its number.

    Each finding is written to `out`, one of a kind, cut down to the edits that it needs.
    """
    seeds = TARGETS[name].seeds()
    began, outcome = time.monotonic(), Outcome()
    if TARGETS[name].is_slow:
        most_cases = -(-most_cases // 10)
    first = 0
    while time.monotonic() - began < seconds and first < most_cases:
        last = min(first + _BATCH, most_cases)
        left = seconds - (time.monotonic() - began)
        at, kind, refused = _in_child(name, [_case(seeds, seed, i) for i in range(first, last)], left)
        outcome.refused += refused
        outcome.cases += at
        if kind and kind not in outcome.found:
            outcome.found[kind] = _keep(name, *_case(seeds, seed, first + at - 1), kind, out)
        first += max(at, 1)
    outcome.seconds = time.monotonic() - began
    return outcome


def _case(seeds: Sequence[bytes], seed: int, number: int) -> tuple[bytes, list[Edit]]:
    source = random.Random(f"{seed} {number}")
    return source.choice(seeds), draw_edits(source)


def _in_child(name: str, cases: Sequence[tuple[bytes, list[Edit]]], seconds: float) -> tuple[int, str, int]:
    """How many cases were tried, what went wrong with the last of them ("" for nothing), how many were refused."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        status = 1
        try:
            _try_all(name, cases, seconds, writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as told:
        lines = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    tried = sum(line == "case" for line in lines)
    wrong = next((line[6:] for line in lines if line.startswith("wrong ")), "")
    if not wrong and os.WIFSIGNALED(status):
        wrong = f"killed by signal {os.WTERMSIG(status)}{last_place(lines)}"
    elif not wrong and os.WEXITSTATUS(status):
        wrong = f"ended with status {os.WEXITSTATUS(status)}"
    return tried, wrong, lines.count("refused")


def last_place(lines: Sequence[str]) -> str:
    """Where a process was that a signal ended, as faulthandler tells: whose fault it is."""
    found = next((_FRAME.match(line) for line in lines if _FRAME.match(line)), None)
    return f" at {'/'.join(Path(found[1]).parts[-2:])}:{found[2]}" if found else ""


_FRAME = re.compile(r'  File "(.+)", line (\d+)')


def _try_all(name: str, cases: Sequence[tuple[bytes, list[Edit]]], seconds: float, pipe: int) -> None:
    faulthandler.enable(pipe)  # tells where in Python it was, should a signal end the process
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    target, until = TARGETS[name], time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        path = Path(folder) / f"case{target.suffix}"
        for data, edits in cases:
            if time.monotonic() > until:
                return
            path.write_bytes(target.breaks(data, edits, target.is_text))
            os.write(pipe, b"case\n")
            wrong = try_file(name, path)
            if wrong == "refused":
                os.write(pipe, b"refused\n")
            elif wrong:
                os.write(pipe, f"wrong {wrong}\n".encode())
                return


def try_file(name: str, path: Path) -> str:
    """ "" where the file was taken, "refused", or what went wrong."""
    size, before = path.stat().st_size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = _try_one(name, path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if wrong in ("", "refused") and grown > max(MOST_BYTES, 10 * size):
        return f"took {grown >> 20} MB"
    return wrong


def _try_one(name: str, path: Path) -> str:
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _late)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, MOST_WAIT)
    try:
        TARGETS[name].attempt(path)
    except InputError as error:
        return "an error of several lines" if "\n" in str(error) else "refused"
    except _HangError:
        return "took too long"
    except BaseException as error:
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "site-packages" not in frame.filename
        ]
        return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def _keep(name: str, data: bytes, edits: list[Edit], kind: str, out: Path) -> Path:
    """Write the case, cut down: fewer edits, as long as the same comes of it."""

    def same(fewer: list[Edit]) -> bool:
        return _in_child(name, [(data, fewer)], 60)[1] == kind

    for edit in list(edits):
        fewer = [other for other in edits if other is not edit]
        if fewer and same(fewer):
            edits = fewer
    target = TARGETS[name]
    file = target.breaks(data, edits, target.is_text)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-{hashlib.sha256(file).hexdigest()[:10]}{target.suffix}"
    path.write_bytes(file)
    path.with_name(f"{path.name}.json").write_text(
        json.dumps({"target": name, "what": kind, "edits": edits}) + "\n"
    )
    return path


def fuzz_all(names: Sequence[str], seconds: float, seed: int, out: Path, most_cases: int) -> int:
    """Fuzz one target after the other, tell of each, and the number of findings."""
    torch.set_num_threads(1)  # a forked process has none of the other threads
    found = 0
    for name in names:
        outcome = fuzz(name, seconds / len(names), seed, out, most_cases)
        share = outcome.refused / max(outcome.cases, 1)
        print(f"{name}: {outcome.cases:,} cases in {outcome.seconds:.0f} s, {share:.0%} refused", flush=True)
        for kind, path in outcome.found.items():
            print(f"  {kind}: {path}", flush=True)
        found += len(outcome.found)
    print(f"{found} findings{f' in {out}' if found else ''}")
    sys.stdout.flush()
    return found
