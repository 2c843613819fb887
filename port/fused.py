"""A net for inference alone: layers joined, nothing kept that is not asked for. `CaffeNet.fused()` makes it.

BatchNorm, Scale and Bias are folded into the convolution or InnerProduct before them, in float64. ReLU and the sum of
two blobs are computed as the convolution writes its result. Split and Dropout are gone. Maps lie channels-last, which
oneDNN's convolutions and PyTorch's poolings are fastest on; weights are laid out once. A blob is dropped after its
last reader.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from port.layer import MAKE_MEMORY, Layer, as_tuple
from port.layers.activations import ReLU
from port.layers.combining import Eltwise
from port.layers.convolution import Convolution, ConvolutionDepthwise
from port.layers.inner_product import InnerProduct
from port.layers.normalisation import BN, LRN, BatchNorm
from port.layers.pooling import LEAST, Pooling
from port.layers.scaling import Bias, Scale
from port.net import CaffeNet, named_inputs
from prototxt.caffe_pb2 import BNParameter, EltwiseParameter, LRNParameter, PoolingParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Shape
from prototxt.layers.windows import canonical_axis, pooled_sizes, pooling_window
from prototxt.plan import LayerPlan

_ANY_LAYOUT = {
    *("Pooling", "Eltwise", "Concat", "Slice", "Crop", "Permute", "Flatten", "Reshape", "InnerProduct"),
    *("BatchNorm", "BN", "Scale", "Bias", "Normalize", "Axpy", "Softmax"),
    *("ReLU", "ReLU6", "PReLU", "ELU", "Sigmoid", "TanH", "Swish", "AbsVal", "Clip", "Power"),
}
"""Layer types that are as fast on maps that lie channels-last. Others get them as Caffe has them."""

_LAST = torch.channels_last


Affine = tuple[Tensor, Tensor]
"""Factors and terms, float64, one of each for each channel."""


@dataclass
class _Step:
    """One computation, and the layers that it stands for.

    Attributes:
        reads, makes: numbers of values. A value is written once; a blob that is worked on in place is several.
        drops: values that nothing reads afterwards.
    """

    plans: list[LayerPlan]
    run: Callable[..., Tensor | Sequence[Tensor]]
    reads: Sequence[int]
    makes: Sequence[int]
    drops: list[int] = field(default_factory=list)


class FusedNet:
    """A net's outputs as `CaffeNet` computes them, but for rounding, in less time and memory; without gradients.

    It is made for the net's weights, dtype and device as they are: where they change, make it again. Hooks are not run.

    Args:
        net: in evaluation (`eval()`, where its phase is not fixed).
        blobs: names of further blobs that it is to give. Layers are not joined across them.

    Attributes:
        layers: for each step the names of the layers that it stands for.
        unfused: why the net runs layer by layer, as it is; "" where it does not.

    Raises:
        InputError: a blob that the net does not have.
    """

    def __init__(self, net: CaffeNet, blobs: Iterable[str] = ()):
        self.plan = net.plan
        self.blobs = net.known_blobs(blobs)
        self.unfused = _why_not(net, self.blobs)
        self._seen: tuple[Shape, ...] = ()
        if self.unfused:
            warnings.warn(f"{self.unfused}: the net is not fused and runs layer by layer", stacklevel=3)
            self._net = net
            self.layers = [[plan.name] for plan in net.plan.layers]
            return
        graph = _Graph(net, self.blobs)
        self._inputs, self._given = graph.inputs, graph.given
        with torch.no_grad():
            self._steps = _with_drops(list(_joined_steps(graph)), graph.kept)
        self.layers = [[plan.name for plan in step.plans] for step in self._steps]

    def __repr__(self) -> str:
        return "\n".join(["FusedNet", *("  " + " + ".join(names) for names in self.layers)])

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Run the net; inputs as `CaffeNet.forward` takes them.

        Returns:
            The net's outputs and the blobs that were asked for, by name.

        Raises:
            InputError: as `CaffeNet.forward`.
        """
        if self.unfused:
            return self._net(*inputs, blobs=self.blobs, **named)
        return self.run(named_inputs(list(self._inputs), inputs, named))

    @torch.inference_mode()
    def run(
        self, given: Mapping[str, Tensor], observe: Callable[[Sequence[str]], None] | None = None
    ) -> dict[str, Tensor]:
        """As a call, with all inputs by name; of a net that is fused.

        Args:
            observe: told after each step which layers it stood for.
        """
        self._check_shapes(tuple(tuple(given[name].shape) for name in self._inputs))
        values = {number: given[name] for name, number in self._inputs.items()}
        for step, names in zip(self._steps, self.layers, strict=True):
            try:
                tops = as_tuple(step.run(*(values[i] for i in step.reads)))
            except InputError:
                with step.plans[0].errors():
                    raise
            values.update(zip(step.makes, tops, strict=True))
            del tops
            for i in step.drops:
                del values[i]
            if observe:
                observe(names)
        return {name: values[number].contiguous() for name, number in self._given.items()}

    def _check_shapes(self, shapes: tuple[Shape, ...]) -> None:
        """Refuse inputs of shapes that a layer refuses."""
        if shapes == self._seen:
            return
        known = dict(zip(self.plan.inputs, shapes, strict=True))
        for layer in self.plan.layers:
            if layer.bottoms:
                with layer.errors():
                    tops = layer.top_shapes(*(known[i] for i in layer.bottoms))
            else:
                tops = [known.get(i, self.plan.shapes[i]) for i in layer.tops]
            known.update(zip(layer.tops, tops, strict=True))
        self._seen = shapes


def _why_not(net: CaffeNet, blobs: Sequence[str]) -> str:
    """What in a net its fused form could not follow, with the layer's place; "" where there is nothing."""
    plan = net.plan
    last_read = {blob: layer.index for layer in plan.layers for blob in layer.bottoms}
    kept = {*plan.outputs, *(i for i, name in enumerate(plan.blobs) if name in blobs)}
    made: set[int] = set()
    for layer, module in zip(plan.layers, net.layers, strict=True):
        named = f'{layer.where}: layer "{layer.name}"'
        if layer.declared.script:
            return f"{named} is a script's, which may write into its bottoms"
        if isinstance(module, Layer) and module.phase == 0:
            return f"{named} is in the TRAIN phase"
        for blob in set(layer.tops) & set(layer.bottoms):
            for mate in plan.memory_mates.get(blob, ()):
                if mate != blob and mate in made and (last_read.get(mate, -1) > layer.index or mate in kept):
                    return f'{named} writes into the memory of blob "{plan.blobs[mate]}", which is read later'
        made.update(layer.tops)
    return ""


class _Graph:
    """A net's layers as steps on values.

    Attributes:
        steps: one for each layer that computes something.
        modules: by layer index, of those.
        readers: by value, the steps that read it.
        inputs, given: by name, the values of the net's inputs and of what it is to give.
        kept: the latter's values.
    """

    def __init__(self, net: CaffeNet, blobs: Sequence[str]):
        self.steps: list[_Step] = []
        self.modules: dict[int, nn.Module] = {}
        self.readers: dict[int, list[_Step]] = {}
        self.inputs: dict[str, int] = {}
        names, now, count = net.plan.blobs, dict[int, int](), 0
        for plan, layer in zip(net.plan.layers, net.layers, strict=True):
            reads = [now[i] for i in plan.bottoms]
            if _passes_on(plan, layer):
                now.update(dict.fromkeys(plan.tops, reads[0]))
                continue
            makes = range(count, count := count + len(plan.tops))
            now.update(zip(plan.tops, makes, strict=True))
            if plan.type == "Input":
                self.inputs.update(zip((names[i] for i in plan.tops), makes, strict=True))
                continue
            step = _Step([plan], _alone(plan, layer), reads, makes)
            self.steps.append(step)
            self.modules[plan.index] = layer
            for value in reads:
                self.readers.setdefault(value, []).append(step)
        wanted = {*(names[i] for i in net.plan.outputs), *blobs}
        self.given = {name: now[i] for i, name in enumerate(names) if name in wanted}
        self.kept = set(self.given.values())


def _passes_on(plan: LayerPlan, layer: nn.Module) -> bool:
    """Whether a layer's tops are its bottom as it is."""
    param = plan.param.dropout_param
    dropout = plan.type in ("Dropout", "SpatialDropout") and isinstance(layer, Layer)
    return plan.type == "Split" or (dropout and param.scale_train and not param.sample_weights_test)


def _alone(plan: LayerPlan, layer: nn.Module) -> Callable[..., Tensor | Sequence[Tensor]]:
    """What runs a layer that is not joined with others."""
    if (
        isinstance(layer, Pooling)
        and plan.param.pooling_param.pool == PoolingParameter.MAX
        and len(plan.tops) == 1
    ):
        return lambda x: _max_pool(x, plan.param.pooling_param)
    if isinstance(layer, Layer) and plan.type in _ANY_LAYOUT:
        return layer
    if isinstance(layer, LRN) and plan.param.lrn_param.norm_region == LRNParameter.ACROSS_CHANNELS:
        return lambda x: _lrn(x, plan.param.lrn_param)
    if not isinstance(layer, Layer) and plan.type == "InnerProduct":
        return lambda x: layer(x.flatten(plan.param.inner_product_param.axis))
    return lambda *bottoms: layer(*(bottom.contiguous() for bottom in bottoms))


# ---- joining


@dataclass
class _Product:
    """A convolution or matrix product: its weights, the net's own until something is folded into them."""

    weight: Tensor
    bias: Tensor

    def fold(self, scale: Tensor, shift: Tensor) -> None:
        """Multiply each output channel, then add to it, in float64."""
        dtype = self.weight.dtype
        factor = scale.view(-1, *(1,) * (self.weight.ndim - 1))
        self.weight = (self.weight * factor).to(dtype)
        self.bias = self.bias * scale + shift


class _Chain:
    """A step and those behind it that are computed along with it; `take_…` takes the next one where it fits.

    Attributes:
        plans: the layers so far.
        top: the value that they make.
    """

    def __init__(self, graph: _Graph, first: _Step):
        self.plans, self.top = list(first.plans), first.makes[0] if first.makes else -1
        self._graph = graph

    def take_affine(self) -> Affine | None:
        """Factors and terms."""
        return self._take(lambda step, layer: _affine(layer))

    def take_sum(self, made: set[int]) -> int | None:
        """The other summand, which must be among the values `made`."""

        def other(step: _Step, layer: nn.Module) -> int | None:
            left = [value for value in step.reads if value != self.top]
            return left[0] if _is_sum(layer) and len(left) == 1 and left[0] in made else None

        return self._take(other)

    def take_relu(self) -> float | None:
        """The slope below 0."""
        return self._take(lambda step, layer: _slope(layer))

    def _take(self, fits: Callable[[_Step, nn.Module], Any]) -> Any:
        readers = self._graph.readers.get(self.top, [])
        if len(readers) != 1 or self.top in self._graph.kept:
            return None
        (step,) = readers
        found = fits(step, self._graph.modules[step.plans[0].index])
        if found is not None:
            self.plans += step.plans
            (self.top,) = step.makes
        return found


class _Memory:
    """Which values are there at a point of the pass, and which of them may be overwritten.

    Attributes:
        made: the values that are there.
    """

    def __init__(self, graph: _Graph):
        self.made = set(graph.inputs.values())
        self._left = {value: len(readers) for value, readers in graph.readers.items()}
        self._own: set[int] = set()
        self._kept = graph.kept

    def ran(self, step: _Step) -> None:
        self.made.update(step.makes)
        for value in step.reads:
            self._left[value] -= 1
        if step.plans[0].type in MAKE_MEMORY and len(set(step.reads)) == len(step.plans[0].bottoms):
            self._own.update(step.makes)
        else:
            self._own.difference_update(step.reads)  # its tops may be views of them

    def may_overwrite(self, value: int) -> bool:
        """Whether a step that reads the value is the last to do so, and nobody else needs its memory."""
        return value in self._own and value not in self._kept and self._left[value] == 1


def _joined_steps(graph: _Graph) -> Iterator[_Step]:
    """The graph's steps, joined where they can be."""
    gone: set[int] = set()
    memory = _Memory(graph)
    for step in graph.steps:
        if step.plans[0].index not in gone:
            joined = _joined(graph, step, memory)
            gone.update(plan.index for plan in joined.plans)
            memory.ran(joined)
            yield joined


def _joined(graph: _Graph, step: _Step, memory: _Memory) -> _Step:
    """A step with those behind it that it can be joined with."""
    layer, chain = graph.modules[step.plans[0].index], _Chain(graph, step)
    if (product := _product(layer)) is not None:
        if (affine := _taken(chain)) is not None:
            product.fold(*affine)
        if product.weight.ndim == 2:
            return _Step(chain.plans, _multiply(product, chain.take_relu()), step.reads, [chain.top])
        other = chain.take_sum(memory.made)
        slope = chain.take_relu()
        if other is None:
            return _Step(chain.plans, _convolve(layer, product, slope), step.reads, [chain.top])
        run = _convolve(layer, product, slope, memory.may_overwrite(other))
        return _Step(chain.plans, run, [*step.reads, other], [chain.top])
    if (affine := _affine(layer)) is not None:
        behind = _taken(chain)
        scale, shift = affine if behind is None else _then(affine, behind)
        run = _scale_and_shift(layer, scale, shift, chain.take_relu())
        return _Step(chain.plans, run, step.reads, [chain.top])
    if _is_sum(layer):
        reads = sorted(step.reads, key=memory.may_overwrite, reverse=True)
        run = _add(memory.may_overwrite(reads[0]), chain.take_relu())
        return _Step(chain.plans, run, reads, [chain.top])
    slope = _slope(layer)
    if slope is not None and memory.may_overwrite(step.reads[0]):
        return _Step(step.plans, lambda x: _relu_(x, slope), step.reads, step.makes)
    return step


def _with_drops(steps: list[_Step], kept: set[int]) -> list[_Step]:
    last = {value: step for step in steps for value in (*step.makes, *step.reads) if value not in kept}
    for value, step in last.items():
        step.drops.append(value)
    return steps


# ---- what can be joined


def _product(layer: nn.Module) -> _Product | None:
    """A convolution of one map, or a matrix product of rows."""
    if isinstance(layer, Convolution | ConvolutionDepthwise):
        fits = len(layer.plan.bottoms) == 1 and layer.axis == 1 and len(layer.window.kernel) == 2
    else:
        fits = (
            isinstance(layer, InnerProduct)
            and layer.axis == 1
            and not layer.param.inner_product_param.normalize
        )
    if not fits:
        return None
    weight, *bias = (blob.detach() for blob in layer.blobs)
    if isinstance(layer, InnerProduct) and layer.param.inner_product_param.transpose:
        weight = weight.T
    return _Product(weight, bias[0].double() if bias else torch.zeros(len(weight)).to(weight).double())


def _affine(layer: nn.Module) -> Affine | None:
    """Of a layer that multiplies each channel and adds to it."""
    if not isinstance(layer, BatchNorm | BN | Scale | Bias):
        return None
    if len(layer.plan.bottoms) > 1 or len(layer.plan.tops) > 1:
        return None
    shape, blobs = layer.plan.bottom_shapes[0], [blob.detach().double() for blob in layer.blobs]
    if len(shape) < 2:
        return None  # there is no axis of channels
    if isinstance(layer, BatchNorm):
        return _of_batch_norm(layer, blobs)
    if isinstance(layer, BN):
        return _of_bn(layer, blobs)
    param = layer.param.scale_param if isinstance(layer, Scale) else layer.param.bias_param
    if any(blob.shape != shape[1:2] for blob in blobs) or canonical_axis(param.axis, len(shape)) != 1:
        return None
    if isinstance(layer, Bias):
        return torch.ones_like(blobs[0]), blobs[0]
    return blobs[0], blobs[1] if len(blobs) > 1 else torch.zeros_like(blobs[0])


def _taken(chain: _Chain) -> Affine | None:
    """All the layers behind that multiply and add, as one."""
    found: Affine | None = None
    while (affine := chain.take_affine()) is not None:
        found = affine if found is None else _then(found, affine)
    return found


def _then(first: Affine, second: Affine) -> Affine:
    """One after the other."""
    return first[0] * second[0], first[1] * second[0] + second[1]


def _of_batch_norm(layer: BatchNorm, blobs: list[Tensor]) -> Affine | None:
    if layer.told is False:
        return None  # by the batch's own statistics
    eps = layer.param.batch_norm_param.eps
    means, variances, count, *learned = blobs
    factor = torch.where(count == 0, 0, 1 / count)
    scale = (variances * factor + (max(eps, 1e-5) if learned else eps)).rsqrt()
    shift = -means * factor * scale
    return (scale * learned[0], shift * learned[0] + learned[1]) if learned else (scale, shift)


def _of_bn(layer: BN, blobs: list[Tensor]) -> Affine | None:
    param = layer.param.bn_param
    scale, shift, *running = (blob.flatten() for blob in blobs)
    if layer.segnet:
        return (scale, shift) if param.bn_mode == BNParameter.INFERENCE else None
    scale = scale * (running[1] + param.eps).rsqrt()
    return scale, shift - running[0] * scale


def _is_sum(layer: nn.Module) -> bool:
    """Whether a layer adds blobs as they are."""
    if not isinstance(layer, Eltwise):
        return False
    param, bottoms = layer.param.eltwise_param, layer.plan.bottoms
    plain = param.operation == EltwiseParameter.SUM and all(coeff == 1 for coeff in param.coeff)
    return plain and len(bottoms) > 1


def _slope(layer: nn.Module) -> float | None:
    """Of a ReLU: the slope below 0."""
    plain = isinstance(layer, ReLU) and len(layer.plan.tops) == 1  # DecoupledNet's gives its mask too
    return layer.param.relu_param.negative_slope if plain else None


# ---- running


def _relu_(x: Tensor, slope: float | None) -> Tensor:
    """In place; None: not at all."""
    return x if slope is None else F.leaky_relu_(x, slope) if slope else x.relu_()


def _convolve(
    layer: Any, product: _Product, slope: float | None, overwrites: bool | None = None
) -> Callable[..., Tensor]:
    """A convolution; of two bottoms where `overwrites` is given: the second is added, in its memory or not."""
    plan, window, groups = layer.plan, layer.window, layer.groups
    weight, bias = product.weight, product.bias.to(product.weight)
    if not _on_onednn(weight):

        def plain(x: Tensor, *other: Tensor) -> Tensor:
            top = F.conv2d(x, weight, bias, window.stride, window.pad, window.dilation, groups)
            return _relu_(top.add_(other[0]) if other else top, slope)

        return plain
    mkldnn, settings = torch.ops.mkldnn, (window.pad, window.stride, window.dilation, groups)
    packed = mkldnn._reorder_convolution_weight(weight, *settings, plan.bottom_shapes[0])
    relu = ("none", []) if slope is None else ("leaky_relu", [slope]) if slope else ("relu", [])

    def convolve(x: Tensor) -> Tensor:
        if not x.numel():
            return x.new_empty(plan.top_shapes(tuple(x.shape))[0])
        x = x.contiguous(memory_format=_LAST)
        return mkldnn._convolution_pointwise(x, packed, bias, *settings, *relu, "")

    def convolve_and_add(x: Tensor, other: Tensor) -> Tensor:
        if not x.numel():
            return other
        in_place = overwrites and other.is_contiguous(memory_format=_LAST)
        x, other = x.contiguous(memory_format=_LAST), other.contiguous(memory_format=_LAST)
        told: tuple = (packed, bias, *settings, "add", 1.0, "relu" if slope == 0 else None, [], None)
        if in_place:
            top = mkldnn._convolution_pointwise_(other, x, *told)
        else:
            top = mkldnn._convolution_pointwise(x, other, *told)
        return _relu_(top, slope or None)

    return convolve if overwrites is None else convolve_and_add


def _multiply(product: _Product, slope: float | None) -> Callable[[Tensor], Tensor]:
    weight, bias = product.weight, product.bias.to(product.weight)
    return lambda x: _relu_(F.linear(x.flatten(1), weight, bias), slope)


def _on_onednn(weight: Tensor) -> bool:
    """Whether PyTorch has oneDNN's convolutions for such weights, with weights laid out beforehand."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def _scale_and_shift(
    layer: Layer, scale: Tensor, shift: Tensor, slope: float | None
) -> Callable[[Tensor], Tensor]:
    shape = (-1, *(1,) * (len(layer.plan.bottom_shapes[0]) - 2))
    factor, term = (value.to(layer.blobs[0]).view(shape) for value in (scale, shift))
    return lambda x: _relu_(torch.addcmul(term, x, factor), slope)


def _add(overwrites: bool, slope: float | None) -> Callable[..., Tensor]:
    def add(first: Tensor, *others: Tensor) -> Tensor:
        total = first if overwrites else first + others[0]
        for other in others if overwrites else others[1:]:
            total += other
        return _relu_(total, slope)

    return add


def _max_pool(x: Tensor, param: PoolingParameter) -> Tensor:
    """MAX pooling as the layer has it: the largest along one axis, then along the other.

    PyTorch's own also finds where each maximum is, which takes half of its time.
    """
    window = pooling_window(param, *x.shape[2:])
    for axis, count in enumerate(pooled_sizes(param, window, x.shape[2:])):
        x = _largest(x, axis + 2, window.kernel[axis], window.stride[axis], window.pad[axis], count)
    return x


def _largest(x: Tensor, axis: int, kernel: int, stride: int, pad: int, count: int) -> Tensor:
    """The largest of each of `count` windows along one axis."""
    size = x.shape[axis]
    seen = []
    for place in range(kernel):
        # Windows first … last - 1 have this place within the map.
        first = max(0, -((place - pad) // stride))
        last = min(count, (size - 1 - place + pad) // stride + 1)
        if first < last:
            start = first * stride + place - pad
            index = slice(start, start + (last - first - 1) * stride + 1, stride)
            seen.append((first, last, x[(slice(None),) * axis + (index,)]))
    whole = [part for first, last, part in seen if last - first == count]
    if len(whole) > 1:
        top = torch.maximum(*whole[:2])
    elif whole:
        top = whole[0].clone()
    else:
        shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        top = torch.full(shape, LEAST, dtype=x.dtype, device=x.device).contiguous(memory_format=_LAST)
    for part in whole[2:]:
        torch.maximum(top, part, out=top)
    for first, last, part in seen:
        if last - first < count:
            there = top.narrow(axis, first, last - first)
            torch.maximum(there, part, out=there)
    return top


def _lrn(x: Tensor, param: LRNParameter) -> Tensor:
    """LRN across channels, as the layer has it, with the channels last in memory."""
    last, side = x.movedim(1, -1), param.local_size
    squares = F.pad(last.square(), (side // 2, side // 2))
    total = squares.narrow(-1, 0, last.shape[-1]).clone()
    for i in range(1, side):
        total += squares.narrow(-1, i, last.shape[-1])
    size = total.mul_(param.alpha / side).add_(param.k)
    # The usual power takes three times as long as roots.
    divided = (size * size.sqrt()).rsqrt_() if param.beta == 0.75 else size.pow_(-param.beta)
    return divided.mul_(last).movedim(-1, 1)
