"""Files of weights and solver states: every recorded one read, every format written as genuine Caffe does."""

import contextlib
import io
import json
import math
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch
import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from prototxt.caffe_pb2 import (
    BlobProto,
    LayerParameter,
    NetParameter,
    SolverState,
    V0LayerParameter,
    V1LayerParameter,
)
from prototxt.errors import InputError, errors_on_one_line
from weights import (
    LayerWeights,
    SolverSnapshot,
    check_finite,
    from_state_dict,
    match_by_name,
    param_names,
    read_binaryproto,
    read_hdf5,
    read_solverstate,
    read_weights,
    to_state_dict,
    write_binaryproto,
    write_caffemodel,
    write_hdf5,
    write_solverstate,
    write_weights,
)
from weights.convert import convert, convert_command, total_checksum
from weights.wire import length_delimited

ROOT = Path(__file__).parents[1]
FORMATS = ROOT / "reference" / "golden" / "formats"
CASES = json.loads((FORMATS / "formats.json").read_text())
RECORDED = dict(np.load(FORMATS / "formats.npz"))
SUFFIXES = [".caffemodel", ".caffemodel.h5", ".safetensors", ".pth"]

# Which recorded arrays the layers of these nets hold.
ARRAYS = {"conv": ("weights/cw", "weights/cb"), "fc": ("weights/fw", "weights/fb")}


def assert_same(actual: list[LayerWeights], expected: list[LayerWeights], ordered: bool = True) -> None:
    """Names, numbers, shapes and types of number are equal, bit for bit."""
    if not ordered:
        actual, expected = (sorted(layers, key=lambda layer: layer.name) for layers in (actual, expected))
    assert [layer.name for layer in actual] == [layer.name for layer in expected]
    for a, b in zip(actual, expected, strict=True):
        for x, y in zip(a.blobs, b.blobs, strict=True):
            assert (x is None) == (y is None)
            if y is not None:
                assert x.shape == y.shape
                assert x.tobytes() == y.tobytes()
                assert x.dtype == y.dtype or not y.size


def in_format(suffix: str, folder: Path) -> Path:
    """The recorded v2 weights, written in a format."""
    path = folder / f"weights{suffix}"
    write_weights(path, read_weights(FORMATS / "v2.caffemodel"))
    return path


# ---- Recordings


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_recorded_caffemodel(case):
    layers = read_weights(FORMATS / f"{case['name']}.caffemodel")
    types = dict(case["layers_as_caffe_sees_them"])
    assert [layer.name for layer in layers] == [name for name in types if name in ARRAYS]
    for layer in layers:
        assert layer.type == types[layer.name]
        for blob, name in zip(layer.blobs, ARRAYS[layer.name], strict=True):
            assert blob.shape == RECORDED[name].shape
            np.testing.assert_array_equal(blob, RECORDED[name])


@pytest.mark.parametrize("path", sorted(FORMATS.glob("*.caffemodel")), ids=lambda path: path.stem)
def test_types_of_numbers_and_legacy_shapes_are_told(path):
    net = NetParameter.FromString(path.read_bytes())
    blobs = [blob for x in (*net.layer, *net.layers) for blob in (*x.blobs, *getattr(x, "layer", x).blobs)]
    for layer in read_weights(path):
        assert {blob.dtype for blob in layer.blobs} == {np.dtype("f8" if blobs[0].double_data else "f4")}
        assert layer.legacy_shape == blobs[0].HasField("num")


def test_recorded_hdf5_weights():
    assert_same(
        read_weights(FORMATS / "v2.caffemodel.h5"), read_weights(FORMATS / "v2.caffemodel"), ordered=False
    )


def test_hdf5_is_known_by_its_content_as_caffe_knows_it(tmp_path):
    (tmp_path / "protobuf.h5").write_bytes((FORMATS / "v2.caffemodel").read_bytes())
    (tmp_path / "hdf5.caffemodel").write_bytes((FORMATS / "v2.caffemodel.h5").read_bytes())
    assert_same(read_weights(tmp_path / "protobuf.h5"), read_weights(FORMATS / "v2.caffemodel"))
    assert_same(
        read_weights(tmp_path / "hdf5.caffemodel"), read_weights(FORMATS / "v2.caffemodel"), ordered=False
    )


def test_recorded_solver_weights_agree():
    assert_same(
        read_weights(FORMATS / "solver_iter_3.caffemodel.h5"),
        read_weights(FORMATS / "solver_iter_3.caffemodel"),
    )


def test_recorded_solver_states_agree():
    binary = read_solverstate(FORMATS / "solver_iter_3.solverstate")
    hdf5 = read_solverstate(FORMATS / "solver_iter_3.solverstate.h5")
    assert (binary.iteration, binary.current_step) == (hdf5.iteration, hdf5.current_step) == (3, 1)
    assert binary.learned_net == "solver_iter_3.caffemodel"
    assert hdf5.learned_net == "solver_iter_3.caffemodel.h5"
    for a, b in zip(binary.history, hdf5.history, strict=True):
        np.testing.assert_array_equal(a, b)
    weights = read_weights(FORMATS / "solver_iter_3.caffemodel")[0].blobs
    assert [blob.shape for blob in binary.history] == [blob.shape for blob in weights]


def test_recorded_mean():
    mean = read_binaryproto(FORMATS / "mean.binaryproto")
    assert mean.dtype == np.float32
    assert mean.shape == RECORDED["mean"].shape
    np.testing.assert_array_equal(mean, RECORDED["mean"])


def test_blobs_are_views_of_the_mapped_file():
    for layer in read_weights(FORMATS / "v2.caffemodel"):
        for blob in layer.blobs:
            assert not blob.flags.owndata
            assert not blob.flags.writeable


# ---- Written as Caffe writes


def test_snapshot_written_byte_for_byte(tmp_path):
    """With the layers' parameters the file is the very one that Net::ToProto wrote."""
    recorded = FORMATS / "solver_iter_3.caffemodel"
    net = NetParameter.FromString(recorded.read_bytes())
    layers = read_weights(recorded, with_empty=True)
    for layer, param in zip(layers, net.layer, strict=True):
        layer.param = param
    write_caffemodel(tmp_path / "out.caffemodel", layers, net_name=net.name)
    assert (tmp_path / "out.caffemodel").read_bytes() == recorded.read_bytes()


@pytest.mark.parametrize("name", ["v2", "v2_double", "v1", "v0"])
def test_caffemodel_as_protobuf_reads_it(name, tmp_path):
    write_weights(
        tmp_path / "out.caffemodel", read_weights(FORMATS / f"{name}.caffemodel"), net_name="formats"
    )
    net = NetParameter.FromString((tmp_path / "out.caffemodel").read_bytes())
    assert net.name == "formats"
    assert [(layer.name, layer.type) for layer in net.layer] == [
        ("conv", "Convolution"),
        ("fc", "InnerProduct"),
    ]
    for layer in net.layer:
        for blob, array in zip(layer.blobs, ARRAYS[layer.name], strict=True):
            assert not blob.HasField("num")
            assert tuple(blob.shape.dim) == RECORDED[array].shape
            stored, other = (
                (blob.double_data, blob.data) if name == "v2_double" else (blob.data, blob.double_data)
            )
            np.testing.assert_array_equal(stored, RECORDED[array].ravel())
            assert not other


def test_solverstate_written_byte_for_byte(tmp_path):
    recorded = FORMATS / "solver_iter_3.solverstate"
    write_solverstate(tmp_path / "out.solverstate", read_solverstate(recorded))
    assert (tmp_path / "out.solverstate").read_bytes() == recorded.read_bytes()


def test_mean_written_byte_for_byte(tmp_path):
    write_binaryproto(tmp_path / "out.binaryproto", RECORDED["mean"])
    assert (tmp_path / "out.binaryproto").read_bytes() == (FORMATS / "mean.binaryproto").read_bytes()


def hdf5_structure(path: Path) -> dict:
    """Every group and dataset, with all that Caffe's reader could stumble over."""
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Group):
            found[name] = "group"
            return
        kind = item.id.get_type()
        text = None
        if isinstance(kind, h5py.h5t.TypeStringID):
            text = (kind.get_strpad(), kind.get_cset(), kind.is_variable_str(), bytes(item[()]))
        elif kind.get_class() == h5py.h5t.INTEGER:
            text = item[()].tolist()
        space = item.id.get_space().get_simple_extent_type()
        layout = item.id.get_create_plist().get_layout()
        found[name] = (item.shape, item.maxshape, item.dtype.str, kind.get_size(), space, layout, text)

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return found


@pytest.mark.parametrize("name", ["v2", "solver_iter_3"])
def test_hdf5_weights_are_laid_out_as_caffes(name, tmp_path):
    recorded = FORMATS / f"{name}.caffemodel.h5"
    write_hdf5(tmp_path / "out.h5", read_hdf5(recorded, with_empty=True))
    assert hdf5_structure(tmp_path / "out.h5") == hdf5_structure(recorded)
    assert_same(read_hdf5(tmp_path / "out.h5"), read_hdf5(recorded))
    superblock = [path.read_bytes()[:20] for path in (tmp_path / "out.h5", recorded)]
    assert superblock[0] == superblock[1]


def test_hdf5_solverstate_is_laid_out_as_caffes(tmp_path):
    recorded = FORMATS / "solver_iter_3.solverstate.h5"
    write_solverstate(tmp_path / "out.solverstate.h5", read_solverstate(recorded))
    assert hdf5_structure(tmp_path / "out.solverstate.h5") == hdf5_structure(recorded)


@pytest.mark.parametrize("name", ["v2", "v1", "v0"])
def test_opencv_computes_the_recorded_output_from_what_we_write(name, tmp_path):
    """An importer that is not ours reads the file, by its own reading of the format."""
    write_weights(tmp_path / "out.caffemodel", read_weights(FORMATS / f"{name}.caffemodel"))
    net = cv2.dnn.readNetFromCaffe(str(FORMATS / "v2.prototxt"), str(tmp_path / "out.caffemodel"))
    net.setInput(RECORDED["input/data"])
    np.testing.assert_allclose(net.forward("prob"), RECORDED[f"{name}/prob"], rtol=1e-5)


def test_torch_and_safetensors_read_what_we_write(tmp_path):
    expected = {
        f"{layer}.{param}": RECORDED[name]
        for layer, names in ARRAYS.items()
        for param, name in zip(("weight", "bias"), names, strict=True)
    }
    loaded = torch.load(in_format(".pth", tmp_path), weights_only=True)
    for state in (safetensors.numpy.load_file(in_format(".safetensors", tmp_path)), loaded):
        assert state.keys() == expected.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(array, expected[name])


# ---- Round trips

names = st.text(st.sampled_from("ab01/._-é注 "), min_size=1, max_size=8)
shapes = st.lists(st.integers(0, 3), max_size=5).map(tuple)


@st.composite
def layer_lists(draw, layer_names=names):
    layers = []
    for name in draw(st.lists(layer_names, max_size=4, unique=True)):
        layer_type = draw(st.sampled_from(["", "Convolution", "BatchNorm", "Scale", "LSTM"]))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        blobs = [
            rng.standard_normal(shape).astype(draw(st.sampled_from(["f4", "f8"])))
            for shape in draw(st.lists(shapes, min_size=1, max_size=4))
        ]
        layers.append(LayerWeights(name, layer_type, blobs))
    return layers


@settings(deadline=None, max_examples=60)
@given(layers=layer_lists(), suffix=st.sampled_from([".caffemodel", ".safetensors", ".pth"]))
@example(layers=[LayerWeights("scalar", "", [np.float64(2.5).reshape(()), np.ones(1, "f4")])], suffix=".pth")
def test_any_layers_survive(tmp_path_factory, layers, suffix):
    path = tmp_path_factory.mktemp("any") / f"out{suffix}"
    if not layers and suffix == ".caffemodel":
        return  # a caffemodel without layers is none
    write_weights(path, layers)
    back = read_weights(path)
    mixed = len({blob.dtype for layer in layers for blob in layer.blobs}) > 1
    assert_same(back, layers, ordered=not (suffix == ".safetensors" and mixed))
    if suffix == ".caffemodel":
        assert [layer.type for layer in back] == [layer.type for layer in layers]


hdf5_names = names.filter(lambda name: {"", "."}.isdisjoint(name.split("/")))


@settings(deadline=None, max_examples=60)
@given(layers=layer_lists(hdf5_names))
@example(layers=[LayerWeights(n, "", [np.ones(2, "f4")]) for n in ("a/b/c", "a", "a/b")])
def test_any_layers_survive_hdf5(tmp_path_factory, layers):
    path = tmp_path_factory.mktemp("any") / "out.h5"
    try:
        write_weights(path, layers)
    except InputError as error:
        assert "name both a layer and a blob" in str(error)
        return
    assert_same(read_weights(path), layers, ordered=False)


@pytest.mark.parametrize("name", ["", "a//b", "/a", "a/", "./a", "a\0b"])
def test_names_that_hdf5_would_change_are_refused(name, tmp_path):
    with pytest.raises(InputError, match=r"HDF5 cannot hold a layer named"):
        write_weights(tmp_path / "out.h5", [LayerWeights(name, "", [np.ones(1, "f4")])])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [("a", "a/0"), ("a/0/b", "a")])
def test_names_that_collide_in_hdf5_are_refused(names, tmp_path):
    with pytest.raises(InputError, match=r'both a layer and a blob "a/0"'):
        write_weights(tmp_path / "out.h5", [LayerWeights(name, "", [np.ones(1, "f4")]) for name in names])


def test_two_layers_of_one_name(tmp_path):
    """A .caffemodel holds them as they are, HDF5 cannot, and state dicts give the later ones a suffix."""
    layers = [LayerWeights("a", "", [np.full(1, value, "f4")]) for value in (1, 2)]
    write_weights(tmp_path / "out.caffemodel", layers)
    assert_same(read_weights(tmp_path / "out.caffemodel"), layers)
    with pytest.raises(InputError, match=r'two layers named "a"'):
        write_weights(tmp_path / "out.h5", layers)
    for suffix in (".safetensors", ".pth"):
        write_weights(tmp_path / f"out{suffix}", layers)
        assert [layer.name for layer in read_weights(tmp_path / f"out{suffix}")] == ["a", "a#2"]


def test_blobs_shared_from_another_layer_are_left_out_of_hdf5(tmp_path):
    layers = [LayerWeights("own", "", [np.ones((2, 3), "f4"), np.ones(2, "f4")])]
    layers += [LayerWeights("share", "", [None, np.zeros(2, "f4")]), LayerWeights("all")]
    write_hdf5(tmp_path / "out.h5", layers)
    back = read_hdf5(tmp_path / "out.h5", with_empty=True)
    assert_same(back, layers, ordered=False)
    target = {layer.name: [(2, 3), (2,)] for layer in layers}
    shared = {("share", 0), ("all", 0), ("all", 1)}
    matched, _ = match_by_name(back, target, "out.h5", shared=shared)
    assert [blob is None for blob in matched["share"]] == [True, False]
    assert matched["all"] == [None, None]
    with pytest.raises(InputError, match=r'layer "all" has 0 blobs \(\) in the file but 2 blobs \(2×3, 2\)'):
        match_by_name(back, target, "out.h5")
    for suffix in (".caffemodel", ".pth"):
        with pytest.raises(InputError, match=r'layer "share": blob 0 is shared'):
            write_weights(tmp_path / f"out{suffix}", back)


def test_layers_without_blobs_are_left_out_unless_asked_for(tmp_path):
    for path in (FORMATS / "v2.caffemodel", FORMATS / "v2.caffemodel.h5"):
        assert {layer.name for layer in read_weights(path)} == {"conv", "fc"}
        assert {"relu", "pool", "prob"} < {layer.name for layer in read_weights(path, with_empty=True)}
    layers = [
        LayerWeights("bare", "ReLU"),
        LayerWeights("said", param=LayerParameter(name="said", type="ReLU")),
    ]
    write_caffemodel(tmp_path / "out.caffemodel", layers)
    assert [x.name for x in read_weights(tmp_path / "out.caffemodel", with_empty=True)] == ["said"]


def test_strided_arrays_are_written_right(tmp_path):
    array = np.arange(24, dtype="f4").reshape(2, 3, 4)
    layers = [LayerWeights("a", "", [array.T, array[::-1, ::2]])]
    expected = [LayerWeights("a", "", [array.T.copy(), array[::-1, ::2].copy()])]
    for suffix in SUFFIXES:
        write_weights(tmp_path / f"out{suffix}", layers)
        assert_same(read_weights(tmp_path / f"out{suffix}"), expected)


# ---- Protobuf written by others


def caffemodel(folder: Path, net: NetParameter | bytes) -> Path:
    path = folder / "in.caffemodel"
    path.write_bytes(net if isinstance(net, bytes) else net.SerializeToString())
    return path


def field(number: int, contents: bytes) -> bytes:
    assert len(contents) < 128
    key = number << 3 | 2
    return (
        (bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7]))
        + bytes([len(contents)])
        + contents
    )


def one_blob(blob: bytes) -> bytes:
    return field(100, LayerParameter(name="a").SerializeToString() + field(7, blob))


SHAPE_3 = BlobProto(shape={"dim": [3]}).SerializeToString()
FLOATS, DOUBLES = np.arange(3, dtype="f4"), np.arange(3, dtype="f8") / 3
UNPACKED = b"".join(b"\x2d" + struct.pack("<f", value) for value in FLOATS)


@pytest.mark.parametrize(
    ("blob", "expected"),
    [
        (SHAPE_3 + UNPACKED, FLOATS),
        (SHAPE_3 + field(5, FLOATS[:1].tobytes()) + field(5, FLOATS[1:].tobytes()), FLOATS),
        (SHAPE_3 + field(5, FLOATS[:1].tobytes()) + UNPACKED[5:], FLOATS),
        (SHAPE_3 + field(8, DOUBLES[:2].tobytes()) + field(8, DOUBLES[2:].tobytes()), DOUBLES),
        (
            SHAPE_3 + field(5, FLOATS.tobytes()) + field(8, DOUBLES.tobytes()),
            DOUBLES,
        ),  # Caffe prefers doubles
        (SHAPE_3 + field(6, DOUBLES.tobytes()) + field(5, FLOATS.tobytes()), FLOATS),  # and leaves out diffs
        (SHAPE_3 + field(99, b"from a fork") + field(5, FLOATS.tobytes()), FLOATS),
        (field(7, b"\x08\x03") + field(5, FLOATS.tobytes()), FLOATS),  # an unpacked dim
        (field(5, FLOATS[:1].tobytes()), FLOATS[0]),  # no shape: a scalar
        (BlobProto(shape={"dim": [2, 0]}).SerializeToString(), np.empty((2, 0), "f4")),
    ],
)
def test_unusual_blobs(blob, expected, tmp_path):
    (layer,) = read_weights(caffemodel(tmp_path, one_blob(blob)))
    assert_same([layer], [LayerWeights("a", "", [expected])])


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (
            SHAPE_3 + field(5, FLOATS[:2].tobytes()),
            r'layer "a": blob 0: a blob of shape \(3,\) holds 2 numbers',
        ),
        (field(5, FLOATS.tobytes()), r"a blob of shape \(\) holds 3 numbers"),
        (SHAPE_3 + field(5, b"12345"), r"5 bytes are no whole number of float32"),
        (BlobProto(shape={"dim": [-3]}).SerializeToString(), r"cannot have the shape \(-3,\)"),
        (BlobProto(shape={"dim": [1] * 33}, data=[1]).SerializeToString(), r"cannot have the shape"),
        (BlobProto(num=1, data=[1]).SerializeToString(), r"shape \(1, 0, 0, 0\) holds 1 numbers"),
        (b"\x0b", r"field 1 is of wire type 3"),
        (b"\x02\x00", r"field number 0 is not possible"),
        (b"\x2a" + b"\xff" * 10, r"a number is longer than 10 bytes"),
        (b"\x2a\x40", r"a field ends 64 bytes after the end"),
    ],
)
def test_impossible_blobs_are_refused(blob, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_weights(caffemodel(tmp_path, one_blob(blob)))


def test_nets_of_mixed_age_are_refused_as_in_caffe(tmp_path):
    net = NetParameter(layer=[LayerParameter(name="a")], layers=[V1LayerParameter(name="b")])
    with pytest.raises(InputError, match=r"old and new layers mixed"):
        read_weights(caffemodel(tmp_path, net))


LEGACY = [
    ("Convolution", (4, 3, 3, 3), (1, 1, 1, 4), (4, 3, 3, 3), (4,)),
    ("Deconvolution", (4, 3, 3, 3), (1, 1, 1, 4), (4, 3, 3, 3), (4,)),
    ("InnerProduct", (1, 1, 5, 6), (1, 1, 1, 5), (5, 6), (5,)),
    ("PReLU", (1, 1, 1, 4), (1, 1, 1, 1), (4,), (1,)),
    ("InnerProduct", (5, 6, 1, 1), (5, 1, 1, 1), (5, 6, 1, 1), (5, 1, 1, 1)),
    ("Custom", (1, 1, 5, 6), (1, 1, 1, 5), (1, 1, 5, 6), (1, 1, 1, 5)),
]


@pytest.mark.parametrize(("layer_type", "weight", "bias", "natural_weight", "natural_bias"), LEGACY)
def test_legacy_shapes(layer_type, weight, bias, natural_weight, natural_bias, tmp_path):
    blobs = [
        BlobProto(num=n, channels=c, height=h, width=w, data=range(n * c * h * w))
        for n, c, h, w in (weight, bias)
    ]
    net = NetParameter(layer=[LayerParameter(name="a", type=layer_type, blobs=blobs)])
    layers = read_weights(caffemodel(tmp_path, net))
    assert [blob.shape for blob in layers[0].blobs] == [natural_weight, natural_bias]
    assert layers[0].legacy_shape
    # Written anew, Caffe must still find the blobs to fit where the shapes stayed as they were.
    write_weights(tmp_path / "out.caffemodel", layers)
    (written,) = NetParameter.FromString((tmp_path / "out.caffemodel").read_bytes()).layer
    assert all(blob.HasField("num") == (layer_type == "Custom") for blob in written.blobs)
    assert_same(read_weights(tmp_path / "out.caffemodel"), layers)


# ---- Names


@pytest.mark.parametrize(
    ("layer_type", "count", "expected"),
    [
        ("Convolution", 2, ("weight", "bias")),
        ("InnerProduct", 1, ("weight",)),
        ("Scale", 2, ("weight", "bias")),
        ("", 2, ("weight", "bias")),
        ("ReLU", 0, ()),
        ("BatchNorm", 3, ("mean", "variance", "factor")),
        ("LSTM", 3, ("0", "1", "2")),
        ("", 4, ("0", "1", "2", "3")),
    ],
)
def test_param_names(layer_type, count, expected):
    assert param_names(layer_type, count) == expected


def test_state_dict_keys_may_come_in_any_order():
    blobs = [np.full(1, i, "f4") for i in range(11)]
    state = {f"net/a.b.{i}": blobs[i] for i in reversed(range(11))}
    state |= {"bn.factor": blobs[2], "c.bias": blobs[1], "bn.mean": blobs[0], "c.weight": blobs[0]}
    state["bn.variance"] = blobs[1]
    expected = [LayerWeights("net/a.b", "", blobs), LayerWeights("bn", "BatchNorm", blobs[:3])]
    expected.append(LayerWeights("c", "", blobs[:2]))
    layers = from_state_dict(state)
    assert_same(layers, expected)
    assert [layer.type for layer in layers] == ["", "BatchNorm", ""]


@settings(max_examples=100)
@given(layers=layer_lists())
def test_state_dict_and_back(layers):
    state = to_state_dict(layers)
    assert sum(blob.size for blob in state.values()) == sum(b.size for layer in layers for b in layer.blobs)
    back = from_state_dict(state)
    assert_same(back, layers)
    assert to_state_dict(back).keys() == state.keys()


@pytest.mark.parametrize(
    "keys",
    [["weight"], ["a.bias"], ["a.0", "a.2"], ["a.weight", "a.0"], ["a.running_mean"], ["a.mean", "a.factor"]],
)
def test_names_that_are_not_caffes_are_refused(keys):
    with pytest.raises(InputError, match=r"LAYER\.PARAM|Caffe's are"):
        from_state_dict({key: np.ones(1, "f4") for key in keys})


# ---- Copying by name


def layer(name: str, *shapes: tuple[int, ...], legacy: bool = False) -> LayerWeights:
    blobs = [np.arange(math.prod(shape), dtype="f4").reshape(shape) for shape in shapes]
    return LayerWeights(name, "", blobs, legacy_shape=legacy)


def test_layers_the_net_lacks_are_named_and_skipped():
    source = [layer("a", (2,)), layer("b", (3,)), layer("c")]
    matched, skipped = match_by_name(source, {"b": [(3,)], "new": [(4,)]}, "x.caffemodel")
    assert skipped == ["a", "c"]
    assert list(matched) == ["b"]
    np.testing.assert_array_equal(matched["b"][0], [0, 1, 2])


def test_of_two_layers_of_one_name_the_later_counts():
    source = [LayerWeights("a", "", [np.full(2, value, "f4")]) for value in (1, 2)]
    matched, _ = match_by_name(source, {"a": [(2,)]}, "x.caffemodel")
    np.testing.assert_array_equal(matched["a"][0], [2, 2])


@pytest.mark.parametrize(
    ("source", "target", "fits"),
    [
        (layer("a", (1, 1, 5, 6), legacy=True), (5, 6), True),
        (layer("a", (1, 1, 1, 5), legacy=True), (5,), True),
        (layer("a", (5, 6), legacy=True), (5, 6), True),
        (layer("a", (1, 1, 1, 1), legacy=True), (), True),
        (layer("a", (5,), legacy=True), (1, 5), True),
        (layer("a", (5, 6, 1, 1), legacy=True), (5, 6), False),
        (layer("a", (1, 1, 5, 6), legacy=True), (1, 1, 1, 5, 6), False),
        (layer("a", (1, 1, 5, 6)), (5, 6), False),
        (layer("a", (5,)), (1, 5), False),
        (layer("a", (6, 5)), (5, 6), False),
    ],
)
def test_shape_equals(source, target, fits):
    if fits:
        matched, _ = match_by_name([source], {"a": [target]}, "x.caffemodel")
        assert matched["a"][0].shape == target
        np.testing.assert_array_equal(matched["a"][0].ravel(), source.blobs[0].ravel())
    else:
        with pytest.raises(InputError) as caught:
            match_by_name([source], {"a": [target]}, "x.caffemodel")
        for part in ("x.caffemodel", '"a"', "×".join(map(str, target)), "rename"):
            assert part in str(caught.value)


@pytest.mark.parametrize("source", [layer("a"), layer("a", (2, 3)), layer("a", (2, 3), (2,), (2,))])
def test_another_number_of_blobs_is_an_error(source):
    with pytest.raises(
        InputError, match=r'x: layer "a" has \d blobs? .* in the file but 2 blobs \(2×3, 2\) in the net'
    ):
        match_by_name([source], {"a": [(2, 3), (2,)]}, "x")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_values_that_are_not_finite_are_counted(value, dtype):
    big = np.zeros(600_000, dtype)
    big[[0, 300_000, -1]] = value
    check_finite([layer("fine", (3,))], "x")
    with pytest.raises(InputError, match=r'x: layer "bad": 3 of 600002 values are NaN or infinite'):
        check_finite([layer("fine", (3,)), LayerWeights("bad", "", [np.ones(2, dtype), None, big])], "x")


# ---- Solver states and means

SNAPSHOT = SolverSnapshot(
    7, "dir/é.caffemodel", 2, [np.arange(6, dtype="f4").reshape(2, 3), np.ones((), "f8")]
)


@pytest.mark.parametrize("suffix", [".solverstate", ".solverstate.h5"])
@pytest.mark.parametrize("snapshot", [SNAPSHOT, SolverSnapshot(0)], ids=["full", "empty"])
def test_solverstate_and_back(snapshot, suffix, tmp_path):
    write_solverstate(tmp_path / f"x{suffix}", snapshot)
    back = read_solverstate(tmp_path / f"x{suffix}")
    assert (back.iteration, back.learned_net, back.current_step) == (
        snapshot.iteration,
        snapshot.learned_net,
        snapshot.current_step,
    )
    assert_same([LayerWeights("h", blobs=back.history)], [LayerWeights("h", blobs=snapshot.history)])


def test_long_histories_keep_their_order_in_hdf5(tmp_path):
    history = [np.full(1, i, "f4") for i in range(12)]
    write_solverstate(tmp_path / "x.h5", SolverSnapshot(1, history=history))
    assert [int(blob[0]) for blob in read_solverstate(tmp_path / "x.h5").history] == list(range(12))


def test_solverstate_from_before_current_step(tmp_path):
    blob = BlobProto(num=1, channels=1, height=1, width=2, data=[1, 2])
    (tmp_path / "x.solverstate").write_bytes(SolverState(iter=5, history=[blob]).SerializeToString())
    state = read_solverstate(tmp_path / "x.solverstate")
    assert (state.iteration, state.current_step, state.history[0].shape) == (5, 0, (1, 1, 1, 2))


@pytest.mark.parametrize("shape", [(), (3,), (3, 4, 5), (1, 3, 4, 5), (2, 1, 3, 4, 5)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_binaryproto_and_back(shape, dtype, tmp_path):
    array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    write_binaryproto(tmp_path / "x.binaryproto", array)
    back = read_binaryproto(tmp_path / "x.binaryproto")
    assert_same([LayerWeights("m", blobs=[back])], [LayerWeights("m", blobs=[array])])
    blob = BlobProto.FromString((tmp_path / "x.binaryproto").read_bytes())
    assert blob.HasField("num") == (len(shape) == 4)


def test_binaryproto_of_bytes_is_float32(tmp_path):
    write_binaryproto(tmp_path / "x.binaryproto", np.arange(6, dtype=np.uint8).reshape(2, 3))
    back = read_binaryproto(tmp_path / "x.binaryproto")
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, [[0, 1, 2], [3, 4, 5]])


# ---- Cut short


@pytest.mark.parametrize("path", sorted(FORMATS.glob("*.caffemodel")), ids=lambda path: path.stem)
def test_cut_caffemodel_is_refused_or_right(path, tmp_path):
    """A cut between two layers is a valid file of fewer; then these are the first ones, and right."""
    whole, layers = path.read_bytes(), read_weights(path, with_empty=True)
    accepted = 0
    for length in range(0, len(whole), 3):
        try:
            read = read_weights(caffemodel(tmp_path, whole[:length]), with_empty=True)
        except InputError as error:
            assert "\n" not in str(error)
            continue
        accepted += 1
        assert_same(read, layers[: len(read)])
    assert accepted < len(layers)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_cut_weights_are_refused(suffix, tmp_path):
    whole = in_format(suffix, tmp_path).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for length in [*range(0, len(whole), 61), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_weights(cut)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("solver_iter_3.solverstate", read_solverstate),
        ("solver_iter_3.solverstate.h5", read_solverstate),
        ("mean.binaryproto", read_binaryproto),
    ],
)
def test_cut_states_and_means_are_refused(name, read, tmp_path):
    whole = (FORMATS / name).read_bytes()
    cut = tmp_path / name
    for length in [*range(0, len(whole), 7), len(whole) - 2, len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read(cut)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=80), read=st.sampled_from([read_weights, read_solverstate, read_binaryproto]))
def test_noise_never_raises_anything_else(tmp_path_factory, data, read):
    path = tmp_path_factory.getbasetemp() / "noise.caffemodel"
    path.write_bytes(data)
    try:
        read(path)
    except InputError as error:
        assert str(path) in str(error)


PROTOBUF_FILES = [
    path for path in sorted(FORMATS.iterdir()) if path.suffix in (".caffemodel", ".solverstate")
]


@settings(deadline=None, max_examples=300)
@given(path=st.sampled_from(PROTOBUF_FILES), data=st.data())
def test_damage_never_raises_anything_else(tmp_path_factory, path, data):
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    copy = tmp_path_factory.getbasetemp() / f"damaged{path.suffix}"
    copy.write_bytes(damaged)
    with contextlib.suppress(InputError):
        (read_weights if path.suffix == ".caffemodel" else read_solverstate)(copy)


# ---- seenet convert

app = typer.Typer()
app.command()(errors_on_one_line()(convert_command))


def run_convert(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("suffix_out", SUFFIXES)
@pytest.mark.parametrize("suffix_in", SUFFIXES)
def test_convert_between_all_formats(suffix_in, suffix_out, tmp_path):
    src, dst = in_format(suffix_in, tmp_path), tmp_path / f"out{suffix_out}"
    code, stdout, _ = run_convert(src, dst)
    assert code == 0
    original = read_weights(FORMATS / "v2.caffemodel")
    assert_same(read_weights(dst), original)
    for part in ("conv", "4×3×3×3", "float32", "2 layers", "437"):
        assert part in stdout
    # The checksums do not depend on the format: those of the way back are the same.
    there, back = convert(src, dst, progress=False), convert(dst, tmp_path / "back.pth", progress=False)
    assert total_checksum(there) == total_checksum(back)
    assert f"{total_checksum(there):08x}" in stdout


def test_convert_keeps_doubles(tmp_path):
    src = FORMATS / "v2_double.caffemodel"
    for suffix in SUFFIXES:
        convert(src, tmp_path / f"out{suffix}", progress=False)
        assert_same(read_weights(tmp_path / f"out{suffix}"), read_weights(src))


def test_convert_onto_itself(tmp_path):
    path = in_format(".caffemodel", tmp_path)
    assert run_convert(path, path)[0] == 0
    assert_same(read_weights(path), read_weights(FORMATS / "v2.caffemodel"))


def test_convert_as_a_script(tmp_path):
    def run(*arguments, **environment):
        command = [sys.executable, ROOT / "weights" / "convert.py", *arguments]
        environment = {**os.environ, **environment}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    src, dst = FORMATS / "v1.caffemodel", tmp_path / "out.safetensors"
    done = run(src, dst, FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert "out.safetensors" in done.stderr  # the bar, as on a terminal
    assert_same(read_weights(dst), read_weights(src))
    done = run("missing", dst)
    assert (done.returncode, done.stderr) == (2, "error: missing: there is no such file: check the path\n")


def pth(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def hdf5(**datasets: object) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in datasets.items():
            file[name.replace("__", "/")] = value
    return buffer.getvalue()


NAN = LayerParameter(name="bad", blobs=[BlobProto(data=[math.nan], shape={"dim": [1]})])
EMPTY_NET = NetParameter(name="n", layer=[LayerParameter(name="relu", type="ReLU")])
BAD_INPUT = {
    "empty.caffemodel": (b"", "the file is empty"),
    "text.caffemodel": ((FORMATS / "v2.prototxt").read_bytes(), "it looks like a text file"),
    "page.caffemodel": (b"\n<!DOCTYPE html><html>", "it looks like a web page"),
    "photo.caffemodel": (b"\xff\xd8\xff\xe0" + bytes(300), "it looks like a JPEG image"),
    "zip.caffemodel": (pth({}), "it looks like a zip archive"),
    "state.caffemodel": ((FORMATS / "solver_iter_3.solverstate").read_bytes(), "not a caffemodel"),
    "mean.caffemodel": ((FORMATS / "mean.binaryproto").read_bytes(), "not a caffemodel"),
    "cut.caffemodel": ((FORMATS / "v2.caffemodel").read_bytes()[:600], "ends"),
    "weightless.caffemodel": (EMPTY_NET.SerializeToString(), "none of its layers has weights"),
    "nan.caffemodel": (NetParameter(layer=[NAN]).SerializeToString(), 'layer "bad": 1 of 1 values are NaN'),
    "state.h5": ((FORMATS / "solver_iter_3.solverstate.h5").read_bytes(), "no group /data"),
    "text.h5": (hdf5(data__fc__0="text"), "no array of numbers"),
    "flat.h5": (hdf5(data__fc=[1.0]), "no group of blobs"),
    "named.h5": (hdf5(data__fc__weight=[1.0]), "not named by the index"),
    "ints.safetensors": (safetensors.numpy.save({"a.weight": np.ones(1, "i8")}), '"a.weight" is I64'),
    "names.safetensors": (
        safetensors.numpy.save({"a.gamma": np.ones(1, "f4")}),
        'layer "a" has parameters gamma',
    ),
    "huge.safetensors": (b"\xff" * 8 + b"{}", "not a safetensors file"),
    "object.pth": (pth({"a.weight": Path("x")}), "could run code"),
    "list.pth": (pth([torch.ones(1)]), "holds a list, not a state dict"),
    "half.pth": (pth({"a.weight": torch.ones(1).half()}), '"a.weight" is torch.float16'),
    "number.pth": (pth({"a.weight": 1.0}), '"a.weight" is float'),
    "noise.pth": (b"\x00\x01\x02noise", "not a PyTorch checkpoint"),
}


def message_field(number: int, contents: bytes) -> bytes:
    return b"".join(length_delimited(number, [contents]))


@pytest.mark.parametrize("version", ["v2", "v1", "v0"])
def test_headers_of_forks_are_not_read(version: str, tmp_path: Path) -> None:
    """Fields that clash with our schema, in the net, in a layer and within a layer's message, change nothing.

    As in SSD's weights: `transform_param`, field 100, holds a message in field 8, packed floats here.
    """
    blobs = [BlobProto(data=[1.0, 2.0], shape={"dim": [2]})]
    clash = message_field(100, message_field(8, b"abc")) + message_field(17, b"\xff")
    if version == "v2":
        layer = message_field(
            100, LayerParameter(name="c", type="Bias", blobs=blobs).SerializeToString() + clash
        )
    elif version == "v1":
        layer = message_field(2, V1LayerParameter(name="c", blobs=blobs).SerializeToString() + clash)
    else:
        inner = V0LayerParameter(name="c", type="conv", blobs=blobs).SerializeToString() + clash
        layer = message_field(2, message_field(1, inner))
    path = tmp_path / "fork.caffemodel"
    path.write_bytes(layer + message_field(8, b"\xff\xff") + message_field(6, b"x"))
    (read,) = read_weights(path)
    assert read.name == "c"
    assert read.blobs[0].tolist() == [1, 2]


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(name, tmp_path):
    contents, message = BAD_INPUT[name]
    src, dst = tmp_path / name, tmp_path / "out" / "out.safetensors"
    src.write_bytes(contents)
    code, stdout, stderr = run_convert(src, dst)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"error: {src}")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not dst.exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [src]


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        ("missing.caffemodel", "out.pth", "there is no such file"),
        (".", "out.pth", "cannot be read"),
        ("v2.caffemodel", "out.onnx", "unknown kind of file"),
        ("v2.caffemodel", "v2.caffemodel/out.pth", "cannot be written"),
    ],
)
def test_bad_paths(src, dst, message, tmp_path):
    (tmp_path / "v2.caffemodel").write_bytes((FORMATS / "v2.caffemodel").read_bytes())
    code, _, stderr = run_convert(tmp_path / src, tmp_path / dst)
    assert code == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_input_leaves_an_older_dst_alone(tmp_path):
    dst = tmp_path / "out.safetensors"
    dst.write_bytes(b"older")
    assert run_convert(caffemodel(tmp_path, NetParameter(layer=[NAN])), dst)[0] == 2
    assert dst.read_bytes() == b"older"


def test_failure_in_the_middle_leaves_nothing(tmp_path):
    def fail(_):
        raise OSError(28, "No space left on device")

    for suffix in SUFFIXES:
        with pytest.raises(InputError, match="No space left on device"):
            write_weights(tmp_path / f"out{suffix}", [layer("a", (3,))], progress=fail)
    assert not list(tmp_path.iterdir())


def test_protobuf_files_that_caffe_could_not_read_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("weights.wire.MAX_FILE_BYTES", 100)
    for write in (
        lambda: write_weights(tmp_path / "out.caffemodel", [layer("a", (30,))]),
        lambda: write_solverstate(
            tmp_path / "out.solverstate", SolverSnapshot(1, history=[np.ones(30, "f4")])
        ),
    ):
        with pytest.raises(InputError, match=r"more than the 2 GB that Caffe reads: write \.h5"):
            write()
    assert not list(tmp_path.iterdir())


def run_python(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_full_disk_is_one_line(tmp_path):
    """A process that may only write small files stands for the full disk."""
    script = """
import resource, signal, sys
import numpy as np, torch
from prototxt.errors import InputError, errors_on_one_line
from weights import LayerWeights, SolverSnapshot, write_solverstate, write_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
blob = np.ones(100_000, "f4")
for path in sys.argv[1:]:
    try:
        if "state" in path:
            write_solverstate(path, SolverSnapshot(1, history=[blob]))
        else:
            write_weights(path, [LayerWeights("a", "", [blob])])
    except InputError as error:
        print(error)
"""
    paths = [tmp_path / f"out{suffix}" for suffix in (*SUFFIXES, ".solverstate", ".state.h5")]
    lines = run_python(script, *paths).splitlines()
    assert lines == [f"{path}: writing failed (File too large): nothing was changed" for path in paths]
    assert not list(tmp_path.iterdir())


def test_torch_is_only_imported_for_its_own_format():
    script = "import sys, weights, weights.convert; print('torch' in sys.modules)"
    assert run_python(script) == "False\n"


def test_nan_can_be_allowed(tmp_path):
    src = caffemodel(tmp_path, NetParameter(layer=[NAN]))
    assert "--allow-nan" in run_convert(src, tmp_path / "out.pth")[2]
    assert run_convert("--allow-nan", src, tmp_path / "out.pth")[0] == 0
    assert np.isnan(read_weights(tmp_path / "out.pth")[0].blobs[0]).all()


def test_checkpoint_nested_under_state_dict(tmp_path):
    state = {
        "state_dict": {"fc.weight": torch.nn.Parameter(torch.ones(2, 3)), "fc.bias": torch.ones(2)},
        "epoch": 3,
    }
    torch.save(state, tmp_path / "x.pt")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("x.pt", "old.pth"):
        assert_same(
            read_weights(tmp_path / name), [LayerWeights("fc", "", [np.ones((2, 3), "f4"), np.ones(2, "f4")])]
        )


def test_caffe_warns_of_slashes_in_hdf5(tmp_path):
    write_weights(tmp_path / "in.pth", [layer("inception/1x1", (2,))])
    assert "Caffe 1.0 cannot find" in run_convert(tmp_path / "in.pth", tmp_path / "out.h5")[1]
    assert "Caffe 1.0 cannot find" not in run_convert(tmp_path / "in.pth", tmp_path / "out.caffemodel")[1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_converting_a_caffemodel_makes_no_copy_of_the_weights(suffix, tmp_path):
    size = 1 << 24
    write_weights(
        tmp_path / "in.caffemodel", [LayerWeights("fc", "InnerProduct", [np.ones(size // 4, "f4")])]
    )
    convert(FORMATS / "v2.caffemodel", tmp_path / f"warm{suffix}", progress=False)  # imports
    tracemalloc.start()
    convert(tmp_path / "in.caffemodel", tmp_path / f"out{suffix}", progress=False)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < size / 4
