"""What each layer type becomes in a translated model: an expression, and the module that it needs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from port.layers.losses import ignored_label
from prototxt.caffe_pb2 import (
    BiasParameter,
    BNParameter,
    EltwiseParameter,
    HingeLossParameter,
    LossParameter,
    LRNParameter,
    PoolingParameter,
    ReductionParameter,
    ScaleParameter,
)
from prototxt.errors import InputError
from prototxt.layers.activations import log_of_base
from prototxt.layers.combining import joining_axis, slice_sizes
from prototxt.layers.declare import Shape, legacy_shape
from prototxt.layers.erasing import literal_params
from prototxt.layers.inputs import dummy_fillers
from prototxt.layers.interp import interp_sizes
from prototxt.layers.reshaping import crop_starts, permuted_axes
from prototxt.layers.windows import canonical_axis, convolution_window, pooling_window
from prototxt.plan import LayerPlan, ParamPlan


@dataclass(eq=False)
class Value:
    """What one operation makes.

    Attributes:
        blob: the name of the Caffe blob that it is a value of.
        users: the operations that read it, in order.
    """

    blob: str
    shape: Shape
    users: list["Op"] = field(default_factory=list)


class Text(str):
    """A number as it is to be written."""

    __repr__ = str.__str__


@dataclass(frozen=True)
class Slot:
    """One argument of a module's constructor.

    Attributes:
        keyword: "" for a positional one.
        role: what blocks call the parameter if it differs between them: "inputs", "outputs", "stride", …
        default: the value that need not be written.
    """

    role: str
    value: object
    keyword: str = ""
    default: object = None


Blobs = Sequence[np.ndarray]
"""A layer's weights as Caffe holds them."""


@dataclass(eq=False)
class Module:
    """A module of the model.

    Attributes:
        kind: what is called to make it: "nn.Conv2d", or one of the rules.
        layers: the layers that it stands for.
        state: name in its state dict → what that is, of the layers' blobs.
        frozen: names of parameters that the prototxt does not learn.
        tied: names of parameters that another layer owns.
    """

    kind: str
    slots: tuple[Slot, ...]
    layers: tuple[LayerPlan, ...]
    state: dict[str, Callable[[Sequence[Blobs]], np.ndarray]]
    frozen: tuple[str, ...] = ()
    tied: dict[str, ParamPlan] = field(default_factory=dict)


@dataclass(eq=False)
class Op:
    """One operation.

    Attributes:
        layers: what it stands for.
        text: the expression: {0}, {1} … are what it reads, {m} its module.
        rule: the function of `rules` that it calls.
        follows: an activation, or the like, that goes on the line of what it reads.
        infix: it must be in parentheses inside another operator.
    """

    layers: tuple[LayerPlan, ...]
    text: str
    reads: list[Value]
    makes: list[Value]
    module: Module | None = None
    rule: str = ""
    follows: bool = False
    infix: bool = False

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(layer.type for layer in self.layers)


@dataclass
class Expression:
    """What a layer computes: see `Op`."""

    text: str
    module: Module | None = None
    rule: str = ""
    follows: bool = False
    infix: bool = False


Translate = Callable[[LayerPlan, Sequence[Shape]], Expression]
TRANSLATIONS: dict[str, Translate] = {}
"""Caffe's layer type → what it becomes."""


def translates(*types: str) -> Callable[[Translate], Translate]:
    def register(function: Translate) -> Translate:
        TRANSLATIONS.update(dict.fromkeys(types, function))
        return function

    return register


def number(value: float) -> str:
    """A float32 of a prototxt as it was written there: 0.75, not 0.7500000298."""
    if math.isinf(value):
        return f'float("{value}")'
    short = np.format_float_positional(np.float32(value), trim="0")
    long = np.format_float_scientific(np.float32(value), trim="-")
    text = short if len(short) <= 9 else long
    return text if float(text) != int(float(text)) or abs(float(text)) > 1e6 else text.rstrip("0") + "0"


def whole(value: float) -> str:
    """As `number`, without a fraction where there is none."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e6 else number(value)


def blob(layer: int, index: int) -> Callable[[Sequence[Blobs]], np.ndarray]:
    """The blob `index` of a module's layer number `layer`."""
    return lambda blobs: blobs[layer][index]


# ---- modules


def _learned(layer: LayerPlan, kind: str, slots: Sequence[Slot], names: Sequence[str] = ()) -> Module:
    """A module whose parameters are the layer's blobs, in order."""
    names = names or ("weight", "bias")[: len(layer.params)]
    frozen = tuple(n for n, param in zip(names, layer.params, strict=True) if not param.needs_gradient)
    tied = {n: param for n, param in zip(names, layer.params, strict=True) if param.owner is not None}
    state = {name: blob(0, i) for i, name in enumerate(names)}
    return Module(kind, tuple(slots), (layer,), state, frozen, tied)


def _bias(wanted: bool) -> Slot:
    return Slot("bias", wanted, "bias", True)


def _each(role: str, values: tuple[int, ...], keyword: str = "", default: int | None = None) -> Slot:
    return Slot(role, values[0] if len(set(values)) == 1 else values, keyword, default)


@translates("Convolution", "Deconvolution", "DepthwiseConvolution")
def _convolution(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, shape = layer.param.convolution_param, shapes[0]
    axis = canonical_axis(param.axis, len(shape))
    spatial = len(shape) - axis - 1
    if axis != 1 or not 1 <= spatial <= 3:
        raise InputError(
            f"{layer.type} over {spatial} axes from axis {axis} on has no counterpart in PyTorch"
        )
    window = convolution_window(param, spatial)
    transposed = layer.type == "Deconvolution"
    slots = [
        Slot("inputs", shape[1]),
        Slot("outputs", param.num_output),
        _each("kernel", window.kernel),
        _each("stride", window.stride, "stride", 1),
        _each("padding", window.pad, "padding", 0),
        _each("dilation", window.dilation, "dilation", 1),
        Slot("groups", param.group, "groups", 1),
        _bias(param.bias_term),
    ]
    kind = f"nn.ConvTranspose{spatial}d" if transposed else f"nn.Conv{spatial}d"
    return Expression("{m}({0})", _learned(layer, kind, slots))


@translates("InnerProduct")
def _inner_product(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, (shape,) = layer.param.inner_product_param, shapes
    axis = canonical_axis(param.axis, len(shape))
    flat = "{0}" if axis == len(shape) - 1 else f"{{0}}.flatten({axis})"
    slots = [
        Slot("inputs", math.prod(shape[axis:])),
        Slot("outputs", param.num_output),
        _bias(param.bias_term),
    ]
    module = _learned(layer, "nn.Linear", slots)
    if param.transpose:
        module.state["weight"] = lambda blobs: blobs[0][0].T
    return Expression(f"{{m}}({flat})", module)


@translates("Embed")
def _embed(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.embed_param
    if param.bias_term:
        raise InputError("Embed with a bias has no counterpart in PyTorch: give bias_term: false")
    slots = [Slot("inputs", param.input_dim), Slot("outputs", param.num_output)]
    return Expression("{m}({0}.long())", _learned(layer, "nn.Embedding", slots, ("weight",)))


def _factor(count: np.ndarray) -> float:
    return 0.0 if count.item() == 0 else 1 / count.item()


@translates("BatchNorm")
def _batch_norm(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression("{m}({0})", batch_norm(layer, None, shapes[0]), follows=True)


def batch_norm(layer: LayerPlan, scale: LayerPlan | None, shape: Shape) -> Module:
    """BatchNorm, with the Scale that follows it, as one module; the running sums divided by the factor."""
    param = layer.param.batch_norm_param
    if len(shape) not in (2, 3, 4, 5):
        raise InputError(f"BatchNorm over {len(shape)} axes has no counterpart in PyTorch")
    train = layer.param.phase == 0
    given = param.HasField("use_global_stats")
    stored = param.use_global_stats if given else not train
    kind = f"nn.BatchNorm{max(len(shape) - 2, 1)}d"
    slots = [Slot("inputs", shape[1])]
    if abs(param.eps - 1e-5) > 1e-12:
        slots.append(Slot("eps", Text(number(param.eps)), "eps"))
    if train and not stored:
        slots.append(Slot("momentum", Text(number(round(1 - param.moving_average_fraction, 6))), "momentum"))
    if scale is None:
        slots.append(Slot("affine", False, "affine"))
    state: dict[str, Callable] = {}
    if scale is not None:
        state |= {"weight": blob(1, 0), "bias": blob(1, 1)}
    if stored or train:
        state["running_mean"] = lambda blobs: blobs[0][0] * _factor(blobs[0][2])
        state["running_var"] = lambda blobs: blobs[0][1] * _factor(blobs[0][2])
    else:
        slots.append(Slot("stats", False, "track_running_stats"))
    if stored and train:
        if kind != "nn.BatchNorm2d":
            raise InputError("use_global_stats in TRAIN has a counterpart for blobs of 4 axes only")
        kind = "FrozenBatchNorm2d"
    if any(p.owner is not None for p in (*layer.params, *(scale.params if scale else ()))):
        raise InputError("a shared BatchNorm has no counterpart in PyTorch")
    frozen = tuple(
        name
        for name, p in zip(("weight", "bias"), scale.params if scale else (), strict=False)
        if not p.needs_gradient
    )
    return Module(kind, tuple(slots), (layer, *([scale] if scale else [])), state, frozen)


def scale_of_batch_norm(layer: LayerPlan) -> bool:
    """Whether a Scale after a BatchNorm is what nn.BatchNorm's weight and bias are."""
    param = layer.param.scale_param
    return layer.type == "Scale" and len(layer.bottoms) == 1 and param.bias_term and _per_channel(param)


def _per_channel(param: ScaleParameter | BiasParameter) -> bool:
    return param.axis == 1 and param.num_axes == 1


@translates("Scale")
def _scale(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, shape = layer.param.scale_param, shapes[0]
    if len(shapes) == 2:
        if param.bias_term:
            raise InputError("Scale by a bottom, with a bias, has no counterpart in PyTorch")
        return Expression(f"{{0}} * {{1}}{_around(shape, shapes[1], param.axis)}", infix=True)
    if not _per_channel(param) and (len(shape), param.axis, param.num_axes) != (2, 1, -1):
        raise InputError("Scale over other axes than the channels has no counterpart in PyTorch")
    slots = [Slot("inputs", shape[1]), _bias(param.bias_term)]
    return Expression("{m}({0})", _learned(layer, "Scale", slots), "Scale", follows=True)


@translates("Bias")
def _bias_layer(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, shape = layer.param.bias_param, shapes[0]
    if len(shapes) == 2:
        return Expression(f"{{0}} + {{1}}{_around(shape, shapes[1], param.axis)}", infix=True)
    if not _per_channel(param):
        raise InputError("Bias over other axes than the channels has no counterpart in PyTorch")
    module = _learned(layer, "Bias", [Slot("inputs", shape[1])], ("bias",))
    return Expression("{m}({0})", module, "Bias", follows=True)


def _around(shape: Shape, operand: Shape, axis: int) -> str:
    """What makes a second bottom go with the first from `axis` on: "[..., None, None]"."""
    if not operand:
        return ""
    behind = len(shape) - canonical_axis(axis, len(shape)) - len(operand)
    return f"[..., {', '.join(['None'] * behind)}]" if behind else ""


@translates("PReLU")
def _prelu(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    shared = layer.param.prelu_param.channel_shared
    module = _learned(
        layer, "nn.PReLU", [] if shared else [Slot("inputs", legacy_shape(shapes[0])[1])], ("weight",)
    )
    if shared:
        module.state["weight"] = lambda blobs: blobs[0][0].reshape(1)
    return Expression("{m}({0})", module, follows=True)


@translates("Dropout")
def _dropout(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    ratio = Slot("p", Text(number(layer.param.dropout_param.dropout_ratio)))
    return Expression("{m}({0})", Module("nn.Dropout", (ratio,), (layer,), {}), follows=True)


# ---- activations


def _activation(text: str, *, infix: bool = False) -> Expression:
    return Expression(text, follows=True, infix=infix)


@translates("ReLU")
def _relu(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    slope = layer.param.relu_param.negative_slope
    return _activation(f"F.leaky_relu({{0}}, {number(slope)})" if slope else "F.relu({0})")


@translates("ELU")
def _elu(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    alpha = layer.param.elu_param.alpha
    return _activation("F.elu({0})" if alpha == 1 else f"F.elu({{0}}, {number(alpha)})")


for _type, _text in {
    "Sigmoid": "torch.sigmoid({0})",
    "TanH": "torch.tanh({0})",
    "AbsVal": "torch.abs({0})",
    "BNLL": "F.softplus({0}, threshold=50)",
}.items():
    TRANSLATIONS[_type] = lambda layer, shapes, text=_text: _activation(text)


@translates("Swish")
def _swish(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    beta = layer.param.swish_param.beta
    if beta == 1:
        return _activation("F.silu({0})")
    return Expression(f"{{0}} * torch.sigmoid({number(beta)} * {{0}})", infix=True)


@translates("Threshold")
def _threshold(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression(f"({{0}} > {number(layer.param.threshold_param.threshold)}).float()")


@translates("Clip")
def _clip(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    low, high = layer.param.clip_param.min, layer.param.clip_param.max
    if low > high:
        raise InputError(f"Clip with min {low:g} above max {high:g} has no counterpart in PyTorch")
    return _activation(f"torch.clamp({{0}}, {number(low)}, {number(high)})")


@translates("Power")
def _power(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.power_param
    if param.scale * param.power == 0:
        return Expression(f"torch.full_like({{0}}, {number(param.shift**param.power)})")
    text = _line(param.scale, param.shift)
    if param.power == 1:
        return Expression(text, infix=text != "{0}")
    inner = text if text == "{0}" else f"({text})"
    return Expression(f"{inner} ** {whole(param.power)}", infix=True)


def _line(scale: float, shift: float) -> str:
    """scale · x + shift."""
    text = "{0}" if scale == 1 else "-{0}" if scale == -1 else f"{{0}} * {number(scale)}"
    return text + (f" {'-' if shift < 0 else '+'} {number(abs(shift))}" if shift else "")


@translates("Exp")
def _exp(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.exp_param
    inner = f"torch.exp({_line(param.scale, param.shift)})"
    if param.base == -1:
        return Expression(inner)
    return Expression(f"torch.exp(({_line(param.scale, param.shift)}) * {log_of_base(param.base)!r})")


@translates("Log")
def _log(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.log_param
    inner = f"torch.log({_line(param.scale, param.shift)})"
    if param.base == -1:
        return Expression(inner)
    return Expression(f"{inner} / {log_of_base(param.base)!r}", infix=True)


# ---- windows


@translates("Pooling")
def _pooling(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, (shape,) = layer.param.pooling_param, shapes
    places = len(layer.tops) > 1
    largest = param.pool == PoolingParameter.MAX
    if param.global_pooling:
        if places:
            raise InputError("global Pooling with a second top, of places, has no counterpart in PyTorch")
        text = "F.adaptive_max_pool2d({0}, 1)" if largest else "torch.mean({0}, (2, 3), keepdim=True)"
        return Expression(text)
    window = pooling_window(param, *shape[2:])
    floor = param.round_mode == PoolingParameter.FLOOR
    sides = list(zip(window.pad, window.kernel, window.stride, strict=True))
    if places and any(window.pad):
        raise InputError("Pooling with padding and a second top, of places, has no counterpart in PyTorch")
    if any(2 * p > k or (s > k and not floor) for p, k, s in sides):
        if places:
            raise InputError("Pooling with such strides and a second top has no counterpart in PyTorch")
        if floor:
            raise InputError("Pooling that rounds down, with this padding, has no counterpart in PyTorch")
        rule = "max_pool" if largest else "average_pool"
        return Expression(f"{rule}({{0}}, {window.kernel}, {window.stride}, {window.pad})", rule=rule)
    settings = [_short(window.kernel)]
    if window.stride != window.kernel or any(window.pad):
        settings.append(_short(window.stride))
    if any(window.pad):
        settings.append(_short(window.pad))
    if not floor:
        settings.append("ceil_mode=True")
    if places:
        settings.append("return_indices=True")
    return Expression(f"F.{'max' if largest else 'avg'}_pool2d({{0}}, {', '.join(settings)})")


def _short(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else str(values)


@translates("Upsample")
def _upsample(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    scale = layer.param.upsample_param.scale or 1
    if len(shapes) == 1:
        return Expression(f'F.interpolate({{0}}, scale_factor={scale}, mode="nearest")')
    return Expression(f"max_unpool({{0}}, {{1}}, {tuple(layer.declared.tops[0][2:])})", rule="max_unpool")


@translates("Permute")
def _permute(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    axes = permuted_axes(layer.param, len(shapes[0]))
    return Expression(f"torch.permute({{0}}, {tuple(axes)})")


@translates("Axpy")
def _axpy(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    factor, x, _ = shapes
    behind = len(x) - len(factor)
    around = f"[..., {', '.join(['None'] * behind)}]" if behind else ""
    return Expression(f"{{0}}{around} * {{1}} + {{2}}", infix=True)


@translates("ReLU6")
def _relu6(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return _activation("F.relu6({0})")


@translates("BN")
def _bn(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    """PSPNet's: scale, shift, mean and variance; SegNet's for inference: scale and shift."""
    param, (shape,) = layer.param.bn_param, shapes
    if len(shape) != 4 or len(layer.tops) > 1 or layer.param.phase == 0:
        raise InputError("BN of this kind has no counterpart in PyTorch")
    state = {name: _flat(i) for i, name in enumerate(("weight", "bias"))}
    frozen = tuple(
        name for name, p in zip(("weight", "bias"), layer.params, strict=False) if not p.needs_gradient
    )
    if len(layer.params) == 2:
        if param.bn_mode != BNParameter.INFERENCE:
            raise InputError("BN by the batch's own statistics has no counterpart in PyTorch")
        module = Module("Scale", (Slot("inputs", shape[1]),), (layer,), state, frozen)
        return Expression("{m}({0})", module, "Scale", follows=True)
    state |= {name: _flat(i) for i, name in enumerate(("running_mean", "running_var"), 2)}
    slots = [Slot("inputs", shape[1])]
    if abs(param.eps - 1e-5) > 1e-12:
        slots.append(Slot("eps", Text(number(param.eps)), "eps"))
    if param.frozen:
        frozen = ("weight", "bias")
    return Expression(
        "{m}({0})", Module("nn.BatchNorm2d", tuple(slots), (layer,), state, frozen), follows=True
    )


def _flat(index: int) -> Callable[[Sequence[Blobs]], np.ndarray]:
    return lambda blobs: blobs[0][index].ravel()


@translates("LRN")
def _lrn(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.lrn_param
    size, alpha, beta, k = param.local_size, number(param.alpha), number(param.beta), param.k
    if param.norm_region == LRNParameter.ACROSS_CHANNELS:
        settings = [str(size), *([alpha, beta] if (alpha, beta) != ("0.0001", "0.75") else [])]
        if k != 1:
            settings.append(f"k={number(k)}")
        return Expression(f"F.local_response_norm({{0}}, {', '.join(settings)})", follows=False)
    rule = "lrn_within_channel"
    return Expression(f"{rule}({{0}}, {size}, {alpha}, {beta})", rule=rule)


@translates("MVN")
def _mvn(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.mvn_param
    if len(shapes[0]) != 4:
        raise InputError("MVN over other than 4 axes has no counterpart here")
    axes = (1, 2, 3) if param.across_channels else (2, 3)
    return Expression(f"mvn({{0}}, {axes}, {param.normalize_variance}, {number(param.eps)})", rule="mvn")


@translates("Interp")
def _interp(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, (shape,) = layer.param.interp_param, shapes
    if len(shape) != 4 or param.pad_beg or param.pad_end:
        raise InputError("Interp with pad_beg or pad_end has no counterpart in PyTorch")
    shrink, zoom = param.HasField("shrink_factor"), param.HasField("zoom_factor")
    if shrink == zoom and param.HasField("height") and param.HasField("width"):
        size = interp_sizes(param, shape[2:])
        return Expression(f'F.interpolate({{0}}, {size}, mode="bilinear", align_corners=True)')
    return Expression(f"resize({{0}}, shrink={param.shrink_factor}, zoom={param.zoom_factor})", rule="resize")


# ---- moving values about


@translates("Softmax")
def _softmax(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression(f"F.softmax({{0}}, {canonical_axis(layer.param.softmax_param.axis, len(shapes[0]))})")


@translates("Eltwise")
def _eltwise(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, count = layer.param.eltwise_param, len(shapes)
    if param.operation == EltwiseParameter.MAX:
        if count > 2:
            raise InputError(f"Eltwise MAX of {count} bottoms has no counterpart in PyTorch: take two by two")
        return Expression("torch.where({0} > {1}, {0}, {1})")
    if param.operation == EltwiseParameter.PROD:
        return Expression(" * ".join(f"{{{i}}}" for i in range(count)), infix=True)
    text = ""
    for i, coeff in enumerate(param.coeff or [1.0] * count):
        term = f"{{{i}}}" if abs(coeff) == 1 else f"{number(abs(coeff))} * {{{i}}}"
        sign = "-" if coeff < 0 else "+"
        text += f" {sign} {term}" if text else term if coeff >= 0 else f"-{term}"
    return Expression(text, infix=True)


@translates("Concat")
def _concat(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    axis = joining_axis(layer.param.concat_param, "concat_dim", len(shapes[0]))
    return Expression(f"torch.cat([{', '.join(f'{{{i}}}' for i in range(len(shapes)))}], {axis})")


@translates("Slice")
def _slice(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, (shape,) = layer.param.slice_param, shapes
    axis = joining_axis(param, "slice_dim", len(shape))
    if not param.slice_point:
        return Expression(f"torch.chunk({{0}}, {len(layer.tops)}, {axis})")
    return Expression(f"torch.split({{0}}, {slice_sizes(param, shape[axis], len(layer.tops))}, {axis})")


@translates("Flatten")
def _flatten(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, axes = layer.param.flatten_param, len(shapes[0])
    start, end = canonical_axis(param.axis, axes), canonical_axis(param.end_axis, axes)
    if end < start:
        raise InputError("Flatten of no axis has no counterpart in PyTorch")
    return Expression(f"torch.flatten({{0}}, {start}{f', {end}' if end != axes - 1 else ''})")


@translates("Reshape")
def _reshape(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, (shape,) = layer.param.reshape_param, shapes
    axes = len(shape)
    start = param.axis if param.axis >= 0 else axes + param.axis + 1
    end = axes if param.num_axes == -1 else start + param.num_axes
    sizes = [f"{{0}}.shape[{i}]" for i in range(start)]
    sizes += [f"{{0}}.shape[{start + i}]" if dim == 0 else str(dim) for i, dim in enumerate(param.shape.dim)]
    sizes += [f"{{0}}.shape[{i}]" for i in range(end, axes)]
    return Expression(f"{{0}}.reshape({', '.join(sizes) or '()'})")


@translates("Tile")
def _tile(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.tile_param
    axis = canonical_axis(param.axis, len(shapes[0]))
    return Expression(f"torch.cat([{{0}}] * {param.tiles}, {axis})")


@translates("Crop")
def _crop(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    axis = canonical_axis(layer.param.crop_param.axis, len(shapes[0]))
    starts = crop_starts(layer.param, *shapes)[axis:]
    return Expression(f"crop({{0}}, {{1}}, {axis}, {', '.join(map(str, starts))})", rule="crop")


@translates("Reduction")
def _reduction(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.reduction_param
    axis = canonical_axis(param.axis, len(shapes[0]))
    rows = {
        ReductionParameter.ASUM: "{0}.abs()",
        ReductionParameter.SUMSQ: "{0}.square()",
    }.get(param.operation, "{0}")
    how = "mean" if param.operation == ReductionParameter.MEAN else "sum"
    text = f"{rows}.flatten({axis}).{how}(-1)"
    return Expression(
        text + (f" * {number(param.coeff)}" if param.coeff != 1 else ""), infix=param.coeff != 1
    )


@translates("ArgMax")
def _arg_max(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.argmax_param
    if not param.HasField("axis") or param.top_k != 1:
        raise InputError("ArgMax without an axis, or of several places, has no counterpart in PyTorch")
    axis = canonical_axis(param.axis, len(shapes[0]))
    if param.out_max_val:
        return Expression(f"{{0}}.detach().amax({axis}, keepdim=True)")
    return Expression(f"arg_max({{0}}, {axis})", rule="arg_max")


@translates("BatchReindex")
def _batch_reindex(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression("{0}.index_select(0, {1}.long())")


@translates("DummyData")
def _dummy_data(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    fillers = dummy_fillers(layer.param, len(layer.tops))
    if len(layer.tops) > 1 or fillers[0].type != "constant":
        raise InputError(
            "DummyData that draws its values, or has several tops, has no counterpart in PyTorch"
        )
    return Expression(f"torch.full({tuple(layer.declared.tops[0])}, {number(fillers[0].value)})")


@translates("Python")
def _python(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    python = layer.param.python_param
    if (python.module, python.layer) == ("crelu_layer", "CReLULayer"):
        high, low = literal_params(layer.param, "maxt", "mint")
        return Expression(f"c_relu({{0}}, {{1}}, {{2}}, high={high}, low={low})", rule="c_relu")
    if (python.module, python.layer) == ("scan_background_layer", "BackgroundMaskLayer"):
        (threshold,) = literal_params(layer.param, "thresh")
        return Expression(f"background_mask({{0}}, {{1}}, {{2}}, {threshold})", rule="background_mask")
    raise InputError(f"the Python layer {python.module}.{python.layer} has no counterpart in PyTorch")


# ---- losses and metrics


def _normalization(param: LossParameter, default: str) -> str:
    if param.HasField("normalization"):
        return LossParameter.NormalizationMode.Name(param.normalization)
    if param.HasField("normalize"):
        return "VALID" if param.normalize else "BATCH_SIZE"
    return default


@translates("SoftmaxWithLoss")
def _softmax_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    if len(layer.tops) > 1:
        raise InputError("SoftmaxWithLoss with a second top has no counterpart here: add a Softmax layer")
    axis = canonical_axis(layer.param.softmax_param.axis, len(shapes[0]))
    mode = _normalization(layer.param.loss_param, "VALID")
    text = f'softmax_loss({{0}}, {{1}}, {axis}, {ignored_label(layer.param.loss_param)}, "{mode}")'
    return Expression(text, rule="softmax_loss")


@translates("SigmoidCrossEntropyLoss")
def _sigmoid_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.loss_param
    text = f'sigmoid_loss({{0}}, {{1}}, {ignored_label(param)}, "{_normalization(param, "BATCH_SIZE")}")'
    return Expression(text, rule="sigmoid_loss")


@translates("EuclideanLoss")
def _euclidean_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression("euclidean_loss({0}, {1})", rule="euclidean_loss")


@translates("HingeLoss")
def _hinge_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    squared = layer.param.hinge_loss_param.norm == HingeLossParameter.L2
    return Expression(f"hinge_loss({{0}}, {{1}}, squared={squared})", rule="hinge_loss")


@translates("ContrastiveLoss")
def _contrastive_loss(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.contrastive_loss_param
    if param.legacy_version:
        raise InputError("ContrastiveLoss of the legacy version has no counterpart here")
    text = f"contrastive_loss({{0}}, {{1}}, {{2}}, {number(param.margin)})"
    return Expression(text, rule="contrastive_loss")


@translates("Accuracy")
def _accuracy(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    if len(layer.tops) > 1:
        raise InputError("Accuracy with a second top, for each class, has no counterpart here")
    param = layer.param.accuracy_param
    axis = canonical_axis(param.axis, len(shapes[0]))
    ignored = param.ignore_label if param.HasField("ignore_label") else None
    return Expression(f"accuracy({{0}}, {{1}}, {axis}, {param.top_k}, {ignored})", rule="accuracy")
