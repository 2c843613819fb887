"""Nets of Caffe's forks: their words read, what nobody here knows kept, and told only where it is needed."""

import importlib
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from prototxt import InputError, parse_net, plan_net, read_net, read_solver
from prototxt.caffe_pb2 import LayerParameter, NetParameter, PoolingParameter, V1LayerParameter
from prototxt.forks import FORK_TYPES, FORKS, HARMLESS, SUPPORTED_FIELDS, known_from, meaning
from prototxt.layers.declare import LAYER_TYPES, UNKNOWN
from prototxt.layers.planned import PLANNED_ONLY
from prototxt.unknown import refuse_unknown, set_aside, unknown_fields
from prototxt.upgrade import V1_TYPES
from weights import read_weights

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 9 } } }\n'


def one(text: str) -> LayerParameter:
    return parse_net(text).layer[0]


# ---- The words of forks


@pytest.mark.parametrize(
    ("text", "dilation"),
    [
        ("hole: 2", [2]),
        ("hole_h: 3 hole_w: 2", [3, 2]),
        ("dilation_h: 1 dilation_w: 4", [1, 4]),
        ("dilation: 5", [5]),
        ("kernel_size: 3", []),
    ],
)
@pytest.mark.parametrize(
    "form", ["layer { name: 'c' type: 'Convolution' %s }", "layers { type: CONVOLUTION %s }"]
)
def test_hole_is_dilation(form: str, text: str, dilation: list[int]) -> None:
    param = one(form % f"convolution_param {{ {text} }}").convolution_param
    assert list(param.dilation) == dilation
    assert not any(name in str(param) for name in ("hole", "dilation_"))


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("ceil_mode: true", PoolingParameter.CEIL),
        ("ceil_mode: false", PoolingParameter.FLOOR),
        ("ceil_mode: false round_mode: FLOOR", PoolingParameter.FLOOR),
        ("kernel_size: 2", PoolingParameter.CEIL),
    ],
)
def test_ceil_mode_is_round_mode(text: str, mode: int) -> None:
    assert one(f'layer {{ type: "Pooling" pooling_param {{ {text} }} }}').pooling_param.round_mode == mode


@pytest.mark.parametrize(
    ("text", "scale_bias", "filler"),
    [
        ("scale_bias: true", True, 0),
        ("scale_filler { value: 2 }", True, 2),
        ("bias_filler { value: 1 }", True, 0),
        ("filler { value: 3 }", True, 3),  # Intel's
        ("use_weight_bias: true", True, 0),
        ("filler { value: 3 } engine: CAFFE", False, 0),
        ("use_weight_bias: false bias_filler { value: 1 }", False, 0),
        ("eps: 1e-3", False, 0),
    ],
)
def test_batch_norm_with_a_scale_of_its_own(text: str, scale_bias: bool, filler: float) -> None:
    param = one(f'layer {{ type: "BatchNorm" batch_norm_param {{ {text} }} }}').batch_norm_param
    assert (param.scale_bias, param.scale_filler.value) == (scale_bias, filler)
    assert not param.HasField("filler")


def test_precision_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    text = "default_forward_type: FLOAT16 default_backward_math: FLOAT global_grad_scale: 1000\n" + INPUT
    text += "".join(
        f'layer {{ name: "r{i}" type: "ReLU" bottom: "x" top: "y{i}" forward_type: FLOAT }}' for i in range(3)
    )
    with caplog.at_level(logging.WARNING, "caffe"):
        plan_net(parse_net(text, "a.prototxt"))
    (record,) = caplog.records
    assert record.getMessage() == (
        "a.prototxt: default_forward_type, default_backward_math, global_grad_scale, forward_type: "
        "no effect here, everything is float32"
    )


def test_every_v1_type_has_a_name() -> None:
    assert set(V1_TYPES) == {value.number for value in V1LayerParameter.LayerType.DESCRIPTOR.values}
    net = parse_net("layers { type: ELTWISE_PRODUCT } layers { type: CROP } layers { type: SEG_ACCURACY }")
    assert [layer.type for layer in net.layer] == ["Eltwise", "AutoCrop", "SegAccuracy"]
    assert net.layer[0].eltwise_param.operation == 0


CONTRADICTIONS = {
    "hole twice": ("convolution_param { hole: 2 dilation: 2 }", "hole and dilation say the same"),
    "half a hole": ("convolution_param { hole_h: 2 }", "hole, or hole_h and hole_w, not a mix"),
    "ceil and floor": ("pooling_param { ceil_mode: true round_mode: FLOOR }", "contradict each other"),
}


@pytest.mark.parametrize(("text", "what"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_contradictions(text: str, what: str) -> None:
    with pytest.raises(InputError, match=f'net.prototxt: layer "a": .*{what}'):
        parse_net(f'layer {{ name: "a" {text} }}', "net.prototxt")


# ---- What the schema lacks


def test_reading_goes_on() -> None:
    net = parse_net(
        "shiny: true\n"
        'layer { name: "a" type: "Pooling"\n'
        "  pooling_param {\n"
        "    kernel_size: 2 sharpness { of: 3 more: [1, 2] } # comment { \n"
        "    pool: MEDIAN;\n"
        "  }\n"
        '  turbo: "yes" "no", top: "y" }\n'
    )
    (layer,) = net.layer
    assert layer.pooling_param.kernel_size == 2
    assert list(layer.top) == ["y"]
    assert [(x.path, x.line, x.text) for x in unknown_fields(layer)] == [
        ("pooling_param.sharpness", 4, "{ of: 3 more: [1, 2] }"),
        ("pooling_param.pool", 5, "MEDIAN"),
        ("turbo", 7, '"yes" "no"'),
    ]
    assert [(x.path, x.line, x.text) for x in unknown_fields(net)] == [("shiny", 1, "true")]


def test_old_forms_keep_what_they_hold() -> None:
    net = parse_net(
        'input: "x" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1\n'
        'layers { name: "b" type: HOLOGRAM bottom: "x" top: "y" depth: 3 }\n'
        'layers { layer { name: "c" type: "scanner" speed: 2 } bottom: "y" top: "z" }'
    )
    _, v1, v0 = net.layer
    assert (v1.type, [x.path for x in v1.unknown]) == ("HOLOGRAM", ["depth"])
    assert (v0.type, [x.path for x in v0.unknown]) == ("scanner", ["layer.speed"])
    assert [str(x) for x in unknown_fields(v0)] == ['no field named "layer.speed" (line 3)']


def test_a_text_that_says_unknown_itself() -> None:
    layer = one('layer { type: "ReLU" unknown { path: "a..b" text: "\\n" line: -1 } }')
    with pytest.raises(InputError, match=r'no field named "a\.\.b" \(line -1\)'):
        refuse_unknown(layer, {"ReLU"})


def test_a_layer_of_the_other_phase_stops_nothing() -> None:
    text = (
        'layer { name: "d" type: "HyperData" top: "x" warp_param { speed: 9 } include { phase: TRAIN } }\n'
        + INPUT.replace("input_param", "include { phase: TEST } input_param")
        + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }'
    )
    net = parse_net(text)
    assert [layer.name for layer in plan_net(net, 1).layers] == ["x", "r"]
    with pytest.raises(InputError) as caught:
        plan_net(net, 0)
    assert 'layer "d": unknown layer type "HyperData": ' in str(caught.value)
    assert 'its fields too: no field named "warp_param" (line 1)' in str(caught.value)


STOPS = {
    "a field": (
        'type: "ReLU" relu_param { negative_slop: 1 }',
        'no field named "relu_param.negative_slop", but negative_slope (line 2)',
    ),
    "an enum value": (
        'type: "Pooling" pooling_param { pool: MEDIAN }',
        "pooling_param.pool cannot be MEDIAN (line 2)",
    ),
    "a fork's setting": (
        'type: "Convolution" convolution_param { relu: true }',
        "convolution_param.relu, a fork's setting",
    ),
    "a fork's enum value": (
        'type: "Eltwise" eltwise_param { operation: SORT }',
        "eltwise_param.operation, a fork's setting",
    ),
    "a fork's type": ('type: "TRT"', "known from NVCaffe (NVIDIA/caffe, caffe-0.17), and not supported"),
    "no type": ("", "type is missing"),
}


@pytest.mark.parametrize(("text", "what"), STOPS.values(), ids=STOPS.keys())
def test_what_is_told(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + f'layer {{ name: "a" bottom: "x" top: "y" {text} }}')
    with pytest.raises(InputError) as caught:
        plan_net(read_net(path), where=str(path))
    assert str(caught.value).startswith(f'{path}:2: layer "a": ')
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_defaults_and_settings_of_speed_stop_nothing() -> None:
    layer = one(
        'layer { type: "Convolution" convolution_param { relu: false engine: MKLDNN kernel_depth: 1 } }'
    )
    assert [x.path for x in unknown_fields(layer)] == ["convolution_param.kernel_depth"]
    refuse_unknown(one('layer { type: "ReLU" engine: "MKLDNN" relu_param { engine: MKL2017 } }'), {"ReLU"})


def test_the_net_itself() -> None:
    with pytest.raises(InputError, match=r'^a.prototxt: no field named "shiny" \(line 1\): take out'):
        plan_net(parse_net("shiny: 3\n" + INPUT, "a.prototxt"), where="a.prototxt")


TEMPLATE = "layer { convolution_param {\n num_output: %s } }"


@pytest.mark.parametrize("blank", ["${NUM_LABELS}", "$NUM_LABELS$", "$NUM"])
def test_templates(blank: str) -> None:
    with pytest.raises(InputError, match=r"a:2: .*NUM.* stands for a value: this is a template"):
        parse_net(TEMPLATE % blank, "a")


def test_summary_lists_all_that_is_missing(
    tmp_path: Path, seenet: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(
        INPUT + 'layer { name: "a" type: "TRT" bottom: "x" top: "a" }\n'
        'layer { name: "b" type: "ReLU" bottom: "a" top: "b" }\n'
        'layer { name: "c" type: "ReLU" shine: 1 bottom: "b" top: "c" }\n'
    )
    status, out, err = seenet("summary", path)
    first, second, last = out.splitlines()
    assert status == 2
    assert first.startswith(f'{path}:2: layer "a": unknown layer type "TRT": known from NVCaffe')
    assert second.startswith(f'{path}:4: layer "c": no field named "shine" (line 4)')
    assert last == "2 of 4 layers are missing; the other 2 would run"
    assert err.startswith(f'error: {path}:2: layer "a"')
    assert err.count("\n") == 1


# ---- A net in a solver's place and the other way round


def test_a_solver_is_no_net_and_a_net_no_solver(tmp_path: Path) -> None:
    solver, net = tmp_path / "solver.prototxt", tmp_path / "net.prototxt"
    solver.write_text('# how\nnet: "net.prototxt"\nbase_lr: 0.1\nmax_iter: 3\n')
    net.write_text('name: "n"\n' + INPUT)
    with pytest.raises(InputError) as caught:
        read_net(solver)
    assert (
        str(caught.value) == f"{solver}:2: this is a solver, a net is expected here: its net is net.prototxt"
    )
    with pytest.raises(InputError) as caught:
        read_solver(net)
    assert str(caught.value) == f"{net}:2: this is a net, a solver is expected here"


# ---- Tables


def test_the_tables_hold_together() -> None:
    assert {fork for forks in FORK_TYPES.values() for fork in forks} <= set(FORKS)
    for name in SUPPORTED_FIELDS:
        message, field = name.split(".")
        assert field in _message(message).fields_by_name
    messages = LayerParameter.DESCRIPTOR.file.message_types_by_name.values()
    everywhere = {field.name for message in messages for field in message.fields}
    assert everywhere >= HARMLESS
    assert known_from("PoseData") == "DeepCut (eldar/deepcut-cnn)"
    assert known_from("Convolution") == ""


def _message(name: str):
    return LayerParameter.DESCRIPTOR.file.message_types_by_name[name]


@pytest.mark.parametrize(
    ("text", "fork"),
    [
        ('type: "BN"', "PSPNet"),
        ('type: "BN" bn_param { frozen: true }', "PSPNet"),
        ('type: "BN" bn_param { bn_mode: INFERENCE }', "SegNet"),
        ('type: "Upsample" bottom: "x"', "MobileNet-YOLO"),
        ('type: "Upsample" bottom: "x" bottom: "mask"', "SegNet"),
        ('type: "SmoothL1Loss" bottom: "a" bottom: "b"', "SSD"),
        ('type: "SmoothL1Loss" bottom: "a" bottom: "b" bottom: "c" bottom: "d"', "Faster R-CNN"),
        ('type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 3 }', "Faster R-CNN"),
        ('type: "SoftmaxWithLoss" loss_param { class_weighting: 2 }', "SegNet"),
        ('type: "SoftmaxWithLoss"', ""),
        ('type: "L1Loss" l1_loss_param {}', "FlowNet2"),
        ('type: "Convolution"', ""),
    ],
)
def test_one_name_two_layers(text: str, fork: str) -> None:
    assert meaning(one(f"layer {{ {text} }}")) == fork


def test_nothing_is_set_aside_of_what_the_schema_has() -> None:
    for path in sorted(Path(__file__).parents[1].glob("prototxt/*/*.prototxt")):
        text = path.read_text()
        if "solver" not in path.stem:
            assert set_aside(text, NetParameter.DESCRIPTOR)[:2] == (text, [])


# ---- Binary files of forks


def test_a_fork_s_numbers_are_not_misread(tmp_path: Path) -> None:
    """A layer whose header uses, as forks do, numbers that are other fields elsewhere: its weights are read."""

    def field(number: int, content: bytes) -> bytes:
        key = number << 3 | 2
        head = bytes([key & 0x7F | 0x80, key >> 7]) if key > 127 else bytes([key])
        return head + bytes([len(content)]) + content

    transform = field(
        8, b"\x08\x01\x10\xac\x02\x18\xac\x02"
    )  # SSD's resize_param: here it was a list of floats
    blob = field(7, b"\x0a\x01\x02") + field(5, b"\x00\x00\x80\x3f\x00\x00\x00\x40")
    layer = field(1, b"c") + field(2, b"Convolution") + field(7, blob) + field(100, transform)
    layer += field(149, b"\x0a\x03abc") + field(150, b"\x08\x01")
    path = tmp_path / "fork.caffemodel"
    path.write_bytes(field(100, layer))
    (read,) = read_weights(path)
    assert (read.name, read.type) == ("c", "Convolution")
    assert read.blobs[0].tolist() == [1.0, 2.0]


def test_a_crop_that_is_not_told_its_offset_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    crop = 'layer { name: "c%d" type: "Crop" bottom: "x" bottom: "x" top: "c%d" %s }\n'
    with caplog.at_level(logging.WARNING, "caffe"):
        parse_net(INPUT + crop % (1, 1, "crop_param { offset: 2 }"))
        assert not caplog.records
        parse_net(INPUT + crop % (1, 1, "") + crop % (2, 2, ""))
    (record,) = caplog.records
    assert 'layer "c1": Crop without crop_param has the offset 0' in record.getMessage()


# ---- Types that are planned and do not run


@pytest.mark.parametrize("name", sorted(PLANNED_ONLY))
def test_planned_only(name: str) -> None:
    """A plan has blobs of unknown shape; setting up says why it stops; the other phase is not concerned."""
    bottom = "" if LAYER_TYPES[name].bottoms == (0, 0) else 'bottom: "x"'
    net = parse_net(
        f'{INPUT} layer {{ name: "own" type: "{name}" {bottom} top: "y" include {{ phase: TRAIN }} }}'
        'layer { name: "r" type: "ReLU" bottom: "x" top: "z" }'
    )
    plan = plan_net(net, 0)
    assert dict(zip(plan.blobs, plan.shapes, strict=True))["y"] == UNKNOWN
    for engine in ("port", "reference"):
        caffe = importlib.import_module(f"{engine}.pycaffe")
        with pytest.raises(InputError, match=f'layer "own": {name} can be planned and not run: '):
            caffe.Net.from_message(net, 0)
        caffe.Net.from_message(net, 1).forward()
