"""Progress on a terminal, below the log's lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from port.training.caffe_log import CaffeLog
from weights.progress import progress_bar


@contextmanager
def log_above_bar(log: CaffeLog, total: int, unit: str) -> Iterator[Callable[[], None]]:
    """A bar with rate and time left, where stderr is a terminal; gives what counts one `unit` more."""
    with progress_bar(unit) as bar:
        if bar.disable:
            yield lambda: None
            return
        before = log.write
        log.write = lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        task = bar.add_task(unit, total=total)
        try:
            yield lambda: bar.advance(task)
        finally:
            log.write = before
