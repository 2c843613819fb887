"""`seenet summary`: counts by hand, shapes without data, and the drawing."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from parity_tests.recordings import NETS
from port.net import CaffeNet
from port.report.command import summary_command
from port.report.facts import LayerSummary, NetSummary
from port.report.graph import boxes_of, net_svg
from port.report.summary import size_text, summarise
from prototxt import parse_net
from prototxt.errors import InputError, errors_on_one_line
from weights import LayerWeights, read_weights, write_weights

TRAIN, TEST = 0, 1

app = typer.Typer()
app.command()(errors_on_one_line()(summary_command))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


def layer(kind: str, name: str, bottom: str, settings: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {settings} }}\n'


def conv(name: str, bottom: str, settings: str) -> str:
    return layer("Convolution", name, bottom, f"convolution_param {{ {settings} }}")


def dense(name: str, bottom: str, outputs: int) -> str:
    return layer("InnerProduct", name, bottom, f"inner_product_param {{ num_output: {outputs} }}")


def pool(name: str, bottom: str, kernel: int) -> str:
    return layer("Pooling", name, bottom, f"pooling_param {{ kernel_size: {kernel} stride: 2 }}")


def data(*shape: int) -> str:
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'


def vgg16() -> str:
    text, bottom = data(1, 3, 224, 224), "data"
    for block, (count, outputs) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for i in range(1, count + 1):
            name = f"conv{block}_{i}"
            text += conv(name, bottom, f"num_output: {outputs} kernel_size: 3 pad: 1")
            text += f'layer {{ name: "relu{block}_{i}" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
            bottom = name
        text += pool(f"pool{block}", bottom, 2)
        bottom = f"pool{block}"
    return text + dense("fc6", bottom, 4096) + dense("fc7", "fc6", 4096) + dense("fc8", "fc7", 1000)


ALEXNET = (
    data(1, 3, 227, 227)
    + conv("conv1", "data", "num_output: 96 kernel_size: 11 stride: 4")
    + pool("pool1", "conv1", 3)
    + conv("conv2", "pool1", "num_output: 256 kernel_size: 5 pad: 2 group: 2")
    + pool("pool2", "conv2", 3)
    + conv("conv3", "pool2", "num_output: 384 kernel_size: 3 pad: 1")
    + conv("conv4", "conv3", "num_output: 384 kernel_size: 3 pad: 1 group: 2")
    + conv("conv5", "conv4", "num_output: 256 kernel_size: 3 pad: 1 group: 2")
    + pool("pool5", "conv5", 3)
    + dense("fc6", "pool5", 4096)
    + dense("fc7", "fc6", 4096)
    + dense("fc8", "fc7", 1000)
)


def rows(net: NetSummary) -> dict[str, LayerSummary]:
    return {row.name: row for row in net.layers}


def test_vgg16_by_hand():
    net, _ = summarise(parse_net(vgg16()))
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    kernels = sum(9 * a * b + b for a, b in pairwise(widths))
    dense_layers = 25088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert net.parameters == kernels + dense_layers == 138_357_544
    assert net.multiply_adds == 15_470_264_320
    assert net.weight_memory == 4 * 138_357_544
    layers = rows(net)
    assert layers["conv1_1"].memory == 4 * 64 * 224 * 224
    assert layers["relu1_1"].memory == 0, "in place"
    assert layers["pool5"].shapes == ((1, 512, 7, 7),)


def test_alexnet_by_hand():
    net, _ = summarise(parse_net(ALEXNET))
    convolutions = (
        96 * 55 * 55 * 3 * 121
        + 256 * 27 * 27 * 48 * 25
        + 384 * 13 * 13 * 256 * 9
        + 384 * 13 * 13 * 192 * 9
        + 256 * 13 * 13 * 192 * 9
    )
    assert net.multiply_adds == convolutions + 9216 * 4096 + 4096 * 4096 + 4096 * 1000 == 724_406_816
    assert net.parameters == 60_965_224
    batch, _ = summarise(parse_net(ALEXNET), inputs={"data": (10, 3, 227, 227)})
    assert batch.multiply_adds == 10 * net.multiply_adds
    assert batch.parameters == net.parameters


def test_other_layers_that_multiply():
    text = (
        data(1, 4, 5, 6)
        + layer(
            "Deconvolution",
            "up",
            "data",
            "convolution_param { num_output: 6 kernel_size: 4 stride: 2 group: 2 }",
        )
        + 'layer { name: "seq" type: "Input" top: "seq" top: "cont" '
        "input_param { shape { dim: 7 dim: 2 dim: 3 } shape { dim: 7 dim: 2 } } }\n"
        'layer { name: "lstm" type: "LSTM" bottom: "seq" bottom: "cont" top: "lstm" '
        "recurrent_param { num_output: 5 } }\n"
    )
    layers = rows(summarise(parse_net(text))[0])
    assert layers["up"].shapes == ((1, 6, 12, 14),)
    assert layers["up"].multiply_adds == 4 * 5 * 6 * 3 * 16  # each value, to its group's 3 outputs, 4×4
    assert layers["up"].parameters == 4 * 3 * 16 + 6
    # each step of each stream: the input and the hidden state into four gates
    assert layers["lstm"].multiply_adds == 7 * 2 * (20 * 3 + 20 * 5)
    assert layers["lstm"].parameters == 20 * 3 + 20 + 20 * 5


def test_what_is_shared_counts_once():
    shared = 'param { name: "w" } param { name: "b" } inner_product_param { num_output: 5 }'
    text = (
        data(2, 3, 4)
        + layer("InnerProduct", "one", "data", shared)
        + layer("InnerProduct", "two", "data", shared)
        + layer("Flatten", "flat", "data")
        + layer("Sigmoid", "flatter", "flat")
    )
    net, _ = summarise(parse_net(text))
    layers = rows(net)
    assert [row.name for row in net.layers] == ["data", "one", "two", "flat", "flatter"], "no splits"
    assert layers["two"].bottoms == ("data",)
    assert (layers["one"].parameters, layers["two"].parameters, layers["two"].shared) == (65, 0, 65)
    assert net.parameters == 65
    assert layers["flat"].memory == 0, "the bottom's memory"
    assert net.blob_memory == 4 * (24 + 10 + 10 + 24)


DATABASE = """
layer {{ name: "data" type: "Data" top: "data" top: "label" data_param {{ source: "gone" batch_size: 8 }} {} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 4
  weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" include {{ phase: TRAIN }} }}
"""


def test_training_nets_without_their_data(tmp_path: Path):
    path = tmp_path / "train.prototxt"
    path.write_text(DATABASE.format("transform_param { crop_size: 9 }"))
    net, remarks = summarise(path, TRAIN)
    assert rows(net)["data"].shapes == ((8, 3, 9, 9), (8,))
    assert rows(net)["data"].type == "Data"
    assert "loss" in rows(net)
    assert "loss" not in rows(summarise(path, TEST)[0])
    assert "as its settings tell it, unread" in remarks[0]
    path.write_text(DATABASE.format(""))
    with pytest.raises(InputError, match=r'layer "data": .*--input-shape data='):
        summarise(path, TRAIN)
    told = run(path, "--phase", "TRAIN", "--input", "data=2,1,28,28")
    assert told.exit_code == 0
    assert "2×1×28×28" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "dat=1,3,9,9"], "--input-shape dat: no input or data layer"),
        (["--input", "data"], "--input-shape data: give a blob and its sizes"),
        (["--input", "data=1,x"], "give a blob and its sizes"),
        (["--input", "data=1,3,2,2"], 'net.prototxt:2: layer "conv": a kernel'),
        (["--phase", "DEPLOY"], "give TRAIN or TEST"),
        (["--graph", "net.png"], "net.png: the drawing is an SVG"),
        (["--weights", "gone.caffemodel"], "gone.caffemodel"),
    ],
)
def test_one_line_says_what_is_wrong(arguments: list[str], message: str, tmp_path: Path):
    path = tmp_path / "net.prototxt"
    path.write_text(data(1, 3, 9, 9) + conv("conv", "data", "num_output: 2 kernel_size: 3"))
    done = run(path, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_weights_are_held_against_the_net(tmp_path: Path):
    path, weights = tmp_path / "net.prototxt", tmp_path / "net.safetensors"
    path.write_text(
        data(1, 3, 9, 9) + conv("conv", "data", "num_output: 2 kernel_size: 3") + dense("ip", "conv", 4)
    )
    kernel, bias = CaffeNet(path).layer_weights()[1].blobs
    write_weights(weights, [LayerWeights("conv", "Convolution", [kernel, bias])])
    assert [layer_.name for layer_ in read_weights(weights)] == ["conv"]
    done = run(path, "--weights", weights)
    assert "fits the net" in done.stdout
    assert "has no weights for ip" in done.stdout
    write_weights(weights, [LayerWeights("conv", "Convolution", [kernel[:1], bias])])
    done = run(path, "--weights", weights)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1


def test_seenet_in_the_table():
    done = run(NETS / "seenet" / "deploy.prototxt")
    assert done.exit_code == 0
    assert re.search(
        r"conv1_1 +│ Convolution +│ 1×64×500×500 +│ +1,792 │ +432,000,000 │ +61\.0 MiB", done.stdout
    )
    assert re.search(r"total +│ 45 layers +│ +│ 24,174,440 │ 86,854,519,808 │", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 41, "6,144.0 GiB")],
)
def test_sizes(size: int, text: str):
    assert size_text(size) == text


# ---- The drawing


def test_the_drawing_of_seenet(tmp_path: Path):
    path = tmp_path / "net.svg"
    assert run(NETS / "seenet" / "deploy.prototxt", "--graph", path).exit_code == 0
    svg = ElementTree.parse(path).getroot()
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "conv5_3" in texts
    assert "relu5_3" not in texts, "in place: a line in its blob's box"
    assert texts.count("ReLU") == 17
    net, _ = summarise(NETS / "seenet" / "deploy.prototxt")
    boxes = {box.heading: box for box in boxes_of(net)}
    headings = list(boxes)
    assert {headings[i] for i in boxes["mask_b2"].above} == {"conv5_3", "score_b1", "input"}


def test_boxes_do_not_overlap_and_lines_go_down():
    text = data(1, 3, 9, 9)
    last = "data"
    for i in range(4):  # inceptions, each with a long way round and a skip
        text += conv(f"a{i}", last, "num_output: 3 kernel_size: 1")
        text += conv(f"b{i}", last, "num_output: 3 kernel_size: 1") + conv(
            f"c{i}", f"b{i}", "num_output: 3 kernel_size: 1"
        )
        text += f'layer {{ name: "k{i}" type: "Concat" bottom: "{last}" bottom: "a{i}" bottom: "c{i}" top: "k{i}" }}\n'
        last = f"k{i}"
    text += f'layer {{ name: "<end>" type: "Concat" bottom: "data" bottom: "{last}" top: "end" }}\n'
    svg = net_svg(summarise(parse_net(text))[0])
    assert "&lt;end&gt;" in svg
    boxes = [
        tuple(map(float, found))
        for found in re.findall(r'<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)" rx', svg)
    ]
    assert len(boxes) == 1 + 4 * 4 + 1
    for i, (x, y, width, height) in enumerate(boxes):
        for left, top, wide, high in boxes[:i]:
            apart = x >= left + wide or left >= x + width or y >= top + high or top >= y + height
            assert apart, f"box {i}"
    for path in re.findall(r'<path d="(M[^"]+)" marker-end', svg):
        ends = [float(y) for y in re.findall(r" (\S+?)(?=[LC]|$)", path)]
        assert ends == sorted(ends)
