"""Caffe's log: glog's lines on stderr, worded as genuine Caffe 1.0 words them, so that its log parser reads them."""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from prototxt.plan import Plan


class CaffeLog:
    """Writes lines such as `I1122 17:13:05.968631 15448 solver.cpp:239] Iteration 0, …`.

    Attributes:
        write: takes one line; replace it to show lines elsewhere (above a progress bar).
        silent: write nothing: the ranks but the first.
    """

    def __init__(self, silent: bool = False):
        self.silent = silent
        self.write: Callable[[str], None] = _to_stderr

    def __call__(self, place: str, message: str, severity: str = "I") -> None:
        """One message from `place`, the file and line of Caffe's source that says it ("solver.cpp:239")."""
        if not self.silent:
            now = time.time()
            stamp = time.strftime("%m%d %H:%M:%S", time.localtime(now))
            micros = int(now % 1 * 1_000_000)
            self.write(f"{severity}{stamp}.{micros:06d} {_thread():5d} {place}] {message}")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _thread() -> int:
    return threading.get_native_id() if hasattr(threading, "get_native_id") else os.getpid()


def number(value: float) -> str:
    """A float as C++ streams print it: six significant digits."""
    return f"{float(value):g}"


def log_net(log: CaffeLog, plan: Plan, shapes: Sequence[Sequence[int]], text: str) -> None:
    """What Caffe says while it builds a net (net.cpp).

    Args:
        shapes: of the blobs, by blob index.
        text: the net's layers as text, after the rules.
    """
    log("net.cpp:53", f"Initializing net from parameters: \n{text}")
    memory, produced = 0, set()
    for layer in plan.layers:
        log("net.cpp:86", f"Creating Layer {layer.name}")
        for bottom in layer.bottoms:
            log("net.cpp:408", f"{layer.name} <- {plan.blobs[bottom]}")
        for top in layer.tops:
            in_place = top in produced
            place, note = ("net.cpp:369", " (in-place)") if in_place else ("net.cpp:382", "")
            log(place, f"{layer.name} -> {plan.blobs[top]}{note}")
        produced.update(layer.tops)
        log("net.cpp:124", f"Setting up {layer.name}")
        for top, weight in zip(layer.tops, layer.loss_weights, strict=True):
            count = math.prod(shapes[top])
            memory += 4 * count
            log("net.cpp:131", f"Top shape: {''.join(f'{size} ' for size in shapes[top])}({count})")
            if weight:
                log("net.cpp:134", f"    with loss weight {number(weight)}")
        log("net.cpp:139", f"Memory required for data: {memory}")
        for param in layer.params:
            if param.owner is not None:
                owner = plan.layers[param.owner[0]].name
                log(
                    "net.cpp:467",
                    f"Sharing parameters '{param.name}' owned by layer '{owner}', param index {param.owner[1]}",
                )
    for layer in reversed(plan.layers):
        if layer.needs_backward:
            log("net.cpp:200", f"{layer.name} needs backward computation.")
        else:
            log("net.cpp:202", f"{layer.name} does not need backward computation.")
    for output in plan.outputs:
        log("net.cpp:244", f"This network produces output {plan.blobs[output]}")
    log("net.cpp:257", "Network initialization done.")
