"""`caffe.Timer`: a stopwatch."""

import time


class Timer:
    """Measures between `start()` and `stop()`; asking for `ms` stops it, as in Caffe."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._elapsed = 0.0

    def start(self) -> None:
        if self._started is None:
            self._started = time.perf_counter()

    def stop(self) -> None:
        if self._started is not None:
            self._elapsed, self._started = time.perf_counter() - self._started, None

    @property
    def ms(self) -> float:
        """Milliseconds of the last measurement."""
        self.stop()
        return 1000 * self._elapsed
