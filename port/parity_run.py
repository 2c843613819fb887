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

import cv2
import numpy as np

from port.attention import MEAN_BGR
from port.parity_report import OUTSIDE, EngineReport, ParityReport, Row
from port.voc import CLASSES
from prototxt.caffe_pb2 import TEST
from prototxt.errors import InputError
from prototxt.plan import Plan, plan_net
from prototxt.read import read_net
from weights import LayerWeights, check_finite, match_by_name, read_weights
from weights.layer_weights import shape_text

ENGINES = {
    "port": "port.pycaffe",
    "reference": "reference.pycaffe",
    "opencv": "port.opencv_engine",
    "caffe": "caffe",
}
"""Engine → module. Loaded by name: the port itself does without the reference."""

MASKS = (("crelu_layer", "CReLULayer"), ("scan_background_layer", "BackgroundMaskLayer"))
"""SeeNet's Python layers, whose decisions are counted: bottoms are features, scores and labels."""

Tick = Callable[[str, int, int], None]
"""Told (what runs, layers done, layers in all)."""



def compare(
    prototxt: str | os.PathLike,
    weights: str | os.PathLike | Sequence[LayerWeights] | None = None,
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
        inputs: arrays by input name. What is not given is drawn with `seed`: N(0, 50), like an image minus
            its mean, and labels of 0 and 1.
        engines: names from `ENGINES`. By default port, reference and opencv, and caffe where it is installed.
        allow_modules: Python modules that the net's Python layers may load; SeeNet's are built in.

    Raises:
        InputError: for whatever is wrong with the files, the inputs or the engines' names.
    """
    where = os.fspath(prototxt)
    plan = plan_net(read_net(prototxt), TEST, where=where)
    if not plan.inputs:
        raise InputError(f"{where}: has no inputs to feed: give the net's deploy form, with Input layers")
    chosen, remarks = _choose(engines, plan, allow_modules)
    runner = _Runner(where, plan, allow_modules, progress or (lambda what, done, total: None), seed)

    net = runner.net("reference", dtype=np.float64)
    remarks += runner.take_weights(net, weights)
    runner.take_inputs(net, inputs or {})
    blobs, truth_seconds = runner.run_net("reference", net, "reference in float64")
    truth = _Truth(
        {name: array.copy() for name, array in blobs.items()}, _computed_blobs(plan), _decisions(plan, blobs)
    )
    del net, blobs

    reports = {name: runner.judge(name, truth) for name in dict.fromkeys(["reference", *chosen])}
    return ParityReport(
        prototxt=where,
        weights=_described(weights, seed),
        inputs=", ".join(f"{name} {shape_text(array.shape)}" for name, array in runner.inputs.items()),
        blobs=truth.compared,
        positions={mask: decided.size for mask, decided in truth.decisions.items()},
        truth_seconds=truth_seconds,
        engines=[reports[name] for name in chosen],
        remarks=remarks,
    )


def _described(weights: str | os.PathLike | Sequence[LayerWeights] | None, seed: int) -> str:
    if weights is None:
        return f"rebuilt with seed {seed}"
    return os.fspath(weights) if isinstance(weights, str | os.PathLike) else "given"


def rebuilt_weights(net: Any, seed: int) -> list[LayerWeights]:
    """Weights of He's uniform distribution for a pycaffe net's layers, the same for every engine and machine.

    As the recordings rebuild them: for each layer in order, each blob uniform in ±bound, with √(6 / fan-in)
    for blob 0 (fan-in: the product of its shape after the first axis) and 0.1 for the others, drawn by
    NumPy's `RandomState(seed)`. BatchNorm's blobs are statistics instead: means within ±0.1, variances
    within 1 ± 0.1, and a factor of 1.
    """
    generator = np.random.RandomState(seed)
    types = dict(zip(net._layer_names, (layer.type for layer in net.layers), strict=True))
    layers = []
    for name, blobs in net.params.items():
        statistics = types[name] == "BatchNorm"
        arrays = []
        for i, blob in enumerate(blobs):
            shape = blob.data.shape
            bound = 0.1 if i or statistics else math.sqrt(6 / math.prod(shape[1:]))
            array = ((2 * generator.random_sample(shape) - 1) * bound).astype(np.float32)
            arrays.append([array, 1 + array, np.ones_like(array)][i] if statistics else array)
        layers.append(LayerWeights(name, types[name], arrays))
    return layers


def published_inputs(
    prototxt: str | os.PathLike,
    image: np.ndarray | None = None,
    labels: Sequence[int] | None = None,
    test_size: int = 256,
) -> dict[str, np.ndarray]:
    """Inputs for `compare` as the published procedure feeds them; what is None is left to `compare`.

    Args:
        image: (height, width, 3) uint8, BGR: resized to test_size² by INTER_CUBIC on float64, minus the mean.
        labels: VOC class indices, to be set in a label blob of 1×1×1×20.

    Raises:
        InputError: an image for a net without an input of colour images, labels for one without labels.
    """
    where = os.fspath(prototxt)
    plan = plan_net(read_net(prototxt), TEST, where=where)
    inputs = {}
    if image is not None:
        name = _image_input(plan)
        if name is None:
            raise InputError(f"{where}: no input is a colour image (N×3×height×width): leave out the image")
        resized = cv2.resize(image.astype(np.float64), (test_size, test_size), interpolation=cv2.INTER_CUBIC)
        inputs[name] = (resized - np.array(MEAN_BGR)).transpose(2, 0, 1)[None].astype(np.float32)
    if labels is not None:
        names = _label_inputs(plan)
        if not names:
            raise InputError(f"{where}: has no label input: leave out the labels")
        label = np.zeros((1, 1, 1, len(CLASSES)), np.float32)
        label[..., list(labels)] = 1
        inputs |= dict.fromkeys(names, label)
    return inputs


# ---- running


@dataclass
class _Runner:
    """Runs one net in one engine after another, with the same weights and inputs."""

    where: str
    plan: Plan
    allow_modules: Collection[str]
    tick: Tick
    seed: int
    weights: list[LayerWeights] = field(default_factory=list)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)

    def net(self, engine: str, **settings: Any) -> Any:
        """A net of one of the pycaffe engines; genuine Caffe knows no `allow_modules`."""
        if engine == "caffe":
            try:
                return _load(engine).Net(self.where, TEST)
            except Exception as error:
                raise InputError(f"engine caffe: {str(error).strip().splitlines()[0]}") from error
        return _load(engine).Net(self.where, TEST, allow_modules=self.allow_modules, **settings)

    def take_weights(self, net: Any, weights: str | os.PathLike | Sequence[LayerWeights] | None) -> list[str]:
        """Decide the float32 weights of all engines, by filling `net`. Returns remarks."""
        remarks = []
        if weights is None:
            _write_weights(net, rebuilt_weights(net, self.seed))
        else:
            remarks = self._fill(net, weights)
        types = dict(zip(net._layer_names, (layer.type for layer in net.layers), strict=True))
        self.weights = [
            LayerWeights(name, types[name], [blob.data.astype(np.float32) for blob in blobs])
            for name, blobs in net.params.items()
        ]
        return remarks

    def _fill(self, net: Any, weights: str | os.PathLike | Sequence[LayerWeights]) -> list[str]:
        is_file = isinstance(weights, str | os.PathLike)
        where = os.fspath(weights) if is_file else "weights"
        layers = read_weights(weights, with_empty=True) if is_file else list(weights)
        check_finite(layers, where)
        shapes = {name: [blob.shape for blob in layer.blobs] for name, layer in net.layer_dict.items()}
        shared = {
            (layer.name, i)
            for layer in self.plan.layers
            for i, param in enumerate(layer.params)
            if param.owner is not None
        }
        found, _ = match_by_name(layers, shapes, where, shared=shared)
        lacking = [name for name in net.params if name not in found]
        if lacking and len(lacking) == len(net.params):
            raise InputError(
                f"{where}: has weights for none of the layers of {self.where}: are they of one net?"
            )
        _write_weights(net, [LayerWeights(name, blobs=blobs) for name, blobs in found.items()])
        return [f"{where} lacks {', '.join(lacking)}: filled as the prototxt says"] if lacking else []

    def take_inputs(self, net: Any, given: Mapping[str, np.ndarray]) -> None:
        """Decide the float32 inputs of all engines: those given, the others drawn."""
        unknown = [name for name in given if name not in net.inputs]
        if unknown:
            raise InputError(f'{self.where}: no input "{unknown[0]}": its inputs are {", ".join(net.inputs)}')
        generator = np.random.RandomState(self.seed)
        labels = _label_inputs(self.plan)
        for name in sorted(net.inputs, key=lambda name: name in labels):  # labels may need the image's batch
            shape = net.blobs[name].shape
            if name in given:
                array = np.ascontiguousarray(given[name], np.float32)
            elif name in labels:
                array = generator.randint(0, 2, self._label_shape(net, name)).astype(np.float32)
            else:
                array = generator.normal(0, 50, shape).astype(np.float32)
            net.blobs[name].reshape(*array.shape)
            self.inputs[name] = array
        self.inputs = {name: self.inputs[name] for name in net.inputs}

    def _label_shape(self, net: Any, name: str) -> tuple[int, ...]:
        """As declared, or what SeeNet's masks need: a deploy net declares its label blob too small."""
        scores = next((mask.scores for mask in _masks(self.plan) if mask.label == name), None)
        if scores is None:
            return net.blobs[name].shape
        net.reshape()
        num, classes = net.blobs[scores].shape[:2]
        return num, 1, 1, classes

    def feed(self, net: Any) -> None:
        """Give a net the weights and inputs."""
        _write_weights(net, self.weights)
        for name, array in self.inputs.items():
            net.blobs[name].reshape(*array.shape)
            net.blobs[name].data[...] = array
        net.reshape()

    def run_net(self, engine: str, net: Any, what: str) -> tuple[dict[str, np.ndarray], float]:
        """The net's blobs after one forward pass, as views, and the seconds that it took."""
        self.feed(net)
        _load(engine).set_random_seed(self.seed)  # for layers that draw, such as DummyData
        start = time.perf_counter()
        for i in range(len(net.layers)):
            self.tick(what, i, len(net.layers))
            net._forward(i, i)
        self.tick(what, len(net.layers), len(net.layers))
        seconds = time.perf_counter() - start
        return {name: net.blobs[name].data for name in _plain_blobs(self.plan)}, seconds

    def run_opencv(self) -> tuple[dict[str, np.ndarray], dict[str, str], float]:
        """As `run_net`, with the layers that OpenCV does not carry; its time is with reading the net."""
        start = time.perf_counter()
        self.tick("opencv", 0, 1)
        blobs, not_carried = _load("opencv").run_opencv(self.plan, self.weights, self.inputs)
        self.tick("opencv", 1, 1)
        return {**self.inputs, **blobs}, not_carried, time.perf_counter() - start

    def judge(self, engine: str, truth: "_Truth") -> EngineReport:
        """Run one engine and hold it against truth."""
        gc.collect()  # the engine before may have left its net in reference cycles
        if engine == "opencv":
            blobs, not_carried, seconds = self.run_opencv()
            blobs = {name: _with_axes_of(truth.blobs[name], array) for name, array in blobs.items()}
        else:
            blobs, seconds = self.run_net(engine, self.net(engine), engine)
            not_carried = {}
        rows = []
        for name in truth.compared:
            if name in blobs:
                difference = _difference(blobs[name], truth.blobs[name])
                own = truth.own.setdefault(name, difference)  # the float32 reference comes first
                largest = float(np.abs(truth.blobs[name]).max(initial=0))
                rows.append(Row(engine, name, truth.blobs[name].shape, largest, difference, own))
        if engine not in OUTSIDE and any(row.beyond for row in rows):
            rows = self.look_closer(rows, blobs)
        decided = _decisions(self.plan, blobs)
        flips = {mask: _flips(decided[mask], truth.decisions[mask]) for mask in decided}
        return EngineReport(engine, seconds, rows, flips, not_carried)

    def look_closer(self, rows: list[Row], blobs: Mapping[str, np.ndarray]) -> list[Row]:
        """Judge the layers alone behind each row that is beyond the rule, up to the first that is out."""
        if any(math.isinf(row.difference) for row in rows):
            return rows
        mine = self.alone(blobs)
        theirs = self.alone(self.run_net("reference", self.net("reference"), "reference")[0])
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
        self.feed(net)
        names = self.plan.blobs
        done_by = {top: i for i, layer in enumerate(self.plan.layers) for top in layer.tops}
        differences = {}
        for i, layer in enumerate(self.plan.layers):
            for bottom in layer.bottoms:
                if done_by[bottom] < i and names[bottom] in blobs:  # else in place: as float64 left it
                    net.blobs[names[bottom]].data[...] = blobs[names[bottom]]
            net._forward(i, i)
            for top in layer.tops:
                if done_by[top] == i and names[top] in blobs:
                    differences[names[top]] = _difference(blobs[names[top]], net.blobs[names[top]].data)
        return differences


@dataclass
class _Truth:
    """What float64 says, and how far the float32 reference is off.

    Attributes:
        blobs: float64, inputs included, splits' copies not.
        compared: the computed ones among them, in order.
        decisions: what each mask did at each position.
        own: the float32 reference's largest differences, filled in when it has run.
    """

    blobs: dict[str, np.ndarray]
    compared: list[str]
    decisions: dict[str, np.ndarray]
    own: dict[str, float] = field(default_factory=dict)


def _load(engine: str) -> ModuleType:
    return importlib.import_module(ENGINES[engine])


def _write_weights(net: Any, layers: Sequence[LayerWeights]) -> None:
    for layer in layers:
        for blob, array in zip(net.params[layer.name], layer.blobs, strict=True):
            if array is not None:
                blob.data[...] = array


def _choose(
    engines: Sequence[str] | None, plan: Plan, allow_modules: Collection[str]
) -> tuple[list[str], list[str]]:
    """The engines to report on, and remarks."""
    unknown = [name for name in engines or () if name not in ENGINES]
    if unknown:
        raise InputError(f'engine "{unknown[0]}": there is none; the engines are {", ".join(ENGINES)}')
    objection = _objection_to_caffe(plan, allow_modules)
    if engines is None:
        chosen = ["port", "reference", "opencv"]
        return (chosen, [f"caffe takes no part: {objection}"]) if objection else ([*chosen, "caffe"], [])
    if "caffe" in engines and objection:
        raise InputError(f"engine caffe: {objection}")
    if not engines:
        raise InputError(f"no engine: give some of {', '.join(ENGINES)}")
    return list(dict.fromkeys(engines)), []


def _objection_to_caffe(plan: Plan, allow_modules: Collection[str]) -> str:
    """Why genuine Caffe cannot run this net here; "" where it can."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    try:
        installed = hasattr(_load("caffe"), "Net")
    except ImportError:
        installed = False
    if not installed:
        return "genuine pycaffe is not importable here"
    # It imports whatever module a prototxt names, built in here or not: not unasked.
    modules = {layer.param.python_param.module for layer in plan.layers if layer.type == "Python"}
    for module in sorted(modules - set(allow_modules)):
        return f'it would load the Python module "{module}": allow it with --allow-module {module}'
    return ""


# ---- the net's blobs


@dataclass(frozen=True)
class _Mask:
    """One of SeeNet's masks, with its blobs by the names that they have before splitting."""

    layer: str
    features: str
    scores: str
    label: str
    top: str


def _masks(plan: Plan) -> list[_Mask]:
    unsplit = dict(enumerate(plan.blobs))
    masks = []
    for layer in plan.layers:
        if layer.type == "Split":
            unsplit |= dict.fromkeys(layer.tops, unsplit[layer.bottoms[0]])
        python = layer.param.python_param
        if layer.type == "Python" and (python.module, python.layer) in MASKS and len(layer.bottoms) == 3:
            masks.append(_Mask(layer.name, *(unsplit[i] for i in (*layer.bottoms, layer.tops[0]))))
    return masks


def _plain_blobs(plan: Plan) -> list[str]:
    """All blobs but the splits' copies."""
    copies = {top for layer in plan.layers if layer.type == "Split" for top in layer.tops}
    return list(dict.fromkeys(name for i, name in enumerate(plan.blobs) if i not in copies))


def _computed_blobs(plan: Plan) -> list[str]:
    written = {plan.blobs[top] for layer in plan.layers if layer.type != "Input" for top in layer.tops}
    return [name for name in _plain_blobs(plan) if name in written]


def _label_inputs(plan: Plan) -> list[str]:
    read_as_label = {mask.label for mask in _masks(plan)}
    inputs = [plan.blobs[i] for i in plan.inputs]
    return [name for name in inputs if name == "label" or name in read_as_label]


def _image_input(plan: Plan) -> str | None:
    for layer in plan.layers:
        if layer.type == "Input":
            shapes = list(layer.param.input_param.shape)
            shapes = shapes * len(layer.tops) if len(shapes) == 1 else shapes
            for top, shape in zip(layer.tops, shapes, strict=False):
                if len(shape.dim) == 4 and shape.dim[1] == 3:
                    return plan.blobs[top]
    return None


# ---- comparing


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
    for mask in _masks(plan):
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
