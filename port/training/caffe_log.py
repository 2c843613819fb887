"""Caffe's log: glog's lines on stderr, in genuine Caffe 1.0's words, so that its log parser reads them."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prototxt.caffe_pb2 import ImageDataParameter, NetParameter, NetState, NetStateRule
from prototxt.errors import printable, shortened
from prototxt.plan import LayerPlan, Plan
from prototxt.rules import layer_included
from prototxt.text import message_text

if TYPE_CHECKING:  # tools that only read and write files log too, and PyTorch takes seconds to load
    from torch import Tensor

SEVERITIES = "IWEF"
"""Info, warning, error, fatal: glog's, by number."""


class CaffeLog:
    """Writes lines such as `I1122 17:13:05.968631 15448 solver.cpp:239] Iteration 0, …`.

    Args:
        silent: write nothing: the ranks but the first.
        threshold: the least severity that is written, by number.

    Attributes:
        minloglevel: as glog's; None: the environment's GLOG_minloglevel, which a script may set before it
            imports caffe.
        write: takes one line; replace it to show lines elsewhere (above a progress bar).
    """

    def __init__(self, silent: bool = False, threshold: int = 0):
        self.silent = silent
        self.threshold = threshold
        self.minloglevel: int | None = None
        self.write: Callable[[str], None] = _to_stderr

    def __call__(self, place: str, message: str, severity: str = "I") -> None:
        """One message from `place`, the file and line of Caffe's source that says it ("solver.cpp:239")."""
        least = _environments_least() if self.minloglevel is None else self.minloglevel
        if not self.silent and SEVERITIES.index(severity) >= max(self.threshold, least):
            now = time.time()
            stamp = time.strftime("%m%d %H:%M:%S", time.localtime(now))
            micros = int(now % 1 * 1_000_000)
            prefix = f"{severity}{stamp}.{micros:06d} {threading.get_native_id():5d} {place}] "
            lines = message.removesuffix("\n").split("\n")
            self.write(prefix + "\n".join(map(_shown, lines)))


def _shown(line: str) -> str:
    """As it is but for what a terminal obeys, or nobody can read: names of files and layers may hold anything."""
    return shortened("\t".join(map(printable, line.split("\t"))))


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _environments_least() -> int:
    asked = os.environ.get("GLOG_minloglevel", "")  # noqa: SIM112  (glog's own spelling)
    return int(asked) if asked.isdecimal() else 0


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
    log("net.cpp:53", f"Initializing net from parameters: \n{message_text(filtered)}")
    memory = 0
    produced: set[int] = set()
    for layer in plan.layers:
        log("layer_factory.hpp:77", f"Creating layer {layer.name}")
        if layer.type == "Data":
            log("db_lmdb.cpp:35", f"Opened lmdb {layer.param.data_param.source}")
        log("net.cpp:86", f"Creating Layer {layer.name}")
        for bottom in layer.bottoms:
            log("net.cpp:408", f"{layer.name} <- {plan.blobs[bottom]}")
        for top in layer.tops:
            in_place = top in produced
            place, note = ("net.cpp:369", " (in-place)") if in_place else ("net.cpp:382", "")
            log(place, f"{layer.name} -> {plan.blobs[top]}{note}")
        produced.update(layer.tops)
        _log_set_up(log, layer, [plan.shapes[top] for top in layer.tops])
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


def _log_set_up(log: CaffeLog, layer: LayerPlan, shapes: Sequence[Sequence[int]]) -> None:
    """What a layer says of itself while it is set up."""
    param = layer.param
    if layer.type in ("Data", "ImageData") and param.transform_param.mean_file:
        log("data_transformer.cpp:25", f"Loading mean file from: {param.transform_param.mean_file}")
    if layer.type == "Data":
        log("data_layer.cpp:45", f"output data size: {_by_commas(shapes[0])}")
    elif layer.type == "ImageData":
        _log_image_list(log, param.image_data_param)
        log("image_data_layer.cpp:90", f"output data size: {_by_commas(shapes[0])}")
    elif layer.type == "HDF5Data":
        source = param.hdf5_data_param.source
        log("hdf5_data_layer.cpp:81", f"Loading list of HDF5 filenames from: {source}")
        log("hdf5_data_layer.cpp:95", f"Number of HDF5 files: {len(Path(source).read_bytes().split())}")
    elif layer.type in ("SoftmaxWithLoss", "InfogainLoss") or (
        layer.type == "Scale" and param.scale_param.bias_term
    ):
        log("layer_factory.hpp:77", f"Creating layer {layer.name}")  # the one inside: a softmax, a bias


def _log_image_list(log: CaffeLog, param: ImageDataParameter) -> None:
    log("image_data_layer.cpp:38", f"Opening file {param.source}")
    if param.shuffle:
        log("image_data_layer.cpp:53", "Shuffling data")
    with open(param.source, "rb") as file:
        count = sum(1 for _ in file)
    log("image_data_layer.cpp:63", f"A total of {count} images.")


def _by_commas(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))


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
