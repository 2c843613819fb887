"""FlowNet2's layers without a recording: cases worked out by hand from its code, on both engines."""

import importlib
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from parity_tests.recordings import ENGINES, PHASES
from port.net import CaffeNet
from prototxt import parse_net
from prototxt.errors import InputError
from prototxt.layers.augmentation import COEFFICIENTS
from prototxt.plan import plan_net
from runtime import Net
from weights import LayerWeights, write_weights


@pytest.fixture(params=ENGINES)
def caffe(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"{request.param}.pycaffe")


def _inputs(*shapes: tuple[int, ...]) -> str:
    return "".join(
        f'layer {{ name: "b{i}" type: "Input" top: "b{i}" input_param {{ shape {{ '
        + " ".join(f"dim: {size}" for size in shape)
        + " } } }\n"
        for i, shape in enumerate(shapes)
    )


def _net(caffe: ModuleType, layer: str, *bottoms: np.ndarray, tops: int = 1, phase: str = "TEST") -> Net:
    text = _inputs(*(bottom.shape for bottom in bottoms))
    text += f'layer {{ name: "l" {layer} ' + " ".join(f'bottom: "b{i}"' for i in range(len(bottoms)))
    text += " ".join(f' top: "y{i}"' for i in range(tops)) + " }"
    net = caffe.Net.from_message(parse_net(text), PHASES[phase])
    for i, bottom in enumerate(bottoms):
        net.blobs[f"b{i}"].data[...] = bottom
    return net


def _run(caffe: ModuleType, layer: str, *bottoms: np.ndarray, **facts: int) -> np.ndarray:
    net = _net(caffe, layer, *bottoms, **facts)
    net.forward()
    return net.blobs["y0"].data


def _image(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def _parameters(num: int = 1, **values: float) -> np.ndarray:
    rows = np.zeros((num, len(COEFFICIENTS), 1, 1), np.float32)
    for name, value in values.items():
        rows[:, COEFFICIENTS.index(name)] = value
    return rows


CROP = 'type: "DataAugmentation" augmentation_param {{ crop_width: {} crop_height: {} {} }}'


# ---- DataAugmentation


def test_what_a_row_of_parameters_holds() -> None:
    assert len(COEFFICIENTS) == 42
    assert COEFFICIENTS[6:9] == ("gamma", "brightness", "contrast")
    assert COEFFICIENTS[12:18] == (
        *(f"pow_nomean{i}" for i in range(3)),
        *(f"add_nomean{i}" for i in range(3)),
    )
    assert COEFFICIENTS[30:34] == ("lmult_pow", "lmult_add", "lmult_mult", "col_angle")
    assert COEFFICIENTS[-1] == "noise"


def test_a_crop_from_the_middle(caffe: ModuleType) -> None:
    image = _image(1, 1, 4, 6)
    np.testing.assert_array_equal(_run(caffe, CROP.format(2, 2, ""), image), image[:, :, 1:3, 2:4])


def test_a_crop_at_half_a_pixel(caffe: ModuleType) -> None:
    image = _image(1, 1, 3, 4)
    # Offsets 0.5 in x (4 - 3) and 0.5 in y (3 - 2): the mean of four pixels, 0 + 1 + 4 + 5 first.
    np.testing.assert_array_equal(
        _run(caffe, CROP.format(3, 2, ""), image)[0, 0], [[2.5, 3.5, 4.5], [6.5, 7.5, 8.5]]
    )


def test_a_whole_image_has_its_last_row_and_column_mixed(caffe: ModuleType) -> None:
    """Places end at size - 1.05: 0.95 of the way to the last pixel."""
    top = _run(caffe, CROP.format(3, 2, "augment_during_test: true"), _image(1, 1, 2, 3))[0, 0]
    np.testing.assert_allclose(top, [[0, 1, 1.95], [2.85, 3.85, 4.8]], rtol=1e-6)


def test_without_a_crop_nothing_is_mixed(caffe: ModuleType) -> None:
    image = _image(2, 3, 3, 3)
    np.testing.assert_array_equal(
        _run(caffe, 'type: "DataAugmentation" augmentation_param { crop_width: 2 }', image), image
    )


@pytest.mark.parametrize("per_pixel", ["true", "false"])
def test_the_mean_of_the_first_passes(caffe: ModuleType, per_pixel: str) -> None:
    settings = f"augmentation_param {{ recompute_mean: 2 mean_per_pixel: {per_pixel} }}"
    net = _net(caffe, f'type: "DataAugmentation" {settings}', np.zeros((2, 1, 1, 2), np.float32))
    passes, mean, of_channel = net.params["l"]
    seen = []
    for values in ([[0, 2], [4, 6]], [[1, 1], [1, 1]], [[9, 9], [9, 9]]):
        net.blobs["b0"].data[...] = np.reshape(values, (2, 1, 1, 2))
        net.forward()
        seen.append((passes.data.item(), mean.data.flatten().tolist(), of_channel.data.item()))
    # Means (2, 4), then half of it and of (1, 1); the third pass is behind recompute_mean.
    assert seen == [(1, [2, 4], 3), (2, [1.5, 2.5], 2), (3, [1.5, 2.5], 2)]
    less = [1.5, 2.5] if per_pixel == "true" else [2, 2]
    np.testing.assert_array_equal(net.blobs["y0"].data.reshape(2, 2), np.full((2, 2), 9) - less)


def test_a_given_mean(caffe: ModuleType) -> None:
    settings = "augmentation_param { mean: 1 mean: 2 mean: 3 mean_per_pixel: false }"
    net = _net(caffe, f'type: "DataAugmentation" {settings}', np.full((1, 3, 1, 1), 5, np.float32), tops=2)
    net.forward()
    np.testing.assert_array_equal(net.blobs["y0"].data.flatten(), [4, 3, 2])
    np.testing.assert_array_equal(net.blobs["y1"].data, _parameters())
    assert [blob.shape for blob in net.params["l"]] == [(1, 1, 1, 1)]


@pytest.mark.parametrize(
    ("values", "top"),
    [
        # x becomes 2 - x in a crop of 2; column 3 is held at 2.95.
        ({"dy": -0.25, "mirror": 1}, [[2.95, 2], [6.95, 6]]),
        ({"dy": -0.25, "dx": 0.5}, [[2, 2.95], [6, 6.95]]),  # half of the crop's width to the right
        ({"dy": -0.5, "dx": -0.5}, [[0, 1], [2, 3]]),  # rows -0.5, which is held at 0, and 0.5
        ({"dy": -0.25, "zoom_x": np.log(2)}, [[1.5, 2], [5.5, 6]]),  # half steps about x = 2
        ({"dy": -0.25, "dx": 4e-4}, [[1, 2], [5, 6]]),  # within 1e-3 of nothing
    ],
)
def test_given_parameters_move_the_crop(caffe: ModuleType, values: dict[str, float], top: list) -> None:
    """A crop of 2×2 of an image of 3×4: columns 1 and 2, and with dy = -0.25 rows 0 and 1."""
    made = _run(caffe, CROP.format(2, 2, ""), _image(1, 1, 3, 4), _parameters(**values))
    np.testing.assert_allclose(made[0, 0], top, rtol=1e-6)


def test_a_quarter_turn(caffe: ModuleType) -> None:
    # (x, y) about the middle (1.5, 1.5) of 3×3 in the crop of 2, whose middle is (1, 1): (-1, -1) becomes (1, -1).
    rows = _parameters(angle=np.pi / 2)
    made = _run(caffe, CROP.format(2, 2, ""), _image(1, 1, 3, 3), rows)[0, 0]
    # Places (1.5 - (y - 1), 1.5 + (x - 1)): (2.5, .5), (2.5, 1.5) / (1.5, .5), (1.5, 1.5), x held at 1.95.
    np.testing.assert_allclose(made, [[3.45, 6.45], [3, 6]], rtol=1e-5)


def test_given_colours(caffe: ModuleType) -> None:
    image = np.array([0.2, 0.4, 0.4], np.float32).reshape(1, 3, 1, 1).repeat(2, 2).repeat(2, 3)
    rows = _parameters(color1=np.log(2), contrast=np.log(0.5), brightness=0.1)
    made = _run(caffe, CROP.format(2, 2, "max_multiplier: 0.6"), image, rows)[0, :, 0, 0]
    bright = np.array([0.4, 0.4, 0.4]) * 1.0 / 1.21
    np.testing.assert_allclose(made, np.minimum(0.5 + (bright + 0.1 - 0.5) * 0.5, 0.6), rtol=1e-6)


@pytest.mark.parametrize("name", ["noise", "shadow_strength", "pow_nomean1", "col_angle"])
def test_parameters_that_are_not_supported(caffe: ModuleType, name: str) -> None:
    with pytest.raises(InputError, match=f'layer "l": augmentation parameters: {name} are not supported'):
        _run(caffe, CROP.format(2, 2, ""), _image(1, 3, 3, 3), _parameters(**{name: 0.5}))


@pytest.mark.parametrize(
    ("crop", "more", "phase"),
    [
        ((2, 2), "mirror { prob: 0.5 } noise { }", "TRAIN"),
        ((2, 2), "mirror { } noise { } augment_during_test: true", "TEST"),
    ],
)
def test_what_would_be_drawn_is_refused_when_it_is_set_up(
    caffe: ModuleType, crop: tuple[int, int], more: str, phase: str
) -> None:
    text = _inputs((1, 3, 4, 4)) + f'layer {{ name: "l" {CROP.format(*crop, more)} bottom: "b0" top: "y0" }}'
    plan = plan_net(parse_net(text), PHASES[phase])
    assert plan.shapes[plan.blobs.index("y0")] == (1, 3, 2, 2)
    with pytest.raises(
        InputError, match=r'layer "l": DataAugmentation can be planned .*would draw mirror, noise\.'
    ):
        caffe.Net.from_message(parse_net(text), PHASES[phase])


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (CROP.format(5, 2, ""), [(1, 3, 4, 4)], "a crop of 2×5 must be at least 1 and fit into 1×3×4×4"),
        (CROP.format(0, 2, ""), [(1, 3, 4, 4)], "a crop of 2×0 must be at least 1"),
        (CROP.format(1, 1, ""), [(1, 3, 1, 4)], "crops images of at least 2×2"),
        (CROP.format(2, 2, ""), [(2, 3, 4, 4), (1, 42)], "give 42 for each of 2 images"),
        ('type: "DataAugmentation"', [(0, 3, 4, 4)], "needs values"),
        (
            'type: "DataAugmentation" augmentation_param { mean: 1 mean: 2 mean: 3 mean_per_pixel: false }',
            [(1, 4, 2, 2)],
            "mean has 3 values for 4 channels",
        ),
        (
            'type: "GenerateAugmentationParameters"',
            [(1, 3, 4, 4)],
            "give crop_width and crop_height, or three",
        ),
        ('type: "GenerateAugmentationParameters"', [(1, 3, 4, 4)] * 2, "takes 1 or 3 bottoms"),
        ('type: "FlowAugmentation"', [(1, 2, 4, 4), (1, 42), (1, 42)], "give crop_width and crop_height"),
        (
            'type: "FlowAugmentation" augmentation_param { crop_width: 2 crop_height: 2 }',
            [(1, 3, 4, 4), (1, 42), (1, 42)],
            "must have 2 channels",
        ),
        ('type: "LpqLoss" lpq_loss_param { p: 1 q: 1 }', [(1, 2, 4, 4)], "its code overwrites the bottom"),
        ('type: "LpqLoss" lpq_loss_param { p: 1 }', [(1, 2, 4, 4)] * 2, "give one p and one q"),
        (
            'type: "LpqLoss" lpq_loss_param { p: 1 p: 2 q: 1 q: 1 pq_episode_starts_at_iter: [0, 9] }',
            [(1, 2, 4, 4)] * 2,
            "that change with the iterations",
        ),
        (
            'type: "Correlation1D" correlation_param { kernel_size: 1 max_displacement: 2 single_direction: -1 }',
            [(1, 2, 4, 9)] * 2,
            "single_direction -1 needs a pad of at least 1",
        ),
        (
            'type: "Correlation1D" correlation_param { kernel_size: 1 max_displacement: 2 single_direction: 2 }',
            [(1, 2, 4, 9)] * 2,
            "single_direction must be -1, 0 or 1",
        ),
        ('type: "Accum"', [(1, 2, 1, 9), (2, 2, 4, 4)], "as many images each"),
        ('type: "Accum"', [(1, 2, 1, 9)], "at least 2×2"),
        ('type: "Mean" mean_param { value: 1 }', [(1, 2, 1, 9)], "give operation"),
        (
            'type: "Mean" mean_param { operation: ADD value: [1, 2] }',
            [(1, 3, 1, 9)],
            "must divide the 3 channels",
        ),
        ('type: "Mean" mean_param { operation: ADD file: "/none" }', [(1, 3, 1, 9)], "/none"),
    ],
)
def test_bad_input_is_one_line(caffe: ModuleType, layer: str, shapes: list, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        _net(caffe, layer, *(np.zeros(shape, np.float32) for shape in shapes))
    assert 'layer "l"' in str(error.value)
    assert "\n" not in str(error.value)


# ---- its weights in a file


def _saved(folder: Path, *blobs: np.ndarray) -> str:
    path = folder / "means.caffemodel"
    write_weights(
        path, [LayerWeights("l", "DataAugmentation", [np.array(blob, np.float32) for blob in blobs])]
    )
    return str(path)


MEAN = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
OF_CHANNELS = np.array([50, 60], np.float32).reshape(1, 2, 1, 1)


@pytest.mark.parametrize(
    ("per_pixel", "size", "mean", "of_channels"),
    [
        ("false", (3, 5), np.zeros((2, 3, 5)), [50, 60]),  # the mean image stays as it was
        ("true", (2, 2), MEAN[0], [1.5, 5.5]),  # the channels' means are taken anew
        ("true", (3, 5), np.array([1.5, 5.5]).reshape(2, 1, 1) * np.ones((2, 3, 5)), [1.5, 5.5]),
    ],
)
def test_a_mean_of_another_size_is_loaded(
    caffe: ModuleType,
    tmp_path: Path,
    per_pixel: str,
    size: tuple[int, int],
    mean: np.ndarray,
    of_channels: list,
) -> None:
    settings = f"augmentation_param {{ recompute_mean: 7 mean_per_pixel: {per_pixel} }}"
    net = _net(caffe, f'type: "DataAugmentation" {settings}', np.zeros((1, 2, *size), np.float32))
    net.copy_from(_saved(tmp_path, [[[[9]]]], MEAN, OF_CHANNELS))
    passes, image, channels = (blob.data for blob in net.params["l"])
    assert passes.item() == 9
    np.testing.assert_array_equal(image[0], mean)
    np.testing.assert_array_equal(channels.flatten(), of_channels)
    net.forward()
    less = np.reshape(of_channels, (2, 1, 1)) if per_pixel == "false" else mean
    np.testing.assert_array_equal(net.blobs["y0"].data[0], np.zeros((2, *size)) - less)


def test_a_layer_without_a_mean_takes_nothing(caffe: ModuleType, tmp_path: Path) -> None:
    net = _net(caffe, 'type: "DataAugmentation"', np.zeros((1, 2, 2, 2), np.float32))
    net.copy_from(_saved(tmp_path, [[[[9]]]], MEAN, OF_CHANNELS))
    assert net.params["l"][0].data.item() == 0


@pytest.mark.parametrize("blobs", [([[[[9]]]], MEAN), ([[[[9]]]], MEAN[:, :1], OF_CHANNELS)])
def test_means_that_do_not_fit(caffe: ModuleType, tmp_path: Path, blobs: tuple) -> None:
    settings = "augmentation_param { recompute_mean: 7 }"
    net = _net(caffe, f'type: "DataAugmentation" {settings}', np.zeros((1, 2, 3, 3), np.float32))
    with pytest.raises(InputError, match='layer "l" must have 3 blobs, of 1, 1×2×height×width and 2 values'):
        net.copy_from(_saved(tmp_path, *blobs))


# ---- parameters and flow


@pytest.mark.parametrize("mode", ["add", "replace", "regenerate"])
def test_parameters_are_passed_on(caffe: ModuleType, mode: str) -> None:
    given = np.random.RandomState(1).uniform(-1, 1, (2, 42, 1, 1)).astype(np.float32)
    images = [np.zeros((2, 3, 5, 5), np.float32), np.zeros((2, 3, 4, 4), np.float32)]
    layer = f'type: "GenerateAugmentationParameters" augmentation_param {{ mode: "{mode}" rotate {{ }} }}'
    top = _run(caffe, layer, given, *images)
    np.testing.assert_array_equal(top, given if mode != "regenerate" else 0 * given)


def test_an_image_alone_begins_with_nothing(caffe: ModuleType) -> None:
    settings = "augmentation_param { crop_width: 2 crop_height: 2 }"
    top = _run(caffe, f'type: "GenerateAugmentationParameters" {settings}', _image(3, 2, 4, 4))
    np.testing.assert_array_equal(top, np.zeros((3, 42, 1, 1)))


def test_flow_of_images_that_were_cropped(caffe: ModuleType) -> None:
    """The same crop of both leaves the flow as it is; a shift of image 1 alone is taken off."""
    flow = np.random.RandomState(2).uniform(-1, 1, (1, 2, 4, 6)).astype(np.float32)
    layer = 'type: "FlowAugmentation" augmentation_param { crop_width: 2 crop_height: 2 }'
    made = _run(caffe, layer, flow, _parameters(), _parameters(dx=0.5))
    np.testing.assert_allclose(made[0], flow[0, :, 1:3, 2:4] - [[[1]], [[0]]], atol=1e-6)


def test_flow_of_a_mirrored_and_zoomed_pair(caffe: ModuleType) -> None:
    flow = np.zeros((1, 2, 4, 4), np.float32)
    flow[0] = np.array([0.5, -1])[:, None, None]
    layer = 'type: "FlowAugmentation" augmentation_param { crop_width: 4 crop_height: 4 }'
    rows = _parameters(zoom_x=np.log(2), zoom_y=np.log(2))
    np.testing.assert_allclose(_run(caffe, layer, flow, rows, rows)[0], 2 * flow[0], atol=1e-5)
    mirrored = _parameters(mirror=1)
    with pytest.raises(InputError, match="comes from outside of the flow"):
        _run(caffe, layer, flow, mirrored, mirrored)  # x = 0 comes from 4
    inner = _parameters(mirror=1, zoom_x=np.log(2), zoom_y=np.log(2))
    np.testing.assert_allclose(
        _run(caffe, layer, flow, inner, inner)[0], 2 * flow[0] * [[[-1]], [[1]]], atol=1e-5
    )


# ---- where gradients end


ENDING = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param {
  num_output: 2 kernel_size: 1 weight_filler { type: "constant" value: 0.5 } } }
layer { name: "r" %s bottom: "a" top: "r" }
layer { name: "b" type: "Convolution" bottom: "r" top: "b" convolution_param {
  num_output: 2 kernel_size: 1 weight_filler { type: "constant" value: 0.25 } } }
layer { name: "loss" type: "L1Loss" bottom: "b" top: "loss" }
"""


@pytest.mark.parametrize(
    "layer",
    [
        'type: "Resample" resample_param { width: 6 height: 6 }',
        'type: "Downsample" downsample_param { top_width: 2 top_height: 3 }',
        'type: "DataAugmentation" augmentation_param { crop_width: 3 crop_height: 3 }',
    ],
)
def test_no_gradient_is_asked_for_behind_what_gives_none(caffe: ModuleType, layer: str) -> None:
    net = caffe.Net.from_message(parse_net(ENDING % layer), PHASES["TRAIN"])
    net.blobs["x"].data[...] = _image(1, 2, 4, 4)
    net.forward()
    net.backward()
    assert np.abs(net.params["b"][0].diff).max() > 0
    assert np.abs(net.params["a"][0].diff).max() == 0
    module = CaffeNet(parse_net(ENDING % layer), PHASES["TRAIN"])
    module.loss(module(torch.from_numpy(_image(1, 2, 4, 4)))).backward()
    assert module.b.weight.grad.abs().max() > 0
    assert module.a.weight.grad is None


def test_forced_it_is_refused(caffe: ModuleType) -> None:
    text = "force_backward: true" + ENDING % 'type: "Resample" resample_param { width: 6 height: 6 }'
    net = caffe.Net.from_message(parse_net(text), PHASES["TRAIN"])
    net.forward()
    with pytest.raises(InputError, match="Resample gives no gradient to its input"):
        net.backward()


# ---- losses, volumes and the rest


def test_lpq_loss(caffe: ModuleType) -> None:
    a = np.array([[[[3, 0]], [[4, np.nan]]]], np.float32)  # two places of two channels
    layer = 'type: "LpqLoss" lpq_loss_param { p: 2 q: 0.5 q_epsilon: 0 normalize_by_num_entries: true }'
    # 5 and 0, over 3 known values of 2 channels.
    net = _net(caffe, layer + " loss_weight: 3", a, np.zeros_like(a), phase="TRAIN")
    net.forward()
    np.testing.assert_allclose(net.blobs["y0"].data, 5 / 1.5, rtol=1e-6)
    text = parse_net("force_backward: true")
    text.layer.extend(net.plan.layers[i].param for i in range(len(net.plan.layers)))
    net = caffe.Net.from_message(text, PHASES["TRAIN"])
    net.blobs["b0"].data[...] = a
    net.forward()
    net.backward()
    diff = net.blobs["b0"].diff[0, :, 0]
    np.testing.assert_allclose(diff[:, 0], np.array([0.6, 0.8]) * 3 / 1.5, rtol=1e-6)
    assert np.isnan(diff[0, 1])  # the root of 0
    assert diff[1, 1] == 0  # not a number there


def test_correlation_along_the_row(caffe: ModuleType) -> None:
    a, b = np.array([1, 2, 3], np.float32), np.array([5, 7, 11], np.float32)
    settings = "correlation_param { kernel_size: 1 max_displacement: 1 pad: 1 single_direction: %d }"
    tops = {
        side: _run(
            caffe, f'type: "Correlation1D" {settings % side}', a.reshape(1, 1, 1, 3), b.reshape(1, 1, 1, 3)
        )
        for side in (-1, 0, 1)
    }
    # Displacements -2 and -1; -1, 0 and 1; 0 and 1: beyond the row there is 0.
    assert tops[-1][0, :, 0].tolist() == [[0, 0, 15], [0, 10, 21]]
    assert tops[0][0, :, 0].tolist() == [[0, 10, 21], [5, 14, 33], [7, 22, 0]]
    assert tops[1][0, :, 0].tolist() == [[5, 14, 33], [7, 22, 0]]


def test_accum_stretches_to_the_largest(caffe: ModuleType) -> None:
    a, b = np.array([[0, 6]], np.float32).reshape(1, 1, 1, 2), _image(1, 1, 2, 3)
    np.testing.assert_allclose(_run(caffe, 'type: "Accum"', a, b)[0], [[[0, 3, 6]] * 2, b[0, 0]], rtol=1e-6)


def test_mean(caffe: ModuleType) -> None:
    settings = (
        "mean_param { operation: SUBTRACT value: [1, 2] mean_scale: 3 input_scale: 2 output_scale: 0.5 }"
    )
    top = _run(caffe, f'type: "Mean" {settings}', np.full((1, 4, 1, 1), 8, np.float32))
    assert top.flatten().tolist() == [6.5, 5, 6.5, 5]


def test_flow_files(caffe: ModuleType, tmp_path: Path) -> None:
    flow = _image(2, 2, 1, 2)
    folder = tmp_path / "new" / "folder"
    layer = f'type: "FLOWriter" writer_param {{ folder: "{folder}" prefix: "p-" suffix: "-s" }}'
    _net(caffe, layer, flow, tops=0).forward()
    assert sorted(path.name for path in folder.iterdir()) == ["p-0000000(000)-s.flo", "p-0000000(001)-s.flo"]
    expected = b"PIEH" + struct.pack("<ii4f", 2, 1, 4, 6, 5, 7)
    assert (folder / "p-0000000(001)-s.flo").read_bytes() == expected
    one = tmp_path / "one.flo"
    _net(caffe, f'type: "FLOWriter" writer_param {{ file: "{one}" }}', flow[:1], tops=0).forward()
    assert one.read_bytes() == b"PIEH" + struct.pack("<ii4f", 2, 1, 0, 2, 1, 3)


def test_a_diagonal_filler(caffe: ModuleType) -> None:
    filler = 'weight_filler { type: "diagonal" diag_val: 8 }'
    settings = f"convolution_param {{ num_output: 2 kernel_size: 2 bias_term: false {filler} }}"
    net = _net(caffe, f'type: "Convolution" {settings}', np.ones((1, 3, 2, 2), np.float32))
    weight = net.params["l"][0].data
    assert weight[:, :, 0, 0].tolist() == [[2, 0, 0], [0, 0.25, 0]]
    assert (weight == weight[:, :, :1, :1]).all()
