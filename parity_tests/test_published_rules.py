"""Layers that no recording has: small cases, worked out by hand from the forks' published code, on both engines."""

import importlib
import math
from types import ModuleType

import numpy as np
import pytest

from parity_tests.recordings import ENGINES, PHASES
from prototxt import parse_net
from prototxt.caffe_pb2 import FillerParameter
from prototxt.errors import InputError
from prototxt.plan import plan_net
from runtime import Net
from runtime.c_random import CRandom, process_random
from runtime.fillers import fill
from runtime.rng import caffe_rng, set_random_seed

FLT_MAX = np.finfo(np.float32).max


@pytest.fixture(params=ENGINES)
def caffe(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"{request.param}.pycaffe")


def net_of(caffe: ModuleType, layer: str, *bottoms: list | np.ndarray, phase: str = "TRAIN") -> Net:
    """A net of one layer, `layer` being its type and settings, on these bottoms."""
    arrays = [np.array(bottom, np.float32) for bottom in bottoms]
    net = caffe.Net.from_message(parse_net(text_of(layer, *(array.shape for array in arrays))), PHASES[phase])
    for i, array in enumerate(arrays):
        net.blobs[f"b{i}"].data[...] = array
    return net


def text_of(layer: str, *shapes: tuple[int, ...]) -> str:
    inputs = "".join(
        f'layer {{ name: "b{i}" type: "Input" top: "b{i}" input_param {{ shape {{ '
        + " ".join(f"dim: {size}" for size in shape)
        + " } } }\n"
        for i, shape in enumerate(shapes)
    )
    bottoms = " ".join(f'bottom: "b{i}"' for i in range(len(shapes)))
    return f'force_backward: true {inputs} layer {{ name: "l" {layer} {bottoms} top: "y" }}'


def gradient(net: Net, top_diff: list | float) -> np.ndarray:
    net.blobs["y"].diff[...] = top_diff
    net.backward()
    return net.blobs["b0"].diff


# ---- C3D


def test_pooling3d_gives_equal_values_the_whole_gradient_each(caffe: ModuleType) -> None:
    net = net_of(
        caffe, 'type: "Pooling3D" pooling_param { kernel_size: 2 kernel_depth: 1 }', [[[[[5, 5], [1, 5]]]]]
    )
    net.forward()
    assert net.blobs["y"].data.item() == 5
    np.testing.assert_array_equal(gradient(net, 2), [[[[[2, 2], [0, 2]]]]])


@pytest.mark.parametrize(("pool", "behind"), [("MAX", -FLT_MAX), ("AVE", np.nan)])
def test_pooling3d_keeps_a_window_behind_the_map(caffe: ModuleType, pool: str, behind: float) -> None:
    settings = f"pooling3d_param {{ pool: {pool} kernel_size: 1 kernel_depth: 1 stride: 3 }}"
    net = net_of(caffe, f'type: "Pooling3D" {settings}', np.arange(1, 10).reshape(1, 1, 1, 3, 3))
    net.forward()
    np.testing.assert_array_equal(net.blobs["y"].data, [[[[[1, behind], [behind, behind]]]]])


def test_pooling3d_average_counts_the_padding_before_and_behind(caffe: ModuleType) -> None:
    settings = "pooling3d_param { pool: AVE kernel_size: 3 kernel_depth: 1 stride: 2 pad: 1 }"
    net = net_of(caffe, f'type: "Pooling3D" {settings}', np.ones((1, 1, 1, 2, 2)))
    net.forward()
    # Windows begin at -1 and 1, and end at 2 and 3: sizes 3 and 2, of which 2 and 1 are the map.
    np.testing.assert_allclose(net.blobs["y"].data[0, 0, 0], [[4 / 9, 2 / 6], [2 / 6, 1 / 4]], rtol=1e-6)


def test_convolution3d_groups_of_filters_see_all_channels(caffe: ModuleType) -> None:
    settings = "convolution3d_param { num_output: 2 filter_group: 2 kernel_size: 1 kernel_depth: 2 }"
    net = net_of(
        caffe, f'type: "Convolution3D" {settings}', np.array([1, 2, 3, 10, 20, 30]).reshape(1, 2, 3, 1, 1)
    )
    assert [blob.shape for blob in net.params["l"]] == [(2, 2, 2, 1, 1), (1, 1, 1, 1, 2)]
    net.params["l"][0].data[...] = np.array([1, 0, 0, 1, 2, 0, 0, 0]).reshape(2, 2, 2, 1, 1)
    net.params["l"][1].data[...] = [[[[[0, 100]]]]]
    net.forward()
    np.testing.assert_array_equal(net.blobs["y"].data.reshape(2, 2), [[1 + 20, 2 + 30], [102, 104]])
    for _ in range(2):  # a second pass overwrites, and does not add
        gradient(net, 1)
        np.testing.assert_array_equal(net.params["l"][0].diff.reshape(2, 4), [[3, 5, 30, 50]] * 2)
        np.testing.assert_array_equal(net.params["l"][1].diff.reshape(-1), [2, 2])


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ("convolution3d_param {{ {} bias_term: false }}", 2),
        ("convolution3d_param {{ {} }} convolution_param {{ bias_term: false }}", 1),
        ("convolution_param {{ {} bias_term: false }}", 1),
    ],
)
def test_deconvolution3d_asks_the_other_message_for_its_bias(
    caffe: ModuleType, settings: str, weights: int
) -> None:
    layer = settings.format("num_output: 3 kernel_size: 2 kernel_depth: 3 stride: 2 temporal_stride: 2")
    net = net_of(caffe, f'type: "Deconvolution3D" {layer}', np.ones((1, 2, 2, 2, 2)))
    assert len(net.params["l"]) == weights and net.blobs["y"].shape == (1, 3, 5, 4, 4)
    net.params["l"][0].data[...] = 1
    net.forward()
    lengths = net.blobs["y"].data[0, 0, :, 0, 0]
    np.testing.assert_array_equal(lengths, [2, 2, 4, 2, 2])  # the windows overlap by one frame


@pytest.mark.parametrize(
    ("layer", "shape", "told"),
    [
        (
            'type: "Pooling3D" pooling_param { kernel_size: 2 }',
            (1, 1, 2, 2, 2),
            "kernel_size and kernel_depth must",
        ),
        (
            'type: "Pooling3D" pooling_param { kernel_size: 2 kernel_depth: 1 pad: 1 }',
            (1, 1, 2, 2, 2),
            "pad is for",
        ),
        (
            'type: "Pooling3D" pooling3d_param { pool: STOCHASTIC kernel_size: 2 kernel_depth: 1 }',
            (1, 1, 2, 2, 2),
            "stochastic pooling exists",
        ),
        ('type: "Pooling3D" pooling_param { kernel_size: 2 kernel_depth: 1 }', (1, 1, 2, 2), "needs 5 axes"),
        (
            'type: "Convolution3D" convolution_param { num_output: 3 filter_group: 2 kernel_size: 1 kernel_depth: 1 }',
            (1, 1, 2, 2, 2),
            "filter_group 2 must divide num_output 3",
        ),
        (
            'type: "Convolution3D" convolution_param { num_output: 1 kernel_size: 1 kernel_size: 2 kernel_depth: 1 }',
            (1, 1, 2, 2, 2),
            "kernel_size has 2 values: give one",
        ),
        (
            'type: "Convolution" convolution_param { num_output: 1 kernel_size: 1 kernel_depth: 1 }',
            (1, 1, 2, 2),
            "convolution_param.kernel_depth, a fork's setting that is not supported",
        ),
        ('type: "DenseBlock" param { lr_mult: 1 }', (1, 1, 2, 2), "takes no param"),
        ('type: "DenseBlock" denseblock_param { filter_H: 5 }', (1, 1, 2, 2), "filter_H is a fork's setting"),
        (
            'type: "DenseBlock" phase: TRAIN denseblock_param { use_dropout: true dropout_amount: 0.2 }',
            (1, 1, 2, 2),
            "use_dropout exists on the fork's GPU only",
        ),
    ],
)
def test_refused(layer: str, shape: tuple[int, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan_net(parse_net(text_of(layer, shape)))


# ---- DenseBlock

_DENSE = (
    'type: "DenseBlock" denseblock_param { numTransition: 1 growthRate: 1 BN_Scaler_Filler { value: 1 } }'
)


def test_dense_block_turns_its_kernels_around(caffe: ModuleType) -> None:
    net = net_of(caffe, _DENSE, [[[[0, 2]]]], phase="TEST")
    net.params["l"][0].data[...] = np.arange(9).reshape(1, 1, 3, 3)
    net.forward()
    large = 2 / math.sqrt(1e-5)  # no statistics yet: mean and variance 0
    np.testing.assert_allclose(net.blobs["y"].data[0, :, 0], [[0, 2], [3 * large, 4 * large]], rtol=1e-6)


def test_dense_block_keeps_unbiased_statistics(caffe: ModuleType) -> None:
    net = net_of(caffe, _DENSE, [[[[1, 3]]]])
    net.params["l"][0].data[...] = 0
    net.params["l"][0].data[0, 0, 1, 1] = 1
    net.forward()
    normal = 1 / math.sqrt(2 + 1e-5)  # divided by the unbiased deviation
    np.testing.assert_allclose(net.blobs["y"].data[0, :, 0], [[1, 3], [0, normal]], rtol=1e-6)
    kept = [blob.data.item() for blob in net.params["l"][3:]]
    np.testing.assert_allclose(kept, [2, 0.1 + 2, 1], rtol=1e-6)  # the variance begins at 1
    dx = gradient(net, [[[[0, 0]], [[0, 1]]]])
    # By the unbiased variance v = 2, whose derivative is taken for the biased one: 2 (x - mean) / 2.
    deviation = math.sqrt(2 + 1e-5)
    of_variance = -0.5 / deviation**3
    np.testing.assert_allclose(
        dx.reshape(-1),
        [-of_variance - 0.5 / deviation, 1 / deviation + of_variance - 0.5 / deviation],
        rtol=1e-5,
    )


def test_dense_block_fills_its_weights_transition_by_transition(caffe: ModuleType) -> None:
    fillers = (
        'Filter_Filler { type: "gaussian" std: 1 } BN_Scaler_Filler { type: "uniform" } '
        'BN_Bias_Filler { type: "gaussian" std: 2 }'
    )
    set_random_seed(9)
    net = net_of(
        caffe,
        f'type: "DenseBlock" denseblock_param {{ numTransition: 2 growthRate: 3 use_BC: true {fillers} }}',
        np.zeros((1, 4, 2, 2)),
    )
    gaussian, uniform = FillerParameter(type="gaussian", std=1), FillerParameter(type="uniform")
    bias, (blobs, rng) = FillerParameter(type="gaussian", std=2), (net.params["l"], None)
    set_random_seed(9)
    rng = caffe_rng()
    for i, channels in enumerate((4, 7)):
        for kind, shape, filler in (
            (0, (3, 12, 3, 3), gaussian),
            (5, (12, channels, 1, 1), gaussian),
            (1, (1, channels, 1, 1), uniform),
            (6, (1, 12, 1, 1), uniform),
            (2, (1, channels, 1, 1), bias),
            (7, (1, 12, 1, 1), bias),
        ):
            np.testing.assert_array_equal(blobs[2 * kind + i].data, fill(shape, filler, rng), f"{kind} {i}")
    rates = [param.lr_mult for param in net.plan.layers[1].params]
    assert rates == [1] * 6 + [0] * 4 + [1] * 6 + [0] * 5


# ---- Losses and biases


def test_focal_loss(caffe: ModuleType) -> None:
    net = net_of(caffe, 'type: "FocalLoss"', [[0, 0]], [1])
    net.forward()
    np.testing.assert_allclose(net.blobs["y"].data, 0.25 * 0.5**2 * math.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("type: ONEADDP", "ONEADDP, of happynear/caffe-windows"),
        ("compensate_imbalance: true", "compensate_imbalance is a fork's setting"),
        ("alpha: 0", "alpha above 0"),
    ],
)
def test_focal_loss_refuses(setting: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan_net(parse_net(text_of(f'type: "FocalLoss" focal_loss_param {{ {setting} }}', (1, 2), (1,))))


def test_adaptive_bias_channel(caffe: ModuleType) -> None:
    """Best scores 1, 2, 3, 10. Class 1 misses 1, 2, 3, 0: the second least, 1, is added to it."""
    net = net_of(
        caffe,
        'type: "AdaptiveBiasChannel" adaptive_bias_channel_param { bg_portion: 0.5 fg_portion: 0.25 }',
        np.reshape([[1, 2, 3, 4], [0, 0, 0, 10], [5, 0, -1, 0]], (1, 3, 2, 2)),
        [[1, 0, -1]],
    )
    net.forward()
    wanted = np.array([[1, 2, 3, 4], [1, 1, 1, 11], [-1e-5, 0, -1, 0]]) - 0.25
    np.testing.assert_allclose(net.blobs["y"].data.reshape(3, 4), wanted, rtol=1e-6)


def test_adaptive_bias_channel_shuffles_the_classes_by_c_rand(caffe: ModuleType) -> None:
    process_random.restore(CRandom().state())
    net = net_of(
        caffe,
        'type: "AdaptiveBiasChannel" adaptive_bias_channel_param { num_iter: 3 fg_portion: 0.5 }',
        np.random.RandomState(1).uniform(size=(1, 4, 3, 3)),
        [[1, 2, 3, 0]],
    )
    net.forward()
    after, alone = process_random.rand(), CRandom()
    for _ in range(3):
        alone.shuffle([1, 2, 3])
    assert after == alone.rand()


# ---- Picking pixels


def test_rand_bi(caffe: ModuleType) -> None:
    """At rate 4 with a pad of 1.5, pixel (5, 2) is cell (0.875, 0.125); before the first cell there is only that."""
    maps = np.array([[[[1, 2], [3, 4]], [[10, 20], [30, 40]]]])
    net = net_of(
        caffe,
        'type: "RandBI" rand_comp_param { compression_rate: 4 pad: true }',
        maps,
        [[0, 5, 2], [0, 1, 1], [0, 1.5, 5.5]],
    )
    net.forward()
    first = 0.125 * (0.875 * 1 + 0.125 * 2) + 0.875 * (0.875 * 3 + 0.125 * 4)
    np.testing.assert_allclose(net.blobs["y"].data, [[first, 10 * first], [1, 10], [2, 20]], rtol=1e-6)
    dx = gradient(net, [[1, 0], [1, 1], [0, 1]])
    np.testing.assert_allclose(
        dx[0, 0], [[1 + 0.125 * 0.875, 0.125**2], [0.875**2, 0.875 * 0.125]], rtol=1e-6
    )
    np.testing.assert_array_equal(dx[0, 1], [[1, 1], [0, 0]])


def test_rand_bi_refuses_pixels_outside(caffe: ModuleType) -> None:
    net = net_of(
        caffe, 'type: "RandBI" rand_comp_param { compression_rate: 1 }', np.ones((1, 1, 2, 2)), [[0, 2, 0]]
    )
    with pytest.raises(InputError, match="a pixel lies outside of a map of 1 images, 2×2 at rate 1"):
        net.forward()


# ---- TextBoxes++


def test_denser_prior_boxes(caffe: ModuleType) -> None:
    """Each box a second time, its centre on its cell's lower edge (TextBoxes++'s prior_box_layer.cpp)."""
    settings = "min_size: 4 aspect_ratio: 4 flip: false denser_prior_boxes: true variance: 0.5"
    maps, image = np.zeros((1, 1, 2, 1)), np.zeros((1, 3, 16, 8))
    net = net_of(caffe, f'type: "PriorBox" prior_box_param {{ {settings} }}', maps, image)
    net.forward()
    boxes = net.blobs["y"].data[0, 0].reshape(2, 4, 4)
    square, flat = (
        np.array([2, -2, 6, 2]),
        np.array([0, -1, 8, 1]),
    )  # about the middle of the image's upper edge
    for row, centres in enumerate([(4, 8), (12, 16)]):
        wanted = [np.add(box, [0, y, 0, y]) for box in (square, flat) for y in centres]
        np.testing.assert_allclose(boxes[row], np.array(wanted) / [8, 16, 8, 16], rtol=1e-6)
    assert (net.blobs["y"].data[0, 1] == 0.5).all()


# ---- MobileNet-YOLO


def test_yolov3_detection_output(caffe: ModuleType) -> None:
    """Two cells of one anchor: the first box of two classes loses its second, the second overlaps too little."""
    maps = np.zeros((1, 7, 1, 2))  # x, y, log width, log height, object, two classes
    maps[0, 4], maps[0, 5], maps[0, 6] = 20, (2, -20), (1, 1)
    settings = "num_classes: 2 num_box: 1 mask_group_num: 1 mask: 1 anchors_scale: 8"
    settings += " biases: 1 biases: 1 biases: 8 biases: 4"
    net = net_of(caffe, f'type: "Yolov3DetectionOutput" yolov3_detection_output_param {{ {settings} }}', maps)
    net.forward()
    first, second = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))  # and the object's is 1
    wanted = [[0, 1, first, 0, 0.25, 0.5, 0.75], [0, 2, second, 0.5, 0.25, 1, 0.75]]
    np.testing.assert_allclose(net.blobs["y"].data[0, 0], wanted, atol=1e-6)


def test_yolo_detection_output(caffe: ModuleType) -> None:
    """The best class alone counts; boxes that overlap by nms_threshold go, of whatever class and image."""
    maps = np.zeros((2, 7, 1, 1))
    maps[:, 4], maps[0, 5], maps[1, 6] = 20, math.log(3), math.log(4)  # softmax 0.75 and 0.8
    settings = "num_classes: 2 num_box: 1 biases: 0.5 biases: 0.5"
    net = net_of(caffe, f'type: "YoloDetectionOutput" yolo_detection_output_param {{ {settings} }}', maps)
    net.forward()
    np.testing.assert_allclose(net.blobs["y"].data[0, 0], [[0, 2, 0.8, 0.25, 0.25, 0.75, 0.75]], atol=1e-6)
    net.blobs["b0"].data[:, 4] = -20
    net.forward()
    np.testing.assert_array_equal(net.blobs["y"].data[0, 0], [[0] + [-1] * 6, [1] + [-1] * 6])


# ---- arcface


def test_cosin_add_m(caffe: ModuleType) -> None:
    """Angles of 60 and 170 degrees, and a cosine above 1; the margin is 30 degrees."""
    margin, far = math.radians(30), math.cos(math.radians(170))
    net = net_of(
        caffe,
        f'type: "CosinAddm" cosin_add_m_param {{ m: {margin} }}',
        [[0.5, 0.1], [0.2, far], [1.25, 0]],
        [0, 1, 0],
    )
    net.blobs["b1"].data[...] = [0, 1, 0]
    net.forward()
    wanted = [[0, 0.1], [0.2, far - 0.5 * margin], [math.cos(margin), 0]]
    np.testing.assert_allclose(net.blobs["y"].data, wanted, atol=1e-6)


def test_adacos(caffe: ModuleType) -> None:
    """All cosines 0: a mean angle of 90 degrees counts as 45, and each of the three exponentials is 1."""
    net = net_of(
        caffe,
        'type: "AdaCosAddmScale" adacos_add_m_scale_param { m: 0.5 num_classes: 3 }',
        [[0, 0, 0], [0, 0, 0]],
        [1, -1],
    )
    net.forward()
    scale = math.log(3) / math.cos(math.pi / 4)
    wanted = np.array([[0, -math.sin(0.5), 0], [0, 0, 0]]) * scale
    np.testing.assert_allclose(net.blobs["y"].data, wanted, atol=1e-6)


# ---- happynear's and TSN's


def test_inner_product_of_unit_rows(caffe: ModuleType) -> None:
    """The weight itself changes; its gradient is the plain product's, and the bottom's is by the changed one."""
    fields = 'num_output: 1 normalize: true bias_term: false weight_filler { type: "constant" value: 3 }'
    net = net_of(caffe, f'type: "InnerProduct" inner_product_param {{ {fields} }}', [[1, 2, 3, 4]])
    net.forward()
    np.testing.assert_allclose(net.params["l"][0].data, [[0.5] * 4], rtol=1e-6)
    np.testing.assert_allclose(net.blobs["y"].data, [[5]], rtol=1e-6)
    np.testing.assert_allclose(gradient(net, 2), [[1] * 4], rtol=1e-6)
    np.testing.assert_allclose(net.params["l"][0].diff, [[2, 4, 6, 8]], rtol=1e-6)


def test_layers_that_share_a_weight_of_unit_rows(caffe: ModuleType) -> None:
    fields = 'num_output: 2 normalize: true bias_term: false weight_filler { type: "constant" value: 3 }'
    one = f'type: "InnerProduct" param {{ name: "w" }} inner_product_param {{ {fields} }}'
    text = text_of('type: "Split"', (1, 2)) + (
        f'layer {{ name: "m" {one} bottom: "y" top: "m" }} layer {{ name: "z" {one} bottom: "m" top: "z" }}'
    )
    net = caffe.Net.from_message(parse_net(text), PHASES["TRAIN"])
    net.blobs["b0"].data[...] = [[1, 2]]
    net.forward()
    np.testing.assert_allclose(net.blobs["z"].data, [[3, 3]], rtol=1e-6)
    net.blobs["z"].diff[...] = [[1, 0]]
    net.backward()
    np.testing.assert_allclose(net.blobs["b0"].diff, [[1, 1]], rtol=1e-6)


def test_inner_product_of_unit_rows_is_not_transposed() -> None:
    text = text_of(
        'type: "InnerProduct" inner_product_param { num_output: 2 normalize: true transpose: true }', (1, 4)
    )
    with pytest.raises(InputError, match="normalize with transpose"):
        plan_net(parse_net(text))


def test_gather_has_as_many_tops_as_bottoms() -> None:
    with pytest.raises(InputError, match="as many tops as bottoms"):
        plan_net(parse_net(text_of('type: "Gather"', (1, 4), (1,))))
