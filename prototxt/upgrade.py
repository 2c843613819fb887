"""Older forms of nets and solvers, brought to the current one as Caffe's upgrade_proto.cpp does.

And the words of forks for what BVLC's Caffe has too, under another name: `hole`, `ceil_mode`, …
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from prototxt.caffe_pb2 import (
    BatchNormParameter,
    ConvolutionParameter,
    EltwiseParameter,
    LayerParameter,
    NetParameter,
    ParamSpec,
    PoolingParameter,
    SolverParameter,
    V0LayerParameter,
    V1LayerParameter,
)
from prototxt.errors import InputError
from prototxt.forks import PRECISION

log = logging.getLogger("caffe")

_V1_NAMES = {
    "NONE": "", "ABSVAL": "AbsVal", "ACCURACY": "Accuracy", "ARGMAX": "ArgMax", "BNLL": "BNLL",
    "CONCAT": "Concat", "CONTRASTIVE_LOSS": "ContrastiveLoss", "CONVOLUTION": "Convolution",
    "DATA": "Data", "DECONVOLUTION": "Deconvolution", "DROPOUT": "Dropout", "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss", "ELTWISE": "Eltwise", "EXP": "Exp", "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "HINGE_LOSS": "HingeLoss", "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData", "INFOGAIN_LOSS": "InfogainLoss", "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN", "MEMORY_DATA": "MemoryData", "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN", "POOLING": "Pooling", "POWER": "Power", "RELU": "ReLU", "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SILENCE": "Silence", "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss", "SPLIT": "Split", "SLICE": "Slice", "TANH": "TanH",
    "WINDOW_DATA": "WindowData", "THRESHOLD": "Threshold",
}  # fmt: skip

# CROP of that time found its offset by itself: not BVLC's later Crop, which is told it.
_V1_FORK_NAMES = {
    "ADAPTIVE_BIAS_CHANNEL": "AdaptiveBiasChannel", "BATCH_NORM": "BatchNorm",
    "BIAS_CHANNEL": "BiasChannel", "BIN_ACCURACY": "BinaryAccuracy", "BN": "BN",
    "CENSOR_LABEL": "CensorLabel", "CHANNEL_AGGREGATOR": "ChannelAggregator",
    "CONVOLUTION3D": "Convolution3D", "CROP": "AutoCrop", "DATA_HEATMAP": "DataHeatmap",
    "DECONVOLUTION3D": "Deconvolution3D", "DENSE_CRF": "DenseCRF", "DOMINANT_CHANNEL": "DominantChannel",
    "DOWN_SAMPLING": "DownSampling", "DROPOUT_CHANNEL": "DropoutChannel",
    "ELTWISE_ACCURACY": "EltwiseAccuracy", "ELTWISE_AFFINE": "EltwiseAffine", "ELTWISE_PRODUCT": "Eltwise",
    "EUCLIDEAN_LOSS_HEATMAP": "EuclideanLossHeatmap", "GAIN_CHANNEL": "GainChannel",
    "HISTOGRAM": "Histogram", "IGNORE_OVERLAY": "IgnoreOverlay", "IMAGE_SEG_DATA": "ImageSegData",
    "INSANITY": "Insanity", "INTERP": "Interp", "LOCAL": "Local", "MAT_READ": "MatRead",
    "MAT_WRITE": "MatWrite", "MULTI_STAGE_MEANFIELD": "MultiStageMeanfield", "NORMALIZE": "Normalize",
    "ONEHOT": "OneHot", "PADDING": "Padding", "POOLING3D": "Pooling3D", "RAND_CAT": "RandCat",
    "RAND_CAT_CONV": "RandCatConv", "RED_ACCURACY": "RedAccuracy", "RED_SOFTMAX_LOSS": "RedSoftmaxWithLoss",
    "RELATIVE_ERROR": "RelativeError", "RELU6": "ReLU6", "RESHAPE": "Reshape", "ROIPOOLING": "ROIPooling",
    "SEG_ACCURACY": "SegAccuracy", "SELECT_SEG_BINARY": "SelectSegBinary", "SMOOTH_L1_LOSS": "SmoothL1Loss",
    "TRIPLET_LOSS": "TripletLoss", "UNIQUE_LABEL": "UniqueLabel", "UNPOOLING": "Unpooling",
    "VIDEO_DATA": "VideoData", "VIDEO_SEGMENTATION_DATA": "VideoSegmentationData",
    "VIDEO_WITH_VOXEL_TRUTH_DATA": "VideoWithVoxelTruthData", "VOLUME_DATA": "VolumeData",
    "VOXEL_CUSTOM_LOSS": "VoxelCustomLoss", "VOXEL_SOFTMAX": "VoxelSoftmax",
    "VOXEL_SOFTMAX_LOSS": "VoxelSoftmaxWithLoss", "WINDOW_CLS_DATA": "WindowClsData",
    "WINDOW_INST_SEG_DATA": "WindowInstSegData", "WINDOW_SEG_BINARY": "WindowSegBinary",
    "WINDOW_SEG_DATA": "WindowSegData",
}  # fmt: skip

V1_TYPES: dict[int, str] = {
    V1LayerParameter.LayerType.Value(k): v for k, v in (_V1_NAMES | _V1_FORK_NAMES).items()
}
"""V1 enum value → layer type."""

V0_TYPES: dict[str, str] = {
    "accuracy": "Accuracy", "bnll": "BNLL", "concat": "Concat", "conv": "Convolution", "data": "Data",
    "dropout": "Dropout", "euclidean_loss": "EuclideanLoss", "flatten": "Flatten", "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output", "im2col": "Im2col", "images": "ImageData",
    "infogain_loss": "InfogainLoss", "innerproduct": "InnerProduct", "lrn": "LRN",
    "multinomial_logistic_loss": "MultinomialLogisticLoss", "pool": "Pooling", "relu": "ReLU",
    "sigmoid": "Sigmoid", "softmax": "Softmax", "softmax_loss": "SoftmaxWithLoss", "split": "Split",
    "tanh": "TanH", "window_data": "WindowData",
}  # fmt: skip
"""V0 type string → layer type. (`padding` is not a layer any more: it becomes `pad` of its consumer.)"""

# V0 field → V0 type → (message, field) of the current form.
_CONV, _IP, _POOL = "convolution_param", "inner_product_param", "pooling_param"
_SOURCES = {
    "data": "data_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "window_data": "window_data_param",
}
_V0_FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "num_output": {"conv": (_CONV, "num_output"), "innerproduct": (_IP, "num_output")},
    "biasterm": {"conv": (_CONV, "bias_term"), "innerproduct": (_IP, "bias_term")},
    "weight_filler": {"conv": (_CONV, "weight_filler"), "innerproduct": (_IP, "weight_filler")},
    "bias_filler": {"conv": (_CONV, "bias_filler"), "innerproduct": (_IP, "bias_filler")},
    "pad": {"conv": (_CONV, "pad"), "pool": (_POOL, "pad")},
    "kernelsize": {"conv": (_CONV, "kernel_size"), "pool": (_POOL, "kernel_size")},
    "stride": {"conv": (_CONV, "stride"), "pool": (_POOL, "stride")},
    "group": {"conv": (_CONV, "group")},
    "pool": {"pool": (_POOL, "pool")},
    "dropout_ratio": {"dropout": ("dropout_param", "dropout_ratio")},
    "local_size": {"lrn": ("lrn_param", "local_size")},
    "alpha": {"lrn": ("lrn_param", "alpha")},
    "beta": {"lrn": ("lrn_param", "beta")},
    "k": {"lrn": ("lrn_param", "k")},
    "source": {
        **{kind: (param, "source") for kind, param in _SOURCES.items()},
        "infogain_loss": ("infogain_loss_param", "source"),
    },
    "batchsize": {kind: (param, "batch_size") for kind, param in _SOURCES.items()},
    "rand_skip": {"data": ("data_param", "rand_skip"), "images": ("image_data_param", "rand_skip")},
    "shuffle_images": {"images": ("image_data_param", "shuffle")},
    "new_height": {"images": ("image_data_param", "new_height")},
    "new_width": {"images": ("image_data_param", "new_width")},
    "concat_dim": {"concat": ("concat_param", "concat_dim")},
    "det_fg_threshold": {"window_data": ("window_data_param", "fg_threshold")},
    "det_bg_threshold": {"window_data": ("window_data_param", "bg_threshold")},
    "det_fg_fraction": {"window_data": ("window_data_param", "fg_fraction")},
    "det_context_pad": {"window_data": ("window_data_param", "context_pad")},
    "det_crop_mode": {"window_data": ("window_data_param", "crop_mode")},
    "hdf5_output_param": {"hdf5_output": ("hdf5_output_param", "")},
}
_V0_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_OLD_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")
_TRANSFORMED = {
    V1LayerParameter.DATA: "data_param",
    V1LayerParameter.IMAGE_DATA: "image_data_param",
    V1LayerParameter.WINDOW_DATA: "window_data_param",
}
_V1_PARAM_LISTS = ("param", "blob_share_mode", "blobs_lr", "weight_decay")


def needed_upgrades(net: NetParameter) -> list[str]:
    """What `upgrade_net` will change of a net, in the order in which Caffe's UpgradeNetAsNeeded does it.

    "v0" and "v1" layers, "data" (transformations in data layers' own fields), "input" fields, "batch norm".
    """
    v0 = any(layer.HasField("layer") for layer in net.layers)
    data = not v0 and any(
        layer.type == kind and any(getattr(layer, param).HasField(name) for name in _OLD_TRANSFORM)
        for layer in net.layers
        for kind, param in _TRANSFORMED.items()
    )
    old_norms = any(layer.type == "BatchNorm" and len(layer.param) == 3 for layer in net.layer)
    found = {"v0": v0, "data": data, "v1": net.layers, "input": net.input, "batch norm": old_norms}
    return [name for name, needed in found.items() if needed]


def upgrade_net(net: NetParameter, where: str) -> NetParameter:
    """The net in the current form: V2 `layer` entries, inputs as an `Input` layer.

    Raises:
        InputError: a mix of `layer` and `layers`, or an old field that its layer type never had.
    """
    if net.layers:
        if net.layer:
            raise InputError(f"{where}: has both `layer` and `layers` entries: rewrite `layers` as `layer`")
        _upgrade_layers(net, where)
    if net.input:
        _upgrade_input(net, where)
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            # Nets from before Caffe fixed these itself gave the running sums rates of their own.
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0
        _translate(layer, where)
    _say_precision(net, where)
    _say_crop(net, where)
    return net


def upgrade_solver(solver: SolverParameter, where: str) -> SolverParameter:
    """The solver with `type` as a string and its snapshot prefix resolved."""
    upgrade_solver_type(solver, where)
    if not solver.HasField("snapshot_prefix"):
        solver.snapshot_prefix = os.fspath(Path(where).with_suffix(""))
    elif os.path.isdir(solver.snapshot_prefix):
        solver.snapshot_prefix = os.path.join(solver.snapshot_prefix, Path(where).stem)
    return solver


def upgrade_solver_type(solver: SolverParameter, where: str) -> bool:
    """Give the solver its `type` as a string; False where it has no number of the older form.

    Raises:
        InputError: it has both.
    """
    if not solver.HasField("solver_type"):
        return False
    if solver.HasField("type"):
        raise InputError(f"{where}: has both `solver_type` and `type`: keep `type`")
    names = ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"]
    solver.type = names[solver.solver_type]
    solver.ClearField("solver_type")
    return True


# ---- The words of forks


def _translate(layer: LayerParameter, where: str) -> None:
    """Put a layer's settings in BVLC's words, where a fork has others for the same."""
    try:
        if layer.HasField("convolution_param"):
            _translate_hole(layer.convolution_param)
        if layer.HasField("pooling_param"):
            _translate_ceil_mode(layer.pooling_param)
        if layer.HasField("batch_norm_param"):
            _translate_scale_bias(layer.batch_norm_param)
    except InputError as error:
        raise InputError(f'{where}: layer "{layer.name}": {error}') from None


def _translate_hole(param: ConvolutionParameter) -> None:
    """DeepLab v1's `hole`, or `hole_h` and `hole_w`, and TSN's `dilation_h` and `dilation_w`, are the dilation."""
    for both, high, wide in (("hole", "hole_h", "hole_w"), ("", "dilation_h", "dilation_w")):
        given = [name for name in (both, high, wide) if name and param.HasField(name)]
        if not given:
            continue
        if given not in ([both], [high, wide]):
            raise InputError(f"give {both + ', or ' if both else ''}{high} and {wide}, not a mix")
        if param.dilation:
            raise InputError(f"{given[0]} and dilation say the same: keep dilation")
        param.dilation.extend(getattr(param, name) for name in given)
        for name in given:
            param.ClearField(name)


def _translate_ceil_mode(param: PoolingParameter) -> None:
    if param.HasField("ceil_mode"):
        mode = PoolingParameter.CEIL if param.ceil_mode else PoolingParameter.FLOOR
        if param.HasField("round_mode") and param.round_mode != mode:
            raise InputError("ceil_mode and round_mode contradict each other: keep round_mode")
        param.round_mode = mode
        param.ClearField("ceil_mode")


def _translate_scale_bias(param: BatchNormParameter) -> None:
    """NVCaffe's BatchNorm scales and shifts too where either filler is given; Intel's `filler` is its scale's.

    Intel's layer does so in its MKL engines alone: with `engine: CAFFE` or `use_weight_bias: false` it has
    BVLC's three blobs.
    """
    intel = param.HasField("filler") or param.HasField("use_weight_bias")
    if intel:
        if param.use_weight_bias and param.engine != BatchNormParameter.CAFFE:
            param.scale_bias = True
            if param.HasField("filler"):
                param.scale_filler.CopyFrom(param.filler)
        else:
            param.ClearField("bias_filler")
        param.ClearField("filler")
        param.ClearField("use_weight_bias")
    if param.HasField("scale_filler") or param.HasField("bias_filler"):
        param.scale_bias = True


def _say_precision(net: NetParameter, where: str) -> None:
    """One line where a net asks for another precision than float32."""
    messages = (net, *net.layer)
    names = dict.fromkeys(
        field.name for message in messages for field, _ in message.ListFields() if field.name in PRECISION
    )
    if names:
        log.warning("%s: %s: no effect here, everything is float32", where, ", ".join(names))


def _say_crop(net: NetParameter, where: str) -> None:
    """One line where a Crop may be that of the forks before BVLC's, which finds its offset by itself."""
    names = [layer.name for layer in net.layer if layer.type == "Crop" and not layer.HasField("crop_param")]
    if names:
        log.warning(
            '%s: layer "%s": Crop without crop_param has the offset 0, as in BVLC\'s Caffe; in HED and '
            'DeeperCut it has the one that aligns the maps: write type: "AutoCrop" for that',
            where,
            names[0],
        )


# ---- The forms of 2013 and 2014


def _upgrade_layers(net: NetParameter, where: str) -> None:
    if any(layer.HasField("layer") for layer in net.layers):
        _fold_padding(net, where)
    for old in net.layers:
        new = net.layer.add()
        if old.HasField("layer"):
            _upgrade_v0(old, new, where)
        else:
            _upgrade_v1(old, new)
    net.ClearField("layers")


def _fold_padding(net: NetParameter, where: str) -> None:
    """V0 padding layers become the `pad` of the convolution or pooling that reads them."""
    padding = {top: entry for entry in net.layers if entry.layer.type == "padding" for top in entry.top}
    kept = [entry for entry in net.layers if entry.layer.type != "padding"]
    for entry in kept:
        for i, bottom in enumerate(entry.bottom):
            if bottom in padding:
                if entry.layer.type not in ("conv", "pool"):
                    raise InputError(
                        f'{where}: layer "{entry.layer.name}": padding may only feed conv and pool layers'
                    )
                if not padding[bottom].bottom:
                    raise InputError(f'{where}: layer "{padding[bottom].layer.name}": padding needs a bottom')
                entry.layer.pad = padding[bottom].layer.pad
                entry.bottom[i] = padding[bottom].bottom[0]
    kept = [V1LayerParameter.FromString(entry.SerializePartialToString()) for entry in kept]
    net.ClearField("layers")
    net.layers.extend(kept)


def _upgrade_v0(entry: V1LayerParameter, new: LayerParameter, where: str) -> None:
    old = entry.layer
    new.name, new.type = (
        old.name,
        V0_TYPES.get(old.type, old.type),
    )  # an unknown one is for the planner to tell
    new.unknown.extend(entry.unknown)
    new.bottom.extend(entry.bottom)
    new.top.extend(entry.top)
    new.blobs.extend(old.blobs)
    _set_multipliers(new, old.blobs_lr, old.weight_decay)
    for field, value in old.ListFields():
        if field.name in _V0_TRANSFORM:
            setattr(new.transform_param, _V0_TRANSFORM[field.name], value)
        elif field.name in _V0_FIELDS:
            target = _V0_FIELDS[field.name].get(old.type)
            if target is None:
                _say_dropped(where, old, field.name)
            else:
                _assign(new, *target, value)
        elif field.name not in ("name", "type", "blobs", "blobs_lr", "weight_decay"):
            _say_dropped(where, old, field.name)


def _say_dropped(where: str, old: V0LayerParameter, field: str) -> None:
    """Caffe too goes on without a field that the layer's type does not have (UpgradeV0LayerParameter)."""
    log.warning('%s: layer "%s": type "%s" has no %s: it has no effect', where, old.name, old.type, field)


def _assign(new: LayerParameter, param: str, field: str, value: Any) -> None:
    message = getattr(new, param)
    if not field:
        message.CopyFrom(value)
    elif message.DESCRIPTOR.fields_by_name[field].message_type is not None:
        getattr(message, field).CopyFrom(value)
    elif message.DESCRIPTOR.fields_by_name[field].is_repeated:
        getattr(message, field).append(value)
    elif param == _POOL and field == "pool":
        message.pool = message.PoolMethod.Value(V0LayerParameter.PoolMethod.Name(value))
    else:
        setattr(message, field, value)


def _upgrade_v1(old: V1LayerParameter, new: LayerParameter) -> None:
    for field, value in old.ListFields():
        if field.name == "type":
            new.type = V1_TYPES[value]
        elif field.name == "unknown":
            for found in value:
                if found.path == "type":
                    new.type = found.text  # an enum value that the schema lacks: for the planner to tell
                else:
                    new.unknown.add().CopyFrom(found)
        elif field.name in _V1_PARAM_LISTS or field.name == "strict_dim":
            pass
        elif field.is_repeated:
            getattr(new, field.name).extend(value)
        elif field.message_type is not None:
            getattr(new, field.name).CopyFrom(value)
        else:
            setattr(new, field.name, value)
    if old.type == V1LayerParameter.ELTWISE_PRODUCT:
        new.eltwise_param.operation = EltwiseParameter.PROD
    for i, name in enumerate(old.param):
        _spec(new, i).name = name
    for i, mode in enumerate(old.blob_share_mode):
        _spec(new, i).share_mode = cast("ParamSpec.DimCheckMode", mode)
    _set_multipliers(new, old.blobs_lr, old.weight_decay)
    for param in (new.data_param, new.image_data_param, new.window_data_param):
        for name in _OLD_TRANSFORM:
            if param.HasField(name):
                setattr(new.transform_param, name, getattr(param, name))
                param.ClearField(name)


def _set_multipliers(new: LayerParameter, rates: Sequence[float], decays: Sequence[float]) -> None:
    for i, rate in enumerate(rates):
        _spec(new, i).lr_mult = rate
    for i, decay in enumerate(decays):
        _spec(new, i).decay_mult = decay


def _spec(layer: LayerParameter, index: int) -> ParamSpec:
    while len(layer.param) <= index:
        layer.param.add()
    return layer.param[index]


def _upgrade_input(net: NetParameter, where: str) -> None:
    # Inputs without any shape are those of an old caffemodel, where they say nothing: dropped.
    if net.input_shape or net.input_dim:
        layer = LayerParameter(name="input", type="Input", top=net.input)
        if net.input_shape:
            layer.input_param.shape.extend(net.input_shape)
        elif len(net.input_dim) < 4 * len(net.input):
            raise InputError(
                f"{where}: input_dim has {len(net.input_dim)} numbers: there must be 4 for each input"
            )
        else:
            for i in range(len(net.input)):
                layer.input_param.shape.add(dim=net.input_dim[4 * i : 4 * i + 4])
        layers = [layer, *(LayerParameter.FromString(x.SerializePartialToString()) for x in net.layer)]
        net.ClearField("layer")
        net.layer.extend(layers)
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)
