"""What `seenet parity` finds, and the rule by which it calls it within or out."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

OUTSIDE = ("reference", "opencv", "onnxruntime", "onnx2torch", "caffe")
"""Engines that are held to the tolerance of whole nets; the others to the float32 reference's own error."""


def allowed_difference(engine: str, own: float, largest: float) -> float:
    """The largest absolute difference from float64 that an engine may have: the one rule of the command.

    Args:
        own: the float32 reference's largest difference at the same place.
        largest: the blob's largest magnitude in float64.

    The port may be 1.5 times as far off as the float32 reference is, plus 1e-7 of the blob's largest
    magnitude (so that a blob where the reference happens to be exact is no trap). The reference itself and
    the outside opinions may be 1e-5 of that magnitude off, as whole nets may.
    """
    return 1e-5 * largest if engine in OUTSIDE else 1.5 * own + 1e-7 * largest


LEGEND = (
    "Held against the reference in float64. |Δ|: the largest difference; of max: as a share of the blob's "
    "largest magnitude; × ref: as a multiple of the float32 reference's own. Within: the port up to "
    "1.5 × ref + 1e-07 of max, the others up to 1e-05 of max; inherited: further off, but only by what its "
    "bottoms bring. Inputs and Split layers' copies are left out."
)
"""What the table and the page say of their columns and of the rule."""


@dataclass(frozen=True)
class Row:
    """One blob of one engine.

    Attributes:
        largest: the blob's largest magnitude in truth.
        difference: the largest absolute difference from truth; infinite for NaN or another shape.
        own: the float32 reference's largest absolute difference.
        alone: looked up only where `difference` is more than allowed: the difference from what float64
            makes of the engine's own bottoms, and the same of the float32 reference.
    """

    engine: str
    blob: str
    largest: float
    difference: float
    own: float
    alone: tuple[float, float] | None = None

    @property
    def relative(self) -> float:
        """The difference as a share of the blob's largest magnitude."""
        return _share(self.difference, self.largest, 0.0)

    @property
    def ratio(self) -> float:
        """How many times the float32 reference's own difference; NaN where both are 0."""
        return _share(self.difference, self.own, math.nan)

    @property
    def allowed(self) -> float:
        return allowed_difference(self.engine, self.own, self.largest)

    @property
    def beyond(self) -> bool:
        """More than allowed."""
        return self.difference > self.allowed or math.isinf(self.difference)

    @property
    def inherited(self) -> bool:
        """More than allowed, yet not by its own layers' doing.

        What a saturated sigmoid or a softmax shows of its bottoms' differences hangs on one or two values,
        and so on luck, the reference's included. Such a blob is held to the same rule on the engine's own
        bottoms, provided that nothing before it is out.
        """
        return self.alone is not None and self.alone[0] <= allowed_difference(
            self.engine, self.alone[1], self.largest
        )

    @property
    def within(self) -> bool:
        return not self.beyond or self.inherited


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
            return (
                f"{start}, {len(self.out)} out, the first {first.blob} by {first.difference:.1e} "
                f"where {first.allowed:.1e} is allowed: OUT"
            )
        if not self.rows:
            return f"{start}: nothing to compare"
        worst = max(self.rows, key=lambda row: row.relative)
        own = _share(worst.own, worst.largest, 0.0)
        itself = "" if self.name == "reference" else f" (reference itself {own:.1e})"
        verdict = "OUT, for its C-ReLU positions" if any(self.flips.values()) else "within"
        return f"{start}, worst {worst.blob} {worst.relative:.1e} of its maximum{itself}: {verdict}"

    @property
    def notes(self) -> list[str]:
        """Blobs that are within only on a closer look, and layers that are not carried."""
        closer = [
            f"{row.blob}: {self.name} is further off than allowed by what it inherits alone: from what float64 "
            f"makes of its own bottoms it differs by {row.alone[0]:.1e}, the reference by {row.alone[1]:.1e}"
            for row in self.rows
            if row.inherited
        ]
        missing = [f"not carried by {self.name}: {layer} ({why})" for layer, why in self.not_carried.items()]
        return closer + missing


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
        lines += [f"{engine} takes no part: {why}" for engine, why in self.absent.items()]
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
        return "not carried"
    out = [row.engine for row in rows if not row.within]
    if out:
        return f"OUT: {', '.join(out)}"
    return "within, inherited" if any(row.inherited for row in rows) else "within"
