"""What each layer type becomes in a translated model: an expression, and the module that it needs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from prototxt.caffe_pb2 import (
    BiasParameter,
    BNParameter,
    EltwiseParameter,
    LRNParameter,
    PoolingParameter,
    ReductionParameter,
    ScaleParameter,
)
from prototxt.errors import InputError
from prototxt.layers.activations import log_of_base
from prototxt.layers.combining import joining_axis, slice_sizes
from prototxt.layers.declare import Shape
from prototxt.layers.erasing import literal_params
from prototxt.layers.inputs import dummy_fillers
from prototxt.layers.normalisation import statistics_batch
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
        follows: an activation, or the like, that goes on the line of what it reads.
        infix: it must be in parentheses inside another operator.
    """

    layers: tuple[LayerPlan, ...]
    text: str
    reads: list[Value]
    makes: list[Value]
    module: Module | None = None
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
    if not math.isfinite(value):
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


def learned(layer: LayerPlan, kind: str, slots: Sequence[Slot], names: Sequence[str] = ()) -> Module:
    """A module whose parameters are the layer's blobs, in order."""
    names = names or ("weight", "bias")[: len(layer.params)]
    frozen = tuple(n for n, param in zip(names, layer.params, strict=True) if not param.needs_gradient)
    tied = {n: param for n, param in zip(names, layer.params, strict=True) if param.owner is not None}
    state = {name: blob(0, i) for i, name in enumerate(names)}
    return Module(kind, tuple(slots), (layer,), state, frozen, tied)


def bias_slot(wanted: bool) -> Slot:
    return Slot("bias", wanted, "bias", True)


def _each(role: str, values: tuple[int, ...], keyword: str = "", default: int | None = None) -> Slot:
    return Slot(role, values[0] if len(set(values)) == 1 else values, keyword, default)


@translates("Convolution", "Deconvolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def _convolution(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, shape = layer.param.convolution_param, shapes[0]
    each = layer.type == "ConvolutionDepthwise"
    axis = 1 if each else canonical_axis(param.axis, len(shape))
    spatial = len(shape) - axis - 1
    if axis != 1 or not 1 <= spatial <= 3:
        raise InputError(
            f"{layer.type} over {spatial} axes from axis {axis} on has no counterpart in PyTorch"
        )
    window = convolution_window(param, spatial)
    transposed = layer.type == "Deconvolution"
    slots = [
        Slot("inputs", shape[1]),
        Slot("outputs", shape[1] if each else param.num_output),
        _each("kernel", window.kernel),
        _each("stride", window.stride, "stride", 1),
        _each("padding", window.pad, "padding", 0),
        _each("dilation", window.dilation, "dilation", 1),
        Slot("groups", shape[1] if each else param.group, "groups", 1),
        bias_slot(param.bias_term),
    ]
    kind = f"nn.ConvTranspose{spatial}d" if transposed else f"nn.Conv{spatial}d"
    return Expression("{m}({0})", learned(layer, kind, slots))


@translates("InnerProduct")
def _inner_product(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, (shape,) = layer.param.inner_product_param, shapes
    if param.normalize:
        raise InputError("InnerProduct that makes its weights' rows of length 1 has no counterpart here")
    axis = canonical_axis(param.axis, len(shape))
    flat = "{0}" if axis == len(shape) - 1 else f"{{0}}.flatten({axis})"
    slots = [
        Slot("inputs", math.prod(shape[axis:])),
        Slot("outputs", param.num_output),
        bias_slot(param.bias_term),
    ]
    module = learned(layer, "nn.Linear", slots)
    if param.transpose:
        module.state["weight"] = lambda blobs: blobs[0][0].T
    return Expression(f"{{m}}({flat})", module)


@translates("Embed")
def _embed(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.embed_param
    slots = [Slot("inputs", param.input_dim), Slot("outputs", param.num_output)]
    if param.bias_term:
        return Expression("{m}({0})", learned(layer, "EmbedWithBias", slots))
    return Expression("{m}({0}.long())", learned(layer, "nn.Embedding", slots, ("weight",)))


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
    if param.eps < 0:
        raise InputError(f"BatchNorm with eps {param.eps:g} has no counterpart in PyTorch")
    if statistics_batch(layer.param, shape[0]) != shape[0]:
        raise InputError("BatchNorm with stats_batch_size has no counterpart in PyTorch")
    train = layer.param.phase == 0
    given = param.HasField("use_global_stats")
    stored = param.use_global_stats if given else not train
    own = len(layer.params) == 5  # NVCaffe's, with a scale and a bias of its own
    if own and (scale is not None or not stored):
        raise InputError("BatchNorm with a scale of its own has a counterpart in TEST, and before no Scale")
    eps = max(param.eps, 1e-5) if own else param.eps
    if not stored:
        _check_statistics(layer, shape, eps)
    kind = f"nn.BatchNorm{max(len(shape) - 2, 1)}d"
    slots = [Slot("inputs", shape[1])]
    if abs(eps - 1e-5) > 1e-12:
        slots.append(Slot("eps", Text(number(eps)), "eps"))
    if train and not stored:
        slots.append(Slot("momentum", Text(number(round(1 - param.moving_average_fraction, 6))), "momentum"))
    if scale is None and not own:
        slots.append(Slot("affine", False, "affine"))
    state: dict[str, Callable] = {}
    if own:
        state |= {"weight": blob(0, 3), "bias": blob(0, 4)}
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
    learned_here = zip(("weight", "bias"), scale.params if scale else layer.params[3:], strict=False)
    frozen = tuple(name for name, p in learned_here if not p.needs_gradient)
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
        text = f"{{0}} * {{1}}{_around(shape, shapes[1], param.axis)}"
        if not param.bias_term:
            return Expression(text, infix=True)
        module = _bias_module(layer, shape)
        return Expression(f"{{m}}({text})", module)
    slots = _term_slots(layer, shape)
    kind = "Scale" if len(slots) == 1 else "ScaleOver"
    module = learned(layer, kind, [*slots, bias_slot(param.bias_term)])
    return Expression("{m}({0})", module, follows=True)


def _bias_module(layer: LayerPlan, shape: Shape) -> Module:
    slots = _term_slots(layer, shape)
    return learned(layer, "Bias" if len(slots) == 1 else "BiasOver", slots, ("bias",))


def _term_slots(layer: LayerPlan, shape: Shape) -> list[Slot]:
    """The shape of what a Scale or Bias learns, and how many axes of the blob lie behind it."""
    sizes = layer.declared.weights[0].shape
    param = layer.param.scale_param if layer.type == "Scale" else layer.param.bias_param
    behind = len(shape) - canonical_axis(param.axis, len(shape)) - len(sizes) if sizes else 0
    usual = len(sizes) == 1 and behind == len(shape) - 2
    first = Slot("inputs", sizes[0] if usual else tuple(sizes))
    return [first] if usual else [first, Slot("behind", behind)]


@translates("Bias")
def _bias_layer(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, shape = layer.param.bias_param, shapes[0]
    if len(shapes) == 2:
        return Expression(f"{{0}} + {{1}}{_around(shape, shapes[1], param.axis)}", infix=True)
    module = _bias_module(layer, shape)
    return Expression("{m}({0})", module, follows=True)


def _around(shape: Shape, operand: Shape, axis: int) -> str:
    """What makes a second bottom go with the first from `axis` on: "[..., None, None]"."""
    if not operand:
        return ""
    behind = len(shape) - canonical_axis(axis, len(shape)) - len(operand)
    return f"[..., {', '.join(['None'] * behind)}]" if behind else ""


@translates("PReLU")
def _prelu(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    shared = layer.param.prelu_param.channel_shared
    module = learned(layer, "nn.PReLU", [] if shared else [Slot("inputs", shapes[0][1])], ("weight",))
    if shared:
        module.state["weight"] = lambda blobs: blobs[0][0].reshape(1)
    return Expression("{m}({0})", module, follows=True)


@translates("Dropout", "SpatialDropout", "SeLUDropout")
def _dropout(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.dropout_param
    kinds = {
        "SpatialDropout": f"nn.Dropout{max(len(shapes[0]) - 2, 1)}d",
        "SeLUDropout": "nn.AlphaDropout",
    }
    if layer.type == "SeLUDropout":
        if abs(layer.param.selu_dropout_param.alpha + 1.7580993) > 1e-5:
            raise InputError("SeLUDropout has a counterpart in PyTorch for its usual alpha only")
        ratio = layer.param.selu_dropout_param.dropout_ratio
    else:
        ratio = param.dropout_ratio
    if not 0 <= ratio <= 1:
        raise InputError(f"a dropout_ratio of {ratio:g} has no counterpart in PyTorch")
    if param.sample_weights_test:
        kinds = {"Dropout": "AlwaysDropout"}
    slots = (Slot("p", Text(number(ratio))),)
    module = Module(kinds.get(layer.type, "nn.Dropout"), slots, (layer,), {})
    if param.scale_train:
        return Expression("{m}({0})", module, follows=True)
    return Expression(f"{{m}}({{0}}) * {number(1 - ratio)}", module, infix=True)


# ---- activations


def _activation(text: str, *, infix: bool = False) -> Expression:
    return Expression(text, follows=True, infix=infix)


@translates("ReLU")
def _relu(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    slope = layer.param.relu_param.negative_slope
    if len(layer.tops) > 1:
        return Expression(f"(F.leaky_relu({{0}}, {number(slope)}), ({{0}} > 0).float())")
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
    if low > high:  # Caffe's min wins
        return _activation(f"{{0}}.clamp(max={number(high)}).clamp(min={number(low)})")
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
    return Expression(pooled(layer.param.pooling_param, shapes[0], len(layer.tops) > 1))


def pooled(param: PoolingParameter, shape: Shape, places: bool = False) -> str:
    """The text of a pooling of {0}, with the places as a second result if asked."""
    largest = param.pool == PoolingParameter.MAX
    if param.global_pooling and not places:
        return "F.adaptive_max_pool2d({0}, 1)" if largest else "torch.mean({0}, (2, 3), keepdim=True)"
    window = pooling_window(param, *shape[2:])
    floor = param.round_mode == PoolingParameter.FLOOR
    sides = list(zip(window.pad, window.kernel, window.stride, strict=True))
    odd = any(2 * p > k or (s > k and not floor) for p, k, s in sides)
    if places and (any(window.pad) or odd):
        if floor:
            raise InputError("Pooling that rounds down, with padding and a second top, has no counterpart")
        return f"places_of_max({{0}}, {window.kernel}, {window.stride}, {window.pad})"
    if odd:
        rule = "max_pool" if largest else "average_pool"
        rounding = ", down=True" if floor else ""
        return f"{rule}({{0}}, {window.kernel}, {window.stride}, {window.pad}{rounding})"
    settings = [_short(window.kernel)]
    if window.stride != window.kernel or any(window.pad):
        settings.append(_short(window.stride))
    if any(window.pad):
        settings.append(_short(window.pad))
    if not floor:
        settings.append("ceil_mode=True")
    if places:
        settings.append("return_indices=True")
    return f"F.{'max' if largest else 'avg'}_pool2d({{0}}, {', '.join(settings)})"


def _short(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else str(values)


@translates("Upsample")
def _upsample(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    scale = layer.param.upsample_param.scale or 1
    if len(shapes) == 1:
        return Expression(f'F.interpolate({{0}}, scale_factor={scale}, mode="nearest")')
    return Expression(f"max_unpool({{0}}, {{1}}, {tuple(layer.declared.tops[0][2:])})")


@translates("Permute")
def _permute(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    axes = permuted_axes(layer.param, len(shapes[0]))
    if axes == sorted(axes):
        return Expression("{0}")
    return Expression(f"{{0}}.permute({', '.join(map(str, axes))})", follows=True)


@translates("Axpy")
def _axpy(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    factor, x, _ = shapes
    behind = len(x) - len(factor)
    around = f"[..., {', '.join(['None'] * behind)}]" if behind else ""
    return Expression(f"{{0}}{around} * {{1}} + {{2}}", infix=True)


@translates("ReLU6")
def _relu6(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    slope = layer.param.relu6_param.negative_slope
    return _activation(f"F.leaky_relu({{0}}, {number(slope)}).clamp(max=6)" if slope else "F.relu6({0})")


@translates("BN")
def _bn(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    """PSPNet's: scale, shift, mean and variance; SegNet's for inference: scale and shift."""
    param, (shape,) = layer.param.bn_param, shapes
    if len(shape) != 4 and (len(shape) != 2 or layer.type != "BN"):
        raise InputError(f"BN of {len(shape)} axes has no counterpart in PyTorch")
    kind = "nn.BatchNorm2d" if len(shape) == 4 else "nn.BatchNorm1d"
    learned_here = zip(("weight", "bias"), layer.params, strict=False)
    all_frozen = param.frozen and len(layer.params) == 4  # SegNet's has no such setting
    frozen = tuple(name for name, p in learned_here if all_frozen or not p.needs_gradient)
    state = {name: _flat(i) for i, name in enumerate(("weight", "bias"))}
    slots = [Slot("inputs", shape[1])]
    if len(layer.params) == 2:
        if param.bn_mode == BNParameter.INFERENCE:
            if len(layer.tops) > 1:
                raise InputError("BN for inference with further tops has no counterpart in PyTorch")
            return Expression(
                "{m}({0})", Module("Scale", tuple(slots), (layer,), state, frozen), follows=True
            )
        _check_statistics(layer, shape, 1e-9)
        slots += [Slot("eps", Text("1e-9"), "eps"), Slot("stats", False, "track_running_stats")]
        module = Module(kind, tuple(slots), (layer,), state, frozen)
        if len(layer.tops) == 1:
            return Expression("{m}({0})", module, follows=True)
        axes = f"{(0, *range(2, len(shape)))}, keepdim=True"
        more = [f"{{0}}.detach().mean({axes})", f"{{0}}.detach().var({axes}, correction=0)"]
        return Expression(f"({', '.join(['{m}({0})', *more][: len(layer.tops)])})", module)
    state |= {name: _flat(i) for i, name in enumerate(("running_mean", "running_var"), 2)}
    if abs(param.eps - 1e-5) > 1e-12:
        slots.append(Slot("eps", Text(number(param.eps)), "eps"))
    train = layer.param.phase == 0
    if train and not param.frozen:
        _check_statistics(layer, shape, param.eps)
        slots.append(Slot("momentum", Text(number(round(1 - param.momentum, 6))), "momentum"))
    kind = kind.replace("nn.", "Frozen") if train and param.frozen else kind
    return Expression("{m}({0})", Module(kind, tuple(slots), (layer,), state, frozen), follows=True)


def _flat(index: int) -> Callable[[Sequence[Blobs]], np.ndarray]:
    return lambda blobs: blobs[0][index].ravel()


def _check_statistics(layer: LayerPlan, shape: Shape, eps: float) -> None:
    """Refuse what PyTorch's modules refuse of a batch: one value for each channel, no eps."""
    if eps <= 0:
        raise InputError(f"{layer.type} with eps {eps:g} has no counterpart in PyTorch where it trains")
    if math.prod(shape) == shape[1]:
        raise InputError(
            f"{layer.type} of one value for each channel has no counterpart in PyTorch: give a larger batch"
        )


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
    return Expression(f"{rule}({{0}}, {size}, {alpha}, {beta})")


@translates("MVN")
def _mvn(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.mvn_param
    if len(shapes[0]) != 4:
        raise InputError("MVN of fewer than 4 axes has no counterpart here")
    axes = (1, 2, 3) if param.across_channels else (2, 3)
    return Expression(f"mvn({{0}}, {axes}, {param.normalize_variance}, {number(param.eps)})")


@translates("Interp")
def _interp(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, (shape,) = layer.param.interp_param, shapes
    if len(shape) != 4:
        raise InputError("Interp of fewer than 4 axes has no counterpart in PyTorch")
    x = f"pad({{0}}, {param.pad_beg}, {param.pad_end})" if param.pad_beg or param.pad_end else "{0}"
    shrink, zoom = param.HasField("shrink_factor"), param.HasField("zoom_factor")
    if shrink == zoom and param.HasField("height") and param.HasField("width"):
        size = (param.height, param.width)
        return Expression(f'F.interpolate({x}, {size}, mode="bilinear", align_corners=True)')
    return Expression(f"resize({x}, shrink={param.shrink_factor}, zoom={param.zoom_factor})")


# ---- moving values about


@translates("Softmax")
def _softmax(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression(f"F.softmax({{0}}, {canonical_axis(layer.param.softmax_param.axis, len(shapes[0]))})")


@translates("Eltwise")
def _eltwise(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, count = layer.param.eltwise_param, len(shapes)
    if param.operation == EltwiseParameter.MAX:
        if count > 2:
            return Expression(f"largest({', '.join(f'{{{i}}}' for i in range(count))})")
        return Expression("torch.where({0} > {1}, {0}, {1})")
    if param.operation == EltwiseParameter.PROD:
        return Expression(" * ".join(f"{{{i}}}" for i in range(count)), infix=True)
    coeffs = list(param.coeff) or [1.0] * count
    if count > 2 and sum(map(len, layer.param.bottom)) > 60:  # no formatter breaks a long sum well
        factors = ["" if c == 1 else "-" if c == -1 else f"{number(c)} * " for c in coeffs]
        return Expression(f"total({', '.join(f'{factor}{{{i}}}' for i, factor in enumerate(factors))})")
    text = ""
    for i, coeff in enumerate(coeffs):
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
    if len(layer.tops) == 1:
        return Expression("{0}")
    if not param.slice_point:
        return Expression(f"torch.chunk({{0}}, {len(layer.tops)}, {axis})")
    return Expression(f"torch.split({{0}}, {slice_sizes(param, shape[axis], len(layer.tops))}, {axis})")


@translates("Flatten")
def _flatten(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, axes = layer.param.flatten_param, len(shapes[0])
    start, end = canonical_axis(param.axis, axes), canonical_axis(param.end_axis, axes)
    if end < start:
        return Expression(f"{{0}}.unsqueeze({start})")
    return Expression(f"{{0}}.flatten({start}{f', {end}' if end != axes - 1 else ''})", follows=True)


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
    return Expression(f"crop({{0}}, {{1}}, {axis}, {', '.join(map(str, starts))})")


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
    if not param.HasField("axis"):
        text = f"top_places({{0}}, {param.top_k}, values={param.out_max_val})"
        behind = len(layer.declared.tops[0]) - 3
        return Expression(text + f"[..., {', '.join(['None'] * behind)}]" * (behind > 0))
    axis = canonical_axis(param.axis, len(shapes[0]))
    if param.top_k > 1:
        return Expression(f"top_along({{0}}, {axis}, {param.top_k}, values={param.out_max_val})")
    if param.out_max_val:
        return Expression(f"{{0}}.detach().amax({axis}, keepdim=True)")
    return Expression(f"arg_max({{0}}, {axis})")


@translates("BatchReindex")
def _batch_reindex(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression("{0}.index_select(0, {1}.long())")


@translates("DummyData")
def _dummy_data(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    fillers = dummy_fillers(layer.param, len(layer.tops))
    if any(filler.type != "constant" for filler in fillers):
        raise InputError("DummyData that draws its values has no counterpart in PyTorch")
    texts = [
        f"torch.full({tuple(shape)}, {number(filler.value)})"
        for shape, filler in zip(layer.declared.tops, fillers, strict=True)
    ]
    return Expression(texts[0] if len(texts) == 1 else f"({', '.join(texts)})")


@translates("Python")
def _python(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    python = layer.param.python_param
    if (python.module, python.layer) == ("crelu_layer", "CReLULayer"):
        high, low = literal_params(layer.param, "maxt", "mint")
        return Expression(f"c_relu({{0}}, {{1}}, {{2}}, high={high}, low={low})")
    if (python.module, python.layer) == ("scan_background_layer", "BackgroundMaskLayer"):
        (threshold,) = literal_params(layer.param, "thresh")
        return Expression(f"background_mask({{0}}, {{1}}, {{2}}, {threshold})")
    raise InputError(f"the Python layer {python.module}.{python.layer} has no counterpart in PyTorch")
