"""By what the port is called within or out: how far each layer alone may be from float64.

A layer is run on the port's own bottoms, in float64 and, as the yardstick, in the float32 reference. So what a
layer inherits does not count, however much it enlarges it, and nothing hides behind what it inherits: a net of
layers that are right is right. (The port's error at the end of a net over the reference's, the rule until now, is a
ratio of two nearly random numbers where a blob has few values: it exceeds 1.5 in every second net that is right.)

Two norms are compared, the root mean square, which a fault in many values moves, and the largest, which a fault in
one value moves. A layer that is right rounds a few times in each value, in another order than the reference. Let
u = 2^-24 be float32's unit of rounding. Its error may be

    4 × the yardstick + 4u × the top's root mean square       (root mean square)
    4 × the yardstick + 8u × the top's largest magnitude      (largest)

The last terms are for layers where the reference happens to be exact, or rounds once where the port rounds a few
times. The yardstick is the reference's own error, and the greater of two for sums of products (Convolution,
Deconvolution, InnerProduct), since libraries sum in different orders: many short chains are far more exact than one
long one, and Caffe itself was built with both kinds. A chain of n float32 sums has partial sums that drift to the
result y and walk about it: with S = Σ |x|·|w| their squares add up to about n·y²/3 + S²/2, each rounds by 0.41u of
itself, and so the chain is off by about u/4 × √(S² + n·y²). (Measured here for PyTorch's InnerProduct: 0.22 to 0.27
of u·S, from 100 to 60000 terms. The largest of many such errors is three or more times that.)

Where a top has few values (a loss has one), the reference's own error is sampled again on bottoms that differ by a
few per cent, until there are some hundred values: one value's error may be 0 by luck.

What was measured, alarms on nets that are right and faults that are found: docs/parity.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EPS = 2.0**-24
TIMES = 4.0
FLOOR_RMS, FLOOR_LARGEST = 4 * EPS, 8 * EPS
CHAIN = 0.25 * EPS
LARGEST_OF_MANY = 3.0


@dataclass(frozen=True)
class Errors:
    """How far one top is from what float64 makes of the same bottoms.

    Attributes:
        rms, largest: the error's root mean square and largest magnitude; infinite for NaN or another shape.
        own_rms, own_largest: the yardstick's.
        scale_rms, scale_largest: the top's own, in float64.
        count: the top's values.
    """

    rms: float
    largest: float
    own_rms: float
    own_largest: float
    scale_rms: float
    scale_largest: float
    count: int

    @classmethod
    def of(
        cls,
        top: np.ndarray,
        truth: np.ndarray,
        own: Sequence[np.ndarray] = (),
        chain: np.ndarray | None = None,
    ) -> "Errors":
        """From a top, float64's, the reference's errors in each sample, and `chain_error`'s where there is one."""
        error, scale = _norms([difference(top, truth)]), _norms([finite(truth)])
        own_rms, own_largest = _norms(own)
        if chain is not None:
            chain_rms, chain_largest = _norms([chain])
            own_rms, own_largest = (
                max(own_rms, chain_rms),
                max(own_largest, LARGEST_OF_MANY * chain_largest),
            )
        return cls(*error, own_rms, own_largest, *scale, truth.size)

    @property
    def allowed_rms(self) -> float:
        return TIMES * self.own_rms + FLOOR_RMS * self.scale_rms

    @property
    def allowed_largest(self) -> float:
        return TIMES * self.own_largest + FLOOR_LARGEST * self.scale_largest

    @property
    def excess(self) -> float:
        """The error as a share of what is allowed, in the norm that is worse; infinite for NaN."""
        shares = [_over(self.rms, self.allowed_rms), _over(self.largest, self.allowed_largest)]
        return math.inf if any(map(math.isnan, shares)) else max(shares)

    @property
    def within(self) -> bool:
        return self.excess <= 1

    @property
    def reason(self) -> str:
        """How far the layer is off and what is allowed, in the norm that is worse."""
        if _over(self.rms, self.allowed_rms) > _over(self.largest, self.allowed_largest):
            norm, error, allowed = "root mean square", self.rms, self.allowed_rms
        else:
            norm, error, allowed = "largest", self.largest, self.allowed_largest
        return f"by {error:.1e} on its own bottoms ({norm}) where {allowed:.1e} is allowed"


def difference(array: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`array` less `truth`, value by value; 0 where both are equally beyond float32 (infinite, not a number).

    One infinite value instead where the shapes differ, or where no value of truth is finite: that proves nothing.
    """
    if array.shape != truth.shape:
        return np.full(1, np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = truth.astype(np.float32)
        beyond = ~np.isfinite(rounded)
        if not beyond.any():
            return array - truth
        if beyond.all():
            return np.full(1, np.inf)
        same = (array == rounded) | (np.isnan(array) & np.isnan(rounded))
        return np.where(beyond & same, 0, array - truth)


def finite(truth: np.ndarray) -> np.ndarray:
    """The values, 0 for those that are beyond float32."""
    with np.errstate(over="ignore"):
        return np.where(np.isfinite(truth.astype(np.float32)), truth, 0)


def chain_error(magnitudes: np.ndarray, terms: int, sums: np.ndarray) -> np.ndarray:
    """How far a chain of float32 sums is likely to be off (a standard deviation), for each value.

    Args:
        magnitudes: the sums of the terms' magnitudes.
        terms: how many they are.
        sums: the sums themselves.
    """
    return CHAIN * np.sqrt(np.square(magnitudes, dtype=np.float64) + terms * np.square(sums))


def _over(error: float, allowed: float) -> float:
    if allowed:
        return error / allowed
    return math.inf if error else 0.0


def _norms(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """Root mean square and largest magnitude; infinite for NaN."""
    count = sum(array.size for array in arrays)
    if not count:
        return 0.0, 0.0
    largest = max(float(np.abs(array).max(initial=0)) for array in arrays)
    if not math.isfinite(largest):
        return math.inf, math.inf
    if not largest:
        return 0.0, 0.0
    square = sum(float(np.vdot(x, x)) for x in (array.ravel() / largest for array in arrays))
    return largest * math.sqrt(square / count), largest
