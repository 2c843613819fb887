"""DeepLab-LargeFOV: nets and module against the reference, gradients, training, and weights by name."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import port
import port.pycaffe
import reference.pycaffe
from parity_tests.recordings import NET_GRADIENT, NETS, WHOLE_NET, error
from port.training.command import train_command
from prototxt import read_net, read_solver
from runtime import TEST, TRAIN, Net
from weights import LayerWeights, read_weights, write_weights

FOLDERS = {"vgg16": "deeplab_largefov", "resnet101": "deeplab_largefov_resnet101"}
SAME = 1e-6
"""Between the module and `CaffeNet`, of a blob's largest magnitude."""

backbones = pytest.mark.parametrize("backbone", list(FOLDERS))


def net_file(backbone: str, name: str) -> str:
    return str(NETS / FOLDERS[backbone] / f"{name}.prototxt")


def drawn_weights(net: Net, seed: int) -> list[LayerWeights]:
    """Weights that keep activations near 1, and running sums whose divisor is not 1."""
    draw, drawn = np.random.RandomState(seed), []
    for name, layer in zip(net._layer_names, net.layers, strict=True):
        shapes = [blob.shape for blob in layer.blobs]
        if layer.type == "BatchNorm":
            bounds = [(-50, 50), (100, 300), (99.97, 99.97)]
        elif layer.type == "Scale":
            bounds = [(0.5, 1.2), (-0.1, 0.1)]
        else:
            he = np.sqrt(6 / np.prod(shapes[0][1:])) if shapes else 0
            bounds = [(-he, he), (-0.1, 0.1)][: len(shapes)]
        if shapes:
            arrays = [
                draw.uniform(*bound, shape).astype(np.float32)
                for bound, shape in zip(bounds, shapes, strict=True)
            ]
            drawn.append(LayerWeights(name, layer.type, arrays))
    return drawn


def fill(net: Net, weights: list[LayerWeights]) -> None:
    for layer in weights:
        for blob, array in zip(net.params[layer.name], layer.blobs, strict=True):
            blob.data[...] = array


def images(num: int, height: int, width: int, seed: int) -> np.ndarray:
    pixels = np.random.RandomState(seed).randint(0, 256, (num, 3, height, width))
    return ((pixels - 110) / 50).astype(np.float32)


def module_of(weights: list[LayerWeights], folder: Path) -> port.DeepLabLargeFOV:
    write_weights(folder / "net.caffemodel", weights)
    return port.DeepLabLargeFOV.from_caffemodel(folder / "net.caffemodel")


def module_blobs(model: port.DeepLabLargeFOV, data: np.ndarray) -> dict[str, np.ndarray]:
    """By Caffe's names what the layers give; ReLUs work in place on it, as Caffe's do."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> None:
        # A blob is what the last layer that works on it leaves: after res2a_branch1, scale2a_branch1.
        blob = re.sub(r"^scale(?=\d)", "res", name).replace("scale_conv1", "conv1")
        model.get_submodule(name).register_forward_hook(lambda _, __, top: found.update({blob: top}))

    for name, _ in model.named_children():
        if not name.startswith("bn"):
            keep(name)
    with torch.no_grad():
        found["upscore"] = model(torch.from_numpy(data))
    found["softmax"] = found["upscore"].softmax(1)
    return {name: top.numpy() for name, top in found.items()}


def blobs_of(
    backbone: str, name: str, seed: int, size: int
) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """One image through the reference in float64 and in float32 and through CaffeNet; and through the module."""
    deploy = net_file(backbone, name)
    nets = [
        reference.pycaffe.Net(deploy, TEST, dtype=np.float64),
        reference.pycaffe.Net(deploy, TEST),
        port.pycaffe.Net(deploy, TEST),
    ]
    weights, data = drawn_weights(nets[0], seed), images(1, size, size, seed)
    for net in nets:
        fill(net, weights)
        net.blobs["data"].reshape(*data.shape)
        net.blobs["data"].data[...] = data
        net.forward()
    shapes = {layer.name: layer.blobs[0].shape for layer in weights}
    model = port.DeepLabLargeFOV(backbone, width=shapes["conv1_1" if backbone == "vgg16" else "conv1"][0])
    assert model.copy_weights(weights) == []
    module = module_blobs(model.eval(), data)
    assert {"score", "upscore", "softmax"} <= module.keys() <= nets[0].blobs.keys()
    assert len(module) > (15 if backbone == "vgg16" else 100)
    return [{blob: net.blobs[blob].data for blob in net.blobs} for net in nets], module


@pytest.mark.parametrize("backbone", ["vgg16", pytest.param("resnet101", marks=pytest.mark.slow)])
def test_every_blob(backbone: str) -> None:
    """The released nets, as CaffeNet and as the module: as near to float64 as the float32 reference, times 1.5."""
    (truth, yardstick, net), module = blobs_of(backbone, "deploy", seed=5, size=65)
    for name, true in truth.items():
        allowed = 1.5 * error(yardstick[name], true) + 1e-7
        assert error(net[name], true) <= allowed, name
        if name in module:
            assert error(module[name], true) <= allowed, f"{name} of the module"


@backbones
def test_every_blob_of_the_narrow_nets(backbone: str) -> None:
    """With a few channels a blob's largest error is the luck of a few roundings, up to twice the reference's in one
    blob in a hundred: each is held to the tolerance of whole nets, and all together to the rule.
    """
    (truth, yardstick, net), module = blobs_of(backbone, "narrow_deploy", seed=5, size=65)
    ratios = []
    for name, true in truth.items():
        assert error(net[name], yardstick[name]) <= WHOLE_NET, name
        if name in module:
            assert error(module[name], yardstick[name]) <= WHOLE_NET, f"{name} of the module"
        if own := error(yardstick[name], true):
            ratios.append(error(net[name], true) / own)
    assert np.median(ratios) <= 1.5
    assert error(module["upscore"], net["upscore"]) <= SAME


@backbones
def test_module_is_the_net(backbone: str, tmp_path: Path) -> None:
    """The state dict is CaffeNet's, each way; a batch gives what the net gives."""
    net = port.CaffeNet(net_file(backbone, "narrow_deploy"))
    drawn = drawn_weights(reference.pycaffe.Net(net_file(backbone, "narrow_deploy"), TEST), 2)
    assert net.copy_weights(drawn) == []
    model = port.DeepLabLargeFOV(backbone, width=4).eval()
    model.load_state_dict(net.state_dict())
    assert model.backbone == backbone
    assert all(
        torch.equal(blob, net.state_dict()[name])
        for name, blob in module_of(drawn, tmp_path).state_dict().items()
    )
    data = torch.from_numpy(images(2, 65, 49, 3))
    with torch.no_grad():
        upscore = model(data)
        golden = net(data, blobs=["upscore"])["upscore"]
    assert upscore.shape == (2, 21, 65, 49)
    assert error(upscore.numpy(), golden.numpy()) <= SAME


def test_full_width_has_the_released_shapes() -> None:
    with torch.device("meta"):
        models = {backbone: port.DeepLabLargeFOV(backbone) for backbone in FOLDERS}
    for backbone, model in models.items():
        wide, state = read_net(net_file(backbone, "deploy")), model.state_dict()
        convolutions = [layer for layer in wide.layer if layer.type == "Convolution"]
        assert len(convolutions) == (16 if backbone == "vgg16" else 107)
        for layer in convolutions:
            module = model.get_submodule(layer.name)
            param = layer.convolution_param
            assert state[f"{layer.name}.weight"].shape[0] == param.num_output
            assert state[f"{layer.name}.weight"].shape[2:] == (param.kernel_size[0],) * 2
            assert (f"{layer.name}.bias" in state) == param.bias_term
            for ours, theirs in ((module.stride, param.stride), (module.dilation, param.dilation)):
                assert ours == (*(list(theirs) or [1]),) * 2
            assert module.padding == (*(list(param.pad) or [0]),) * 2


def eighth(span: int, backbone: str) -> int:
    """Three halvings: pooling rounds up, ResNet-101's strided convolutions down."""
    for up in (True, True, True) if backbone == "vgg16" else (False, True, False):
        span = (span + up) // 2
    return span


@given(height=st.integers(1, 60), width=st.integers(1, 60), num=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
@backbones
def test_any_size_and_batch(backbone: str, height: int, width: int, num: int) -> None:
    torch.manual_seed(0)
    model = port.DeepLabLargeFOV(backbone, 5, width=2).eval()
    data = torch.randn(num, 3, height, width)
    with torch.no_grad():
        together = model(data)
        apart = torch.cat([model(image[None]) for image in data])
    enlarged = [8 * eighth(size - 1, backbone) + 1 for size in (height, width)]
    assert together.shape == (num, 5, *enlarged)
    assert error(together.numpy(), apart.numpy()) <= WHOLE_NET


def test_training_mode_is_dropout_on_vgg16() -> None:
    torch.manual_seed(0)
    data = torch.randn(1, 3, 33, 33)
    vgg, resnet = (port.DeepLabLargeFOV(backbone, width=4) for backbone in FOLDERS)
    assert not torch.equal(vgg(data), vgg(data))
    assert torch.equal(vgg.eval()(data), vgg(data))
    assert torch.equal(resnet.train()(data), resnet.eval()(data))
    label = torch.full((1, 33, 33), 255)
    label[:, :9] = 3
    for model in (vgg.train(), resnet.train()):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        torch.nn.functional.cross_entropy(model(data), label, ignore_index=255).backward()
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == name.startswith("scale"), name


@backbones
def test_first_gradients(backbone: str) -> None:
    """The training nets in float32 against the reference in float64, from one dropout mask: gradients, loss."""
    net = read_net(net_file(backbone, "narrow_train"))
    del net.layer[0]
    for name, shape in (("data", (1, 3, 65, 65)), ("label", (1, 1, 65, 65))):
        layer = net.layer.add(name=name, type="Input", top=[name])
        layer.input_param.shape.add(dim=shape)
    ordered = [*net.layer[-2:], *net.layer[:-2]]
    del net.layer[:]
    net.layer.extend(ordered)
    data = images(1, 65, 65, 4)
    label = np.random.RandomState(5).randint(0, 21, (1, 1, 65, 65))
    label[..., ::4] = 255
    nets = [
        engine.Net.from_message(net, TRAIN, dtype=dtype)
        for engine, dtype in (
            (reference.pycaffe, np.float64),
            (reference.pycaffe, np.float32),
            (port.pycaffe, np.float32),
        )
    ]
    weights = drawn_weights(nets[0], 6)
    for one in nets:
        fill(one, weights)
        one.blobs["data"].data[...], one.blobs["label"].data[...] = data, label
        reference.pycaffe.set_random_seed(7)
        one.forward()
        one.clear_param_diffs()
        one.backward()
    truth, *engines = nets
    for one in engines:
        assert error(one.blobs["loss"].data, truth.blobs["loss"].data) <= WHOLE_NET
        for name, blobs in truth.params.items():
            for i, blob in enumerate(blobs):
                if blob.diff.any():
                    assert error(one.params[name][i].diff, blob.diff) <= NET_GRADIENT, f"{name}/{i}"
    learned = [name for name, blobs in truth.params.items() if blobs[0].diff.any()]
    assert set(learned) == {layer.name for layer in net.layer if layer.type == "Convolution"}


# ---- Training


@pytest.fixture
def voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bright squares (class 7) and discs (class 15) on dark ground, and their label images."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "masks", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    draw = np.random.RandomState(8)
    for i in range(6):
        image = draw.randint(0, 60, (60 + 5 * i, 80, 3)).astype(np.uint8)
        label = np.zeros(image.shape[:2], np.uint8)
        cv2.rectangle(image, (5, 8), (30, 40), (40, 220, 220), -1)
        cv2.rectangle(label, (5, 8), (30, 40), 7, -1)
        cv2.circle(image, (58, 28), 15, (220, 60, 40), -1)
        cv2.circle(label, (58, 28), 15, 15, -1)
        label[:, -3:] = 255
        cv2.imwrite(str(root / f"JPEGImages/{i}.jpg"), image)
        cv2.imwrite(str(root / f"masks/{i}.png"), label)
    pairs = "".join(f"JPEGImages/{i}.jpg masks/{i}.png\n" for i in range(6))
    (root / "ImageSets/Segmentation/train_proxy.txt").write_text(pairs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(backbone: str, log: pytest.CaptureFixture, **options: object) -> list[float]:
    """Train the narrow net as its solver says, but briefly. The losses that the log shows."""
    solver = read_solver(net_file(backbone, "solver"))
    solver.train_net = net_file(backbone, "narrow_train")
    solver.base_lr, solver.iter_size, solver.max_iter = 0.001, 2, 12
    solver.display, solver.average_loss, solver.random_seed = 1, 1, 3
    Path("solver.prototxt").write_text(str(solver))
    train_command("solver.prototxt", device="cpu", **options)
    return [float(loss) for loss in re.findall(r"Iteration \d+ .*loss = (\S+)", log.readouterr().err)]


def test_vgg16_trains(voc: Path, capfd: pytest.CaptureFixture) -> None:
    losses = train("vgg16", capfd)
    assert len(losses) >= 12
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert losses == train("vgg16", capfd), "one seed, two runs"


def test_resnet101_trains_from_a_classifier(voc: Path, capfd: pytest.CaptureFixture) -> None:
    """Weights by layer name: the trunk is the file's, and its statistics and scales stay so."""
    classifier = drawn_weights(reference.pycaffe.Net(net_file("resnet101", "narrow_deploy"), TEST), 9)
    classifier = [layer for layer in classifier if not layer.name.startswith(("pyram", "score"))]
    classifier.append(LayerWeights("fc1000", "InnerProduct", [np.zeros((1000, 128), np.float32)]))
    classifier[0].blobs[0] /= 50  # drawn for smaller data than pixels
    write_weights("resnet.caffemodel", classifier)
    losses = train("resnet101", capfd, weights="resnet.caffemodel")
    print(losses)
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    (snapshot,) = Path().glob("*_iter_12.caffemodel")
    after = {layer.name: layer.blobs for layer in read_weights(snapshot)}
    for layer in classifier[:-1]:
        same = all(np.array_equal(*pair) for pair in zip(layer.blobs, after[layer.name], strict=True))
        assert same == (layer.type != "Convolution"), layer.name
    assert port.DeepLabLargeFOV.from_caffemodel(snapshot).backbone == "resnet101"


# ---- Weights by name


def classifier(hidden: dict[str, tuple[int, ...]]) -> list[LayerWeights]:
    """VGG-16's layers at a sixteenth of the channels, with `hidden` for its fully connected ones."""
    weights = drawn_weights(reference.pycaffe.Net(net_file("vgg16", "narrow_deploy"), TEST), 10)
    trunk = [layer for layer in weights if layer.name.startswith("conv")]
    return trunk + [
        LayerWeights(
            name,
            "InnerProduct" if len(shape) == 2 else "Convolution",
            [np.full(shape, 0.5, np.float32), np.ones(shape[0], np.float32)],
        )
        for name, shape in hidden.items()
    ]


def test_vgg16_by_name(tmp_path: Path) -> None:
    """The reduced VGG-16 fits fc6 and fc7 too; of the released one Caffe refuses fc6, and load_trunk leaves it."""
    path = tmp_path / "vgg.caffemodel"
    write_weights(path, classifier({"fc6": (64, 32, 3, 3), "fc7": (64, 64, 1, 1), "fc8": (1000, 64, 1, 1)}))
    model, net = port.DeepLabLargeFOV(width=4), port.CaffeNet(net_file("vgg16", "narrow_deploy"))
    assert model.copy_weights(read_weights(path)) == net.load_weights(path) == ["fc8"]
    for state in (model.state_dict(), net.state_dict()):
        for layer in read_weights(path)[:-1]:
            assert np.array_equal(state[f"{layer.name}.weight"], layer.blobs[0]), layer.name

    released = classifier({"fc6": (256, 32 * 49), "fc7": (256, 256), "fc8": (1000, 256)})
    write_weights(path, released)
    for refused in (model.copy_weights, net.copy_weights):
        with pytest.raises(
            port.InputError, match='layer "fc6": blob 0 is 256×1568 in the file but 64×32×3×3'
        ):
            refused(read_weights(path))
    model = port.DeepLabLargeFOV(width=4)
    before = model.fc6.weight.clone()
    assert model.load_trunk(path) == ["fc6", "fc7", "fc8"]
    assert torch.equal(model.fc6.weight, before)
    assert np.array_equal(model.conv5_3.weight.detach(), released[12].blobs[0])


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(port.InputError, match='backbone "vgg19": must be one of vgg16, resnet101'):
        port.DeepLabLargeFOV("vgg19")
    path = tmp_path / "some.caffemodel"
    write_weights(path, classifier({}))
    with pytest.raises(port.InputError, match=r"on vgg16: fc6, fc7, score missing\. To start a training"):
        port.DeepLabLargeFOV.from_caffemodel(path)
    with pytest.raises(port.InputError, match="not resnet101's weights: bn2a_branch1 is missing"):
        port.DeepLabLargeFOV("resnet101", width=4).load_trunk(path)
    broken = classifier({"fc6": (64, 32, 3, 3), "fc7": (64, 64, 1, 1), "score": (21, 64, 1, 1)})
    broken[3].blobs[0][0] = np.nan
    write_weights(path, broken)
    with pytest.raises(port.InputError, match=r'layer "conv2_2": .* are NaN or infinite'):
        port.DeepLabLargeFOV.from_caffemodel(path)


@backbones
def test_solver_has_the_released_schedule(backbone: str) -> None:
    solver = read_solver(net_file(backbone, "solver"))
    assert (solver.base_lr, solver.momentum, solver.weight_decay) == pytest.approx((0.001, 0.9, 0.0005))
    assert (solver.lr_policy, solver.iter_size, solver.max_iter) == ("poly", 10, 16000)
    assert solver.power == pytest.approx(0.9) and solver.average_loss == 20
    assert NETS.parent / solver.train_net == Path(net_file(backbone, "train"))
