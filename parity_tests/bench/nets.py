"""Any net side by side in the port's engines and in others': `seenet bench NET.prototxt`."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from google.protobuf import text_format

from parity_tests.bench.engines import NotHere, opened, ort_session, use_caffe, use_threads
from parity_tests.bench.memory import print_added
from parity_tests.bench.report import number
from parity_tests.bench.timing import Part, Timing, side_by_side
from port.export.writers import deployed_blobs, export_onnx
from port.images import quiet_opencv
from port.net import CaffeNet
from port.net_inputs import complete_inputs
from port.pycaffe import TEST, Net
from port.report.summary import multiply_adds
from prototxt.caffe_pb2 import NetParameter
from prototxt.files import read_text
from prototxt.read import read_net
from runtime.data.output import no_output_files
from weights import read_weights, write_weights
from weights.rebuilt import rebuilt_weights

TOLERANCE = 1e-5
"""Of a blob's largest magnitude: what keeps it is compared with."""

SEED = 20181023

Values = dict[str, np.ndarray]
Run = Callable[[], Values]
"""One pass over the net's inputs: its `wanted_blobs`, by name."""


@dataclass(frozen=True)
class NetFiles:
    """A net on disk with its weights and inputs, in a folder of its own; and how engines are to run it."""

    folder: Path
    device: str
    threads: int

    @property
    def prototxt(self) -> Path:
        return self.folder / "net.prototxt"

    @property
    def weights(self) -> Path:
        return self.folder / "net.caffemodel"

    @property
    def inputs(self) -> Values:
        with np.load(self.folder / "inputs.npz") as arrays:
            return dict(arrays)

    def model(self) -> CaffeNet:
        net = CaffeNet(self.prototxt, where=self.prototxt.name)
        net.load_weights(self.weights)
        return net.eval().to(self.device)


def make_net_files(
    prototxt: Path, weights: Path | None, batch: int, folder: Path, device: str, threads: int
) -> NetFiles:
    """A net for batches of `batch`, with weights of its own or rebuilt from a seed, and inputs drawn from it.

    Raises:
        InputError: a net without inputs, weights that do not fit.
    """
    files = NetFiles(folder, device, threads)
    folder.mkdir()
    message = read_net(prototxt)
    text = read_text(prototxt, errors="replace")
    if _set_batch(message, batch):
        text = text_format.MessageToString(message)
    files.prototxt.write_text(text, encoding="utf-8")
    net = Net.from_message(message, TEST, where=os.fspath(prototxt), allow_modules=())
    if weights is None:
        write_weights(files.weights, rebuilt_weights(net, SEED))
    else:
        net.copy_from(weights)
        write_weights(files.weights, read_weights(weights, with_empty=True))
    np.savez(folder / "inputs.npz", **complete_inputs(net, net.plan, {}, SEED, os.fspath(prototxt)))
    return files


def _set_batch(message: NetParameter, batch: int) -> bool:
    """Give the inputs that are as long as the first one this length; whether that changed anything."""
    shapes = [shape for layer in message.layer if layer.type == "Input" for shape in layer.input_param.shape]
    first = next((shape.dim[0] for shape in shapes if shape.dim), batch)
    for shape in shapes:
        if shape.dim and shape.dim[0] == first:
            shape.dim[0] = batch
    return first != batch


# ---- engines


def wanted_blobs(net: CaffeNet) -> list[str]:
    """A net's outputs, and what those are made of that rounding moves: a softmax's scores, and what boxes are from."""
    found = set(deployed_blobs(net))
    for plan in net.plan.layers:
        if plan.type == "DetectionOutput":
            found.update(net.plan.blobs[bottom] for bottom in plan.bottoms)
    return [name for name in net.plan.blobs if name in found]


def _tensors(files: NetFiles) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array).to(files.device) for name, array in files.inputs.items()}


def _port(files: NetFiles) -> Run:
    net, given = files.model(), _tensors(files)
    blobs = wanted_blobs(net)

    def run() -> Values:
        with torch.inference_mode():
            return {name: top.cpu().numpy() for name, top in net(*given.values(), blobs=blobs).items()}

    return run


def _fused(files: NetFiles) -> Run:
    net, given = files.model(), _tensors(files)
    fused = net.fused(wanted_blobs(net))
    if fused.unfused:
        raise NotHere(f"not fused: {fused.unfused}")
    del net
    return lambda: {name: top.cpu().numpy() for name, top in fused(*given.values()).items()}


def _run_pycaffe(caffe: Any, files: NetFiles) -> Run:
    net = caffe.Net(str(files.prototxt), str(files.weights), caffe.TEST)
    inputs = files.inputs
    wanted = _wanted(files)
    for name, array in inputs.items():
        net.blobs[name].reshape(*array.shape)

    def run() -> Values:
        for name, array in inputs.items():
            net.blobs[name].data[...] = array
        net.forward()
        return {name: net.blobs[name].data for name in wanted}

    return run


def _pycaffe(files: NetFiles) -> Run:
    import port.pycaffe as caffe

    caffe.set_mode_gpu() if files.device == "cuda" else caffe.set_mode_cpu()
    return _run_pycaffe(caffe, files)


def _onnxruntime(files: NetFiles) -> Run:
    """Through the port's exporter. A DetectionOutput at the end, which ONNX cannot hold, is the port's own."""
    message = read_net(files.prototxt)
    last = message.layer[-1]
    net = files.model()
    blobs = deployed_blobs(net)
    detector = None
    if last.type == "DetectionOutput":
        del message.layer[-1]
        detector = net.layers[-1]
        net = CaffeNet(message, where=files.prototxt.name)
        net.load_weights(files.weights)
        blobs = deployed_blobs(net)
    path = files.folder / "net.onnx"
    if not path.exists():
        export_onnx(net, path, example=[torch.from_numpy(array) for array in files.inputs.values()])
    session = ort_session(path, files.device, files.threads)
    feed = {node.name: array for node, array in zip(session.get_inputs(), files.inputs.values(), strict=True)}

    def run() -> Values:
        values = dict(zip(blobs, session.run(None, feed), strict=True))
        if detector is not None:
            with torch.inference_mode():
                boxes = detector(*(torch.from_numpy(values[bottom]) for bottom in last.bottom))
            values[last.top[0]] = boxes.numpy()
        return values

    return run


def _opencv(files: NetFiles) -> Run:
    """OpenCV as it comes, with Winograd's convolutions and what it fuses."""
    if files.device != "cpu":
        raise NotHere("OpenCV from PyPI runs on the CPU")
    with quiet_opencv():
        net = cv2.dnn.readNetFromCaffe(str(files.prototxt), str(files.weights))
    plan = files.model().plan
    last = {
        plan.blobs[top]: layer.name for layer in plan.layers if layer.type != "Split" for top in layer.tops
    }
    wanted, inputs = _wanted(files), files.inputs

    def run() -> Values:
        for name, array in inputs.items():
            net.setInput(array, name)
        return dict(zip(wanted, net.forward([last[name] for name in wanted]), strict=True))

    with quiet_opencv():
        run()  # what it does not support, it says only now
    return run


def _caffe(files: NetFiles) -> Run:
    return _run_pycaffe(use_caffe(files.threads, files.device), files)


def _wanted(files: NetFiles) -> list[str]:
    return wanted_blobs(CaffeNet(files.prototxt, where=files.prototxt.name))


OURS = ("port", "port, fused", "port.pycaffe")
OPENERS: dict[str, Callable[[NetFiles], Run]] = {
    **dict(zip(OURS, (_port, _fused, _pycaffe), strict=True)),
    "onnxruntime": _onnxruntime,
    "opencv": _opencv,
    "caffe": _caffe,
}


# ---- what is measured


@no_output_files()
def bench_net(
    name: str, files: NetFiles, rounds: int, with_layers: bool, tick: Callable[[str], None]
) -> Iterator[Part]:
    """One pass in each engine, the memory that it takes, and where the port's time goes."""
    runs, notes = {}, []
    for engine, opener in OPENERS.items():
        tick(f"{name}: opening {engine}")
        try:
            runs[engine] = opened(opener, files, engine)
        except NotHere as error:
            notes.append(f"{engine} is not measured: {error}")
    errors = _errors(files, runs)
    side = 2048
    matrix = torch.randn(side, side, device=files.device)
    actions = {**runs, "matrix product": lambda: matrix @ matrix}
    timings = side_by_side(actions, rounds, files.device, lambda: tick(f"{name}: one pass"))
    product = timings.pop("matrix product")
    count = sum(map(multiply_adds, files.model().plan.layers))
    timings["limit"] = Timing(
        *([s * count / side**3 for s in times] for times in (product.seconds, product.cpu))
    )
    rate = 2 * side**3 / product.median / 1e9
    notes.append(
        f"limit: {count / 1e9:.2f} · 10⁹ multiply-adds at this machine's own rate of {side}² matrix products, "
        f"{rate:.0f} GFLOP/s; Winograd's convolutions do with fewer"
    )
    notes += _beside_the_fastest(timings, errors)
    shapes = ", ".join("×".join(map(str, array.shape)) for array in files.inputs.values())
    in_ms = {engine: Timing([1e3 * s for s in timing.seconds]) for engine, timing in timings.items()}
    cpu = {engine: number(1e3 * median(timing.cpu)) for engine, timing in timings.items()}
    columns = {"CPU ms": cpu} if files.device == "cpu" else {}
    yield Part(f"{name}: one pass at {shapes}", "ms", "port", in_ms, notes, errors, columns)
    yield _memory(name, files, list(runs), tick)
    if with_layers and "port, fused" in runs:
        yield _layers(name, files, rounds, matrix_rate=side**3 / product.spread[0], tick=tick)


def _beside_the_fastest(timings: Mapping[str, Timing], errors: Mapping[str, float]) -> Iterator[str]:
    """How the fused form stands beside the fastest other engine within the tolerance, and pycaffe beside CaffeNet."""
    others = [engine for engine, error in errors.items() if engine not in OURS and error <= TOLERANCE]
    pairs = [("port.pycaffe", ["port"]), ("port, fused", others)]
    for ours, theirs in pairs:
        if ours in timings and theirs:
            fastest = min(theirs, key=lambda engine: median(timings[engine].cpu))
            wall = timings[ours].ratio(timings[fastest])
            cpu = Timing(timings[ours].cpu).ratio(Timing(timings[fastest].cpu))
            yield f"{ours}: {wall:.2f} times {fastest}, by the processor's time {cpu:.2f}"


def _errors(files: NetFiles, runs: Mapping[str, Run]) -> dict[str, float]:
    """The largest difference from float64 of any blob that an engine gives, over the blob's largest magnitude.

    Boxes that were found do not count: which ones are, and their order, hangs on the scores' rounding.
    """
    net = files.model().double().cpu()
    boxes = {net.plan.blobs[t] for x in net.plan.layers if x.type == "DetectionOutput" for t in x.tops}
    with torch.inference_mode():
        given = [torch.from_numpy(array).double() for array in files.inputs.values()]
        truth = {name: top.numpy() for name, top in net(*given, blobs=wanted_blobs(net)).items()}

    def error(name: str, value: np.ndarray) -> float:
        true = truth[name]
        largest = np.abs(true).max() or 1.0
        return float(np.abs(value.reshape(true.shape) - true).max() / largest)

    return {
        engine: max((error(name, value) for name, value in run().items() if name not in boxes), default=0.0)
        for engine, run in runs.items()
    }


def _memory(name: str, files: NetFiles, engines: Sequence[str], tick: Callable[[str], None]) -> Part:
    rows, notes = {}, []
    for engine in engines:
        tick(f"{name}: memory")
        arguments = [engine, str(files.folder), files.device, str(files.threads)]
        told = subprocess.run(
            [sys.executable, "-m", "parity_tests.bench.nets", *arguments], capture_output=True, text=True
        )
        if told.returncode == 0:
            rows[engine] = Timing([float(told.stdout.split()[-1])])
        else:
            reason = (told.stdout + told.stderr).strip().splitlines() or [
                "it was stopped: too little memory?"
            ]
            notes.append(f"{engine} is not measured: {reason[-1]}")
    size = files.weights.stat().st_size / 1e6
    notes.append(
        f"above what the process held when everything was imported; the weights' file: {size:.0f} MB"
    )
    return Part(f"{name}: peak memory of loading and a pass", "MB", "port", rows, notes)


def _layers(name: str, files: NetFiles, rounds: int, matrix_rate: float, tick: Callable[[str], None]) -> Part:
    """Each step of the fused form beside the layers that it stands for."""
    net, given = files.model(), _tensors(files)
    fused = net.fused(wanted_blobs(net))
    by_index = {plan.index: Timing() for plan in net.plan.layers}
    steps = [Timing() for _ in fused.layers]
    clock = _Clock(files.device)

    def one_by_one() -> None:
        blobs = {net.plan.blobs.index(k): v for k, v in given.items()}
        clock.start()
        net.run(blobs, lambda plan, *_: clock.stop(by_index[plan.index]))

    def joined() -> None:
        left = iter(steps)
        clock.start()
        fused.run(given, lambda _: clock.stop(next(left)))

    with torch.inference_mode():
        for turn in range(rounds + 1):
            one_by_one()
            joined()
            tick(f"{name}: layers")
            if not turn:
                for timing in (*by_index.values(), *steps):
                    timing.seconds.clear()
    plans, index = net.plan.layers, {plan.name: plan.index for plan in net.plan.layers}
    rows: dict[str, Timing] = {}
    alone, limits = {}, {}
    for timing, names in zip(steps, fused.layers, strict=True):
        label = " + ".join(names)
        rows[label] = Timing([1e3 * second for second in timing.seconds])
        alone[label] = number(1e3 * sum(by_index[index[layer]].median for layer in names))
        limit = sum(multiply_adds(plans[index[layer]]) for layer in names) / matrix_rate
        limits[label] = number(1e3 * limit) if limit else ""
    notes = [
        "port: the layers that the step stands for, one by one; limit: as above",
        f"what CaffeNet adds to its layers' own time: {1e6 * _added(net, given, rounds, files.device):.0f} µs a layer",
    ]
    return Part(
        f"{name}: each step of the fused form",
        "ms",
        "",
        rows,
        notes,
        columns={"port": alone, "limit": limits},
    )


def _added(net: CaffeNet, given: Mapping[str, torch.Tensor], rounds: int, device: str) -> float:
    """Seconds for each layer, between a pass and its layers called one by one on the same bottoms."""
    calls: list[Callable[[], Any]] = []
    blobs = {net.plan.blobs.index(name): value for name, value in given.items()}
    with torch.inference_mode():
        net.run(
            blobs,
            lambda plan, bottoms, _: (
                calls.append(partial(net.layers[plan.index], *bottoms)) if bottoms else None
            ),
        )
        actions = {"alone": lambda: [call() for call in calls], "together": lambda: net.run(blobs)}
        timings = side_by_side(actions, rounds, device)
    alone, together = (min(t.cpu if device == "cpu" else t.seconds) for t in timings.values())
    return (together - alone) / len(net.layers)


class _Clock:
    def __init__(self, device: str):
        self._wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def start(self) -> None:
        self._wait()
        self._last = time.perf_counter()

    def stop(self, timing: Timing) -> None:
        """Count what passed since the last call to `timing`."""
        self._wait()
        now = time.perf_counter()
        timing.seconds.append(now - self._last)
        self._last = now


@no_output_files()
def main(engine: str, folder: str, device: str, threads: str) -> None:
    """Print the MB that opening an engine and one pass added at most; a line and status 1 if it cannot."""
    use_threads(int(threads))
    files = NetFiles(Path(folder), device, int(threads))
    print_added(lambda: partial(opened, OPENERS[engine], files, engine)(), device)


if __name__ == "__main__":
    main(*sys.argv[1:])
