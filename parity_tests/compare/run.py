"""One net through several engines, held blob by blob against float64.

Truth is the NumPy reference in float64, the yardstick the float32 reference's own difference from it; every
engine gets the same float32 weights and inputs. The port has two ways to run a net, pycaffe's `Net` and
`CaffeNet` (which `seenet export` writes out): both are judged, by the rule in `rule.py`.
"""

import gc
import hashlib
import importlib
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch

from parity_tests.compare.alone import Alone
from parity_tests.compare.engines import ENGINES, check_engines, genuine_caffe
from parity_tests.compare.inputs import Weights, feed_inputs, fill_inputs, fill_weights
from parity_tests.compare.report import CAFFE_NET, NET, EngineReport, Face, ParityReport, Row
from parity_tests.compare.rule import Errors, difference, finite
from port.net import CaffeNet, plan_of
from port.net_inputs import masks_of, unsplit
from prototxt.caffe_pb2 import TEST
from prototxt.errors import InputError
from prototxt.plan import LayerPlan, Plan
from prototxt.read import read_net
from runtime.data.output import no_output_files
from runtime.rng import set_random_seed
from weights.layer_weights import shape_text
from weights.names import unique_names
from weights.rebuilt import write_held

Tick = Callable[[str, int, int], None]
"""Told (what runs, layers done, layers in all)."""


@no_output_files()
def compare(
    prototxt: str | os.PathLike,
    weights: Weights | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    engines: Sequence[str] | None = None,
    *,
    seed: int = 0,
    allow_modules: Collection[str] = (),
    progress: Tick | None = None,
) -> ParityReport:
    """Run a net (phase TEST) in every engine and hold each blob against the float64 reference.

    Engines run one after another; between them only the float64 blobs and the float32 weights are kept.

    Args:
        weights: a file in any format of `weights`, or layers; without, `rebuilt_weights` of `seed`.
        inputs: arrays by input name (see `published_inputs`). What is not given is drawn with `seed`.
        engines: names from `ENGINES`. By default port, reference and opencv, and caffe where it is installed:
            the ONNX route is for whoever names it, since it needs packages and time.
        allow_modules: Python modules that the net's Python layers may load; SeeNet's are built in.

    Raises:
        InputError: for whatever is wrong with the files, the inputs or the engines' names.
    """
    where = os.fspath(prototxt)
    plan = plan_of(read_net(prototxt), TEST, where, allow_modules)
    chosen, remarks = _choose(engines, plan, allow_modules)
    runner = _Runner(where, plan, allow_modules, seed, progress or (lambda what, done, total: None))
    truth, truth_seconds, more_remarks = runner.find_truth(weights, inputs or {})
    reports, absent = {}, {}
    for name in dict.fromkeys(["reference", *chosen]):
        try:
            reports[name] = runner.judge(name, truth)
        except _AbsentError as error:
            absent[name] = str(error)
    if engines is None and not reports["opencv"].rows:  # nobody asked for it
        remarks.append("opencv is not compared: it supports none of the net's layers")
        chosen.remove("opencv")
    if set(absent) == set(chosen):
        raise InputError("; ".join(f"engine {name}: {why}" for name, why in absent.items()))
    return ParityReport(
        title=f"{where} · {_described(weights, seed)} · {_shapes(runner.inputs)}",
        shapes={name: truth.blobs[name].shape for name in truth.compared},
        positions={mask: decided.size for mask, decided in truth.decisions.items()},
        truth_seconds=truth_seconds,
        engines=[reports[name] for name in chosen if name in reports],
        remarks=remarks + more_remarks,
        absent=absent,
    )


def _described(weights: Weights | None, seed: int) -> str:
    if weights is None:
        return f"weights rebuilt with seed {seed}"
    return os.fspath(weights) if isinstance(weights, str | os.PathLike) else "weights as given"


def _shapes(inputs: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {shape_text(array.shape)}" for name, array in inputs.items())


def _choose(
    engines: Sequence[str] | None, plan: Plan, allow_modules: Collection[str]
) -> tuple[list[str], list[str]]:
    """The engines to report on, and remarks."""
    check_engines(engines)
    objection = _objection_to_caffe(plan, allow_modules) if engines is None or "caffe" in engines else ""
    if engines is None:
        chosen = ["port", "reference", "opencv"]
        return (chosen, [f"caffe is not compared: {objection}"]) if objection else ([*chosen, "caffe"], [])
    if objection:
        raise InputError(f"engine caffe: {objection}")
    return list(dict.fromkeys(engines)), []


def _objection_to_caffe(plan: Plan, allow_modules: Collection[str]) -> str:
    """Why genuine Caffe cannot run this net here; "" where it can."""
    if genuine_caffe() is None:
        return "genuine pycaffe is not importable here"
    if any(layer.type == "HDF5Output" for layer in plan.layers):
        return "it would write the file that an HDF5Output layer names"
    # Caffe imports whatever module a prototxt names, also those that are built in here.
    modules = {layer.param.python_param.module for layer in plan.layers if layer.type == "Python"}
    for module in sorted(modules - set(allow_modules)):
        return f'it would load the Python module "{module}": allow it with --allow-module {module}'
    return ""


def _load(engine: str) -> ModuleType:
    return importlib.import_module(ENGINES[engine])


# ---- running


class _AbsentError(Exception):
    """An engine that cannot run, for which the others need not wait."""


Watch = Callable[[int, Sequence[np.ndarray]], None]
"""Told (layer index, its tops) after each layer that ran."""


@dataclass
class _Truth:
    """What float64 says, and how far the float32 reference is off.

    Attributes:
        blobs: float64, inputs included.
        compared: the computed ones among them, in order.
        sources: the tops of the layers without bottoms, by layer index.
        decisions: what each mask did at each position.
        own: the float32 reference's largest differences, filled in when it has run.
    """

    blobs: dict[str, np.ndarray]
    compared: list[str]
    sources: dict[int, list[np.ndarray]]
    decisions: dict[str, np.ndarray]
    own: dict[str, float] = field(default_factory=dict)


@dataclass
class _Runner:
    """Runs one net in one engine after another, with the same weights and inputs.

    Blobs are called by their names in the plan, the unnamed losses with a suffix.
    """

    where: str
    plan: Plan
    allow_modules: Collection[str]
    seed: int
    tick: Tick
    weights: dict[int, list[np.ndarray]] = field(default_factory=dict)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = unique_names(self.plan.blobs)
        copies = {top for layer in self.plan.layers if layer.type == "Split" for top in layer.tops}
        self.names = {i: name for i, name in enumerate(names) if i not in copies}
        self.origins = unsplit(self.plan, names)

    def find_truth(
        self, weights: Weights | None, inputs: Mapping[str, np.ndarray]
    ) -> tuple[_Truth, float, list[str]]:
        """Decide the weights and inputs and run the reference in float64: truth, seconds, remarks."""
        net = self.net("reference", dtype=np.float64)
        self.weights, remarks = fill_weights(net, self.plan, weights, self.seed)
        self.inputs = fill_inputs(net, self.plan, inputs, self.seed, self.where)
        sources: dict[int, list[np.ndarray]] = {}

        def keep(index: int, tops: Sequence[np.ndarray]) -> None:
            if not self.plan.layers[index].bottoms:
                sources[index] = [top.copy() for top in tops]

        blobs, seconds = self.run_net("reference", net, "truth (float64)", keep)
        for name, array in blobs.items():
            if not np.isfinite(array).all():
                remarks.append(f"{name} is not finite in float64 either: the inputs or weights are to blame")
            elif (finite(array) != array).any():
                remarks.append(f"{name} has values that are too large for float32")
        computed = [top for layer in self.plan.layers if layer.type != "Input" for top in layer.tops]
        compared = [self.names[i] for i in sorted(set(computed)) if i in self.names]
        decisions = _decisions(self.plan, blobs)
        return _Truth(blobs, compared, sources, decisions), seconds, remarks

    def net(self, engine: str, **settings: Any) -> Any:
        """A net of one of the pycaffe engines; genuine Caffe's has no `allow_modules`."""
        _load(engine).set_random_seed(self.seed)  # for data layers that draw when they are set up
        if engine != "caffe":
            return _load(engine).Net(self.where, TEST, allow_modules=self.allow_modules, **settings)
        try:
            return _load(engine).Net(self.where, TEST)
        except Exception as error:
            raise InputError(f"engine caffe: {str(error).strip().splitlines()[0]}") from error

    def feed(self, engine: str, net: Any) -> None:
        """Weights, inputs, and the seed for layers that draw, such as DummyData."""
        _load(engine).set_random_seed(self.seed)
        write_held(net, self.weights)
        feed_inputs(net, self.plan, self.inputs)

    def run_net(
        self, engine: str, net: Any, what: str, watch: Watch | None = None
    ) -> tuple[dict[str, np.ndarray], float]:
        """The net's blobs after one forward pass, as views, and the seconds that it took."""
        self.feed(engine, net)
        seconds = 0.0
        for layer in self.plan.layers:
            self.tick(what, layer.index, len(self.plan.layers))
            start = time.perf_counter()
            self.forward_layer(engine, net, layer.index)
            seconds += time.perf_counter() - start
            if watch:
                watch(layer.index, [net._blobs[i].data for i in layer.tops])
        self.tick(what, len(self.plan.layers), len(self.plan.layers))
        return {name: net._blobs[i].data for i, name in self.names.items()}, seconds

    def forward_layer(self, engine: str, net: Any, i: int) -> None:
        """Run layer `i` for the last time: what it keeps for a backward pass, as large as its blobs, goes."""
        net._forward(i, i)
        if engine != "caffe":
            net.layers[i] = net.layer_dict[net._layer_names[i]] = None

    def run_caffe_net(self, net: CaffeNet, what: str, watch: Watch) -> dict[str, np.ndarray]:
        """`CaffeNet`'s blobs after one forward pass."""
        set_random_seed(self.seed)
        with torch.no_grad():
            for index, arrays in self.weights.items():
                for blob, array in zip(net.layers[index].blobs, arrays, strict=True):
                    blob.copy_(torch.from_numpy(array))
        for layer in self.plan.layers:
            if layer.type == "MemoryData":
                net.layers[layer.index].reset(*(self.inputs[self.plan.blobs[top]] for top in layer.tops))
        inputs = {i: torch.from_numpy(self.inputs[self.plan.blobs[i]].copy()) for i in self.plan.inputs}

        def observe(layer: LayerPlan, bottoms: tuple, tops: tuple) -> None:
            self.tick(what, layer.index + 1, len(self.plan.layers))
            watch(layer.index, [top.numpy() for top in tops])

        with torch.no_grad():
            values = net.run(inputs, observe)
        return {name: values[i].numpy() for i, name in self.names.items()}

    def run_outside(self, engine: str, truth: _Truth) -> tuple[dict[str, np.ndarray], dict[str, str], float]:
        """As `run_net`, with the layers that the engine does not have; the time is with reading the net."""
        start = time.perf_counter()
        self.tick(engine, 0, 1)
        if engine == "opencv":
            blobs, not_carried = _load(engine).run_opencv(self.plan, self.weights, self.inputs)
        else:
            blobs, not_carried = self.run_onnx(engine)
        self.tick(engine, 1, 1)
        seconds = time.perf_counter() - start
        if engine == "opencv":
            blobs = {name: _with_axes_of(truth.blobs[name], array) for name, array in blobs.items()}
        inputs = {self.names[i]: self.inputs[self.plan.blobs[i]] for i in self.plan.inputs}
        return {**inputs, **blobs}, not_carried, seconds

    def run_onnx(self, engine: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        try:
            return _load(engine).run_onnx(engine, self.plan, self.weights, self.inputs)
        except InputError as error:
            raise _AbsentError(str(error)) from error

    # ---- judging

    def judge(self, engine: str, truth: _Truth) -> EngineReport:
        """Run one engine and hold it against truth."""
        gc.collect()  # the engine before may have left its net in reference cycles
        if engine == "port":
            return self.judge_port(truth)
        not_carried: dict[str, str] = {}
        if engine in ("opencv", "onnxruntime", "onnx2torch"):
            blobs, not_carried, seconds = self.run_outside(engine, truth)
        else:
            blobs, seconds = self.run_net(engine, self.net(engine), engine)
        rows = []
        for name in truth.compared:
            if name in blobs:
                difference = _difference(blobs[name], truth.blobs[name])
                own = truth.own.setdefault(name, difference)  # the float32 reference comes first
                rows.append(Row(engine, name, _largest(finite(truth.blobs[name])), difference, own))
        if any(row.beyond and math.isfinite(row.difference) for row in rows):
            alone = self.alone(blobs)
            rows = [replace(row, alone=alone[row.blob]) if row.beyond else row for row in rows]
        return EngineReport(engine, seconds, rows, _flips_of(self.plan, blobs, truth.decisions), not_carried)

    def judge_port(self, truth: _Truth) -> EngineReport:
        """pycaffe's Net and CaffeNet: each layer of both on its own bottoms, and both against truth."""
        errors: dict[str, dict[int, list[Errors]]] = {NET: {}, CAFFE_NET: {}}
        marks: dict[int, bytes] = {}
        alone = self.references(truth)

        def judge_net(index: int, tops: Sequence[np.ndarray]) -> None:
            errors[NET][index] = alone.judge(index, tops)
            marks[index] = _mark(tops)

        blobs, seconds = self.run_net("port", self.net("port"), "port", judge_net)
        parting: list[int] = []  # layers where CaffeNet does not give pycaffe's Net's very bytes

        def compare_with_net(index: int, tops: Sequence[np.ndarray]) -> None:
            if _mark(tops) != marks[index]:
                parting.append(index)

        values = self.run_caffe_net(self.caffe_net(), "port, CaffeNet", compare_with_net)
        errors[CAFFE_NET] = dict(errors[NET])
        if parting:
            alone = self.references(truth)

            def judge_caffe_net(index: int, tops: Sequence[np.ndarray]) -> None:
                if index < parting[0]:
                    alone.follow(index, tops)
                else:
                    errors[CAFFE_NET][index] = alone.judge(index, tops)

            values = self.run_caffe_net(self.caffe_net(), "port, CaffeNet again", judge_caffe_net)
        rows = []
        for name in truth.compared:
            faces = {}
            for face, found in ((NET, blobs), (CAFFE_NET, values)):
                worst = max(
                    (
                        error
                        for layer in self.plan.layers
                        for top, error in zip(layer.tops, errors[face][layer.index], strict=False)
                        if self.origins[top] == name
                    ),
                    key=lambda error: error.excess,
                )
                faces[face] = Face(_difference(found[name], truth.blobs[name]), worst)
            rows.append(
                Row(
                    "port",
                    name,
                    _largest(finite(truth.blobs[name])),
                    max(face.difference for face in faces.values()),
                    truth.own[name],
                    faces=faces,
                    apart=_difference(values[name], blobs[name]),
                )
            )
        flips = [_flips_of(self.plan, found, truth.decisions) for found in (blobs, values)]
        return EngineReport(
            "port", seconds, rows, {mask: max(f[mask] for f in flips) for mask in flips[0]}, {}
        )

    def caffe_net(self) -> CaffeNet:
        set_random_seed(self.seed)
        return CaffeNet(self.where, TEST, allow_modules=self.allow_modules)

    def references(self, truth: _Truth) -> Alone:
        nets = [self.net("reference", dtype=dtype) for dtype in (np.float64, np.float32)]
        for net in nets:
            self.feed("reference", net)
        exact, rough = nets
        return Alone(self.plan, exact, rough, truth.sources)

    def alone(self, blobs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """How far each blob is from what float64 makes of the bottoms in `blobs`, layer by layer.

        For engines of which only the final blobs are known. A blob that was worked on in place, in its own memory
        or another blob's, is held against all that float64 does to it from there on.
        """
        net = self.net("reference", dtype=np.float64)
        self.feed("reference", net)
        memory = self.plan.memory
        done_by = {memory[top]: layer.index for layer in self.plan.layers for top in layer.tops}
        differences = dict.fromkeys(blobs, math.inf)
        for layer in self.plan.layers:
            for bottom in layer.bottoms:
                if done_by[memory[bottom]] < layer.index and self.origins[bottom] in blobs:
                    net._blobs[bottom].data[...] = blobs[self.origins[bottom]]
            self.forward_layer("reference", net, layer.index)
            for top in {memory[top]: top for top in layer.tops}.values():
                if done_by[memory[top]] == layer.index:
                    for blob in self.plan.memory_mates.get(top, (top,)):
                        name = self.names.get(blob)
                        if name in blobs:
                            differences[name] = _difference(blobs[name], net._blobs[blob].data)
        return differences


# ---- the blobs


def _difference(array: np.ndarray, truth: np.ndarray) -> float:
    """The largest absolute difference; infinite where one is NaN or the shapes differ."""
    return _largest(difference(array, truth))


def _largest(array: np.ndarray) -> float:
    largest = float(np.abs(array).max(initial=0))
    return math.inf if math.isnan(largest) else largest


def _mark(arrays: Sequence[np.ndarray]) -> bytes:
    """Equal for arrays of equal bytes."""
    made = hashlib.blake2b(digest_size=16)
    for array in arrays:
        made.update(f"{array.shape}".encode())
        made.update(np.ascontiguousarray(array))
    return made.digest()


def _with_axes_of(truth: np.ndarray, array: np.ndarray) -> np.ndarray:
    """OpenCV gives every blob two axes or more: without the axes of size 1 that truth lacks."""
    plain = [tuple(size for size in shape if size > 1) for shape in (array.shape, truth.shape)]
    return array.reshape(truth.shape) if plain[0] == plain[1] else array


KEPT, NEGATED, ERASED = 1, 2, 4


def _decisions(plan: Plan, blobs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each mask did at each position, (num, height, width): bits of KEPT, NEGATED and ERASED.

    A position's bits are those of its channels; a channel whose feature is 0 has none, and neither has a
    position where all are 0: nothing was decided there.
    """
    decisions = {}
    masks = masks_of(plan)
    for name, mask in zip(unique_names(mask.layer for mask in masks), masks, strict=True):
        if mask.features != mask.top and {mask.features, mask.top} <= set(blobs):
            features, top = np.sign(blobs[mask.features]), np.sign(blobs[mask.top])
            did = {
                KEPT: features * top > 0,
                NEGATED: features * top < 0,
                ERASED: (features != 0) & (top == 0),
            }
            decisions[name] = sum(bit * channels.any(axis=1) for bit, channels in did.items())
    return decisions


def _flips_of(plan: Plan, blobs: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, int]:
    return {mask: _flips(found, truth[mask]) for mask, found in _decisions(plan, blobs).items()}


def _flips(decided: np.ndarray, truth: np.ndarray) -> int:
    if decided.shape != truth.shape:
        return truth.size
    return int(((decided != truth) & (decided != 0) & (truth != 0)).sum())
