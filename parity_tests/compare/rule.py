"""The rule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EPS = 2.0**-24
FACTOR_RMS, FLOOR_RMS = 4.0, 4 * EPS
FACTOR_MAX, FLOOR_MAX = 4.0, 8 * EPS


@dataclass(frozen=True)
class Errors:
    rms: float
    largest: float
    own_rms: float
    own_largest: float
    scale_rms: float
    scale_largest: float
    count: int = 0
    samples: int = 0

    @classmethod
    def of(cls, top, truth, own: Sequence[np.ndarray]) -> "Errors":
        if top.shape != truth.shape:
            return cls(math.inf, math.inf, 0, 0, 0, 0)
        scale = _norms([truth])
        with np.errstate(invalid="ignore"):
            error = _norms([top - truth])
        return cls(*error, *_norms(own), *scale, truth.size, len(own))

    @property
    def allowed_rms(self) -> float:
        return FACTOR_RMS * self.own_rms + FLOOR_RMS * self.scale_rms

    @property
    def allowed_largest(self) -> float:
        return FACTOR_MAX * self.own_largest + FLOOR_MAX * self.scale_largest

    @property
    def excess(self) -> float:
        """The error as a share of what is allowed, the worse of the two norms; infinite for NaN."""
        shares = [_over(self.rms, self.allowed_rms), _over(self.largest, self.allowed_largest)]
        return math.inf if any(map(math.isnan, shares)) else max(shares)

    @property
    def reason(self) -> str:
        """How far the layer is off and what is allowed, in the norm that is worse."""
        rms = _over(self.rms, self.allowed_rms), "root mean square", self.rms, self.allowed_rms
        most = _over(self.largest, self.allowed_largest), "largest", self.largest, self.allowed_largest
        _, norm, error, allowed = max(rms, most)
        return f"by {error:.1e} on its own bottoms ({norm}) where {allowed:.1e} is allowed"

    @property
    def within(self) -> bool:
        return self.excess <= 1


def _over(error: float, allowed: float) -> float:
    return error / allowed if allowed else (math.inf if error else 0.0)


def _norms(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """Root mean square and largest magnitude; infinite for NaN."""
    count = sum(a.size for a in arrays)
    if not count:
        return 0.0, 0.0
    square = sum(float(np.vdot(a, a)) for a in map(np.float64, arrays))
    largest = max(float(np.abs(a).max(initial=0)) for a in arrays)
    if math.isnan(square) or math.isnan(largest):
        return math.inf, math.inf
    return math.sqrt(square / count), largest
