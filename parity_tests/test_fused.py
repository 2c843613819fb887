"""A net's fused form gives what the net gives, and keeps nothing else."""

import copy
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from parity_tests.drawn_layers import TYPES, Drawn, drawn_layers
from parity_tests.recordings import NETS, WHOLE_NET
from parity_tests.test_caffe_net import inputs_of, net_of
from parity_tests.test_translate import IN_TRAINING, LENET, NETWORKS, conv, data, layer
from port.fused import FusedNet
from port.net import CaffeNet
from prototxt.errors import InputError
from prototxt.read import parse_net
from runtime.rng import set_random_seed

WHOLE = [name for name in NETWORKS if name not in IN_TRAINING and "deeplab" not in name and name != "ssd"]
"""DeepLab and an SSD are among the published nets below."""


def net_with_drawn_scales(text: str, seed: int) -> CaffeNet:
    """A net whose scales, biases and statistics are not what they start as."""
    net = net_of(text)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in net.layers:
            for blob in part.blobs:
                values = 0.5 + torch.rand(blob.shape, generator=draw)
                if part.plan.type not in ("BatchNorm", "BN"):
                    values *= 1 - 2 * (torch.rand(blob.shape, generator=draw) < 0.3)
                if blob.ndim == 1 or part.plan.type == "BN":
                    blob.copy_(values)
    return net


def check(net: CaffeNet, *inputs: torch.Tensor, blobs: Sequence[str] = ()) -> FusedNet:
    """Hold a net's fused form to the net and, with every blob asked for, to float64."""
    # Each on a net of its own: a recurrent layer goes on from where it was.
    fused, exact = copy.deepcopy(net).fused(blobs), copy.deepcopy(net).double()
    got = fused(*inputs)
    with torch.no_grad():
        due = net(*inputs, blobs=blobs)
        truth = exact(*(x.double() for x in inputs), blobs=blobs)
    assert list(got) == list(due)
    for name, top in due.items():
        assert got[name].shape == top.shape and got[name].is_contiguous(), name
        bound = WHOLE_NET if top.dtype == torch.float32 else 1e-12
        assert_near(got[name], truth[name], bound, name)
        if name not in blobs:
            assert_near(got[name], top, bound, name)
    return fused


def assert_near(got: torch.Tensor, due: torch.Tensor, bound: float, name: str) -> None:
    largest = max(due.detach()[due.isfinite()].abs().tolist(), default=0.0)
    torch.testing.assert_close(
        got.double(),
        due.double(),
        rtol=0,
        atol=bound * largest,
        equal_nan=True,
        msg=lambda text: f"{name}: {text}",
    )


def test_unit_weights_are_not_joined() -> None:
    """happynear's `normalize`: what a layer behind it would multiply into the weight, it would take out again."""
    unit = 'num_output: 4 normalize: true weight_filler { type: "xavier" }'
    text = data(2, 3) + layer("InnerProduct", "fc", "data", "", unit)
    net = net_with_drawn_scales(text + layer("Scale", "scaled", "fc", "", "bias_term: true"), 0)
    check(net, torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", WHOLE)
def test_networks(name: str) -> None:
    net = net_with_drawn_scales(NETWORKS[name], 0)
    inputs = inputs_of(net)
    assert not check(net, *inputs).unfused
    check(net, *inputs, blobs=net.plan.blobs)
    check(net, *inputs, blobs=net.plan.blobs[::3])


@pytest.mark.parametrize("name", ["lenet", "resnet", "densenet"])
def test_other_sizes_and_types(name: str) -> None:
    net = net_with_drawn_scales(NETWORKS[name], 1)
    (x,) = inputs_of(net)
    check(net, torch.cat([x, -x, x]))
    check(net, x.contiguous(memory_format=torch.channels_last))
    check(net.double(), x.double())
    fused = net.float().fused()
    for other in (x, torch.cat([x, x]), x[:0]):
        got, due = (next(iter(run(other).values())) for run in (fused, net))
        assert_near(got, due, WHOLE_NET, name)
    with pytest.raises(InputError, match="layer "):
        fused(x[:, :0])
    with pytest.raises(InputError, match="is an array, not a tensor"):
        fused(x.numpy())


@pytest.mark.parametrize("path", sorted(NETS.glob("*/narrow_deploy.prototxt")), ids=lambda p: p.parent.name)
def test_published_nets(path: Path) -> None:
    message = parse_net(path.read_text())
    if path.parent.name == "ssd":
        del message.layer[-1]  # the boxes' order hangs on the rounding of scores that random weights give
    net = net_with_drawn_scales(str(message), 2)
    inputs = inputs_of(net)
    if path.parent.name == "deeplab_v1":
        inputs = (inputs[0], torch.tensor([64.0, 80.0]).view(1, 1, 1, 2))
    fused = check(net, *inputs)
    assert not fused.unfused and len(fused.layers) < len(net.layers)


def test_a_relu_that_gives_its_mask_is_not_joined() -> None:
    text = data(2, 3, 6, 6) + conv("c", "data", 4, 3) + layer("ReLU", "r", "c", "r mask")
    check(net_with_drawn_scales(text, 1), *inputs_of(net_of(text)))


IN_PLACE = ("BatchNorm", "Scale", "Bias", "ReLU", "Dropout")
JOINING = ("Eltwise", "Concat")
SMALL = [
    *[("Convolution", 'num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "msra" }')] * 2,
    ("BatchNorm", ""),
    *[("Scale", "bias_term: true"), ("Bias", ""), ("Dropout", "")],
    *[("ReLU", ""), ("ReLU", "negative_slope: 0.1")],
    *[("Eltwise", ""), ("Eltwise", "operation: MAX"), ("Eltwise", "coeff: 1 coeff: -2")],
    *[("Concat", ""), ("Pooling", "kernel_size: 3 stride: 1 pad: 1")],
    *[("Flatten", ""), ("LRN", "local_size: 3 alpha: 0.5")],
]


@pytest.mark.parametrize("seed", range(40))
def test_nets_drawn_at_random(seed: int) -> None:
    """Layers in and out of place, on blobs that one or several read."""
    net = net_with_drawn_scales(drawn_net(random.Random(seed)), seed)
    (x,) = inputs_of(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some write into memory that is read later
        check(net, x)
        check(net, x, blobs=net.plan.blobs[:: 1 + seed % 4])


def drawn_net(draw: random.Random) -> str:
    """A net of small layers on maps of one shape."""
    text, maps, read = data(2, 8, 6, 6), ["data"], {"data"}
    for i in range(draw.randint(4, 16)):
        (kind, param), bottom, other, name = draw.choice(SMALL), *draw.choices(maps[-4:], k=2), f"x{i}"
        # Caffe works in place only on what nothing else reads before.
        top = bottom if kind in IN_PLACE and bottom not in read and draw.random() < 0.7 else name
        bottoms = f"{bottom} {other}" if kind in JOINING else bottom
        text += layer(kind, name, bottoms, top, param)
        read.update({*bottoms.split()} - {top})
        if kind == "Concat":
            text += conv(f"{name}c", name, 8, 1)
        if kind != "Flatten":
            maps.append(f"{name}c" if kind == "Concat" else top)
    return text


@pytest.mark.parametrize("kind", TYPES)
def test_layers_drawn_at_random(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What CaffeNet takes, the fused form takes, in a convolution's layout too, with the same result."""

    @settings(
        max_examples=8,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn_layers(kind))
    def judge(drawn: Drawn) -> None:
        set_random_seed(drawn.seed)
        try:
            net = CaffeNet(drawn.net, 1)
            set_random_seed(1)
            due = copy.deepcopy(net)(**{name: torch.from_numpy(x.copy()) for name, x in drawn.values.items()})
        except InputError:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fused = net.fused()
        set_random_seed(1)
        for name, top in fused(**{name: _as_convolved(x) for name, x in drawn.values.items()}).items():
            assert_near(top, due[name], WHOLE_NET, name)

    monkeypatch.chdir(tmp_path)  # some layers write files
    judge()


def _as_convolved(x: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(x.copy())
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def test_every_value_is_dropped_after_its_last_reader() -> None:
    fused = net_of(NETWORKS["googlenet"]).fused()
    there, most = set(fused._inputs.values()), 0
    for step in fused._steps:
        assert there >= set(step.reads)
        there.update(step.makes)
        most = max(most, len(there))
        there.difference_update(step.drops)
    assert there == set(fused._given.values()) and most <= 6


def test_what_is_joined() -> None:
    fused = net_of(NETWORKS["resnet"]).fused()
    assert ["conv1", "conv1/bn", "conv1/scale", "conv1_relu"] in fused.layers
    assert any(names[-2:] == ["res2a", "res2a_relu"] and len(names) > 4 for names in fused.layers), fused
    assert "drop" not in str(net_of(NETWORKS["alexnet"]).fused())


SHARED_MEMORY = (
    data(1, 4, 5, 5)
    + conv("c", "data", 4, 1)
    + layer("Reshape", "r", "c", "r", "shape { dim: 0 dim: -1 }")
    + layer("ReLU", "relu", "r", "r")
    + layer("Concat", "out", "c", "out")
)
NOT_FUSED = [
    (SHARED_MEMORY, 1, 'layer "relu" writes into the memory of blob "c.*", which is read later'),
    (NETWORKS["training"], 0, "is in the TRAIN phase"),
]


@pytest.mark.parametrize(("text", "phase", "told"), NOT_FUSED)
def test_a_net_that_cannot_be_fused_is_named_and_runs(text: str, phase: int, told: str) -> None:
    net = net_of(text, phase)
    inputs = inputs_of(net)
    with pytest.warns(UserWarning, match=f"{told}.*runs layer by layer"):
        fused = net.fused()
    set_random_seed(3)
    due = net(*inputs)
    set_random_seed(3)
    got = fused(*inputs)
    assert all(torch.equal(got[name], top) for name, top in due.items())


def test_a_replaced_layer() -> None:
    net = net_of(LENET)
    net.ip1 = torch.nn.Linear(net.ip1.weight.shape[1], net.ip1.weight.shape[0])
    check(net, *inputs_of(net))


def test_blobs_that_are_not_there() -> None:
    with pytest.raises(InputError, match='do you mean "pool1"'):
        net_of(LENET).fused("pool_1")
