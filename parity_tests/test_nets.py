"""Whole nets, forward and backward, one engine against the other.

The published nets are read from `CAFFE_SOURCE`: folders with Caffe 1.0's source, and with DeepLab's, FCN's and
SqueezeNet's files, joined as in PATH. The small nets here are ours, built as those are.
"""

import importlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from parity_tests.recordings import NET_GRADIENT, WHOLE_NET, error
from prototxt import parse_net, read_net
from prototxt.caffe_pb2 import LayerParameter, NetParameter
from runtime import TEST, TRAIN, Net
from runtime.rng import set_random_seed

SOURCES = [Path(folder) for folder in os.environ.get("CAFFE_SOURCE", "").split(os.pathsep) if folder]

SAME_RULE = 1e-9
"""In float64 what is left between two engines that compute the same is rounding alone."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Pass:
    """What one pass forwards and backwards left: blobs by name, gradients of inputs and weights."""

    blobs: Arrays
    gradients: Arrays
    has_loss: bool


def one_pass(engine: str, message: NetParameter, phase: int, inputs: Arrays, dtype: type) -> Pass:
    """On weights, inputs, dropout masks and output gradients that depend on nothing but their shapes."""
    caffe = importlib.import_module(f"{engine}.pycaffe")
    net: Net = caffe.Net.from_message(message, phase, dtype=dtype)
    draw = np.random.RandomState(1)
    for plan, layer in zip(net.plan.layers, net.layers, strict=True):
        for i, blob in enumerate(layer.blobs):
            if i >= len(plan.params) or plan.params[i].owner is None:
                blob.data[...] = weight(draw, plan.type, i, blob.shape)
    for name, value in inputs.items():
        net.blobs[name].reshape(*value.shape)
        net.blobs[name].data[...] = value
    set_random_seed(2)
    net.forward()
    blobs = {name: blob.data.copy() for name, blob in net.blobs.items()}
    for name in net.outputs:
        if not net.blob_loss_weights[name]:
            net.blobs[name].diff[...] = np.float32(draw.standard_normal(net.blobs[name].shape))
    net.backward()
    gradients = {
        f"{layer}/{i}": blob.diff.copy() for layer, all_ in net.params.items() for i, blob in enumerate(all_)
    }
    if message.force_backward:
        gradients.update({name: net.blobs[name].diff.copy() for name in net.inputs})
    return Pass(blobs, gradients, any(net.blob_loss_weights.values()) or message.force_backward)


def weight(draw: np.random.RandomState, kind: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    values = draw.uniform(-1, 1, shape)
    if kind == "BatchNorm":
        return (0.1 * values, 1 + 0.5 * values, np.ones(shape))[index].astype(np.float32)
    if kind == "Scale":
        # Below 1, or what passes by a hundred residual units grows until a softmax of it has no gradient.
        return (0.5 + 0.1 * values if index == 0 else 0.1 * values).astype(np.float32)
    bound = 0.1 if index else np.sqrt(6 / np.prod(shape[1:]))
    return (values * bound).astype(np.float32)


def hold(message: NetParameter, phase: int, inputs: Arrays, chaotic: bool = False) -> None:
    """Hold the port against the reference: the rule in float64, and the port's float32 against that.

    `chaotic`: deep nets, with near-ties in ReLU and max pooling, where float32's rounding, the reference's too,
    takes another branch now and then: there the gradients are held in float64 alone. And with scores that a
    softmax makes much of, so that the blobs may err 1.5 times as much as the reference's own float32.
    """
    truth = one_pass("reference", message, phase, inputs, np.float64)
    flows = any(np.abs(gradient).max() > 0 for gradient in truth.gradients.values())
    assert flows == truth.has_loss, "some nets have an accuracy alone when testing"
    exact = one_pass("port", message, phase, inputs, np.float64)
    single = one_pass("port", message, phase, inputs, np.float32)
    agree(exact.blobs, truth.blobs, SAME_RULE)
    agree(exact.gradients, truth.gradients, SAME_RULE)
    if chaotic:
        own = one_pass("reference", message, phase, inputs, np.float32)
        agree(single.blobs, truth.blobs, WHOLE_NET, own.blobs)
    else:
        agree(single.blobs, truth.blobs, WHOLE_NET)
        agree(single.gradients, truth.gradients, NET_GRADIENT)


def agree(found: Arrays, truth: Arrays, tolerance: float, own: Arrays | None = None) -> None:
    for name, golden in truth.items():
        allowed = max(tolerance, 1.5 * error(own[name], golden) + 1e-7) if own else tolerance
        told = error(found[name], golden)
        assert told <= allowed, f"{name}: {told:.1e} of its largest value, {allowed:.1e} allowed"


# ---- Small nets of our own


def layer(kind: str, name: str, bottoms: str, settings: str = "", top: str | None = None) -> str:
    tops = "".join(f' top: "{t}"' for t in (name if top is None else top).split())
    bottom = "".join(f' bottom: "{b}"' for b in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}"{bottom}{tops} {settings} }}\n'


def conv(name: str, bottom: str, outputs: int, kernel: int = 1, more: str = "") -> str:
    window = f"num_output: {outputs} kernel_size: {kernel} {more}"
    return layer("Convolution", name, bottom, f"convolution_param {{ {window} }}")


def relu(name: str) -> str:
    return layer("ReLU", f"relu_{name}", name, top=name)


def pool(name: str, bottom: str, settings: str) -> str:
    return layer("Pooling", name, bottom, f"pooling_param {{ {settings} }}")


def dense(name: str, bottom: str, outputs: int, params: str = "") -> str:
    return layer("InnerProduct", name, bottom, f"{params} inner_product_param {{ num_output: {outputs} }}")


def source(**shapes: tuple[int, ...]) -> str:
    dims = " ".join(f"shape {{ {' '.join(f'dim: {size}' for size in shape)} }}" for shape in shapes.values())
    return layer("Input", "in", "", f"input_param {{ {dims} }}", " ".join(shapes))


INCEPTION = (
    source(data=(2, 3, 17, 15), label=(2,))
    + conv("stem", "data", 8, 3, "stride: 2 pad: 1")
    + relu("stem")
    + pool("pool", "stem", "pool: MAX kernel_size: 3 stride: 2")
    + layer("LRN", "norm", "pool", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")
    + conv("one", "norm", 4)
    + relu("one")
    + conv("three_reduce", "norm", 3)
    + relu("three_reduce")
    + conv("three", "three_reduce", 6, 3, "pad: 1")
    + relu("three")
    + conv("five_reduce", "norm", 2)
    + relu("five_reduce")
    + conv("five", "five_reduce", 3, 5, "pad: 2")
    + relu("five")
    + pool("around", "norm", "pool: MAX kernel_size: 3 stride: 1 pad: 1")
    + conv("project", "around", 2)
    + relu("project")
    + layer("Concat", "joined", "one three five project")
    + pool("aside", "joined", "pool: AVE kernel_size: 3 stride: 2")
    + dense("aside_score", "aside", 5)
    + layer("SoftmaxWithLoss", "aside_loss", "aside_score label", "loss_weight: 0.3")
    + pool("mean", "joined", "pool: AVE global_pooling: true")
    + layer("Dropout", "drop", "mean", "dropout_param { dropout_ratio: 0.4 }", "mean")
    + dense("score", "mean", 5)
    + layer("SoftmaxWithLoss", "loss", "score label")
)

FIRE = (
    "force_backward: true\n"
    + source(data=(2, 3, 13, 16))
    + conv("squeeze", "data", 3)
    + relu("squeeze")
    + conv("expand1", "squeeze", 4)
    + relu("expand1")
    + conv("expand3", "squeeze", 4, 3, "pad: 1")
    + relu("expand3")
    + layer("Concat", "fire", "expand1 expand3")
    + pool("pool", "fire", "pool: MAX kernel_size: 3 stride: 2")
    + conv("score", "pool", 6, 1, "pad: 1")
    + relu("score")
    + pool("mean", "score", "pool: AVE global_pooling: true")
    + layer("Softmax", "prob", "mean")
)

UP = "num_output: 3 kernel_size: 4 stride: 2 bias_term: false"
FCN = (
    source(data=(1, 3, 19, 22), label=(1, 1, 19, 22))
    + conv("conv1", "data", 4, 3, "pad: 20")
    + relu("conv1")
    + pool("pool1", "conv1", "pool: MAX kernel_size: 2 stride: 2")
    + conv("conv2", "pool1", 6, 3, "pad: 1")
    + relu("conv2")
    + pool("pool2", "conv2", "pool: MAX kernel_size: 2 stride: 2")
    + conv("fc", "pool2", 8, 7)
    + relu("fc")
    + layer("Dropout", "drop", "fc", "dropout_param { dropout_ratio: 0.5 }", "fc")
    + conv("score", "fc", 3)
    + layer("Deconvolution", "up2", "score", f"param {{ lr_mult: 0 }} convolution_param {{ {UP} }}")
    + conv("side", "pool1", 3)
    + layer("Crop", "side_cut", "side up2", "crop_param { axis: 2 offset: 5 }")
    + layer("Eltwise", "fused", "up2 side_cut", "eltwise_param { operation: SUM }")
    + layer("Deconvolution", "up", "fused", f"convolution_param {{ {UP} group: 3 }}")
    + layer("Crop", "cut", "up data", "crop_param { axis: 2 offset: 9 }")
    + layer("SoftmaxWithLoss", "loss", "cut label", "loss_param { ignore_label: 255 normalize: false }")
)


def siamese() -> str:
    def tower(suffix: str) -> str:
        def shared(name: str) -> str:
            return f'param {{ name: "{name}_w" lr_mult: 1 }} param {{ name: "{name}_b" lr_mult: 2 }}'

        window = "convolution_param { num_output: 4 kernel_size: 3 }"
        return (
            layer("Convolution", f"conv{suffix}", f"data{suffix}", f"{shared('conv')} {window}")
            + pool(f"pool{suffix}", f"conv{suffix}", "pool: MAX kernel_size: 2 stride: 2")
            + dense(f"ip{suffix}", f"pool{suffix}", 7, shared("ip"))
            + relu(f"ip{suffix}")
            + dense(f"feature{suffix}", f"ip{suffix}", 2, shared("feature"))
        )

    return (
        source(pair=(5, 2, 9, 10), label=(5,))
        + layer("Slice", "slice", "pair", "slice_param { slice_dim: 1 slice_point: 1 }", "data data_p")
        + tower("")
        + tower("_p")
        + layer("ContrastiveLoss", "loss", "feature feature_p label", "contrastive_loss_param { margin: 3 }")
    )


AUTOENCODER = (
    source(unit=(3, 1, 6, 5))
    + layer("Flatten", "flat", "unit")
    + dense("encode1", "unit", 12)
    + layer("Sigmoid", "encode1n", "encode1")
    + dense("code", "encode1n", 3)
    + dense("decode1", "code", 12)
    + layer("Sigmoid", "decode1n", "decode1")
    + dense("decode0", "decode1n", 30)
    + layer("SigmoidCrossEntropyLoss", "cross_entropy", "decode0 flat", "loss_weight: 1")
    + layer("Sigmoid", "decoded", "decode0")
    + layer("EuclideanLoss", "squares", "decoded flat", "loss_weight: 0")
)


def unit(name: str, bottom: str, kernel: int, more: str = "") -> str:
    return (
        conv(name, bottom, 4, kernel, f"bias_term: false {more}")
        + layer("BatchNorm", f"bn_{name}", name, "batch_norm_param { use_global_stats: true }", name)
        + layer("Scale", f"scale_{name}", name, "scale_param { bias_term: true }", name)
    )


RESIDUAL = (
    source(data=(2, 4, 9, 11), label=(2, 1, 9, 11))
    + unit("res_a", "data", 1)
    + relu("res_a")
    + unit("res_b", "res_a", 3, "pad: 2 dilation: 2")
    + unit("shortcut", "data", 1)
    + layer("Eltwise", "res", "shortcut res_b")
    + relu("res")
    + pool("pool", "res", "pool: MAX kernel_size: 3 stride: 2 pad: 1")
    + conv("score", "pool", 3)
    + layer("Interp", "large", "score", "interp_param { height: 9 width: 11 }")
    + layer("SoftmaxWithLoss", "loss", "large label", "loss_param { ignore_label: 255 normalize: true }")
)

SMALL = {
    "inception": (INCEPTION, 5),
    "fire": (FIRE, 0),
    "fcn": (FCN, 3),
    "siamese": (siamese(), 2),
    "autoencoder": (AUTOENCODER, 0),
    "residual": (RESIDUAL, 3),
}


@pytest.mark.parametrize("phase", [TRAIN, TEST])
@pytest.mark.parametrize("name", SMALL)
def test_small_nets(name: str, phase: int) -> None:
    text, classes = SMALL[name]
    message = parse_net(text)
    tops = message.layer[0].top
    shapes = [tuple(shape.dim) for shape in message.layer[0].input_param.shape]
    hold(message, phase, drawn(dict(zip(tops, shapes, strict=True)), classes))


def drawn(shapes: dict[str, tuple[int, ...]], classes: int) -> Arrays:
    """Images of some deviations around 0, `unit` from 0 to 1, labels below `classes`, a few ignored."""
    draw = np.random.RandomState(3)
    inputs = {}
    for name, shape in shapes.items():
        if name in ("label", "sim"):
            inputs[name] = draw.randint(0, classes, shape).astype(np.float32)
            if len(shape) == 4:
                inputs[name][draw.random_sample(shape) < 0.1] = 255
        else:
            values = draw.random_sample(shape) if name == "unit" else 2 * draw.standard_normal(shape)
            inputs[name] = values.astype(np.float32)
    return inputs


# ---- Published nets


@dataclass(frozen=True)
class Published:
    """A published file, and the shapes to run it with: the data layers become inputs."""

    path: str
    phases: tuple[int, ...] = (TEST,)
    classes: int = 0
    data: tuple[int, ...] = (1, 3, 227, 227)
    label: tuple[int, ...] = ()
    names: tuple[str, str] = ("data", "label")


BOTH = (TRAIN, TEST)
MAP = (1, 1, 65, 65)

PUBLISHED = [
    Published("models/bvlc_alexnet/deploy.prototxt"),
    Published("models/bvlc_alexnet/train_val.prototxt", BOTH, 1000, label=(1,)),
    Published("models/bvlc_reference_caffenet/deploy.prototxt"),
    Published("models/bvlc_reference_caffenet/train_val.prototxt", BOTH, 1000, label=(1,)),
    Published("models/bvlc_googlenet/deploy.prototxt", data=(1, 3, 224, 224)),
    Published("models/bvlc_googlenet/train_val.prototxt", BOTH, 1000, (1, 3, 224, 224), (1,)),
    Published("models/bvlc_reference_rcnn_ilsvrc13/deploy.prototxt"),
    Published("models/finetune_flickr_style/deploy.prototxt"),
    Published("models/finetune_flickr_style/train_val.prototxt", BOTH, 20, label=(1,)),
    Published("examples/mnist/lenet.prototxt", data=(4, 1, 28, 28)),
    Published("examples/mnist/lenet_train_test.prototxt", BOTH, 10, (4, 1, 28, 28), (4,)),
    Published("examples/mnist/mnist_autoencoder.prototxt", (TRAIN,), 0, (4, 1, 28, 28)),
    Published("examples/cifar10/cifar10_full.prototxt", data=(2, 3, 32, 32)),
    Published("examples/cifar10/cifar10_full_train_test.prototxt", BOTH, 10, (4, 3, 32, 32), (4,)),
    Published("examples/cifar10/cifar10_quick.prototxt", data=(2, 3, 32, 32)),
    Published("examples/cifar10/cifar10_quick_train_test.prototxt", BOTH, 10, (4, 3, 32, 32), (4,)),
    Published("examples/cifar10/cifar10_full_sigmoid_train_test.prototxt", BOTH, 10, (4, 3, 32, 32), (4,)),
    Published("examples/cifar10/cifar10_full_sigmoid_train_test_bn.prototxt", BOTH, 10, (4, 3, 32, 32), (4,)),
    Published("examples/siamese/mnist_siamese.prototxt", data=(4, 1, 28, 28)),
    Published(
        "examples/siamese/mnist_siamese_train_test.prototxt",
        BOTH,
        2,
        (4, 2, 28, 28),
        (4,),
        ("pair_data", "sim"),
    ),
    Published("examples/hdf5_classification/train_val.prototxt", BOTH, 2, (5, 4), (5,)),
    Published("examples/hdf5_classification/nonlinear_train_val.prototxt", BOTH, 2, (5, 4), (5,)),
    Published(
        "examples/finetune_pascal_detection/pascal_finetune_trainval_test.prototxt", BOTH, 21, label=(1,)
    ),
    Published("examples/net_surgery/bvlc_caffenet_full_conv.prototxt", data=(1, 3, 451, 451)),
    Published("examples/net_surgery/conv.prototxt", data=(1, 1, 100, 100)),
    Published("examples/seg/deploy.prototxt", data=(1, 3, 97, 97)),
    Published("examples/seg/exp1/train.prototxt", (TRAIN,), 21, (1, 3, 65, 65), MAP),
    Published("examples/seg/deploy_resnet_fov.prototxt", data=(1, 3, 65, 65)),
    Published("examples/seg/exp2/train_resnet_fov.prototxt", (TRAIN,), 21, (1, 3, 65, 65), MAP),
    Published("voc-fcn8s/deploy.prototxt", data=(1, 3, 65, 65)),
    Published("voc-fcn8s/train.prototxt", (TRAIN,), 21, (1, 3, 65, 65), MAP),
    Published("voc-fcn8s/val.prototxt", (TEST,), 21, (1, 3, 65, 65), MAP),
    Published("voc-fcn8s-atonce/train.prototxt", (TRAIN,), 21, (1, 3, 65, 65), MAP),
    Published("SqueezeNet_v1.0/deploy.prototxt"),
    Published("SqueezeNet_v1.0/train_val.prototxt", BOTH, 1000, label=(1,)),
    Published("SqueezeNet_v1.1/deploy.prototxt"),
    Published("SqueezeNet_v1.1/train_val.prototxt", BOTH, 1000, label=(1,)),
]


@pytest.mark.slow
@pytest.mark.skipif(not SOURCES, reason="set CAFFE_SOURCE to Caffe 1.0's source and other published nets")
@pytest.mark.parametrize(
    ("net", "phase"),
    [
        pytest.param(net, phase, id=f"{net.path}-{('TRAIN', 'TEST')[phase]}")
        for net in PUBLISHED
        for phase in net.phases
    ],
)
def test_published_nets(net: Published, phase: int) -> None:
    found = [folder / net.path for folder in SOURCES if (folder / net.path).is_file()]
    if not found:
        pytest.skip(f"no folder in CAFFE_SOURCE has {net.path}")
    message = fed_by_inputs(read_net(found[0]), net)
    if not any(layer_.type.endswith("Loss") or layer_.type == "SoftmaxWithLoss" for layer_ in message.layer):
        message.force_backward = True
    hold(message, phase, published_inputs(net), chaotic=True)


def fed_by_inputs(message: NetParameter, net: Published) -> NetParameter:
    """The net with one `Input` layer where its data layers were."""
    feed = LayerParameter(name="feed", type="Input", top=[net.names[0]])
    feed.input_param.shape.add().dim.extend(net.data)
    if net.label:
        feed.top.append(net.names[1])
        feed.input_param.shape.add().dim.extend(net.label)
    fed = NetParameter(name=message.name, force_backward=message.force_backward)
    fed.layer.add().CopyFrom(feed)
    fed.layer.extend(layer_ for layer_ in message.layer if layer_.bottom)
    return fed


def published_inputs(net: Published) -> Arrays:
    data, label = net.names
    shapes = {data: net.data, **({label: net.label} if net.label else {})}
    inputs = drawn(shapes, net.classes)
    if net.data[1] < 3:  # grey, from 0 to 1
        inputs[data] = np.abs(inputs[data] / 8).clip(0, 1)
    return inputs
