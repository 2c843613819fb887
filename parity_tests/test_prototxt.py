"""Caffe's language: text, upgrades, rules, the plan, and errors that name the line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_tests.recordings import GOLDEN, NETS
from prototxt import InputError, parse_net, plan_net, read_net, read_solver
from prototxt.caffe_pb2 import PoolingParameter
from prototxt.layers.declare import UNKNOWN
from prototxt.layers.windows import Window, pooled_sizes
from prototxt.text import message_text
from runtime import TEST, TRAIN

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }\n'


def test_text_forms() -> None:
    """Comments, both quotes with escapes, braces with and without a colon, enums by name and number."""
    net = parse_net(
        """
        name: 'a \\'quoted\\' "name"'  # a comment { with braces
        layer: { name: "p" type: "Pooling" pooling_param: { pool: 1 kernel_size: 2 } }
        layer { name: "q" type: "Python" python_param { param_str: "{\\'maxt\\': 0.8, \\'mint\\': 0.0 }" } }
        layer < name: "r" type: "Pooling" pooling_param < pool: AVE > >
        """
    )
    assert net.name == "a 'quoted' \"name\""
    assert net.layer[0].pooling_param.pool == net.layer[2].pooling_param.pool == PoolingParameter.AVE
    assert net.layer[1].python_param.param_str == "{'maxt': 0.8, 'mint': 0.0 }"


def test_legacy_inputs_become_an_input_layer() -> None:
    dims = parse_net('input: "a" input_dim: 1 input_dim: 3 input_dim: 4 input_dim: 5')
    shape = parse_net('input: "a" input_shape { dim: 1 dim: 3 dim: 4 dim: 5 }')
    assert dims == shape
    assert list(dims.layer[0].input_param.shape[0].dim) == [1, 3, 4, 5]
    assert (dims.layer[0].name, dims.layer[0].type) == ("input", "Input")


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_older_layers_are_upgraded(version: str) -> None:
    folder = GOLDEN / "formats"
    old, new = read_net(folder / f"{version}.prototxt"), read_net(folder / "v2.prototxt")
    for a, b in zip(old.layer, new.layer, strict=True):
        a.ClearField("param")  # the old files state multipliers, the new one does not
        assert a == b


def test_a_setting_that_a_v0_type_lacks_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    """Caffe logs it and goes on, as UpgradeNetAsNeeded does."""
    net = parse_net(
        """
        layers { layer { name: "d" type: "data" source: "s" batchsize: 2 det_fg_threshold: 0.5 } top: "x" top: "y" }
        layers { layer { name: "r" type: "relu" kernelsize: 3 } bottom: "x" top: "z" }
        """,
        "a.prototxt",
    )
    assert [layer.type for layer in net.layer] == ["Data", "ReLU"] and net.layer[0].data_param.batch_size == 2
    assert [record.getMessage() for record in caplog.records] == [
        'a.prototxt: layer "d": type "data" has no det_fg_threshold: it has no effect',
        'a.prototxt: layer "r": type "relu" has no kernelsize: it has no effect',
    ]


def test_multipliers_of_v1() -> None:
    conv = read_net(GOLDEN / "formats" / "v1.prototxt").layer[1]
    assert [(p.lr_mult, p.decay_mult) for p in conv.param] == [(1, 1), (2, 0)]


def test_v1_details() -> None:
    net = parse_net(
        """
        layers { name: "d" type: DATA top: "x" data_param { source: "s" batch_size: 2 scale: 0.5 mirror: true } }
        layers { name: "l" type: SOFTMAX_LOSS bottom: "x" bottom: "x" param: "w" blob_share_mode: PERMISSIVE }
        """
    )
    data, loss = net.layer
    assert (data.transform_param.scale, data.transform_param.mirror) == (0.5, True)
    assert not data.data_param.HasField("scale")
    assert (loss.type, loss.param[0].name, loss.param[0].share_mode) == ("SoftmaxWithLoss", "w", 1)


def test_batch_norm_of_old_nets_is_not_learned() -> None:
    spec = "param { lr_mult: 1 } " * 3
    net = parse_net(INPUT + f'layer {{ name: "bn" type: "BatchNorm" bottom: "x" top: "y" {spec} }}')
    assert [p.lr_mult for p in net.layer[1].param] == [0, 0, 0]


@pytest.mark.parametrize(
    ("rule", "state", "kept"),
    [
        ("", {}, True),
        ("include { phase: TRAIN }", {}, False),
        ("include { phase: TEST }", {}, True),
        ("exclude { phase: TEST }", {}, False),
        ("include { min_level: 2 }", {"level": 1}, False),
        ("include { min_level: 2 max_level: 3 }", {"level": 3}, True),
        ('include { stage: "a" stage: "b" }', {"stages": ["a"]}, False),
        ('include { stage: "a" } include { stage: "b" }', {"stages": ["b"]}, True),
        ('include { not_stage: "a" }', {"stages": ["a"]}, False),
        ('exclude { phase: TEST stage: "a" }', {"stages": ["b"]}, True),
    ],
)
def test_rules(rule: str, state: dict, kept: bool) -> None:
    net = parse_net(INPUT + f'layer {{ name: "l" type: "ReLU" bottom: "x" top: "y" {rule} }}')
    assert ("l" in [layer.name for layer in plan_net(net, TEST, **state).layers]) == kept


def test_plan_of_a_training_net() -> None:
    """Splits, gradients, losses and shared weights as Caffe's Net::Init decides them."""
    net = parse_net(
        INPUT
        + """
        layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 1 dim: 3 } } }
        layer { name: "frozen" type: "InnerProduct" bottom: "x" top: "f" param { lr_mult: 0 } param { lr_mult: 0 }
          inner_product_param { num_output: 2 } }
        layer { name: "a" type: "InnerProduct" bottom: "f" top: "a" param { name: "w" lr_mult: 3 }
          inner_product_param { num_output: 3 } }
        layer { name: "b" type: "InnerProduct" bottom: "f" top: "b" param { name: "w" }
          inner_product_param { num_output: 3 } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "a" bottom: "t" loss_weight: 2 top: "loss" }
        layer { name: "s" type: "Silence" bottom: "b" }
        """
    )
    plan = plan_net(net, TRAIN)
    by_name = {layer.name: layer for layer in plan.layers}
    assert "f_frozen_0_split_1" in plan.blobs
    assert not by_name["frozen"].needs_backward
    assert by_name["a"].needs_backward and by_name["a"].propagate_down == (False,)
    assert by_name["b"].params[0].owner == (plan.layers.index(by_name["a"]), 0)
    assert by_name["b"].params[0].lr_mult == 3
    assert not by_name["b"].needs_backward, "it leads to no loss"
    assert by_name["loss"].loss_weights == (2.0,)
    assert [plan.blobs[i] for i in plan.outputs] == ["loss"]


def test_plan_without_set_up() -> None:
    """What only a set-up can tell is left unknown, and what comes of it; all else is planned and checked."""
    text = """
        layer { name: "data" type: "Python" top: "x" top: "label" python_param { module: "my" layer: "Data" } }
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" param { lr_mult: 1 }
          convolution_param { num_output: 4 kernel_size: 3 } }
        layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
        layer { name: "known" type: "Input" top: "k" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "s" type: "Sigmoid" bottom: "k" top: "s" }
        """
    plan = plan_net(parse_net(text))
    shapes = dict(zip(plan.blobs, plan.shapes, strict=True))
    assert shapes == {"x": UNKNOWN, "label": UNKNOWN, "c": UNKNOWN, "k": (2, 3), "s": (2, 3)}
    assert len(plan.layers[1].params) == 1
    with pytest.raises(InputError, match='bottom "z" is not produced'):
        plan_net(parse_net(text + 'layer { name: "q" type: "ReLU" bottom: "z" top: "q" }'))
    with pytest.raises(InputError, match="Sigmoid takes 1 bottom blobs, not 2"):
        plan_net(parse_net(text + 'layer { name: "q" type: "Sigmoid" bottom: "c" bottom: "s" top: "q" }'))


@pytest.mark.parametrize("name", ["deploy.prototxt", "narrow_deploy.prototxt"])
def test_our_seenet(name: str) -> None:
    plan = plan_net(read_net(NETS / "seenet" / name), TEST)
    assert [plan.blobs[i] for i in plan.inputs] == ["data", "label"]
    assert [plan.blobs[i] for i in plan.outputs] == ["score_b2", "sigmoid1"]
    convolutions = [layer for layer in plan.layers if layer.type == "Convolution"]
    assert len(convolutions) == 19
    assert all(
        [(p.lr_mult, p.decay_mult) for p in layer.params] == [(1, 1), (2, 0)] for layer in convolutions
    )
    named = [p.name for layer in convolutions for p in layer.params if p.name]
    assert named == [f"{layer}_b2_{blob}" for layer in ("conv1", "conv2", "score") for blob in "wb"]


BAD = {
    "syntax": ('layer { name: "a" type: "ReLU"', 2, "Expected"),
    "unknown field": ('layer { name: "a" typo: 1 }', 2, 'no field named "typo"'),
    "unknown type": ('layer { name: "a" type: "Relu" }', 2, "did you mean ReLU?"),
    "unknown enum": ('layer { name: "a" type: "Pooling" pooling_param { pool: MEAN } }', 2, "MEAN"),
    "field twice": ('layer { name: "a" name: "b" }', 2, "should not have multiple"),
    "no such bottom": (
        INPUT + 'layer { name: "a" type: "ReLU" bottom: "y" top: "z" }',
        3,
        'bottom "y" is not',
    ),
    "read twice by name": (
        INPUT + 'layer { name: "a" type: "ReLU" bottom: "x" top: "y" }\n'
        'layer { name: "b" type: "Concat" bottom: "x" bottom: "q" top: "z" }',
        4,
        'bottom "q" is not produced',
    ),
    "blob twice": (
        INPUT + 'layer { name: "a" type: "Exp" bottom: "x" top: "y" }\n' * 2,
        4,
        "already produced",
    ),
    "too few bottoms": (INPUT + 'layer { name: "a" type: "Eltwise" bottom: "x" top: "y" }', 3, "2 or more"),
    "too many params": (
        INPUT + 'layer { name: "a" type: "ReLU" bottom: "x" top: "y" param { lr_mult: 1 } }',
        3,
        "1 param entries for 0",
    ),
    "both rules": (
        INPUT + 'layer { name: "a" type: "ReLU" include {} exclude {} }',
        3,
        "include and exclude",
    ),
    "propagate_down": (
        INPUT + 'layer { name: "a" type: "ReLU" bottom: "x" top: "y" propagate_down: 1 propagate_down: 0 }',
        3,
        "2 propagate_down",
    ),
    "loss weights": (
        INPUT + 'layer { name: "a" type: "ReLU" bottom: "x" top: "y" loss_weight: 1 loss_weight: 1 }',
        3,
        "2 loss_weight for 1 tops",
    ),
    "layer and layers": ('layer { name: "a" } layers { name: "b" }', None, "both `layer` and `layers`"),
}


@pytest.mark.parametrize(("text", "line", "what"), BAD.values(), ids=BAD.keys())
def test_bad_nets(tmp_path: Path, text: str, line: int | None, what: str) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text("# first line\n" + text)
    with pytest.raises(InputError) as caught:
        plan_net(read_net(path), where=str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert what in message and "\n" not in message


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.prototxt: cannot be read"):
        read_net(tmp_path / "nothing.prototxt")
    with pytest.raises(InputError, match="not a text file"):
        read_net(GOLDEN / "formats" / "v2.caffemodel")


def test_solver(tmp_path: Path) -> None:
    path = tmp_path / "my_solver.prototxt"
    path.write_text("base_lr: 0.1 solver_type: ADAGRAD")
    solver = read_solver(path)
    assert solver.type == "AdaGrad" and solver.snapshot_prefix == str(tmp_path / "my_solver")
    path.write_text(f'snapshot_prefix: "{tmp_path}"')
    assert read_solver(path).snapshot_prefix == str(tmp_path / "my_solver")


@given(size=st.integers(1, 60), kernel=st.integers(1, 7), stride=st.integers(1, 5), data=st.data())
def test_pooling_rounds_up(size: int, kernel: int, stride: int, data: st.DataObject) -> None:
    """With padding the last window starts inside the map; and no position behind it is left out by rounding."""
    kernel = min(kernel, size)
    pad = data.draw(st.integers(0, kernel - 1))
    window = Window((kernel,), (stride,), (pad,), (1,))
    (out,) = pooled_sizes(PoolingParameter(), window, (size,))
    last_start = (out - 1) * stride - pad
    if pad or stride <= kernel:  # a stride beyond the kernel lets Caffe's last window miss the map altogether
        assert last_start < size
    assert last_start + max(kernel, stride) >= size - pad * (stride > 1)


def test_what_was_set_aside_is_written_where_it_stood() -> None:
    text = """
        layer { name: "a" include { phase: TRAIN foo: 1 } relu_param { bar: "a\\nb" } param { baz: 1 } what: 3 }
        layer { name: "b" convolution_param { weight_filler { zap: 1e3 } } } state { q: 1 } top_level: 3
    """
    net = parse_net(text)
    written = message_text(net)
    assert written.count("include {") == written.count("param {\n    baz: 1\n") == 1
    assert "    phase: TRAIN\n    foo: 1\n" in written and "weight_filler {\n      zap: 1e3\n" in written
    assert written.endswith("top_level: 3\n") and message_text(parse_net(written)) == written


def test_what_stood_in_one_of_several_is_a_comment() -> None:
    """A second `include` without a rule would have let the layer into each phase."""
    net = parse_net('layer { name: "a" include { phase: TRAIN foo: 1 } include { stage: "s" } }')
    written = message_text(net)
    assert "  # include.foo: 1\n" in written
    again = parse_net(written).layer[0]
    assert list(again.include) == list(net.layer[0].include) and not again.unknown
