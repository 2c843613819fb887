"""What `seenet parity` finds, and what it calls within or out (the port's rule: `rule.py`)."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from parity_tests.compare.rule import Errors

OUTSIDE = 1e-5
"""What every engine but the port may be off, as a share of a blob's largest magnitude: as whole nets may."""

NET, CAFFE_NET = "pycaffe's Net", "CaffeNet"
"""The two ways in which the port runs a net."""

LEGEND = (
    "Compared with the reference in float64. |Δ|: the largest difference; of max: as a share of the blob's "
    "largest magnitude; × ref: as a multiple of the float32 reference's own. Within: the port, where each layer "
    "alone, run on the port's own bottoms, rounds no more than four times as much as the float32 reference does, "
    "both pycaffe's Net and CaffeNet (the worse is shown); the others up to 1e-05 of max; inherited: more than "
    "that, but only by what the bottoms bring. Inputs and Split layers' copies are left out."
)
"""What the table and the page say of their columns and of the rule."""


@dataclass(frozen=True)
class Face:
    """One blob of the port, run in one way.

    Attributes:
        difference: the largest absolute difference from truth; infinite for NaN or another shape.
        alone: the worst of the layers that write to the blob, each on the port's own bottoms.
    """

    difference: float
    alone: Errors

    @property
    def within(self) -> bool:
        return self.alone.within


@dataclass(frozen=True)
class Row:
    """One blob of one engine.

    Attributes:
        largest: the blob's largest magnitude in truth.
        difference: the largest absolute difference from truth; infinite for NaN or another shape. Of the port's
            two ways the larger.
        own: the float32 reference's largest absolute difference.
        faces: the port's two ways, by `NET` and `CAFFE_NET`; empty for the other engines.
        apart: the largest absolute difference between these two.
        alone: of the other engines, looked up only where `difference` is more than allowed: the difference from
            what float64 makes of the engine's own bottoms.
    """

    engine: str
    blob: str
    largest: float
    difference: float
    own: float
    faces: Mapping[str, Face] = field(default_factory=dict)
    apart: float = 0.0
    alone: float | None = None

    @property
    def relative(self) -> float:
        """The difference as a share of the blob's largest magnitude."""
        return _share(self.difference, self.largest, 0.0)

    @property
    def ratio(self) -> float:
        """How many times the float32 reference's own difference; NaN where both are 0."""
        return _share(self.difference, self.own, math.nan)

    @property
    def beyond(self) -> bool:
        """More than a whole net may be off; the port is not judged by this."""
        return not self.difference <= OUTSIDE * self.largest

    @property
    def inherited(self) -> bool:
        """Beyond, but not by the layer's own fault: its bottoms differ already, and it enlarges that."""
        return self.alone is not None and self.alone <= OUTSIDE * self.largest

    @property
    def out(self) -> list[str]:
        """Of the port's two ways, those that are out."""
        return [name for name, face in self.faces.items() if not face.within]

    @property
    def within(self) -> bool:
        return not self.out if self.faces else not self.beyond or self.inherited

    @property
    def reason(self) -> str:
        """How far a row that is out is off, and what is allowed."""
        if self.out and math.isfinite(self.difference):
            return max((self.faces[name].alone for name in self.out), key=lambda alone: alone.excess).reason
        return f"by {self.difference:.1e} where {OUTSIDE * self.largest:.1e} is allowed"


def _share(part: float, whole: float, of_nothing: float) -> float:
    if whole:
        return part / whole
    return math.inf if part else of_nothing


@dataclass
class EngineReport:
    """What one engine did.

    Attributes:
        seconds: of its forward pass (OpenCV's and the ONNX route's: with reading or converting the net).
        rows: in the order of the net.
        flips: mask positions that were erased, negated or kept otherwise than in truth, by mask layer.
        not_carried: layers that the engine cannot run, each with the reason.
    """

    name: str
    seconds: float
    rows: list[Row]
    flips: dict[str, int]
    not_carried: dict[str, str]

    @property
    def within(self) -> bool:
        """There are blobs, every one is within the rule, and not one decision differs."""
        return bool(self.rows) and not self.out and not any(self.flips.values())

    @property
    def out(self) -> list[Row]:
        """The rows that are out, the first in the net first."""
        return [row for row in self.rows if not row.within]

    @property
    def summary(self) -> str:
        """One line: "port: 26 blobs in 1.72 s, worst conv5_2 3.1e-07 of its maximum …: within"."""
        start = f"{self.name}: {len(self.rows)} blobs in {self.seconds:.2f} s"
        if self.out:
            first = self.out[0]
            return f"{start}, {len(self.out)} out, the first {first.blob} {first.reason}: OUT{_which(first)}"
        if not self.rows:
            return f"{start}: nothing to compare"
        worst = max(self.rows, key=lambda row: row.relative)
        own = _share(worst.own, worst.largest, 0.0)
        itself = "" if self.name == "reference" else f" (reference itself {own:.1e})"
        verdict = "OUT, for its C-ReLU positions" if any(self.flips.values()) else "within"
        return f"{start}, worst {worst.blob} {worst.relative:.1e} of its maximum{itself}: {verdict}"

    @property
    def notes(self) -> list[str]:
        """Where the port's two ways part, blobs that are within only on a closer look, layers that are missing."""
        closer = [
            f"{row.blob}: {self.name} differs by more than allowed only because its bottoms differ: from what "
            f"float64 makes of them it differs by {row.alone:.1e}"
            for row in self.rows
            if row.inherited
        ]
        missing = [
            f"not supported by {self.name}: {layer} ({why})" for layer, why in self.not_carried.items()
        ]
        return self._apart() + closer + missing

    def _apart(self) -> list[str]:
        """Whether pycaffe's Net and CaffeNet agree."""
        both = [row for row in self.rows if row.faces]
        if not both:
            return []
        parted = [row for row in both if len(row.out) == 1]
        if parted:
            first = parted[0]
            (wrong,) = first.out
            right = NET if wrong == CAFFE_NET else CAFFE_NET
            return [
                f"port: pycaffe's Net and CaffeNet differ beyond rounding in {len(parted)} blobs, first in "
                f"{first.blob} by {first.apart:.1e}: {wrong} is out, {right} is within"
            ]
        worst = max(both, key=lambda row: _share(row.apart, row.largest, 0.0))
        if not worst.apart:
            return ["port: pycaffe's Net and CaffeNet are equal in every blob"]
        share = _share(worst.apart, worst.largest, 0.0)
        return [
            f"port: pycaffe's Net and CaffeNet differ by rounding only, at most in {worst.blob} by {share:.1e} "
            "of its maximum"
        ]


@dataclass
class ParityReport:
    """What `compare` found.

    Attributes:
        title: what was run.
        shapes: of the compared blobs, in the order in which the net makes them.
        positions: how many positions SeeNet's masks decide on, by mask layer.
        truth_seconds: of the float64 forward pass.
        remarks: on what was run.
        absent: engines that were named and could not run, each with the reason.
    """

    title: str
    shapes: dict[str, tuple[int, ...]]
    positions: dict[str, int]
    truth_seconds: float
    engines: list[EngineReport]
    remarks: list[str]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        return [row for engine in self.engines for row in engine.rows]

    @property
    def within(self) -> bool:
        """Every engine that was named ran, and is within."""
        return not self.absent and all(engine.within for engine in self.engines)

    def by_blob(self) -> Iterator[tuple[str, dict[str, Row]]]:
        """Each blob with its rows by engine."""
        rows = self.rows
        for blob in self.shapes:
            yield blob, {row.engine: row for row in rows if row.blob == blob}

    @property
    def notes(self) -> list[str]:
        """The closing lines: each engine's summary, the masks' decisions, and what else there is to say."""
        lines = [f"truth: the reference in float64, in {self.truth_seconds:.2f} s"]
        lines += [engine.summary for engine in self.engines]
        lines += [f"{engine} is not available: {why}" for engine, why in self.absent.items()]
        lines += [self._decided()] if self.positions else []
        return lines + [note for engine in self.engines for note in engine.notes] + self.remarks

    def _decided(self) -> str:
        counts = [
            f"{engine.name} {sum(engine.flips.values()) if engine.flips else 'not known'}"
            for engine in self.engines
        ]
        return f"C-ReLU positions that differ, of {sum(self.positions.values())}: {', '.join(counts)}"


def numbers(row: Row) -> tuple[str, str, str]:
    """|Δ|, of max and × ref, as the table and the page show them."""
    return _number(row.difference, ".1e"), _number(row.relative, ".1e"), _number(row.ratio, ".2f")


def _number(value: float, form: str) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else "0" if value == 0 else format(value, form)


def verdict(rows: Iterable[Row]) -> str:
    """What one blob's line ends with."""
    rows = list(rows)
    if not rows:
        return "not supported"
    out = [row.engine + _which(row) for row in rows if not row.within]
    if out:
        return f"OUT: {', '.join(out)}"
    return "within, inherited" if any(row.inherited for row in rows) else "within"


def _which(row: Row) -> str:
    """Which of the port's two ways is out, where only one is."""
    return f" ({row.out[0]})" if len(row.out) == 1 else ""
