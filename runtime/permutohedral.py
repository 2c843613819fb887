"""Sums over all pairs of points by the permutohedral lattice (Adams, Baek and Davis, Eurographics 2010).

The filter of fully connected CRFs as Krähenbühl and Koltun's code, and its copies in DeepLab and CRF-RNN, have it: an
approximation of a Gaussian kernel, which those layers compute and no sum over all pairs would. The positions are in
single precision, as there.
"""

import numpy as np


class Permutohedral:
    """Gaussian filtering of values at points of a feature space, the standard deviation being 1 in each feature.

    Args:
        features: (points, dimensions).
    """

    def __init__(self, features: np.ndarray):
        features = np.ascontiguousarray(features, np.float32)
        self.points, self.dimensions = features.shape
        d = self.dimensions
        keys, weights = _embedded(features)
        lattice, corners = np.unique(keys.reshape(-1, d), axis=0, return_inverse=True)
        self.size = len(lattice)
        self.corners = corners.reshape(self.points, d + 1)
        self.weights = weights
        self.neighbours = [_neighbours(lattice, axis) for axis in range(d + 1)]

    def filter(self, values: np.ndarray) -> np.ndarray:
        """(channels, points) filtered, in the values' dtype; not normalised."""
        channels = len(values)
        # One place more, of zeros, for the neighbours that there are not.
        lattice = np.zeros((self.size + 1, channels), values.dtype)
        weights = self.weights.astype(values.dtype)
        for corner in range(self.dimensions + 1):
            np.add.at(lattice, self.corners[:, corner], weights[:, corner, None] * values.T)
        half = values.dtype.type(0.5)
        for before, after in self.neighbours:
            lattice[:-1] += half * (lattice[before] + lattice[after])
        alpha = values.dtype.type(1 / (1 + 2.0**-self.dimensions))
        found = sum(
            weights[:, corner, None] * lattice[self.corners[:, corner]]
            for corner in range(self.dimensions + 1)
        )
        return (found * alpha).T


def _embedded(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point its simplex's corners (points, d + 1, d), as keys, and its weights for them (points, d + 1)."""
    points, d = features.shape
    scale = np.sqrt(2 / 3) * (d + 1) / np.sqrt((np.arange(d) + 1.0) * (np.arange(d) + 2.0))
    scaled = features * scale.astype(np.float32)
    elevated = np.empty((points, d + 1), np.float32)
    total = np.zeros(points, np.float32)
    for i in range(d, 0, -1):
        elevated[:, i] = total - np.float32(i) * scaled[:, i - 1]
        total = total + scaled[:, i - 1]
    elevated[:, 0] = total
    # The nearest point of remainder 0, and how far its coordinates are off the plane.
    step = np.float32(1 / (d + 1))
    low, high = np.floor(elevated * step) * (d + 1), np.ceil(elevated * step) * (d + 1)
    nearest = np.where(high - elevated < elevated - low, high, low)
    excess = np.rint(nearest.sum(axis=1) / (d + 1)).astype(np.int64)
    # Coordinates by falling distance: of equal ones, the first comes first.
    order = np.argsort(nearest - elevated, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(d + 1)[None], 1)
    rank = rank + excess[:, None]
    nearest = nearest + np.where(rank < 0, d + 1, 0) - np.where(rank > d, d + 1, 0)
    rank = rank + np.where(rank < 0, d + 1, 0) - np.where(rank > d, d + 1, 0)
    share = (elevated - nearest) * step
    weights = np.zeros((points, d + 2), np.float32)
    rows = np.arange(points)[:, None]
    np.add.at(weights, (rows, d - rank), share)
    np.add.at(weights, (rows, d + 1 - rank), -share)
    weights[:, 0] += 1 + weights[:, d + 1]
    keys = np.empty((points, d + 1, d), np.int64)
    for remainder in range(d + 1):
        keys[:, remainder] = nearest[:, :d] + remainder - np.where(rank[:, :d] > d - remainder, d + 1, 0)
    return keys, weights[:, : d + 1]


def _neighbours(lattice: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """For each place the one before and the one after along an axis of the lattice; `len(lattice)` where none is."""
    d = lattice.shape[1]
    step = np.ones(d, np.int64)
    if axis < d:
        step[axis] = -d
    return _found(lattice, lattice - step), _found(lattice, lattice + step)


def _found(lattice: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    low = np.minimum(lattice.min(axis=0), wanted.min(axis=0))
    spans = np.maximum(lattice.max(axis=0), wanted.max(axis=0)) - low + 1
    here, there = (np.ravel_multi_index((keys - low).T, spans) for keys in (lattice, wanted))
    order = np.argsort(here)
    place = np.searchsorted(here, there, sorter=order).clip(max=len(here) - 1)
    place = order[place]
    return np.where(here[place] == there, place, len(here))
