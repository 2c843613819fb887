"""One net through several engines, held blob by blob against float64.

Truth is the NumPy reference in float64, the yardstick the float32 reference's own difference from it; every
engine gets the same float32 weights and inputs.
"""

import gc
import importlib
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np

from parity_tests.compare.engines import ENGINES, check_engines
from parity_tests.compare.inputs import Weights, fill_weights, write_weights
from parity_tests.compare.report import EngineReport, ParityReport, Row
from port.net import plan_of
from port.net_inputs import complete_inputs, masks_of
from prototxt.caffe_pb2 import TEST
from prototxt.errors import InputError
from prototxt.plan import Plan
from prototxt.read import read_net
from runtime.data.output import no_output_files
from weights import LayerWeights
from weights.layer_weights import shape_text

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
        return (chosen, [f"caffe takes no part: {objection}"]) if objection else ([*chosen, "caffe"], [])
    if objection:
        raise InputError(f"engine caffe: {objection}")
    return list(dict.fromkeys(engines)), []


def _objection_to_caffe(plan: Plan, allow_modules: Collection[str]) -> str:
    """Why genuine Caffe cannot run this net here; "" where it can."""
    os.environ.setdefault("GLOG_minloglevel", "2")  # before it is loaded: it logs every layer
    try:
        installed = hasattr(_load("caffe"), "Net")
    except ImportError:
        installed = False
    if not installed:
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


@dataclass
class _Truth:
    """What float64 says, and how far the float32 reference is off.

    Attributes:
        blobs: float64, inputs included.
        compared: the computed ones among them, in order.
        decisions: what each mask did at each position.
        own: the float32 reference's largest differences, filled in when it has run.
    """

    blobs: dict[str, np.ndarray]
    compared: list[str]
    decisions: dict[str, np.ndarray]
    own: dict[str, float] = field(default_factory=dict)


@dataclass
class _Runner:
    """Runs one net in one engine after another, with the same weights and inputs."""

    where: str
    plan: Plan
    allow_modules: Collection[str]
    seed: int
    tick: Tick
    weights: list[LayerWeights] = field(default_factory=list)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)

    def find_truth(
        self, weights: Weights | None, inputs: Mapping[str, np.ndarray]
    ) -> tuple[_Truth, float, list[str]]:
        """Decide the weights and inputs and run the reference in float64: truth, seconds, remarks."""
        net = self.net("reference", dtype=np.float64)
        self.weights, remarks = fill_weights(net, self.plan, weights, self.seed)
        self.inputs = complete_inputs(net, self.plan, inputs, self.seed, self.where)
        blobs, seconds = self.run_net("reference", net, "truth (float64)")
        for name, array in blobs.items():
            if not np.isfinite(array).all():
                remarks.append(f"{name} is not finite in float64 either: the inputs or weights are to blame")
        return _Truth(blobs, _computed_blobs(self.plan), _decisions(self.plan, blobs)), seconds, remarks

    def net(self, engine: str, **settings: Any) -> Any:
        """A net of one of the pycaffe engines; genuine Caffe's knows no `allow_modules`."""
        if engine != "caffe":
            return _load(engine).Net(self.where, TEST, allow_modules=self.allow_modules, **settings)
        try:
            return _load(engine).Net(self.where, TEST)
        except Exception as error:
            raise InputError(f"engine caffe: {str(error).strip().splitlines()[0]}") from error

    def feed(self, engine: str, net: Any) -> None:
        """Weights, inputs, and the seed for layers that draw, such as DummyData."""
        _load(engine).set_random_seed(self.seed)
        write_weights(net, self.weights)
        for name, array in self.inputs.items():
            net.blobs[name].reshape(*array.shape)
            net.blobs[name].data[...] = array

    def run_net(self, engine: str, net: Any, what: str) -> tuple[dict[str, np.ndarray], float]:
        """The net's blobs after one forward pass, as views, and the seconds that it took."""
        self.feed(engine, net)
        start = time.perf_counter()
        for i in range(len(net.layers)):
            self.tick(what, i, len(net.layers))
            self.forward_layer(engine, net, i)
        self.tick(what, len(net.layers), len(net.layers))
        seconds = time.perf_counter() - start
        return {name: net.blobs[name].data for name in _plain_blobs(self.plan)}, seconds

    def forward_layer(self, engine: str, net: Any, i: int) -> None:
        """Run layer `i` for the last time: what it keeps for a backward pass, as large as its blobs, goes."""
        net._forward(i, i)
        if engine != "caffe":
            net.layers[i] = net.layer_dict[net._layer_names[i]] = None

    def run_outside(self, engine: str, truth: _Truth) -> tuple[dict[str, np.ndarray], dict[str, str], float]:
        """As `run_net`, with the layers that the engine does not carry; the time is with reading the net."""
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
        return {**self.inputs, **blobs}, not_carried, seconds

    def run_onnx(self, engine: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        try:
            return _load(engine).run_onnx(engine, self.plan, self.weights, self.inputs)
        except InputError as error:
            raise _AbsentError(str(error)) from error

    def judge(self, engine: str, truth: "_Truth") -> EngineReport:
        """Run one engine and hold it against truth."""
        gc.collect()  # the engine before may have left its net in reference cycles
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
                largest = float(np.abs(truth.blobs[name]).max(initial=0))
                rows.append(Row(engine, name, largest, difference, own))
        if any(row.beyond for row in rows):
            rows = self.look_closer(engine, rows, blobs)
        decided = _decisions(self.plan, blobs)
        flips = {mask: _flips(decided[mask], truth.decisions[mask]) for mask in decided}
        return EngineReport(engine, seconds, rows, flips, not_carried)

    def look_closer(self, engine: str, rows: list[Row], blobs: Mapping[str, np.ndarray]) -> list[Row]:
        """Judge the layers alone behind each row that is beyond the rule, up to the first that is out."""
        if any(math.isinf(row.difference) for row in rows):
            return rows
        mine = theirs = self.alone(blobs)
        if engine != "reference":
            theirs = self.alone(self.run_net("reference", self.net("reference"), "reference again")[0])
        closer = list(rows)
        for i, row in enumerate(rows):
            if row.beyond:
                closer[i] = replace(row, alone=(mine[row.blob], theirs[row.blob]))
            if not closer[i].within:
                break
        return closer

    def alone(self, blobs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """How far each blob is from what float64 makes of the bottoms in `blobs`, layer by layer."""
        net = self.net("reference", dtype=np.float64)
        self.feed("reference", net)
        names = self.plan.blobs
        done_by = {top: i for i, layer in enumerate(self.plan.layers) for top in layer.tops}
        differences = {}
        for i, layer in enumerate(self.plan.layers):
            for bottom in layer.bottoms:
                if done_by[bottom] < i and names[bottom] in blobs:  # else in place: as float64 left it
                    net.blobs[names[bottom]].data[...] = blobs[names[bottom]]
            self.forward_layer("reference", net, i)
            for top in layer.tops:
                if done_by[top] == i and names[top] in blobs:
                    differences[names[top]] = _difference(blobs[names[top]], net.blobs[names[top]].data)
        return differences


# ---- the blobs


def _plain_blobs(plan: Plan) -> list[str]:
    """All blobs but the splits' copies."""
    copies = {top for layer in plan.layers if layer.type == "Split" for top in layer.tops}
    return list(dict.fromkeys(name for i, name in enumerate(plan.blobs) if i not in copies))


def _computed_blobs(plan: Plan) -> list[str]:
    written = {plan.blobs[top] for layer in plan.layers if layer.type != "Input" for top in layer.tops}
    return [name for name in _plain_blobs(plan) if name in written]


def _difference(array: np.ndarray, truth: np.ndarray) -> float:
    """The largest absolute difference; infinite where one is NaN or the shapes differ."""
    if array.shape != truth.shape:
        return math.inf
    largest = float(np.abs(array - truth).max(initial=0))
    return math.inf if math.isnan(largest) else largest


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
    for mask in masks_of(plan):
        if mask.features != mask.top and {mask.features, mask.top} <= set(blobs):
            features, top = np.sign(blobs[mask.features]), np.sign(blobs[mask.top])
            did = {
                KEPT: features * top > 0,
                NEGATED: features * top < 0,
                ERASED: (features != 0) & (top == 0),
            }
            decisions[mask.layer] = sum(bit * channels.any(axis=1) for bit, channels in did.items())
    return decisions


def _flips(decided: np.ndarray, truth: np.ndarray) -> int:
    if decided.shape != truth.shape:
        return truth.size
    return int(((decided != truth) & (decided != 0) & (truth != 0)).sum())
