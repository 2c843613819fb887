"""SeeNet as an nn.Module: training mode, batches, every size, export."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import port
from parity_tests.recordings import NETS, seenet_weights
from weights import read_weights, write_weights

NARROW = (4, 8, 16, 32, 32)


def _model(**settings: object) -> port.SeeNet:
    torch.manual_seed(0)
    model = port.SeeNet(channels=NARROW, **settings)
    for parameter in model.parameters():  # the fillers' 0.01 would leave the scores all but flat
        parameter.data.mul_(1).add_(0.05 * torch.randn_like(parameter))
    return model


def test_state_dict_has_caffes_names() -> None:
    names = {key.rsplit(".", 1)[0] for key in port.SeeNet(channels=NARROW).state_dict()}
    trunk = {
        f"conv{block}_{i}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)
    }
    assert names == trunk | {f"{layer}_b{b}" for layer in ("conv1", "conv2", "score") for b in (1, 2, 3)}
    deploy = port.CaffeNet(NETS / "seenet" / "narrow_deploy.prototxt")
    assert set(deploy.state_dict()) == set(port.SeeNet(channels=NARROW, background=False).state_dict())


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    labels=st.lists(st.sets(st.integers(0, 19)), min_size=1, max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_any_size_and_batch(height: int, width: int, labels: list[set[int]]) -> None:
    """A batch gives each image's own scores, whatever its size and labels."""
    model = _model().eval()
    data = 50 * torch.randn(len(labels), 3, height, width)
    label = torch.zeros(len(labels), 20)
    for row, classes in zip(label, labels, strict=True):
        row[list(classes)] = 1
    with torch.no_grad():
        together = model(data, label)
        apart = [model(d[None], n[None, :, None, None]) for d, n in zip(data, label, strict=True)]
    for i, scores in enumerate(together):
        assert scores.shape == (len(labels), 20, -(-height // 16), -(-width // 16))
        single = torch.cat([a[i] for a in apart])
        assert (scores - single).abs().max() <= 1e-5 * single.abs().max()


def test_training_mode_has_three_branches_and_gradients() -> None:
    model = _model(maxt=0.7, mint=0.05).train()
    data, label = torch.randn(2, 3, 40, 56), torch.zeros(2, 20)
    label[:, 4] = 1
    scores = model(data, label)
    assert len(scores) == 3
    sum(score.mean() for score in scores).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert len(model.eval()(data, label)) == 2
    assert len(_model(background=False, maxt=0.7).train()(data, label)) == 2


@pytest.mark.parametrize("backward", ["caffe", "exact"])
def test_export(backward: str) -> None:
    """torch.export with a dynamic batch and size gives a program with the same numbers."""
    model = _model(maxt=0.5, mint=0.1, backward=backward).eval()
    data, label = 50 * torch.randn(2, 3, 64, 96), torch.zeros(2, 20)
    label[0, 3] = label[1, 7] = 1
    batch, height, width = (torch.export.Dim(name, min=2, max=1024) for name in ("batch", "height", "width"))
    shapes = ({0: batch, 2: 16 * height, 3: 16 * width}, {0: batch})
    program = torch.export.export(model, (data, label), dynamic_shapes=shapes).module()
    data, label = 50 * torch.randn(3, 3, 48, 80), torch.eye(20)[[2, 5, 9]]
    with torch.no_grad():
        for ours, exported in zip(model(data, label), program(data, label), strict=True):
            assert torch.equal(ours, exported)


def test_training_with_test_thresholds_warns_once() -> None:
    data, label = torch.randn(1, 3, 32, 32), torch.zeros(1, 20)
    model = _model().train()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            model(data, label)
    assert len(seen) == 1 and "with the released test thresholds" in str(seen[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _model().eval()(data, label)
        _model(maxt=0.7, mint=0.05).train()(data, label)
        _model(maxt=0.7, mint=0.0).train()(data, label)  # ACoL-style erasing, on purpose


def test_refusals() -> None:
    with pytest.raises(ValueError, match='backward is "caffe" or "exact"'):
        port.SeeNet(channels=NARROW, backward="both")
    model = _model().eval()
    image = torch.zeros(8, 8, 3).numpy()
    with pytest.raises(port.InputError, match="label 20 is out of range"):
        port.attention_maps(model, image, [20])
    with pytest.raises(port.InputError, match=r"the image is \(8, 8\)"):
        port.attention_maps(model, image[:, :, 0], [1])
    with pytest.raises(port.InputError, match='label_state "never"'):
        port.attention_maps(model, image, [1], label_state="never")


def test_without_s_b_it_is_plain_attention(tmp_path: Path) -> None:
    """A file of S_A alone, as stage cam trains it: the same score_b1, and maps of S_A's alone."""
    whole = _model(background=False).eval()
    write_weights(tmp_path / "whole.caffemodel", seenet_weights(whole, 3))
    layers = read_weights(tmp_path / "whole.caffemodel")
    write_weights(tmp_path / "cam.caffemodel", [layer for layer in layers if not layer.name.endswith("_b2")])
    whole, plain = (port.SeeNet.from_caffemodel(tmp_path / f"{name}.caffemodel") for name in ("whole", "cam"))
    assert not plain.erasing and not plain.background
    data, label = 50 * torch.randn(1, 3, 64, 64), torch.ones(1, 20)
    with torch.no_grad():
        (score_b1,) = plain(data, label)
        torch.testing.assert_close(score_b1, whole(data, label)[0], rtol=0, atol=0)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    maps = [port.attention_maps(model, image, [3, 7], test_size=64) for model in (plain, whole)]
    assert (maps[0] <= maps[1]).all() and (maps[0] < maps[1]).any()
