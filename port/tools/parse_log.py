"""parse_log: a training log's numbers as LOG.train and LOG.test, the CSV files of Caffe's parse_log.py."""

import argparse
import csv
import datetime
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from prototxt.errors import InputError
from prototxt.files import read_text
from weights.files import atomic_path

Row = dict[str, float]

_NUMBER = r"([-+]?(?:nan|inf|[\d.]+(?:[eE][-+]?\d+)?))"
_ITERATION = re.compile(r"Iteration (\d+)")
_RATE = re.compile(rf"lr = {_NUMBER}")
_LOSS = re.compile(rf"Iteration \d+.*, loss = {_NUMBER}")
_OUTPUT = re.compile(rf"(Train|Test) net output #\d+: (\S+) = {_NUMBER}")
_STAMP = re.compile(r"[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{6})")


@dataclass
class Table:
    """Rows in the order of the log: NumIters, Seconds, LearningRate, then the outputs by name.

    A row is full when it has as many columns as the first one: two test nets make two rows.
    """

    rows: list[Row] = field(default_factory=list)
    open: Row | None = None

    def add(self, iteration: float, seconds: float, rate: float, name: str, value: float) -> None:
        if self.open is None or self.open["NumIters"] != iteration:
            self.flush()
            self.open = {"NumIters": iteration, "Seconds": seconds, "LearningRate": rate}
        self.open[name] = value
        if self.rows and len(self.open) == len(self.rows[0]):
            self.flush()

    def flush(self) -> None:
        """Close the open row."""
        if self.open is not None:
            self.rows.append(self.open)
            self.open = None


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("parse_log", description=__doc__)
    parser.add_argument("logfile_path", help="the log")
    parser.add_argument("output_dir", help="the folder for the two files")
    parser.add_argument("--verbose", action="store_true", help="say what is written")
    parser.add_argument("--delimiter", default=",", help="what stands between columns (default: a comma)")
    args = parser.parse_args(arguments)
    if len(args.delimiter) != 1:
        raise InputError(f"--delimiter {args.delimiter!r}: must be one character")
    base = os.path.join(args.output_dir, os.path.basename(args.logfile_path))
    tables = parse_log(args.logfile_path)
    for kind in ("train", "test"):
        path, rows = f"{base}.{kind}", tables[kind]
        if rows:
            write_csv(path, rows, args.delimiter)
        if args.verbose:
            print(f"Wrote {path}" if rows else f"Not writing {path}; no lines to write")
    return 0


def parse_log(path: str) -> dict[str, list[Row]]:
    """A log's tables: "train" and "test", its nets' outputs; "solver", the smoothed "loss".

    Raises:
        InputError: a file that cannot be read, or in which nothing is solved.
    """
    tables = {"train": Table(), "test": Table(), "solver": Table()}
    iteration, rate = -1.0, float("nan")
    clock = _Clock(path)
    for line in _lines(path):
        seconds = clock.seconds(line)
        if clock.start is None:
            continue
        if found := _ITERATION.search(line):
            iteration = float(found[1])
        if seconds is None or iteration < 0:
            continue
        if found := _RATE.search(line):
            rate = float(found[1])
        if found := _LOSS.search(line):
            tables["solver"].add(iteration, seconds, rate, "loss", float(found[1]))
        if found := _OUTPUT.search(line):
            tables[found[1].lower()].add(iteration, seconds, rate, found[2], float(found[3]))
    if clock.start is None:
        raise InputError(f'{path}: has no line with "Solving": give the log of caffe train')
    for table in tables.values():
        if not table.rows:  # a row that was begun last is dropped, as in Caffe, but not an only one
            table.flush()
        if len(table.rows) > 1:  # the rate is told only after the first outputs
            table.rows[0]["LearningRate"] = table.rows[1]["LearningRate"]
    return {kind: table.rows for kind, table in tables.items()}


class _Clock:
    """Seconds since the line that says "Solving". The log tells no year: it is the file's, and goes on."""

    def __init__(self, path: str):
        self.year = (
            datetime.datetime.fromtimestamp(os.path.getctime(path)).year if os.path.exists(path) else 1
        )
        self.start: datetime.datetime | None = None
        self._last: datetime.datetime | None = None

    def seconds(self, line: str) -> float | None:
        """None for a line without a time, or before the start."""
        found = _STAMP.match(line)
        if not found or (self.start is None and "Solving" not in line):
            return None
        try:
            now = datetime.datetime(self.year, *map(int, found.groups()))
            if self._last and now.month < self._last.month:
                self.year += 1
                now = now.replace(year=self.year)
        except ValueError:  # no such day
            return None
        self._last = now
        self.start = self.start or now
        return (now - self.start).total_seconds()


def _lines(path: str) -> list[str]:
    try:
        return io.StringIO(read_text(path, errors="replace"), newline=None).readlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from error


def write_csv(path: str, rows: Sequence[Row], delimiter: str = ",") -> None:
    """Write rows under the names of their columns; one that a row lacks stays empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as beside, open(beside, "w", newline="") as file:
        writer = csv.DictWriter(file, names, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
