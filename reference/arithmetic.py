"""Caffe's arithmetic, where its rounding shows."""

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) as Caffe writes it, 0.5 tanh(0.5 x) + 0.5, whose constants make it double."""
    return (0.5 * np.tanh(0.5 * x.astype(np.float64)) + 0.5).astype(x.dtype)


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) as YOLO's layers write it, in double precision."""
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype)


def added_up(terms: np.ndarray) -> np.ndarray | np.floating:
    """Sums over the last axis, one term after another as Caffe's own loops add.

    In float32, over many terms, this is not what NumPy's sum gives.
    """
    if not terms.shape[-1]:
        return terms.sum(axis=-1)
    return np.add.accumulate(terms, axis=-1)[..., -1]
