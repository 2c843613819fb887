"""Caffe's random numbers: the stream of boost's mt19937, and what Caffe (float, CPU) makes of its words.

Every method reads exactly the words that Caffe reads for the same call, so that any order of calls stays in
step with Caffe's, and drawing in pieces gives the same numbers as drawing at once. Nothing is read ahead: a
number takes at least one word, so a draw never asks for more words than it has numbers left to make.

Sources: caffe/util/math_functions.cpp and caffe/util/rng.hpp of Caffe 1.0; boost.random 1.74.
"""

import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from prototxt.errors import InputError
from runtime.ziggurat import WORD_UNIT, standard_normals

BLOCK = 1 << 18  # words at a time: the working arrays stay in the cache
LARGEST = np.finfo(np.float32).max


class CaffeRNG:
    """One generator.

    `seed` is taken modulo 2³², as Caffe's unsigned int; None takes one from the system, as unseeded Caffe.
    """

    def __init__(self, seed: int | None = None):
        self._twister = np.random.RandomState(secrets.randbits(32) if seed is None else int(seed) % (1 << 32))

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as plain integers (`key`: 624 of them, `pos`: one)."""
        state = self._twister.get_state(legacy=False)["state"]
        return {"key": state["key"].tolist(), "pos": state["pos"]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state()` was taken.

        Raises:
            ValueError: 624 words and a place among them are needed: with others NumPy reads outside of its table.
        """
        key, place = np.array(state["key"]), state["pos"]
        if (
            key.shape != (624,)
            or key.dtype.kind != "i"
            or key.min() < 0
            or key.max() >= 1 << 32
            or not key.any()
        ):
            raise ValueError("a generator's state has 624 words")
        if type(place) is not int or not 0 <= place <= 624:
            raise ValueError("a generator's place is from 0 to 624")
        self._twister.set_state(("MT19937", key.astype(np.uint32), place, 0, 0.0))

    def words(self, n: int) -> np.ndarray:
        """The next `n` words, uint32: each what `caffe_rng_rand()` returns."""
        return self._twister.randint(0, 1 << 32, n, np.uint32)

    def uniform(self, n: int, low: float, high: float) -> np.ndarray:
        """(n,) float32 from `low` to `high`, both included: `caffe_rng_uniform<float>`.

        Raises:
            InputError: unless low ≤ high, both finite, and not both the largest float.
        """
        given = f"uniform numbers from {low:g} to {high:g}"
        start, last = np.float32(low), np.float32(high)
        if not (np.isfinite(start) and np.isfinite(last) and start <= last):
            raise InputError(f"{given}: give finite bounds, the smaller one first")
        end = np.nextafter(last, LARGEST)
        if end == start:
            raise InputError(f"{given}: there is no float above to end at, lower the bounds")
        half_low, half_end = start / np.float32(2), end / np.float32(2)
        if half_end - half_low > LARGEST / np.float32(2):  # the span overflows, so boost halves it
            return np.float32(2) * self._uniform_below(n, half_low, half_end)
        return self._uniform_below(n, start, end)

    def _uniform_below(self, n: int, low: np.float32, end: np.float32) -> np.ndarray:
        out = np.empty(n, np.float32)
        filled = 0
        while filled < n:
            values = self.words(min(n - filled, BLOCK)).astype(np.float32)
            values *= WORD_UNIT
            values *= end - low
            values += low
            values = values[values < end]  # rounding can reach the end: boost draws again
            out[filled : filled + len(values)] = values
            filled += len(values)
        return out

    def gaussian(self, n: int, mean: float, std: float) -> np.ndarray:
        """(n,) float32 of the given mean and deviation: `caffe_rng_gaussian<float>`.

        Raises:
            InputError: unless std > 0.
        """
        centre, deviation = np.float32(mean), np.float32(std)
        if not deviation > 0:
            raise InputError(f"gaussian numbers of deviation {std:g}: give a std above 0")
        out = np.empty(n, np.float32)
        filled = 0
        begun = np.empty(0, np.uint32)  # the first words of a sample that needs more
        while filled < n:
            more = max(1, min(n - filled, BLOCK) - len(begun))
            words = np.concatenate([begun, self.words(more)])
            values, used = standard_normals(words)
            begun = words[used:]
            out[filled : filled + len(values)] = values
            filled += len(values)
        out *= deviation
        out += centre
        return out

    def bernoulli(self, n: int, p: float | np.float32) -> np.ndarray:
        """(n,) int32 of 1 (with probability `p`) and 0: `caffe_rng_bernoulli`.

        Caffe's template takes its precision from the type of `p`, and so does this: np.float32 computes in
        float (the sparse gaussian filler), a Python float in double (dropout: `1. - threshold_` is a double).
        Where p is 0, no words are read.

        Raises:
            InputError: unless 0 ≤ p ≤ 1.
        """
        if not 0 <= p <= 1:
            raise InputError(f"ones with probability {p:g}: give a probability from 0 to 1")
        if p == 0:
            return np.zeros(n, np.int32)
        words = self.words(n)
        if isinstance(p, np.float32):
            ones = words.astype(np.float32) <= p * np.float32(0xFFFFFFFF)
        else:  # a double holds each word, so what is below the limit as a double is below it as a whole number
            ones = words <= np.uint32(p * 0xFFFFFFFF)
        return ones.astype(np.int32)

    def shuffle(self, items: list) -> None:
        """Reorder `items` in place as `caffe::shuffle`: each, from the last down, swaps with one up to it."""
        stream = self._stream(len(items) - 1)
        for last in range(len(items) - 1, 0, -1):
            bucket = (1 << 32) // (last + 1)
            while (chosen := next(stream) // bucket) > last:
                pass
            items[last], items[chosen] = items[chosen], items[last]

    def _stream(self, at_least: int) -> Iterator[int]:
        """Words one by one; `at_least` of them will surely be read."""
        yield from self.words(max(at_least, 0)).tolist()
        while True:
            yield from self.words(1).tolist()


_process_rng: CaffeRNG | None = None


def set_random_seed(seed: int) -> None:
    """Begin the process-wide generator anew: `Caffe::set_random_seed`."""
    global _process_rng
    _process_rng = CaffeRNG(seed)


def caffe_rng() -> CaffeRNG:
    """The process-wide generator that fillers and dropout draw from; unseeded until `set_random_seed`."""
    global _process_rng
    if _process_rng is None:
        _process_rng = CaffeRNG()
    return _process_rng
