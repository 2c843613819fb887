"""Exported files compute what the port does, at any batch and size, and carry what is needed to use them."""

import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import port
from parity_tests.recordings import NETS
from port import cli
from port.export import check as export_check
from port.export.writers import (
    EXPORTERS,
    PREPROCESSING,
    SEENET_OUTPUTS,
    export_onnx,
    export_torchscript,
    seenet_metadata,
    seenet_prototxt,
)
from port.models.crelu import normalised_attention
from port.pycaffe import TEST, Net
from port.voc.classes import CLASSES
from prototxt.errors import InputError
from prototxt.read import parse_net
from weights import read_weights, write_weights
from weights.convert import convert
from weights.metadata import parsed_metadata
from weights.rebuilt import rebuilt_weights
from weights.tensors import read_safetensors_metadata

NARROW = NETS / "seenet" / "narrow_deploy.prototxt"
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "narrow.caffemodel"
    write_weights(path, rebuilt_weights(Net(str(NARROW), TEST, allow_modules=()), 3))
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> port.SeeNet:
    return port.SeeNet.from_caffemodel(weights, maxt=0.6, mint=0.1)


@pytest.fixture(scope="module", params=sorted(EXPORTERS))
def exported(
    request: pytest.FixtureRequest, model: port.SeeNet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[export_check.Run, dict[str, str]]:
    if request.param == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    path = tmp_path_factory.mktemp("exported") / f"seenet.{request.param}"
    EXPORTERS[request.param](model, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return export_check.load(request.param, path)


def test_any_batch_and_size(exported: tuple[export_check.Run, dict[str, str]], model: port.SeeNet) -> None:
    """Odd sizes, where Caffe's pooling rounds up; single pixels; a batch of one: none is the example's."""
    run, _ = exported
    shapes = [(1, 37, 53), (3, 61, 45), (2, 96, 80), (1, 1, 1), (2, 17, 16), (4, 2, 33)]
    cases = export_check.seenet_cases(model, {}, seed=1, shapes=shapes)
    found = export_check.check(run, cases, (0.6, 0.1))
    assert set(found.worst) == set(SEENET_OUTPUTS)
    assert all(share <= export_check.TOLERANCE for share, _ in found.worst.values()), found
    assert found.within
    assert (found.flips, found.positions) == (0, 1 * 12 + 3 * 12 + 2 * 30 + 1 + 2 * 2 + 4 * 3)
    decided = torch.cat([case.expected["attention"].flatten() for case in cases])
    assert (decided > 0.6).any() and (decided < 0.1).any() and ((decided > 0.1) & (decided < 0.6)).any()


def test_flat_attention_is_no_nan(exported: tuple[export_check.Run, dict[str, str]]) -> None:
    """Of a single pixel the span is 0; ONNX's optimiser would drop the 1e-8 that keeps it from 0 / 0."""
    run, _ = exported
    _, score_b2, attention = run([torch.randn(1, 3, 9, 9), torch.ones(1, 20)])
    assert attention.shape == (1, 1, 1, 1)
    assert attention.item() == 0
    assert score_b2.isfinite().all()


def test_labels_count_where_they_truncate_to_1(
    exported: tuple[export_check.Run, dict[str, str]],
) -> None:
    run, _ = exported
    data = 50 * torch.randn(1, 3, 64, 64)
    label = torch.zeros(1, 20)
    label[0, :4] = torch.tensor([1.9, 0.9, 2.0, -1.0])
    score_b1, _, attention = run([data, label])
    label[0, 1:4] = 0
    assert torch.allclose(attention, normalised_attention(score_b1, label), atol=1e-6)


def test_metadata(
    exported: tuple[export_check.Run, dict[str, str]], model: port.SeeNet, weights: Path, tmp_path: Path
) -> None:
    """The text that a file carries is the net itself: with the weights it gives the same scores."""
    _, entries = exported
    found = parsed_metadata(entries)
    assert found["classes"] == list(CLASSES)
    assert found["preprocessing"] == PREPROCESSING
    text = tmp_path / "net.prototxt"
    text.write_text(found["prototxt"])
    net = port.CaffeNet(text)
    assert net.load_weights(weights) == []
    data, label = 50 * torch.randn(1, 3, 40, 56), torch.zeros(1, 1, 1, 20)
    label[..., [2, 5]] = 1
    with torch.no_grad():
        theirs, (_, ours) = net(data, label)["score_b2"], model(data, label)
    assert (theirs - ours).abs().max() <= 1e-5 * ours.abs().max()


def test_metadata_of_safetensors(model: port.SeeNet, weights: Path, tmp_path: Path) -> None:
    entries = seenet_metadata(model)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    write_weights(first, read_weights(weights), metadata=entries)
    assert read_safetensors_metadata(first) == entries
    convert(first, second, progress=False)
    assert read_safetensors_metadata(second) == entries
    for ours, theirs in zip(read_weights(weights), read_weights(second), strict=True):
        assert ours.name == theirs.name
        assert all(np.array_equal(a, b) for a, b in zip(ours.blobs, theirs.blobs, strict=True))
    convert(weights, second, progress=False, prototxt=NARROW)
    assert parsed_metadata(read_safetensors_metadata(second)) == {"prototxt": NARROW.read_text()}
    with pytest.raises(InputError, match="which alone holds the net's text"):
        convert(weights, tmp_path / "x.caffemodel", progress=False, prototxt=NARROW)
    with pytest.raises(InputError, match="name it so"):
        write_weights(tmp_path / "x.pth", read_weights(weights), metadata=entries)


def test_prototxt_of_another_seenet() -> None:
    model = port.SeeNet(7, channels=(2, 3, 4, 5, 6), maxt=0.7, mint=0.05, background=False)
    net = {layer.name: layer for layer in parse_net(seenet_prototxt(model)).layer}
    assert net["mask_b2"].python_param.param_str == "{'maxt': 0.7, 'mint': 0.05}"
    assert net["conv3_2"].convolution_param.num_output == 4
    assert net["score_b1"].convolution_param.num_output == 7
    assert "classes" not in seenet_metadata(model)


def test_a_file_that_is_out_is_found(model: port.SeeNet) -> None:
    cases = export_check.seenet_cases(model, {}, shapes=[(2, 64, 48)])

    def run(inputs: list[torch.Tensor], wrong: str) -> list[torch.Tensor]:
        given = dict(cases[0].expected)
        if wrong == "attention":
            given["attention"] = 1 - given["attention"]
        elif wrong == "nan":
            given["score_b1"] = given["score_b1"] * torch.nan
        elif wrong == "shape":
            given["score_b2"] = given["score_b2"][:1]
        return list(given.values())

    def judged(wrong: str) -> export_check.Checked:
        return export_check.check(lambda inputs: run(inputs, wrong), cases, (0.6, 0.1))

    assert judged("nothing").within
    assert judged("attention").flips
    assert not any(judged(wrong).within for wrong in ("attention", "nan", "shape"))


def test_nets_of_a_prototxt(tmp_path: Path) -> None:
    """Windows that hang over the edge, averages of what is inside, shared and unit weights, softmax, split blobs."""
    prototxt, saved = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    prototxt.write_text(
        """
        layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 19 dim: 14 } } }
        layer { name: "conv/a" type: "Convolution" bottom: "data" top: "a"
          convolution_param { num_output: 6 kernel_size: 3 pad: 1 group: 3 } }
        layer { name: "max" type: "Pooling" bottom: "a" top: "max"
          pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 } }
        layer { name: "ave" type: "Pooling" bottom: "max" top: "ave"
          pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
        layer { name: "relu" type: "ReLU" bottom: "ave" top: "ave" relu_param { negative_slope: 0.1 } }
        layer { name: "lrn" type: "LRN" bottom: "ave" top: "lrn" lrn_param { local_size: 3 } }
        layer { name: "bn" type: "BatchNorm" bottom: "lrn" top: "bn" }
        layer { name: "sum" type: "Eltwise" bottom: "bn" bottom: "ave" top: "sum" }
        layer { name: "fc" type: "InnerProduct" bottom: "sum" top: "fc" inner_product_param { num_output: 5 } }
        layer { name: "unit" type: "InnerProduct" bottom: "fc" top: "unit"
          inner_product_param { num_output: 4 normalize: true } }
        layer { name: "prob" type: "Softmax" bottom: "unit" top: "prob" }
        """
    )
    write_weights(saved, rebuilt_weights(Net(str(prototxt), TEST), 5))
    files = [tmp_path / f"net.{kind}" for kind in EXPORTERS]
    options = ["--onnx", files[0], "--torchscript", files[1], "--pt2", files[2]]
    if not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        files, options = files[1:], options[2:]
    ran = CliRunner().invoke(
        cli.app, ["export", "--prototxt", str(prototxt), "--weights", str(saved), *map(str, options)]
    )
    assert ran.exit_code == 0, ran.output
    assert "prob" in ran.output and "OUT" not in ran.output
    assert all(file.stat().st_size for file in files)


def test_layers_that_cannot_be_exported_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "looks_at_values.py").write_text(
        "import caffe\n"
        "class Layer(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = bottom[0].data\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(
        'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }\n'
        'layer { name: "half" type: "Power" bottom: "data" top: "half" power_param { scale: 0.5 } }\n'
        'layer { name: "script" type: "Python" bottom: "half" top: "top"\n'
        '  python_param { module: "looks_at_values" layer: "Layer" } }\n'
    )
    net = port.CaffeNet(prototxt, allow_modules=["looks_at_values"])
    with pytest.raises(InputError, match=r'net.prototxt:3: layer "script" \(Python\) cannot be exported'):
        export_torchscript(net, tmp_path / "net.pt")
    assert not (tmp_path / "net.pt").exists()


def test_operators_that_onnx_lacks_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    net = port.CaffeNet(
        parse_net(
            'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }\n'
            'layer { name: "half" type: "Power" bottom: "data" top: "half" power_param { scale: 0.5 } }\n'
            'layer { name: "odd" type: "TanH" bottom: "half" top: "odd" }\n'
        )
    )
    monkeypatch.setattr(
        type(net.named_layers()["odd"]), "forward", lambda self, x: torch.special.bessel_j0(x)
    )
    with pytest.raises(InputError, match=r'layer "odd" \(TanH\) cannot be exported: No ONNX function'):
        export_onnx(net, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_command(weights: Path, tmp_path: Path) -> None:
    photo = pytest.importorskip("skimage.data").astronaut()
    image = tmp_path / "photo.png"
    port_images = importlib.import_module("port.images")
    port_images.write_png(image, np.ascontiguousarray(photo[::4, ::4, ::-1]))
    out = tmp_path / "out"
    files = {"--torchscript": out / "s.pt", "--pt2": out / "s.pt2", "--safetensors": out / "s.safetensors"}
    arguments = [str(part) for pair in files.items() for part in pair]
    ran = CliRunner().invoke(
        cli.app, ["export", "--weights", str(weights), "--image", str(image), "--test-size", "64", *arguments]
    )
    assert ran.exit_code == 0, ran.output
    assert "torchscript: C-ReLU positions that differ: 0 of" in ran.output
    assert {path.name for path in out.iterdir()} == {path.name for path in files.values()}
    restored = port.SeeNet.from_caffemodel(files["--safetensors"])
    assert restored.num_classes == 20


def test_command_keeps_no_file_that_is_out(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.pt"
    path.write_bytes(b"what was there before")
    monkeypatch.setattr(export_check, "TOLERANCE", -1.0)
    ran = CliRunner().invoke(cli.app, ["export", "--weights", str(weights), "--torchscript", str(path)])
    assert ran.exit_code == 1
    assert "OUT" in ran.output
    assert path.read_bytes() == b"what was there before"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to write"),
        (["--pt2", "{folder}"], "is a folder"),
        (["--pt2", "{folder}/x", "--torchscript", "{folder}/x"], "in two formats"),
        (["--safetensors", "{folder}/x.pt"], "name it .safetensors"),
    ],
)
def test_bad_options(arguments: list[str], message: str, weights: Path, tmp_path: Path) -> None:
    given = [text.format(folder=tmp_path) for text in arguments]
    ran = CliRunner().invoke(cli.app, ["export", "--weights", str(weights), *given])
    assert isinstance(ran.exception, InputError)
    assert message in str(ran.exception) and "\n" not in str(ran.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", sorted(EXPORTERS))
def test_a_corrupt_file_is_one_line(kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"broken.{kind}"
    path.write_bytes(b"no such format")
    with pytest.raises(InputError, match=f"broken.{kind}: does not load as {kind}: [^\n]+$"):
        export_check.load(kind, path)


@pytest.mark.parametrize("opset", [9, 17, 99])
def test_opsets_that_are_not_to_be_had(opset: int, model: port.SeeNet, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    with pytest.raises(InputError, match=f"opset {opset}: 18 to "):
        export_onnx(model, tmp_path / "x.onnx", opset=opset)


def test_missing_packages_are_told_before_any_work(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name.startswith("onnx") else found(name, *rest),
    )
    monkeypatch.setattr(port.SeeNet, "from_caffemodel", lambda *_: pytest.fail("work was begun"))
    onnx, pt2 = str(tmp_path / "x.onnx"), str(tmp_path / "x.pt2")
    ran = CliRunner().invoke(cli.app, ["export", "--weights", str(weights), "--onnx", onnx, "--pt2", pt2])
    assert "pip install onnx onnxscript onnxruntime" in str(ran.exception)
    assert not list(tmp_path.iterdir())


def test_hub(weights: Path) -> None:
    def load(name: str, *arguments: object, **settings: object) -> torch.nn.Module:
        return torch.hub.load(str(REPOSITORY), name, *arguments, source="local", **settings)

    model = load("seenet", weights=weights, maxt=0.7)
    assert (model.mask_b2.maxt, model.training) == (0.7, False)
    net = load("caffe_net", NARROW, weights)
    data, label = 50 * torch.randn(1, 3, 48, 32), torch.zeros(1, 1, 1, 20)
    with torch.no_grad():
        ours, (_, theirs) = net(data, label)["score_b2"], model(data, label)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    with torch.no_grad():
        scores = load("deeplab_largefov", width=2)(torch.randn(1, 3, 33, 41))
    assert scores.shape == (1, 21, 33, 41)
    with contextlib.suppress(InputError):
        load("seenet", weights="missing.caffemodel")
        pytest.fail("a missing file was accepted")


def test_a_net_without_s_b_is_refused(tmp_path: Path) -> None:
    model = port.SeeNet(erasing=False, background=False, channels=(4, 8, 16, 32, 32)).eval()
    with pytest.raises(InputError, match="S_A alone"):
        export_torchscript(model, tmp_path / "cam.pt")
    assert not list(tmp_path.iterdir())
