"""Two outside opinions: a planned net by way of caffe2onnx, in ONNX Runtime and in PyTorch by onnx2torch.

The graph is cut at SeeNet's masks, which the route cannot carry: these are the port's, and what comes before
and after each is a graph of its own. What a converter or a runtime cannot carry is left out by name, together
with whatever reads from it.
"""

import ast
import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch

from parity_tests.compare.inputs import FED, MASKS, fed_blobs, is_mask
from parity_tests.compare.onnx_route import NotConvertibleError, convert_layers, layer_of, require
from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.plan import LayerPlan, Plan
from weights import LayerWeights
from weights.names import unique_names
from weights.rebuilt import Held

Arrays = dict[str, np.ndarray]

_NOT_CONVERTED = (
    "bottom",
    "top",
    "blobs",
    "param",
    "include",
    "exclude",
    "propagate_down",
    "loss_weight",
    "phase",
)


def run_onnx(
    engine: str, plan: Plan, weights: Held, inputs: Mapping[str, np.ndarray]
) -> tuple[Arrays, dict[str, str]]:
    """Run a net by the ONNX route.

    Args:
        engine: "onnxruntime" or "onnx2torch".
        weights: of the plan's layers, by index.
        inputs: a float32 array for each top of an Input or MemoryData layer, by name.

    Returns:
        The blobs by name, as the last layer that writes them leaves them; and the layers that are not
        carried, by name, each with the reason.

    Raises:
        InputError: a missing package, too little memory.
    """
    require("onnx", "caffe2onnx", engine)
    steps, names = _steps(plan)
    held = {s.param.name: weights[s.plan.index] for s in steps if s.plan.index in weights}
    run = _Run(_RUNTIMES[engine], held)
    run.values.update({names[blob]: inputs[plan.blobs[blob]] for blob in fed_blobs(plan)})
    segment: list[_Step] = []
    for step in steps:
        if is_mask(step.param):
            run.graph(segment)
            run.mask(step)
            segment = []
        else:
            segment.append(step)
    run.graph(segment)
    # Splits' copies go by the name of what they copy, which comes before them.
    blobs = {name: plan.blobs[blob] for blob, name in reversed(names.items())}
    arrays = {blobs[name]: array for name, array in run.values.items()}
    keys = unique_names(layer.name for layer in plan.layers)
    return arrays, {
        keys[s.plan.index]: _told(plan, run.refused[s.param.name])
        for s in steps
        if s.param.name in run.refused
    }


def _told(plan: Plan, reason: str) -> str:
    """A reason with the layers' own names."""
    return re.sub(r"\blayer(\d+)\b", lambda found: plan.layers[int(found[1])].name, reason)


# ---- the net as the route gets it


@dataclass(frozen=True)
class _Step:
    """A layer under names of our own, which clash with nothing; in place where it was."""

    plan: LayerPlan
    param: LayerParameter


def _steps(plan: Plan) -> tuple[list[_Step], dict[int, str]]:
    """The layers but inputs and splits, and the blobs' names, those of splits' copies included."""
    steps: list[_Step] = []
    names = {blob: f"input{i}" for i, blob in enumerate(fed_blobs(plan))}
    for i, layer in enumerate(plan.layers):
        if layer.type in FED:
            continue
        if layer.type == "Split":
            names.update(dict.fromkeys(layer.tops, names[layer.bottoms[0]]))
            continue
        param = LayerParameter()
        param.CopyFrom(layer.param)
        for name in _NOT_CONVERTED:
            param.ClearField(name)
        param.name, param.type = f"layer{i}", layer.type
        param.bottom.extend(names[blob] for blob in layer.bottoms)
        for k, blob in enumerate(layer.tops):
            names.setdefault(blob, f"layer{i}" if len(layer.tops) == 1 else f"layer{i}_{k}")
        param.top.extend(names[blob] for blob in layer.tops)
        steps.append(_Step(layer, param))
    return steps, names


# ---- running it, graph after graph


@dataclass
class _Run:
    """One run of a net.

    Attributes:
        runtime: what runs a graph.
        weights: by the steps' names.
        values: the blobs so far, by the steps' names.
        refused: steps that are not supported, with the reason.
        lost: blobs that are not there for that, with the layer to blame.
    """

    runtime: Callable[[Any, Arrays], Arrays]
    weights: Mapping[str, Sequence[np.ndarray]]
    values: Arrays = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def graph(self, steps: Sequence[_Step]) -> None:
        """Convert and run steps as one graph, without those that turn out not to be carried."""
        while carried := self.carried(steps):
            read = list(dict.fromkeys(name for step in carried for name in step.param.bottom))
            feeds = {name: self.values[name] for name in read if name in self.values}
            try:
                self.values.update(self.converted(carried, feeds))
                break
            except NotConvertibleError as error:
                self.refused[error.layer] = error.reason
        self.lose(steps)

    def carried(self, steps: Sequence[_Step]) -> list[_Step]:
        """Those that are not refused, nor read what is lost."""
        carried, lost = [], dict(self.lost)
        for step in steps:
            source = next((lost[name] for name in step.param.bottom if name in lost), None)
            if source is not None:
                self.refused.setdefault(step.param.name, f'it comes after "{source}"')
            if step.param.name in self.refused:
                lost.update(dict.fromkeys(step.param.top, source or step.plan.name))
            else:
                carried.append(step)
        return carried

    def lose(self, steps: Sequence[_Step]) -> None:
        for step in steps:
            if step.param.name in self.refused:
                source = next(
                    (self.lost[name] for name in step.param.bottom if name in self.lost), step.plan.name
                )
                for top in step.param.top:
                    self.lost[top] = source
                    self.values.pop(top, None)

    def converted(self, steps: Sequence[_Step], feeds: Arrays) -> Arrays:
        weights = [
            LayerWeights(step.param.name, step.plan.type, list(self.weights[step.param.name]))
            for step in steps
            if step.param.name in self.weights
        ]
        net = convert_layers(
            [step.param for step in steps], weights, {name: array.shape for name, array in feeds.items()}
        )
        fed = {f"{name}_input": array for name, array in feeds.items()}
        try:
            values = self.runtime(net.model, fed)
        except Exception as error:
            if isinstance(error, MemoryError) or "allocat" in str(
                error
            ):  # the runtimes have their own errors
                raise InputError(
                    "too little memory for this net: close other programs, or take a smaller one"
                ) from error
            raise self.culprit(net.model, fed, steps, error) from error
        return {blob: values[value] for blob, value in net.values.items()}

    def culprit(
        self, model: Any, fed: Arrays, steps: Sequence[_Step], error: Exception
    ) -> NotConvertibleError:
        """The layer of the last node of the shortest beginning of the graph that does not run."""
        works, fails = 0, len(model.graph.node)
        while fails - works > 1:
            middle = (works + fails) // 2
            try:
                self.runtime(_beginning(model, middle), fed)
                works = middle
            except Exception as earlier:
                fails, error = middle, earlier
        node = model.graph.node[fails - 1]
        layer = layer_of(node.name, (step.param.name for step in steps))
        told = " ".join(str(error).split()) or type(error).__name__
        return NotConvertibleError(layer, f"the {node.op_type} that it became does not run: {told[:200]}")

    def mask(self, step: _Step) -> None:
        if self.carried([step]):
            python = step.param.python_param
            module = MASKS[python.module, python.layer](**ast.literal_eval(python.param_str.strip()))
            bottoms = (torch.from_numpy(self.values[name]) for name in step.param.bottom)
            with torch.no_grad():
                self.values[step.param.top[0]] = module(*bottoms).numpy()
        self.lose([step])


def _beginning(model: Any, nodes: int) -> Any:
    """A graph's first nodes, with the last one's outputs for outputs."""
    import onnx

    short = onnx.ModelProto()
    short.CopyFrom(model)
    del short.graph.node[nodes:]
    del short.graph.output[:]
    for name in short.graph.node[-1].output:
        short.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return short


# ---- the two runtimes


def _run_onnxruntime(model: Any, fed: Arrays) -> Arrays:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised as well
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    expected = {value.name for value in session.get_inputs()}
    return dict(zip(names, session.run(names, {k: v for k, v in fed.items() if k in expected}), strict=True))


def _run_onnx2torch(model: Any, fed: Arrays) -> Arrays:
    with _no_torchvision():
        from onnx2torch import convert
    inputs = [torch.from_numpy(np.ascontiguousarray(fed[value.name])) for value in model.graph.input]
    # Where a layer fails, torch.fx tells of it on stderr and raises it too; its warnings are the developers'.
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        outputs = convert(model).eval()(*inputs)
    outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
    names = [value.name for value in model.graph.output]
    return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}


@contextlib.contextmanager
def _no_torchvision() -> Iterator[None]:
    """Stand in for torchvision while onnx2torch is imported.

    It imports torchvision for two operators of detection nets, of which Caffe has neither; and torchvision's
    compiled part does not load beside a torch of another build, such as the one for CPUs only. Whoever
    imports torchvision later gets the real one.
    """
    if "torchvision" in sys.modules or "onnx2torch" in sys.modules:
        yield
        return
    torchvision, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")
    torchvision.ops, ops.roi_align = ops, None
    sys.modules.update({"torchvision": torchvision, "torchvision.ops": ops})
    try:
        yield
    finally:
        del sys.modules["torchvision"], sys.modules["torchvision.ops"]


_RUNTIMES = {"onnxruntime": _run_onnxruntime, "onnx2torch": _run_onnx2torch}
