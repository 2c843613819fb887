"""The first pass of SeeNet's training: blobs, losses and all gradients, against genuine Caffe.

With S_C's own weights and with S_B's; both engines, the module, and the nets in `prototxt/seenet/`.
"""

import ast
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import port
from parity_tests.recordings import (
    NET_GRADIENT,
    NETS,
    SEENET_TRAIN,
    WHOLE_NET,
    error,
    fill_he_uniform,
    he_uniform,
    sampled,
)
from port.models.seenet import BRANCH
from port.training.caffe_log import CaffeLog
from port.training.net import TrainingNet
from prototxt import parse_net, read_net
from prototxt.caffe_pb2 import LayerParameter, NetState
from prototxt.rules import layer_included
from runtime import TRAIN
from weights import LayerWeights, write_weights
from weights.third_branch import OWN, SHARED, UNKNOWN, third_branch

CASES, ARRAYS = SEENET_TRAIN
CASE = pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])


@CASE
def test_first_pass_and_gradients(caffe: ModuleType, case: dict) -> None:
    name = case["name"]
    net = caffe.Net.from_message(parse_net(case["net"]), TRAIN, allow_modules=())
    fill_he_uniform(net, case["weights"]["seed"])
    net.blobs["data"].data[...], net.blobs["label"].data[...] = _first_batch(case)
    net.forward()
    for key, golden in _arrays(name, "first"):
        blob = net.blobs[key].data
        assert error(blob, golden) <= WHOLE_NET, key
        if key.startswith("mask"):
            assert np.array_equal(np.sign(blob), np.sign(golden)), f"{key}: an erasing decision differs"
    net.clear_param_diffs()
    net.backward()
    for key, golden in _arrays(name, "firstgrad"):
        layer, index = key.rsplit("/", 1)
        diff = net.params[layer][int(index)].diff
        actual = sampled(diff) if case["sampled"] else diff
        assert error(actual, golden, np.abs(diff).max()) <= NET_GRADIENT, key


@CASE
def test_the_module_computes_the_same(case: dict) -> None:
    """SeeNet with PyTorch's loss: scores, losses and gradients; with `share_background` where the recording shares."""
    name = case["name"]
    model = _module(case)
    data, label = map(torch.from_numpy, _first_batch(case))
    scores = model.train()(data, label)
    targets = (label, label, torch.zeros_like(label))
    pairs = zip(scores, targets, strict=True)
    losses = [binary_cross_entropy_with_logits(s.mean((2, 3)), target) for s, target in pairs]
    for number, (score, loss) in enumerate(zip(scores, losses, strict=True), 1):
        golden = ARRAYS[f"{name}/first/score_b{number}"]
        actual = sampled(score.detach().numpy()) if case["sampled"] and golden.ndim == 1 else score.detach()
        assert error(actual, golden) <= WHOLE_NET, f"score_b{number}"
        assert error(loss.item(), ARRAYS[f"{name}/first/loss_b{number}"]) <= WHOLE_NET, f"loss_b{number}"
    sum(losses).backward()
    for key, golden in _arrays(name, "firstgrad"):
        layer, index = key.rsplit("/", 1)
        conv = _convolutions(model)[layer]
        diff = (conv.weight, conv.bias)[int(index)].grad.numpy()
        actual = sampled(diff) if case["sampled"] else diff
        assert error(actual, golden, np.abs(diff).max()) <= NET_GRADIENT, key


@pytest.mark.parametrize(
    ("net", "case"),
    [
        ("narrow_train", "narrow"),
        ("train", "full"),
        ("narrow_train_shared", "shared_narrow"),
        ("train_shared", "shared_narrow"),
    ],
)
def test_our_nets_are_the_recorded_ones(net: str, case: str) -> None:
    """Layer by layer the same message, but for the data, S_A's dropout, and the widths where they differ."""
    state = NetState(phase=TRAIN)
    ours = [
        layer for layer in read_net(NETS / "seenet" / f"{net}.prototxt").layer if layer_included(layer, state)
    ]
    (text,) = (own["net"] for own in CASES if own["name"] == case)
    recorded = [layer for layer in parse_net(text).layer if layer.type != "Input"]
    left_out = ("data", "zero", "drop2_b1")
    same_width = net.startswith("narrow") or case == "full"
    told = _plain([layer for layer in ours if layer.name not in left_out], same_width)
    assert told == _plain(recorded, same_width)


@pytest.mark.parametrize("net", ["seenet/train", "seenet/narrow_train", "shapes/train"])
def test_shared_nets_differ_in_names_only(net: str) -> None:
    own, shared = (read_net(NETS / f"{name}.prototxt") for name in (net, f"{net}_shared"))
    for layer in own.layer:
        if layer.name in ("conv1_b3", "conv2_b3", "score_b3"):
            for param in layer.param:
                param.name = param.name.replace("_b3_", "_b2_")
    assert list(own.layer) == list(shared.layer)


def test_a_file_says_whether_s_c_shares(tmp_path: Path) -> None:
    """Equal numbers, or an HDF5 file that leaves S_C's out: shared. Other numbers: its own. None: no S_C."""
    for case in CASES:
        if case["name"] not in ("narrow", "shared_narrow"):
            continue
        shared = case["name"] == "shared_narrow"
        convolutions = _convolutions(_module(case))
        layers = [
            LayerWeights(name, "Convolution", [conv.weight.detach().numpy(), conv.bias.detach().numpy()])
            for name, conv in convolutions.items()
        ]
        write_weights(tmp_path / "net.caffemodel", layers)
        model = port.SeeNet.from_caffemodel(tmp_path / "net.caffemodel")
        assert model.background and model.share_background == shared
        write_weights(tmp_path / "deploy.caffemodel", [own for own in layers if not own.name.endswith("b3")])
        deploy = port.SeeNet.from_caffemodel(tmp_path / "deploy.caffemodel")
        assert not deploy.background and not deploy.share_background
        asked = port.SeeNet.from_caffemodel(
            tmp_path / "deploy.caffemodel", background=True, share_background=True, maxt=0.7
        )
        assert len(asked.train()(torch.zeros(1, 3, 32, 32), torch.zeros(1, 20))) == 3
        if shared:
            blobs = [[None] * 2 if own.name.endswith("b3") else own.blobs for own in layers]
            left_out = [
                LayerWeights(own.name, own.type, kept) for own, kept in zip(layers, blobs, strict=True)
            ]
            write_weights(tmp_path / "net.caffemodel.h5", left_out)
            assert port.SeeNet.from_caffemodel(tmp_path / "net.caffemodel.h5").share_background


EXPLAINED = {
    "train": (OWN, "S_C has weights of its own"),
    "train_shared": (SHARED, "S_C shares S_B's weights"),
    "deploy": (UNKNOWN, "points to S_C as S_B's own classifier, and proves nothing"),
}


@pytest.mark.parametrize("kind", ["caffemodel", "caffemodel.h5", "safetensors"])
@pytest.mark.parametrize("net", EXPLAINED)
def test_explain_tells_the_form_of_s_c(seenet: Callable, tmp_path: Path, net: str, kind: str) -> None:
    """Of a snapshot in each format; HDF5 and safetensors keep no names."""
    message = read_net(NETS / "seenet" / f"narrow_{net}.prototxt")
    kept = [layer for layer in message.layer if layer.name not in ("data", "zero", "input")]
    sizes = {"data": (1, 3, 32, 32), "label": (1, 20), "zero": (1, 20)}
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" '
        f"input_param {{ shape {{ {' '.join(f'dim: {size}' for size in shape)} }} }} }}\n"
        for name, shape in sizes.items()
    )
    net_message = parse_net(inputs)
    net_message.layer.extend(kept)
    built = TrainingNet(net_message, TRAIN, log=CaffeLog(silent=True))
    path = tmp_path / f"net.{kind}"
    write_weights(path, built.layer_weights(owners_only=kind == "caffemodel.h5"))
    form, told = EXPLAINED[net]
    if net == "deploy" and kind != "caffemodel":
        told = "No parameter is named, or the file does not keep names"
    if net == "train_shared" and kind == "caffemodel.h5":
        assert "left out of the file" in " ".join(third_branch(path).lines)
    assert third_branch(path).form == form
    status, out, err = seenet("convert", path, "--explain")
    assert status == 0 and told in out, out + err


def test_explain_refuses_other_files(seenet: Callable, tmp_path: Path) -> None:
    path = tmp_path / "other.caffemodel"
    write_weights(path, [LayerWeights("conv1_b2", "Convolution", [np.zeros((1, 1, 1, 1), np.float32)])])
    status, _, err = seenet("convert", path, "--explain")
    assert status == 2 and "not SeeNet's weights: conv2_b2, score_b2 missing" in err
    for arguments in ((path,), (path, tmp_path / "out.h5", "--explain")):
        status, _, err = seenet("convert", *arguments)
        assert status == 2 and "give DST, what to write, or --explain" in err


def test_sharing_needs_both_branches() -> None:
    for missing in ({"erasing": False}, {"background": False}):
        with pytest.raises(ValueError, match="share_background needs S_B and S_C"):
            port.SeeNet(share_background=True, **missing)


def _module(case: dict) -> port.SeeNet:
    """The recorded net as the module, with its weights."""
    net = parse_net(case["net"])
    shared = any(layer.name == "conv1_b3" and layer.param[0].name == "conv1_b2_w" for layer in net.layer)
    widths = {layer.name: layer.convolution_param.num_output for layer in net.layer}
    channels = [widths[f"conv{block}_1"] for block in range(1, 6)]
    (mask,) = (layer.python_param.param_str for layer in net.layer if layer.name == "mask_b2")
    model = port.SeeNet(share_background=shared, dropout=0, channels=channels, **ast.literal_eval(mask))
    convolutions = _convolutions(model)
    shapes = {name: [tuple(conv.weight.shape), tuple(conv.bias.shape)] for name, conv in convolutions.items()}
    rebuilt = he_uniform(shapes, case["weights"]["seed"])
    model.copy_weights([LayerWeights(name, "Convolution", blobs) for name, blobs in rebuilt.items()])
    return model


def _convolutions(model: port.SeeNet) -> dict[str, nn.Conv2d]:
    """By Caffe's layer name; with `share_background` S_B's have two."""
    found = {name: conv for name, conv in model.named_children() if isinstance(conv, nn.Conv2d)}
    if model.share_background:
        found |= {f"{layer}_b3": found[f"{layer}_b2"] for layer in BRANCH}
    return found


def _first_batch(case: dict) -> tuple[np.ndarray, np.ndarray]:
    name, data = case["name"], case["data"]
    pixels = ARRAYS[f"{name}/{data['from']}"][0].astype(np.float32)
    return (pixels - data["minus"]) / np.float32(data["over"]), ARRAYS[f"{name}/label"][0].astype(np.float32)


def _plain(layers: Sequence[LayerParameter], with_width: bool) -> list[LayerParameter]:
    """Without stages, without names of parameters that nothing shares, and where widths differ without them."""
    names = Counter(param.name for layer in layers for param in layer.param)
    plain = [LayerParameter.FromString(layer.SerializeToString()) for layer in layers]
    for layer in plain:
        layer.ClearField("include")
        layer.ClearField("exclude")
        for param in layer.param:
            if names[param.name] == 1:
                param.ClearField("name")
        if not with_width and layer.type == "Convolution":
            layer.convolution_param.num_output = 0
    return plain


def _arrays(*prefix: str) -> list[tuple[str, np.ndarray]]:
    start = "/".join(prefix) + "/"
    found = [(key[len(start) :], array) for key, array in ARRAYS.items() if key.startswith(start)]
    assert found, f"nothing recorded under {start}"
    return found
