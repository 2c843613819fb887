"""Caffe's log: glog's lines on stderr, in genuine Caffe 1.0's words, so that its log parser reads them."""

import math
import sys
import threading
import time
from collections.abc import Callable, Sequence

from torch import Tensor

from prototxt.caffe_pb2 import NetParameter, NetState, NetStateRule
from prototxt.plan import LayerPlan, Plan
from prototxt.rules import layer_included


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
            self.write(f"{severity}{stamp}.{micros:06d} {threading.get_native_id():5d} {place}] {message}")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def number(value: float) -> str:
    """A float as C++ streams print it: six significant digits."""
    return f"{float(value):g}"


def log_rules(log: CaffeLog, net: NetParameter) -> None:
    """Why layers with rules are not part of the net in its `state` (Net::FilterNet): what each rule fails by."""
    state = net.state
    for layer in net.layer:
        for rule in layer.include or layer.exclude:
            failed = _failure(rule, state)
            if failed:
                log(failed[0], f"The NetState {failed[1]} specified by a rule in layer {layer.name}")
            else:
                break  # met: Caffe looks no further


def _failure(rule: NetStateRule, state: NetState) -> tuple[str, str] | None:
    """The first condition that is not met, and where Caffe says so. (It says "above" of what is below, too.)"""
    if rule.HasField("phase") and rule.phase != state.phase:
        return "net.cpp:296", f"phase ({state.phase}) differed from the phase ({rule.phase})"
    if rule.HasField("min_level") and state.level < rule.min_level:
        return "net.cpp:306", f"level ({state.level}) is above the min_level ({rule.min_level})"
    if rule.HasField("max_level") and state.level > rule.max_level:
        return "net.cpp:316", f"level ({state.level}) is above the max_level ({rule.max_level})"
    for stage in rule.stage:
        if stage not in state.stage:
            return "net.cpp:332", f"did not contain stage '{stage}'"
    for stage in rule.not_stage:
        if stage in state.stage:
            return "net.cpp:348", f"contained a not_stage '{stage}'"
    return None


def log_net(log: CaffeLog, plan: Plan, net: NetParameter) -> None:
    """What Caffe says while it builds a net (net.cpp).

    Args:
        net: what it was planned from, its `state` complete.
    """
    log_rules(log, net)
    kept = [layer for layer in net.layer if layer_included(layer, net.state)]
    filtered = NetParameter()
    filtered.CopyFrom(net)
    del filtered.layer[:]
    filtered.layer.extend(kept)
    log("net.cpp:53", f"Initializing net from parameters: \n{filtered}")
    memory = 0
    produced: set[int] = set()
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
            shape = plan.shapes[top]
            count = math.prod(shape)
            memory += 4 * count
            log("net.cpp:131", f"Top shape: {''.join(f'{size} ' for size in shape)}({count})")
            if weight:
                log("net.cpp:134", f"    with loss weight {number(weight)}")
        log("net.cpp:139", f"Memory required for data: {memory}")
        for param in layer.params:
            if param.owner is not None:
                owner = plan.layers[param.owner[0]].name
                whose = f"owned by layer '{owner}', param index {param.owner[1]}"
                log("net.cpp:467", f"Sharing parameters '{param.name}' {whose}")
    for layer in reversed(plan.layers):
        if layer.needs_backward:
            log("net.cpp:200", f"{layer.name} needs backward computation.")
        else:
            log("net.cpp:202", f"{layer.name} does not need backward computation.")
    for output in plan.outputs:
        log("net.cpp:244", f"This network produces output {plan.blobs[output]}")
    log("net.cpp:257", "Network initialization done.")


def log_forward(
    log: CaffeLog, layer: LayerPlan, blobs: Sequence[str], tops: Sequence[Tensor], weights: Sequence[Tensor]
) -> None:
    """`debug_info` after a layer's forward: the values' mean size. `blobs`: the net's blob names."""
    for index, top in zip(layer.tops, tops, strict=True):
        blob = f"top blob {blobs[index]} data: {_mean_size(top)}"
        log("net.cpp:593", f"    [Forward] Layer {layer.name}, {blob}")
    for i, weight in enumerate(weights):
        shared = layer.params[i].name if i < len(layer.params) else ""
        blob = f"param blob {shared or i} data: {_mean_size(weight)}"
        log("net.cpp:605", f"    [Forward] Layer {layer.name}, {blob}")


def log_backward(
    log: CaffeLog,
    layer: LayerPlan,
    blobs: Sequence[str],
    bottoms: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> None:
    """`debug_info` after a layer's backward, from the gradients of its bottoms and weights."""
    for index, bottom, wanted in zip(layer.bottoms, bottoms, layer.propagate_down, strict=True):
        if wanted:
            blob = f"bottom blob {blobs[index]} diff: {_mean_size(bottom)}"
            log("net.cpp:621", f"    [Backward] Layer {layer.name}, {blob}")
    for i, weight in enumerate(weights):
        if i >= len(layer.params) or layer.params[i].needs_gradient:
            log(
                "net.cpp:632", f"    [Backward] Layer {layer.name}, param blob {i} diff: {_mean_size(weight)}"
            )


def log_norms(log: CaffeLog, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """`debug_info` after a whole backward pass; Caffe says it as an error, to be seen."""
    sums = [number(sum(w.detach().abs().sum().item() for w in blobs)) for blobs in (weights, gradients)]
    squares = [sum(w.detach().square().sum().item() for w in blobs) for blobs in (weights, gradients)]
    norms = [number(math.sqrt(square)) for square in squares]
    log(
        "net.cpp:721",
        f"    [Backward] All net params (data, diff): L1 norm = ({sums[0]}, {sums[1]}); "
        f"L2 norm = ({norms[0]}, {norms[1]})",
        severity="E",
    )


def _mean_size(blob: Tensor) -> str:
    return number(blob.detach().float().abs().sum().item() / max(blob.numel(), 1))
