"""What layers of the forks, and some of BVLC's that few nets have, become."""

import math
from collections.abc import Sequence

from port.translate.detection_ops import four_axes
from port.translate.ops import Expression, Slot, bias_slot, learned, number, pooled, translates
from prototxt.caffe_pb2 import BiasChannelParameter, FlowWarpParameter, ResampleParameter, UnpoolingParameter
from prototxt.errors import InputError
from prototxt.layers.augmentation import crops, drawn
from prototxt.layers.declare import Shape
from prototxt.layers.pooling import pyramid
from prototxt.layers.reshaping import crop_starts
from prototxt.layers.upsampling import unpooling_window
from prototxt.layers.volumes import averages, convolution3d_window, pooling3d_window
from prototxt.layers.windows import canonical_axis, convolution_window
from prototxt.plan import LayerPlan

# ---- activations


@translates("NegReLU")
def _neg_relu(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    slope = layer.param.relu_param.negative_slope
    if not slope:
        return Expression("{0}.clamp(max=0)", follows=True)
    return Expression(f"-F.leaky_relu(-{{0}}, {number(slope)})", follows=True)


@translates("SeLU")
def _selu(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    scale, alpha = getattr(layer.param.selu_param, "lambda"), layer.param.selu_param.alpha
    if abs(scale - 1.0507010) < 1e-5 and abs(alpha - 1.6732632) < 1e-5:
        return Expression("F.selu({0})", follows=True)
    return Expression(f"{number(scale)} * F.elu({{0}}, {number(alpha)})", follows=True, infix=True)


# ---- moving values about


@translates("AutoCrop")
def _auto_crop(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    axis = canonical_axis(layer.param.crop_param.axis, len(shapes[0]))
    starts = crop_starts(layer.param, *shapes)[axis:]
    return Expression(f"crop({{0}}, {{1}}, {axis}, {', '.join(map(str, starts))})")


@translates("ShuffleChannel")
def _shuffle_channel(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    group = layer.param.shuffle_channel_param.group
    if len(shapes[0]) < 3:
        return Expression(f"{{0}}.unflatten(1, ({group}, -1)).transpose(1, 2).flatten(1, 2)")
    return Expression(f"F.channel_shuffle({{0}}, {group})")


@translates("Reorg")
def _reorg(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    param = layer.param.reorg_param
    return Expression(f"reorg{'_back' if param.reverse else ''}({{0}}, {param.stride})")


@translates("Padding")
def _padding(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    return Expression(f"pad({{0}}, {layer.param.padding_param.pad_beg}, {layer.param.padding_param.pad_end})")


@translates("Transpose")
def _transpose(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression(f"torch.permute({{0}}, {tuple(layer.param.transpose_param.dim)})")


@translates("Reverse")
def _reverse(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    return Expression(f"{{0}}.flip({layer.param.reverse_param.axis})")


@translates("Flip")
def _flip(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    param = layer.param.flip_param
    axes = [axis for axis, chosen in ((2, param.flip_height), (3, param.flip_width)) if chosen]
    return Expression(f"{{0}}.flip({tuple(axes)})")


@translates("Im2col")
def _im2col(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, (shape,) = layer.param.convolution_param, shapes
    if len(shape) != 4 or canonical_axis(param.axis, 4) != 1:
        raise InputError("Im2col over other than 2 spatial axes has no counterpart in PyTorch")
    window, sizes = convolution_window(param, 2), layer.declared.tops[0][2:]
    rest = f"{window.kernel}, {window.dilation}, {window.pad}, {window.stride}"
    return Expression(f"F.unfold({{0}}, {rest}).unflatten(2, {tuple(sizes)})")


@translates("SPP")
def _spp(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    (shape,) = shapes
    levels = [pooled(param, shape) for param in pyramid(layer.param.spp_param, *shape[2:])]
    if len(levels) == 1:
        return Expression(levels[0])
    return Expression(f"torch.cat([{', '.join(f'{level}.flatten(1)' for level in levels)}], 1)")


@translates("Unpooling")
def _unpooling(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param, size = layer.param.unpooling_param, tuple(layer.declared.tops[0][2:])
    window = unpooling_window(param)
    if param.unpool == UnpoolingParameter.MAX:
        if len(shapes) == 1:
            raise InputError("Unpooling MAX without places has no counterpart here")
        return Expression(f"max_unpool({{0}}, {{1}}, {size})")
    if param.unpool == UnpoolingParameter.TILE:
        raise InputError("Unpooling TILE, whose gradient is a mean, has no counterpart in PyTorch")
    return Expression(f"unpool({{0}}, {size}, {window.kernel}, {window.stride})")


@translates("Filter")
def _filter(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    last = len(shapes) - 1
    parts = [f"{{{i}}}[{{{last}}}.detach().flatten() != 0]" for i in range(last)]
    return Expression(parts[0] if last == 1 else f"({', '.join(parts)})")


@translates("LabelSpecificAdd")
def _label_specific_add(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    if layer.param.phase == 0 or len(layer.tops) > 1:
        raise InputError("LabelSpecificAdd in training has no counterpart in PyTorch")
    return Expression("{0}")


# ---- learned


@translates("Parameter")
def _parameter(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    sizes = [Slot("", size) for size in layer.declared.tops[0]]
    return Expression("{m}()", learned(layer, "Learned", sizes, ("weight",)))


@translates("InnerDistance")
def _inner_distance(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.inner_distance_param
    if len(shapes) == 1 or param.distance_type == "L1":
        raise InputError("InnerDistance to learned centres, or by L1, has no counterpart here")
    return Expression(f"distances({{0}}, {{1}}, {canonical_axis(param.axis, len(shapes[0]))})")


# ---- scaling


@translates("ChannelScale")
def _channel_scale(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.channel_scale_param
    four_axes(layer, *shapes)
    if not (param.do_forward and param.do_backward_feature and param.do_backward_scale):
        raise InputError("ChannelScale that leaves out forward or a gradient has no counterpart here")
    return Expression("{0} * {1}", infix=True)


@translates("NormL2")
def _norm_l2(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    axes = tuple(range(1, len(shapes[0])))
    four = "" if len(shapes[0]) == 4 else f".reshape({layer.declared.tops[0]})"
    return Expression(f"({{0}} / ({{0}}.square().sum({axes}, keepdim=True) + 1e-7).sqrt()){four}")


# ---- flow


@translates("DataAugmentation")
def _data_augmentation(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, shapes[0])
    param, (top, *more) = layer.param.augmentation_param, layer.declared.tops
    if more or len(shapes) > 1 or drawn(layer.param):
        raise InputError("DataAugmentation with parameters, or that draws, has no counterpart here")
    cropped = f"crop_middle({{0}}, {tuple(top[2:])})" if crops(param) else "{0}"
    if param.recompute_mean:
        slots = [Slot("", tuple(top[1:])), Slot("", param.recompute_mean), Slot("", param.mean_per_pixel)]
        module = learned(layer, "MeanImage", slots, ("passes", "mean", "channel_mean"))
        return Expression(f"{{m}}({cropped})", module)
    if len(param.mean) == 3 and not param.mean_per_pixel:
        means = ", ".join(number(value) for value in param.mean[: top[1]])
        return Expression(f"{cropped} - torch.tensor([{means}])[:, None, None].to({{0}})", infix=True)
    return Expression(cropped)


@translates("ChannelNorm")
def _channel_norm(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    return Expression("{0}.square().sum(1, keepdim=True).sqrt()")


@translates("FlowWarp", "Warp")
def _warp(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    nan = layer.type == "FlowWarp" and layer.param.flow_warp_param.fill_value != FlowWarpParameter.ZERO
    fill = ", fill=torch.nan" if nan else ""
    return Expression(f"warp({{0}}, {{1}}, far_side={layer.type == 'FlowWarp'}{fill})")


@translates("Correlation")
def _correlation(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    param = layer.param.correlation_param
    settings = [f"pad={param.pad}", f"reach={param.max_displacement}", f"kernel={param.kernel_size}"]
    settings += [f"stride={param.stride_1}", f"step={param.stride_2}"]
    return Expression(f"correlation({{0}}, {{1}}, {', '.join(settings)})")


@translates("Resample")
def _resample(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    param, size = layer.param.resample_param, tuple(layer.declared.tops[0][2:])
    kind = ResampleParameter.ResampleType.Name(param.type)
    return Expression(f'resample({{0}}, {size}, "{kind}", antialias={param.antialias})')


@translates("Downsample")
def _downsample(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, *shapes)
    return Expression(f"downsample({{0}}, {tuple(layer.declared.tops[0][2:])})")


# ---- reading


@translates("CTCGreedyDecoder")
def _ctc_greedy_decoder(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    param = layer.param.ctc_decoder_param
    if len(shapes) > 1:
        raise InputError("CTCGreedyDecoder that judges labels has no counterpart here")
    blank = param.blank_index if param.blank_index >= 0 else math.prod(shapes[0][2:3]) - 1
    return Expression(f"greedy_labels({{0}}, blank={blank}, merge={param.ctc_merge_repeated})")


@translates("BiasChannel")
def _bias_channel(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    four_axes(layer, shapes[0])
    param = layer.param.bias_channel_param
    ignored, others = tuple(param.ignore_label), number(param.fg_bias)
    if param.label_type != BiasChannelParameter.PIXEL:
        return Expression(f"bias_labelled({{0}}, {{1}}, {number(param.bg_bias)}, {others}, {ignored})")
    both = param.HasField("background_label") or param.HasField("bg_bias")
    more = f", ({param.background_label}, {number(param.bg_bias)})" if both else ""
    return Expression(f"bias_pixels({{0}}, {{1}}, {others}, {ignored}{more})")


# ---- videos


@translates("Convolution3D", "Deconvolution3D")
def _convolution3d(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    window, (channels, outputs) = convolution3d_window(layer.param), (shapes[0][1], layer.declared.tops[0][1])
    slots = [Slot("inputs", channels), Slot("outputs", outputs), Slot("kernel", window.kernel)]
    slots += [
        Slot(role, values, role, (default,) * 3)
        for role, values, default in (("stride", window.stride, 1), ("padding", window.pad, 0))
    ]
    slots.append(bias_slot(len(layer.params) > 1))
    kind = "nn.Conv3d" if layer.type == "Convolution3D" else "nn.ConvTranspose3d"
    module = learned(layer, kind, slots)
    if len(layer.params) > 1:
        module.state["bias"] = lambda blobs: blobs[0][1].ravel()
    return Expression("{m}({0})", module)


@translates("Pooling3D")
def _pooling3d(layer: LayerPlan, shapes: Sequence[Shape]) -> Expression:
    window = pooling3d_window(layer.param)
    sides = zip(window.pad, window.kernel, window.stride, strict=True)
    if any(2 * p > k or s > k for p, k, s in sides):
        raise InputError("Pooling3D with strides above the kernel, or such padding, has no counterpart here")
    kind = "avg" if averages(layer.param) else "max"
    return Expression(
        f"F.{kind}_pool3d({{0}}, {window.kernel}, {window.stride}, {window.pad}, ceil_mode=True)"
    )
