"""Layers drawn at random, with settings and bottoms that Caffe takes and others that it refuses (hypothesis)."""

import inspect
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

import port.layers
import reference.layers
from parity_tests.recordings import PHASES, recorded
from parity_tests.test_fork_rules import CASES, inputs_of, net_of
from port.layer import LAYERS as PORT
from prototxt import parse_net
from prototxt.caffe_pb2 import FillerParameter, LayerParameter, NetParameter, PowerParameter
from prototxt.layers.declare import LAYER_TYPES, Shape, known_at_set_up
from prototxt.layers.python import BUILT_IN
from prototxt.unknown import unknown_fields
from reference.layer import LAYERS as REFERENCE
from runtime.fillers import FILLERS

TYPES = sorted(
    name
    for name, kind in LAYER_TYPES.items()
    if kind.declare is not known_at_set_up and name != "HDF5Output"  # which writes a file
)
"""The declared layer types that open no file."""

INTEGERS = (1, 2, 0, 3, -1, 4, 1, 5, 2, 7, -2, -3)
FLOATS = (1.0, 0.5, 0.0, 2.0, -1.0, 0.25, -0.5, 3.0, 1e-3)
_SIZES = (2, 3, 1, 4, 6, 5, 2, 0)


@dataclass(frozen=True)
class Drawn:
    """A net of Input layers and one layer.

    Attributes:
        net: the message.
        values: of each input.
        seed: of Caffe's generator.
    """

    net: NetParameter
    values: dict[str, np.ndarray]
    seed: int

    def __repr__(self) -> str:  # what hypothesis prints of a failure
        shapes = {name: value.shape for name, value in self.values.items()}
        return f"seed {self.seed}, bottoms {shapes}, {self.net.layer[-1]}"


@st.composite
def drawn_layers(draw: st.DrawFn, kind: str) -> Drawn:
    """A layer of type `kind` and its bottoms."""
    layer = LayerParameter(name="layer", type=kind)
    for name in settings_of(kind):
        if not _one_in(draw, 10):
            fill_message(draw, getattr(layer, name))
            getattr(layer, name).SetInParent()
    if kind == "Python":
        layer.python_param.Clear()
        layer.python_param.module, layer.python_param.layer = draw(st.sampled_from(sorted(BUILT_IN)))
    if not _one_in(draw, 10) and unknown_fields(layer):
        for name in settings_of(kind):
            without_unknown(getattr(layer, name), kind)

    shapes = draw(_bottoms(kind))
    net = NetParameter(force_backward=draw(st.booleans()))
    values = {}
    for i, shape in enumerate(shapes):
        name = f"in{i}"
        if i and _one_in(draw, 20):
            layer.bottom.append("in0")  # a blob that is read twice
            continue
        given = net.layer.add(name=name, type="Input", top=[name])
        given.input_param.shape.add(dim=shape)
        layer.bottom.append(name)
        values[name] = draw(_values(shape, kind, i))
    _draw_tops(draw, layer, kind)
    if _one_in(draw, 10):
        layer.loss_weight.extend(draw(st.lists(st.sampled_from(FLOATS), min_size=1, max_size=2)))
    if _one_in(draw, 10):
        layer.propagate_down.extend(draw(st.lists(st.booleans(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 2)) if _one_in(draw, 10) else 0):
        layer.param.add(lr_mult=draw(st.sampled_from((0, 1, 2))))
    if draw(st.booleans()):
        net.state.phase = layer.phase = draw(st.sampled_from((0, 1)))
    net.layer.append(layer)
    return Drawn(net, values, draw(st.integers(1, 99)))


def _draw_tops(draw: st.DrawFn, layer: LayerParameter, kind: str) -> None:
    least, most = LAYER_TYPES[kind].tops
    count = draw(
        st.integers(max(least - 1, 0), min(most, max(least, 3)) + 1) if _one_in(draw, 10) else st.just(least)
    )
    if LAYER_TYPES[kind].equal and not _one_in(draw, 10):
        count = len(layer.bottom)
    elif most > least and draw(st.booleans()):
        count = draw(st.integers(least, min(most, max(least + 1, 4))))
    elif kind == "Filter":
        count = len(layer.bottom) - 1
    if kind == "LSTM" and layer.recurrent_param.expose_hidden:
        count = 3
    if kind == "Python":
        count = 1
    for i in range(count):
        in_place = i < len(layer.bottom) and _one_in(draw, 6)
        layer.top.append(layer.bottom[i] if in_place else f"out{i}")


@st.composite
def _bottoms(draw: st.DrawFn, kind: str) -> list[Shape]:
    """The bottoms' shapes: the first at will, the others most often made of it, so that many nets are accepted."""
    least, most = LAYER_TYPES[kind].bottoms
    count = draw(st.integers(least, min(most, least + 3)))
    if _one_in(draw, 20):
        count = draw(st.integers(0, 4))
    axes = draw(st.sampled_from((4, 4, 4, 2, 3, 2, 3, 1, 5, 0)))
    sizes = st.sampled_from(_SIZES)
    if not _one_in(draw, 4):
        sizes = sizes.filter(bool)
    first = tuple(draw(st.lists(sizes, min_size=axes, max_size=axes)))
    if kind == "LSTMUnit" and not _one_in(draw, 10):
        first = (1, *first[:2])
    if kind in _ROWS and first and not _one_in(draw, 10):
        first = (first[0], _ROWS[kind])
    if kind == "Python":
        count = 2 if _one_in(draw, 10) else 3
        first = first if len(first) == 4 else (2, 3, 4, 5)
    shapes = [first]
    for _ in range(count - 1):
        made = draw(
            st.sampled_from(
                [*_relatives(first), *_relatives(first), tuple(draw(st.lists(sizes, max_size=5)))]
            )
        )
        shapes.append(shapes[-1] if _one_in(draw, 3) else made)
    fitting = _FITTING.get(kind)
    if fitting and first and not _one_in(draw, 4):
        shapes = [first, *(shape for shape in fitting(first))][: max(count, least)]
    return shapes[:count]


def _one_in(draw: st.DrawFn, count: int) -> bool:
    """True one time in `count`. Not by whether it is 0: hypothesis likes the ends of a range."""
    return draw(st.integers(0, count - 1)) == count // 2


def _relatives(first: Shape) -> list[Shape]:
    """Shapes that layers ask for beside a first bottom: the same, labels, markers, factors, a smaller map."""
    return [
        first,
        first[:1],
        first[:2],
        first[1:2],
        first[1:],
        (*first[:1], *first[2:]),
        (*first[:1], *(1 for _ in first[1:2]), *first[2:]),
        (*first[:1], *(1 for _ in first[1:])),
        tuple(max(size - 1, 1) for size in first),
        (),
    ]


_ROWS = {"BboxAccuracy": 8, "DecodeBBox": 8, "ProposalTarget": 5}
"""Types whose first bottom has rows of a fixed width."""

_FITTING = {
    "Accum": lambda x: [(*x[:1], 2, *x[2:]), (*x[:2], 3)],
    "Concat": lambda x: [x, x, x],
    "Correlation": lambda x: [x],
    "Correlation1D": lambda x: [x],
    "DataAugmentation": lambda x: [(x[0], 42)],
    "Eltwise": lambda x: [x, x, x],
    "EuclideanLossHeatmap": lambda x: [x, x],
    "FlowAugmentation": lambda x: [(x[0], 42), (x[0], 42)],
    "GenerateAugmentationParameters": lambda x: [x, x],
    "LpqLoss": lambda x: [x],
    "SegmentationEvaluate": lambda x: [x],
    "YoloSeg": lambda x: [x, x[:2]],
    "RNN": lambda x: [x[:2], (*x[1:2], 3), (1, *x[1:2], 2)],
    "LSTM": lambda x: [x[:2], (*x[1:2], 3), (1, *x[1:2], 2), (1, *x[1:2], 2)],
    "LSTMUnit": lambda x: [(*x[:-1], 4 * x[-1]), x[:2]],
    "ContrastiveLoss": lambda x: [x, x[:1]],
    "InfogainLoss": lambda x: [(*x[:1], *x[2:]), (x[1:2] or (1,)) * 2],
    "BatchReindex": lambda x: [(4,)],
    "BboxAccuracy": lambda x: [(x[0], 5), (x[0], 6)],
    "DecodeBBox": lambda x: [(x[0], 5), (x[0], 6)],
    "DetectionAccuracy": lambda x: [(x[0], 6, *x[2:])],
    "DetectionLoss": lambda x: [(x[0], 6, *x[2:])],
    "ProposalTarget": lambda x: [(2, 7)],
    "SmoothL1Loss": lambda x: [x, x, x],
    "SoftmaxWithLoss": lambda x: [(*x[:1], 1, *x[2:]), (*x[:1], 1, *x[2:])],
    "Filter": lambda x: [x, x[:1]][-1:] if len(x) == 1 else [x[:1]],
    "Python": lambda x: [x, (x[0], 3, *x[2:]), (x[0], 3)],
}
"""For types with several bottoms that random ones hardly ever fit: the first bottom → the others."""


@st.composite
def _values(draw: st.DrawFn, shape: Shape, kind: str, bottom: int) -> np.ndarray:
    """Normal numbers, small whole ones (labels, indices) or zeros and ones (markers, selectors)."""
    random = np.random.RandomState(draw(st.integers(0, 2**16)))
    labels = bottom > 0 or kind in ("Embed",)
    way = draw(
        st.sampled_from(
            ("whole", "bits", "whole", "bits", "normal") if labels else ("normal",) * 5 + ("whole",)
        )
    )
    values = (
        random.standard_normal(shape)
        if way == "normal"
        else random.randint(0, 2 if way == "bits" else 4, shape)
    )
    return np.asarray(values, np.float32)


# ---- changes to layers that are known to run


@cache
def known_layers() -> dict[str, list[Drawn]]:
    """Layers of recordings, and of the fork rules' cases, by type, that of the net's last layer."""
    found: dict[str, list[Drawn]] = {}
    for suite in ("layers", "deeplab_layers", "fork_layers"):
        cases, arrays = recorded(suite)
        for case in cases:
            values = {name: arrays[f"{case['name']}/in/{name}"] for name in case["inputs"]}
            _keep(found, parse_net(case["prototxt"]), values, PHASES[case["phase"]])
    for case in CASES:
        values = {f"b{i}": value for i, value in enumerate(inputs_of(case))}
        _keep(found, net_of(case), values, PHASES[case.phase])
    return found


def _keep(
    found: dict[str, list[Drawn]], net: NetParameter, values: dict[str, np.ndarray], phase: int
) -> None:
    net.state.phase = phase
    if net.layer[-1].type in TYPES:
        found.setdefault(net.layer[-1].type, []).append(Drawn(net, values, 7))


@st.composite
def changed_layers(draw: st.DrawFn, kind: str) -> Drawn:
    """A known layer with up to three of its settings drawn anew, or gone."""
    known = draw(st.sampled_from(known_layers()[kind]))
    net = NetParameter()
    net.CopyFrom(known.net)
    layer = net.layer[-1]
    for name in settings_of(kind):
        message = getattr(layer, name)
        for filler in ("weight_filler", "bias_filler"):  # a recording has its weights beside it
            known_here = layer.HasField(name) and filler in message.DESCRIPTOR.fields_by_name
            if known_here and not message.HasField(filler):
                getattr(message, filler).CopyFrom(FillerParameter(type="gaussian", std=1))
    for _ in range(draw(st.integers(0, 3)) if settings_of(kind) else 0):
        message = getattr(layer, draw(st.sampled_from(settings_of(kind))))
        fields = [field for field in message.DESCRIPTOR.fields if _drawable(field)]
        field = draw(st.sampled_from([field for field in fields if field.number < 5001] or fields))
        message.ClearField(field.name)
        if not _one_in(draw, 4):
            fill_field(draw, message, field, valid=draw(st.booleans()))
    if layer.bottom and layer.top and _one_in(draw, 8):
        layer.top[0] = layer.bottom[0]
    if _one_in(draw, 8):
        net.force_backward = not net.force_backward
    if _one_in(draw, 8):
        net.state.phase = draw(st.sampled_from((0, 1)))
    return Drawn(net, known.values, draw(st.integers(1, 99)))


@st.composite
def overwritten_layers(draw: st.DrawFn, kind: str) -> Drawn:
    """A changed layer whose top, or bottom, a later layer overwrites before the backward pass reads it again."""
    drawn = draw(changed_layers(kind))
    layer, add = drawn.net.layer[-1], drawn.net.layer.add
    if layer.bottom and layer.top and not set(layer.top) & set(layer.bottom):
        drawn.net.force_backward = True
        blob = layer.top[0]
        if draw(st.booleans()):
            blob = "flat"  # in the bottom's memory
            add(name="flat", type="Flatten", bottom=[layer.bottom[0]], top=[blob])
        power = PowerParameter(scale=0.5, shift=0.3)
        add(name="overwrite", type="Power", bottom=[blob], top=[blob], power_param=power)
    return drawn


# ---- settings


@cache
def settings_of(kind: str) -> tuple[str, ...]:
    """The parameter messages of a layer type: those that its declaration and the engines' classes speak of."""
    sources = [inspect.getsource(LAYER_TYPES[kind].declare)]
    for engine, package in ((REFERENCE, reference.layers), (PORT, port.layers)):
        classes = engine[kind].__mro__ if kind in engine else ()
        sources += [inspect.getsource(cls) for cls in classes if cls.__module__.startswith(package.__name__)]
    spoken = set(re.findall(r"\b(\w+_param)\b", "\n".join(sources)))
    own = kind.lower() + "param"
    return tuple(
        field.name
        for field in LayerParameter.DESCRIPTOR.fields
        if field.message_type is not None
        and not field.is_repeated
        and field.name.endswith("_param")
        and (field.name in spoken or field.name.replace("_", "") == own)
    )


def fill_message(draw: st.DrawFn, message: Message) -> None:
    """Set some of the fields, most often few."""
    fields = [field for field in message.DESCRIPTOR.fields if _drawable(field)]
    common = [field for field in fields if field.number < 5001] or fields
    if not fields:
        return
    chosen = draw(st.lists(st.sampled_from(common), max_size=2)) if not _one_in(draw, 3) else []
    if _one_in(draw, 8):
        chosen += draw(st.lists(st.sampled_from(fields), max_size=3))
    for field in chosen:
        fill_field(draw, message, field)
    for name in _NEEDED.get(message.DESCRIPTOR.name, ()):
        if not _one_in(draw, 10):
            fill_field(draw, message, message.DESCRIPTOR.fields_by_name[name], valid=True)


_NEEDED = {
    "ConvolutionParameter": ("num_output", "kernel_size", "weight_filler"),
    "InnerProductParameter": ("num_output", "weight_filler"),
    "EmbedParameter": ("num_output", "input_dim", "weight_filler"),
    "RecurrentParameter": ("num_output", "weight_filler"),
    "CorrelationParameter": ("kernel_size", "max_displacement"),
    "LpqLossParameter": ("p", "q"),
    "MeanParameter": ("operation", "value"),
    "PoolingParameter": ("kernel_size",),
    "SegmentationEvaluateParameter": ("num_classes",),
    "SPPParameter": ("pyramid_height",),
    "DummyDataParameter": ("shape",),
    "InterpParameter": ("zoom_factor",),
    "BoxOutputParameter": ("field_h", "field_w", "downsample_rate"),
    "DetectionAccuracyParameter": ("cls_num", "field_h", "field_w", "downsample_rate"),
    "DetectionLossParameter": ("cls_num", "field_h", "field_w", "downsample_rate"),
    "ProposalTargetParameter": ("cls_num", "batch_size"),
}
"""Message → fields that are most often there, and right."""


def _drawable(field: FieldDescriptor) -> bool:
    """Not strings: they name files, modules and other things outside of the net."""
    if field.message_type is not None:
        return field.message_type.name in ("FillerParameter", "BlobShape")
    return field.type != FieldDescriptor.TYPE_STRING and field.type != FieldDescriptor.TYPE_BYTES


def fill_field(draw: st.DrawFn, message: Message, field: FieldDescriptor, valid: bool = False) -> None:
    if field.message_type is not None:
        made = getattr(message, field.name)
        made = made.add() if field.is_repeated else made
        (_fill_filler if field.message_type.name == "FillerParameter" else _fill_shape)(draw, made)
    elif field.is_repeated:
        count = 1 if valid else draw(st.integers(1, 4))
        getattr(message, field.name).extend(draw(_number(field, valid)) for _ in range(count))
    else:
        setattr(message, field.name, draw(_number(field, valid)))


def _number(field: FieldDescriptor, valid: bool) -> st.SearchStrategy:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return st.sampled_from(FLOATS)
    unsigned = field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
    if valid:
        return st.sampled_from((2, 1, 3, 4))
    return st.sampled_from([value for value in INTEGERS if value >= 0] if unsigned else INTEGERS)


def _fill_filler(draw: st.DrawFn, filler: Any) -> None:
    filler.type = draw(st.sampled_from((*FILLERS, "gaussian", "uniform", "gaussian", "uniform")))
    if _one_in(draw, 20):
        filler.type = "none"
    if filler.type == "constant":
        filler.value = draw(st.sampled_from(FLOATS))
    if _one_in(draw, 20):
        filler.sparse = draw(st.sampled_from((0, 1, 2, -2)))


def _fill_shape(draw: st.DrawFn, shape: Any) -> None:
    sizes = (
        st.sampled_from((2, 3, 1, -1, 0, 4, 6, -2)) if draw(st.booleans()) else st.sampled_from((2, 3, 1, 4))
    )
    shape.dim.extend(draw(st.lists(sizes, max_size=5)))


def without_unknown(message: Message, kind: str) -> None:
    """Clear the fields that nothing here obeys."""
    probe = LayerParameter(type=kind)
    for field in probe.DESCRIPTOR.fields:
        if field.message_type is message.DESCRIPTOR and not field.is_repeated:
            break
    else:
        return
    getattr(probe, field.name).CopyFrom(message)
    for unknown in unknown_fields(probe):
        path = unknown.path.split(".")[1:]
        target = message
        for name in path[:-1]:
            target = getattr(target, name)
        target.ClearField(path[-1])
