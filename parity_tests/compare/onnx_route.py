"""The ONNX route: prototxt and weights → `caffe2onnx` 2.0.1 → a graph that `onnx` accepts.

The converter is as its authors left it, and so is what it makes of each layer: what it converts wrongly stays
wrong, for an outside opinion is wanted. Only what keeps its graphs from being read at all is corrected here:

- It pins onnx 1.6.0, which no longer builds: it is installed with `--no-deps`. Its generated protobuf code
  wants protobuf's Python form, and NumPy's old names: a process of its own (`caffe2onnx_process.py`).
- It gives the net's first layer every input of the net: one layer more goes first, which is removed again.
- It marks its graphs with the newest opset of whichever onnx is installed, though it writes the nodes of onnx
  1.6.0's: opset 11, or an older one where that is what they follow.
- It lists its initializers as inputs too, which makes them changeable, and nothing can be made of them then.
- It writes a Pad before each pooling, also of 0, and gives the padding value as a list of one: without the
  former and with a scalar, as ONNX says, onnx2torch runs them.
- The shapes that it notes down are its own guesses: dropped, for onnx infers them from the operators.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from prototxt.caffe_pb2 import BlobShape, InputParameter, LayerParameter
from prototxt.errors import InputError, need_packages
from weights.layer_weights import LayerWeights

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

INSTALL = "pip install onnx onnxruntime && pip install --no-deps caffe2onnx==2.0.1 onnx2torch==1.5.15"
"""`--no-deps`: the one pins onnx 1.6.0, the other pulls in torchvision."""

OPSETS = (11, 10, 9, 8, 7)
"""Of onnx 1.6.0, for which caffe2onnx was written, down to the oldest that ONNX Runtime vouches for."""

_PROCESS = Path(__file__).with_name("caffe2onnx_process.py")

_FIRST = "first"


class NotConvertibleError(Exception):
    """One layer that the route does not carry.

    Attributes:
        layer: its name.
        reason: for people, one line.
    """

    def __init__(self, layer: str, reason: str):
        super().__init__(f"{layer}: {reason}")
        self.layer, self.reason = layer, reason


@dataclass(frozen=True)
class Converted:
    """A net in ONNX.

    Attributes:
        model: its inputs and outputs are named as `values` names them.
        values: blob → the value that holds it in the end. Every one is an output of the model.
    """

    model: "ModelProto"
    values: dict[str, str]


def require(*packages: str) -> None:
    """Raises InputError, with the command to install them, where a package is missing."""
    need_packages(*packages, install=INSTALL)


def convert_layers(
    layers: Sequence[LayerParameter],
    weights: Sequence[LayerWeights],
    inputs: Mapping[str, Sequence[int]],
) -> Converted:
    """Convert layers by caffe2onnx.

    Args:
        layers: in order, names unique, without `Input` layers. A layer that is not in place has the name of
            its top, or of its tops with `_0`, `_1`, … appended.
        weights: of the layers, by their names.
        inputs: shapes by blob name, of the blobs that come from outside.

    Raises:
        NotConvertibleError: for the first layer that caffe2onnx cannot convert, or converts to what ONNX does
            not know.
        InputError: a missing package, too little memory.
    """
    require("onnx", "caffe2onnx")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = _before(inputs)
        texts = [text_format.MessageToString(layer) for layer in (*before, *layers)]
        arrays = {f"{layer.name} {i}": blob for layer in weights for i, blob in enumerate(layer.blobs)}
        try:
            (folder / "layers.json").write_text(json.dumps(texts))
            np.savez(folder / "weights.npz", **arrays)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}): make room, or set TMPDIR"
            ) from error
        failed = _run(folder)
        if failed:
            number, why = failed[0] - len(before), failed[1]
            if number < 0:
                raise InputError(f"caffe2onnx cannot take the inputs {', '.join(inputs)}: {why}")
            raise NotConvertibleError(layers[number].name, why)
        model = read_onnx(folder / "net.onnx")
    return _mended(model, layers, inputs)


def _before(inputs: Mapping[str, Sequence[int]]) -> list[LayerParameter]:
    """The inputs, and the layer that is given all of them."""
    # A sum: of the converters, one that takes any number of inputs.
    first = LayerParameter(name=_FIRST, type="Eltwise", bottom=list(inputs)[:1], top=[_FIRST])
    return [
        *(
            LayerParameter(
                name=name,
                type="Input",
                top=[name],
                input_param=InputParameter(shape=[BlobShape(dim=shape)]),
            )
            for name, shape in inputs.items()
        ),
        first,
    ]


def _run(folder: Path) -> list | None:
    """What the process says, see there."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(_PROCESS), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
    )
    if done.returncode == 0:
        return json.loads(done.stdout)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode < 0 or last.startswith(("MemoryError", "numpy._core._exceptions._ArrayMemoryError")):
        raise InputError(
            "caffe2onnx was stopped, most likely for want of memory: close other programs, or take a smaller net"
        )
    raise InputError(f"caffe2onnx does not run here ({last}): {INSTALL}")


def read_onnx(path: str | os.PathLike) -> "ModelProto":
    """An ONNX file.

    Raises:
        InputError: where the file is missing, corrupt, no ONNX, or older than ONNX Runtime reads.
    """
    require("onnx")
    import onnx

    try:
        model = onnx.load(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path}: is no ONNX file, or a corrupt one: get it, or write it, again") from error
    versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    if not model.graph.node or not versions:
        raise InputError(
            f"{path}: is no ONNX file, or a corrupt one: it has no graph: get it, or write it, again"
        )
    if versions[0] < OPSETS[-1]:
        raise InputError(
            f"{path}: follows opset {versions[0]}, too old for ONNX Runtime, which begins with {OPSETS[-1]}: "
            "export it with a newer one"
        )
    return model


# ---- what keeps a graph from being read


def _mended(model: "ModelProto", layers: Sequence[LayerParameter], inputs: Collection[str]) -> Converted:
    graph = model.graph
    kept = {name: f"{name}_input" for name in inputs}
    nodes = [node for node in graph.node if node.name != _FIRST]
    nodes = _without_idle_pads(nodes, graph)
    values = _values(nodes, layers, kept)
    _mark_opset(model, nodes, layers)
    read = {name for node in nodes for name in node.input}
    _set(graph, "node", nodes)
    _set(graph, "input", [value for value in graph.input if value.name in kept.values()])
    _set(graph, "output", [value for value in graph.output if value.name in values.values()])
    _set(graph, "value_info", [])
    _set(graph, "initializer", [tensor for tensor in graph.initializer if tensor.name in read])
    _check(model)
    _set(graph, "output", [_of_any_shape(value) for value in dict.fromkeys(values.values())])
    return Converted(model, values)


def _set(graph: Any, field: str, entries: Iterable) -> None:
    entries = list(entries)
    graph.ClearField(field)
    getattr(graph, field).extend(entries)


def _check(model: "ModelProto") -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        told = " ".join(str(error).split())
        raise InputError(f"onnx refuses the graph that caffe2onnx made of this net: {told}") from error


def _without_idle_pads(nodes: Sequence["NodeProto"], graph: Any) -> list["NodeProto"]:
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept: list[NodeProto] = []
    renamed: dict[str, str] = {}
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type != "Pad":
            kept.append(node)
        elif not numpy_helper.to_array(constants[node.input[1]]).any():
            renamed[node.output[0]] = node.input[0]
        else:
            for name in node.input[2:]:
                constants[name].ClearField("dims")
            kept.append(node)
    return kept


def _values(
    nodes: Sequence["NodeProto"], layers: Sequence[LayerParameter], inputs: Mapping[str, str]
) -> dict[str, str]:
    """Which value holds each computed blob in the end.

    caffe2onnx calls a layer's output after the layer where that works in place, else after the top; and makes
    one node of a BatchNorm and a Scale that follows, so that the latter's blob is the former's.
    """
    made = {name for node in nodes for name in node.output}
    values = dict(inputs)
    for layer in layers:
        in_place = list(layer.top) == list(layer.bottom)
        for top in layer.top:
            value = layer.name if in_place else top
            if value in made:
                values[top] = value
            elif not (in_place and layer.type == "Scale"):
                raise NotConvertibleError(layer.name, "caffe2onnx leaves it out")
    return {top: values[top] for layer in layers for top in layer.top}


def _mark_opset(model: "ModelProto", nodes: Sequence["NodeProto"], layers: Sequence[LayerParameter]) -> None:
    """Mark a graph with the newest of `OPSETS` that all of its nodes follow."""
    import onnx

    refused = []
    for opset in OPSETS:
        context = onnx.checker.C.CheckerContext()
        context.ir_version, context.opset_imports = model.ir_version, {"": opset}
        wrong = _first_wrong(nodes, context)
        if wrong is None:
            del model.opset_import[:]
            model.opset_import.append(onnx.helper.make_opsetid("", opset))
            return
        refused.append(wrong)
    node, why = refused[0]
    raise NotConvertibleError(
        layer_of(node.name, (layer.name for layer in layers)),
        f"caffe2onnx makes a {node.op_type} of it that suits no opset of the whole graph: {why}",
    )


def _first_wrong(nodes: Sequence["NodeProto"], context: Any) -> tuple["NodeProto", str] | None:
    import onnx

    for node in nodes:
        try:
            onnx.checker.check_node(node, context)
        except onnx.checker.ValidationError as error:
            return node, str(error).strip().splitlines()[0]
    return None


def layer_of(node: str, layers: Iterable[str]) -> str:
    """The layer of which a node was made: caffe2onnx names a node after its layer, and may append to that."""
    return max((name for name in layers if node.startswith(name)), key=len)


def _of_any_shape(name: str) -> Any:
    """A float32 output of whichever shape comes out."""
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
