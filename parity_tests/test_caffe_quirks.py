"""What Caffe's blobs and gradients do that the mathematics does not ask for; judged on genuine Caffe 1.0."""

import gc
from types import ModuleType

import numpy as np
import pytest
import torch

import port.pycaffe
import reference.pycaffe
from port.blobs import Rereading
from port.net import CaffeNet
from prototxt import parse_net
from prototxt.caffe_pb2 import NetParameter
from prototxt.errors import InputError
from runtime import TRAIN, Net
from runtime.rng import set_random_seed


def net_of(
    caffe: ModuleType, text: str, shape: tuple[int, ...], seed: int = 0, dtype: type = np.float32
) -> Net:
    net = caffe.Net.from_message(message_of(text, shape), TRAIN, dtype=dtype)
    net.blobs["x"].data[...] = np.float32(np.random.RandomState(seed).standard_normal(shape))
    return net


def message_of(text: str, shape: tuple[int, ...]) -> NetParameter:
    dims = " ".join(f"dim: {size}" for size in shape)
    head = f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n'
    return parse_net(f"force_backward: true\n{head}{text}")


def layer(kind: str, bottom: str, top: str, settings: str = "") -> str:
    return f'layer {{ name: "{top}_{kind}" type: "{kind}" bottom: "{bottom}" top: "{top}" {settings} }}\n'


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Reshape", "reshape_param { shape { dim: 6 dim: -1 } }"),
        ("Flatten", ""),
        ("Split", ""),
        ("Concat", ""),
        ("Slice", ""),
    ],
)
def test_tops_lie_in_the_bottom_s_memory(kind: str, settings: str, caffe: ModuleType):
    net = net_of(caffe, layer(kind, "x", "y", settings) + layer("ReLU", "y", "y"), (2, 3, 4))
    before = net.blobs["x"].data.copy()
    net.forward()
    assert np.array_equal(net.blobs["x"].data, before.clip(0)), (
        "in place on the top is in place on the bottom"
    )
    assert np.shares_memory(net.blobs["x"].data, net.blobs["y"].data)
    net.blobs["y"].diff[...] = 1
    net.backward()
    assert np.array_equal(net.blobs["x"].diff.ravel(), (before > 0).ravel())


def test_several_tops_have_memory_of_their_own(caffe: ModuleType):
    text = (
        'layer { name: "cut" type: "Slice" bottom: "x" top: "y" top: "z" slice_param { slice_point: 1 } }\n'
    )
    net = net_of(caffe, text + layer("ReLU", "y", "y"), (2, 3, 4))
    before = net.blobs["x"].data.copy()
    net.forward()
    assert np.array_equal(net.blobs["x"].data, before)


@pytest.mark.parametrize(
    ("shape", "settings", "replaced"),
    [
        ((1, 3, 4, 5), "", True),  # all axes before the factor's are 1
        ((2, 3, 4, 5), "", False),
        ((2, 3), "scale_param { axis: 0 num_axes: -1 }", True),
        ((1, 1, 4, 5), "", False),  # a single number for several values
        ((1, 1), "", True),
        ((2, 3, 4), "scale_param { num_axes: 0 }", False),
        ((2, 3), "scale_param { axis: 0 num_axes: 1 bias_term: true }", True),
    ],
)
def test_scale_of_one_image_forgets_the_gradient_before(
    shape: tuple[int, ...], settings: str, replaced: bool, caffe: ModuleType
):
    net = net_of(caffe, layer("Scale", "x", "y", settings), shape)
    diffs = []
    for _ in range(2):
        net.forward()
        net.blobs["y"].diff[...] = 1
        net.backward()
        diffs.append([blob.diff.copy() for blob in net.params["y_Scale"]])
    (factor, *bias), (factor_again, *bias_again) = diffs
    assert np.allclose(factor_again, factor if replaced else 2 * factor, rtol=1e-5)
    assert factor.sum() == pytest.approx(net.blobs["x"].data.sum(), rel=1e-4)
    assert all(np.allclose(again, 2 * first) for first, again in zip(bias, bias_again, strict=True))


@pytest.mark.parametrize("normalize", [True, False])
def test_mvn_in_place_loses_most_of_its_gradient(normalize: bool, caffe: ModuleType):
    settings = f"mvn_param {{ normalize_variance: {str(normalize).lower()} }}"
    net = net_of(caffe, layer("MVN", "x", "x", settings), (2, 3, 4, 5))
    x = net.blobs["x"].data.astype(np.float64)
    net.forward()
    slope = np.random.RandomState(1).standard_normal(x.shape).astype(np.float32)
    net.blobs["x"].diff[...] = slope
    net.backward()
    if normalize:
        deviation = np.sqrt(mean((x - mean(x)) ** 2)) + 1e-9
        y = (x - mean(x)) / deviation
        wanted = -2 * y * mean(slope * y) / deviation
    else:
        wanted = slope - mean(slope)
    assert np.abs(net.blobs["x"].diff - wanted).max() <= 2e-6 * np.abs(wanted).max()


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=(2, 3), keepdims=True)


def test_dummy_data_fills_constants_once(caffe: ModuleType):
    text = (
        'layer { name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param { shape { dim: 3 } '
        'data_filler { value: 7 } data_filler { type: "uniform" } } }\n'
    )
    net = caffe.Net.from_message(parse_net(text), TRAIN)
    assert (net.blobs["a"].data == 7).all()
    net.blobs["a"].data[...] = 5
    net.forward()
    drawn = net.blobs["b"].data.copy()
    net.forward()
    assert (net.blobs["a"].data == 5).all(), "what a script writes stays"
    assert (net.blobs["b"].data != drawn).all()


def test_backward_reads_what_was_written_over_the_top(caffe: ModuleType):
    """sigmoid' is y · (1 - y), and y is what a layer in place has left of it."""
    net = net_of(caffe, layer("Sigmoid", "x", "y") + layer("Power", "y", "y", POWER), (2, 3, 4))
    x = net.blobs["x"].data.astype(np.float64)
    net.forward()
    net.blobs["y"].diff[...] = 1
    net.backward()
    y = -1.5 / (1 + np.exp(-x)) + 0.25
    wanted = 1.5**2 * y * (1 - y)  # Power's own gradient in place is its slope's square
    assert np.abs(net.blobs["x"].diff - wanted).max() <= 2e-6 * np.abs(wanted).max()


def test_what_a_script_writes_is_read_in_backward(caffe: ModuleType):
    net = net_of(caffe, layer("TanH", "x", "y"), (2, 3))
    net.forward()
    net.blobs["y"].data[...] = 0.5
    net.blobs["y"].diff[...] = 1
    net.backward()
    assert np.allclose(net.blobs["x"].diff, 0.75)


POWER = "power_param { scale: -1.5 shift: 0.25 }"
LEAKY = "relu_param { negative_slope: -0.4 }"
FACTOR = "scale_param { filler { value: -1.5 } }"
DENSE = "inner_product_param { num_output: 4 axis: 3 }"


def read_by(name: str) -> str:
    return layer("InnerProduct", name, f"{name}_out", "inner_product_param { num_output: 2 }")


OVERWRITTEN = {
    **{
        f"{kind} {settings}".rstrip(): layer(kind, "x", "y", settings) + layer("Scale", "y", "y", FACTOR)
        for kind, settings in [
            ("AbsVal", ""),
            ("BatchNorm", ""),
            ("BNLL", ""),
            ("Clip", "clip_param { min: -0.5 max: 0.6 }"),
            ("Convolution", "convolution_param { num_output: 3 kernel_size: 2 }"),
            ("ELU", "elu_param { alpha: 0.7 }"),
            ("Exp", "exp_param { base: 2 scale: 0.5 shift: 0.2 }"),
            ("InnerProduct", DENSE),
            ("Log", "log_param { shift: 9 }"),
            ("LRN", "lrn_param { local_size: 3 alpha: 1 }"),
            ("LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 1 }"),
            ("MVN", ""),
            ("Power", "power_param { power: 2 shift: 4 }"),
            ("Power", "power_param { power: 3 shift: 4 scale: 0.5 }"),
            ("PReLU", ""),
            ("ReLU", ""),
            ("Sigmoid", ""),
            ("Softmax", ""),
            ("Swish", "swish_param { beta: 0.7 }"),
            ("TanH", ""),
        ]
    },
    "product": layer("Split", "x", "a").replace('top: "a"', 'top: "a" top: "b"')
    + layer("Eltwise", "a", "y", "eltwise_param { operation: PROD stable_prod_grad: false }").replace(
        'bottom: "a"', 'bottom: "a" bottom: "b"'
    )
    + layer("Power", "y", "y", POWER),
    "dropout": layer("TanH", "x", "y") + layer("Dropout", "y", "y") + read_by("y"),
    "leaky in place": layer("TanH", "x", "y") + layer("ReLU", "y", "y", LEAKY) + read_by("y"),
    "mvn in place": layer("TanH", "x", "y") + layer("MVN", "y", "y") + layer("Power", "y", "y", POWER),
    "five in place": layer("InnerProduct", "x", "y", DENSE)
    + layer("TanH", "y", "y")
    + layer("Sigmoid", "y", "y")
    + layer("ReLU", "y", "y", LEAKY)
    + layer("Scale", "y", "y", "scale_param { filler { value: -2 } bias_term: true }")
    + layer("ELU", "y", "y")
    + read_by("y"),
    "read before through a split": layer("TanH", "x", "t")
    + layer("InnerProduct", "t", "early", DENSE)
    + layer("Flatten", "t", "f")
    + layer("Power", "f", "f", POWER)
    + read_by("f"),
    "read after through a split": layer("TanH", "x", "t")
    + layer("Flatten", "t", "f")
    + layer("Power", "f", "f", POWER)
    + layer("InnerProduct", "t", "late", DENSE)
    + read_by("f"),
    **{
        f"{kind}, {dims.count('dim:')} axes": layer(
            "Reshape", "x", "r", f"reshape_param {{ shape {{ {dims} }} }}"
        )
        + layer("TanH", "r", "t")
        + layer(kind, "t", "early", f"convolution_param {{ num_output: 3 {settings} }}")
        + layer("Flatten", "t", "f")
        + layer("Power", "f", "f", POWER)
        + read_by("f")
        for kind in ("Convolution", "Deconvolution")
        for dims, settings in [
            ("dim: 8 dim: 15", ""),
            ("dim: 4 dim: 6 dim: 5", "axis: 0 kernel_size: 2"),
            ("dim: 2 dim: 3 dim: 2 dim: 2 dim: 5 dim: 1", "kernel_size: 3 pad: 1"),
        ]
    },
    "distances": layer("TanH", "x", "t")
    + layer("InnerDistance", "t", "early", "inner_distance_param { num_output: 2 }")
    + layer("Flatten", "t", "f")
    + layer("Power", "f", "f", POWER)
    + read_by("f"),
    "probabilities": layer("Softmax", "x", "t")
    + 'layer { name: "k" type: "DummyData" top: "k" dummy_data_param { shape { dim: 2 } data_filler { value: 7 } } }'
    + layer("MultinomialLogisticLoss", "t", "loss").replace('bottom: "t"', 'bottom: "t" bottom: "k"')
    + layer("Flatten", "t", "f")
    + layer("Power", "f", "f", POWER)
    + read_by("f"),
    "parameter": 'layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 3 } } }'
    + layer("ReLU", "w", "w", LEAKY)
    + layer("Scale", "x", "y").replace('bottom: "x"', 'bottom: "x" bottom: "w"'),
}


@pytest.mark.parametrize("name", OVERWRITTEN)
def test_engines_agree_on_overwritten_blobs(name: str):
    """The reference's blobs are memory, as Caffe's; the port's are tensors of an autograd graph."""
    text, shape = OVERWRITTEN[name], (2, 3, 4, 5)
    truth, blobs = (_pass_on_blobs(caffe, text, shape) for caffe in (reference.pycaffe, port.pycaffe))
    graph = _pass_on_graph(text, shape)
    for key, golden in truth.items():
        for found in (blobs, graph):
            assert np.abs(found[key] - golden).max() <= 1e-9 * np.abs(golden).max() + 1e-12, key


def _pass_on_blobs(caffe: ModuleType, text: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    net = net_of(caffe, text, shape, dtype=np.float64)
    draw = np.random.RandomState(1)
    for layer_, weights in net.params.items():
        for blob in weights if layer_ != "y_BatchNorm" else ():
            blob.data[...] = draw.standard_normal(blob.shape)
    set_random_seed(4)
    net.forward()
    found = {f"data {name}": net.blobs[name].data.copy() for name in net.outputs}
    for name in net.outputs:
        net.blobs[name].diff[...] = draw.standard_normal(net.blobs[name].shape)
    net.backward()
    for layer_, weights in net.params.items():
        found |= {f"{layer_} {i}": blob.diff.copy() for i, blob in enumerate(weights)}
        found |= {f"{layer_} {i} itself": blob.data.copy() for i, blob in enumerate(weights)}
    return {**found, "x": net.blobs["x"].diff.copy()}


def _pass_on_graph(text: str, shape: tuple[int, ...], gradient: str = "caffe") -> dict[str, np.ndarray]:
    net = CaffeNet(message_of(text, shape), TRAIN, gradient=gradient).double()
    draw = np.random.RandomState(1)
    layers = {plan.name: net.layers[plan.index] for plan in net.plan.layers if net.layers[plan.index].blobs}
    for name, module in layers.items():
        for weight in module.blobs if name != "y_BatchNorm" else ():
            weight.data = torch.from_numpy(draw.standard_normal(tuple(weight.shape)))
    set_random_seed(4)
    values = np.float32(np.random.RandomState(0).standard_normal(shape)).astype(np.float64)
    x = torch.from_numpy(values).requires_grad_()
    outputs = net(x)
    found = {f"data {name}": top.detach().numpy() for name, top in outputs.items()}
    tops = [outputs[net.plan.blobs[i]] for i in net.plan.outputs]
    slopes = [torch.from_numpy(draw.standard_normal(tuple(top.shape))) for top in tops]
    torch.autograd.backward(tops, slopes)
    for name, module in layers.items():
        for i, weight in enumerate(module.blobs):
            zero = torch.zeros_like(weight)
            found[f"{name} {i}"] = (zero if weight.grad is None else weight.grad).numpy()
            found[f"{name} {i} itself"] = weight.detach().numpy()
    return {**found, "x": x.grad.numpy()}


@pytest.mark.parametrize("name", ["five in place", "leaky in place", "mvn in place", "Sigmoid"])
def test_exact_gradients_are_those_of_what_was_computed(name: str):
    net = CaffeNet(message_of(OVERWRITTEN[name], (2, 3, 2, 4)), TRAIN, gradient="exact").double()
    draw = np.random.RandomState(1)
    for weight in net.parameters():
        weight.data = torch.from_numpy(draw.standard_normal(tuple(weight.shape)))
    x = torch.from_numpy(draw.standard_normal((2, 3, 2, 4))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(net(x).values()), (x,), atol=1e-6)
    with pytest.raises(ValueError, match='"caffe" or "exact"'):
        CaffeNet(message_of("", (2, 3)), TRAIN, gradient="true")


def test_graphs_of_overwritten_blobs_are_let_go():
    """What autograd saved leads to the blobs; if they led back to the graph, neither would ever be freed."""
    before = _rereading()
    net = CaffeNet(message_of(OVERWRITTEN["five in place"], (2, 3, 4, 5)), TRAIN)
    top = net(torch.randn(2, 3, 4, 5, requires_grad=True))
    assert _rereading() > before
    del top
    assert _rereading() <= before


def _rereading() -> int:
    gc.collect()
    return sum(type(found) is Rereading for found in gc.get_objects())


def test_force_backward_overrules_propagate_down(caffe: ModuleType):
    text = layer("TanH", "x", "y") + layer("Sigmoid", "y", "z", "propagate_down: false")
    net = net_of(caffe, text, (2, 3))
    net.forward()
    net.blobs["z"].diff[...] = 1
    net.backward()
    x = torch.from_numpy(net.blobs["x"].data.copy()).requires_grad_()
    CaffeNet(message_of(text, (2, 3)), TRAIN)(x)["z"].sum().backward()
    assert net.blobs["x"].diff.any()
    assert np.allclose(x.grad, net.blobs["x"].diff)


def test_parameter_forgets_the_gradient_before(caffe: ModuleType):
    """Its top lies in the weight's memory, the gradient's too, which each pass writes anew."""
    text = 'layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 2 dim: 3 } } }\n'
    net = net_of(caffe, text + layer("Eltwise", "x", "y").replace('"x"', '"x" bottom: "w"'), (2, 3))
    for _ in range(2):
        net.forward()
        net.blobs["y"].diff[...] = 1
        net.backward()
    assert np.array_equal(net.params["w"][0].diff, np.ones((2, 3)))
    net.blobs["w"].data[...] = 7
    assert (net.params["w"][0].data == 7).all()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("LRN", ""),
        ("InnerProduct", "inner_product_param { num_output: 5 axis: 3 }"),
        ("Convolution", "convolution_param { num_output: 3 kernel_size: 1 }"),
        ("Convolution", "convolution_param { num_output: 5 axis: 3 }"),
        ("Deconvolution", "convolution_param { num_output: 3 kernel_size: 1 }"),
        ("DepthwiseConvolution", "convolution_param { num_output: 3 group: 3 kernel_size: 1 }"),
        ("ConvolutionDepthwise", "convolution_param { kernel_size: 3 pad: 1 }"),
        ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 1 pad: 1 }"),
        ("SPP", "spp_param { pyramid_height: 1 }"),
        ("Im2col", "convolution_param { kernel_size: 1 }"),
        ("Interp", "interp_param { zoom_factor: 1 }"),
        ("Padding", ""),
    ],
)
def test_what_caffe_overwrites_before_it_has_read_it(kind: str, settings: str, caffe: ModuleType):
    with pytest.raises(InputError, match=f"{kind} does not work in place"):
        net_of(caffe, layer(kind, "x", "x", settings), (2, 3, 4, 5))


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_an_unfolding_convolution_works_in_place(kind: str):
    """Caffe unfolds an image before it overwrites it; the weights' gradient is read from what was written."""
    settings = "convolution_param { num_output: 3 kernel_size: 3 pad: 1 }"
    text = layer("TanH", "x", "y") + layer(kind, "y", "y", settings)
    truth, found = (_pass_on_blobs(caffe, text, (2, 3, 4, 5)) for caffe in (reference.pycaffe, port.pycaffe))
    for key, golden in truth.items():
        assert np.abs(found[key] - golden).max() <= 1e-9 * np.abs(golden).max(), key
