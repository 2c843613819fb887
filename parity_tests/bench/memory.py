"""The memory of one engine, in a process of its own: what `parity_tests.bench.parts.bench_memory` starts."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from parity_tests.bench.convert import MemoryWatch
from parity_tests.bench.engines import NotHere, make_files, open_engine, use_threads


def main(name: str, folder: str, device: str, threads: str, width: str, size: str) -> None:
    """Print the MB that opening an engine and one forward added at most; a line and status 1 if it cannot."""
    use_threads(int(threads))
    files = make_files(Path(folder), device, int(threads), width == "narrow")
    label = np.zeros((1, 1, 1, 20), np.float32)
    data = np.zeros((1, 3, int(size), int(size)), np.float32)

    def open_run() -> Callable[[], object]:
        forward = open_engine(name, files)
        return lambda: forward(data, label)

    print_added(open_run, device)


def print_added(open_run: Callable[[], Callable[[], object]], device: str) -> None:
    """Print the MB that opening an engine, and running what that gives, added at most.

    A line, and exit status 1, where it is not here.
    """
    try:
        with MemoryWatch() as own:
            open_run()()
    except NotHere as error:
        sys.exit(str(error))
    device_mb = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0
    print(max(own.most - own.before, 0) + device_mb)


if __name__ == "__main__":
    main(*sys.argv[1:])
