"""summarize: a net's layers as a table: name, type, rates, bottoms, tops, kernel and outputs."""

import argparse
import re
from collections.abc import Sequence

from prototxt.caffe_pb2 import LayerParameter, NetParameter, ParamSpec
from prototxt.read import read_net

COLOURS = ("92", "93", "94", "95", "97", "96", "42", "43;30", "100", "44", "103;30", "107;30")
"""ANSI codes of blobs, in turn."""

UNKNOWN = "41"
"""Of a bottom that no layer produces."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("summarize", description=__doc__)
    parser.add_argument("filename", help="the net's prototxt")
    parser.add_argument("-w", "--max-width", type=int, default=30, help="the widest column (default: 30)")
    args = parser.parse_args(arguments)
    for line in table_lines(summary(read_net(args.filename)), args.max_width):
        print(line)
    return 0


def summary(net: NetParameter) -> list[list[str]]:
    """A row of seven cells for each layer. Blobs have colours; tops that no later layer reads are bold."""
    unread: set[str] = set()
    for layer in net.layer:
        unread |= set(layer.top)
        unread -= set(layer.bottom)
    colours: dict[str, str] = {}
    rows = []
    for layer in net.layer:
        tops = []
        for i, top in enumerate(layer.top):
            colour = colours.setdefault(top, COLOURS[len(colours) % len(COLOURS)])
            shown = f"\033[1;4m{top}" if top in unread else top
            weight = f"{_number(layer.loss_weight[i])} * " if i < len(layer.loss_weight) else ""
            tops.append(f"\033[{colour}m{weight}{shown}\033[0m")
        bottoms = [f"\033[{colours.get(bottom, UNKNOWN)}m{bottom}\033[0m" for bottom in layer.bottom]
        rows.append(
            [
                layer.name,
                _type(layer),
                _rates(layer),
                ", ".join(bottoms),
                "->",
                ", ".join(tops),
                _shape(layer),
            ]
        )
    return rows


def table_lines(rows: Sequence[Sequence[str]], widest: int) -> list[str]:
    """Rows as lines of columns, as narrow as their cells; a cell that is too wide pushes the next ones."""
    widths = [min(max(_width(cell) for cell in column) + 1, widest) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        line, right = "", 0
        for cell, width in zip(row, widths, strict=True):
            right += width
            line += f"{cell} "
            line += " " * max(right - _width(line), 0)
        lines.append(line)
    return lines


def _type(layer: LayerParameter) -> str:
    python = layer.python_param
    return f"{python.module}.{python.layer}" if layer.type == "Python" else layer.type


def _rates(layer: LayerParameter) -> str:
    told = [_spec(spec) for spec in layer.param]
    return f"({', '.join(told)})" if any(told) else ""


def _spec(spec: ParamSpec) -> str:
    parts = [spec.name] if spec.name else []
    parts += [f"x{_number(spec.lr_mult)}"] if spec.lr_mult != 1 else []
    parts += [f"Dx{_number(spec.decay_mult)}"] if spec.decay_mult != 1 else []
    return " ".join(parts)


def _number(value: float) -> str:
    """As Python 2 printed floats."""
    text = f"{value:.12g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _shape(layer: LayerParameter) -> str:
    """`kernel/stride+pad outputs/group` of convolutions and pooling."""
    if layer.type in ("Convolution", "Deconvolution") and len(layer.convolution_param.kernel_size) == 1:
        param = layer.convolution_param
        stride, pad = (list(param.stride) or [1])[0], (list(param.pad) or [0])[0]
        group = f"/{param.group}" if param.group != 1 else ""
        return f"{_window(param.kernel_size[0], stride, pad)} {param.num_output}{group}"
    if layer.type == "Pooling":
        param = layer.pooling_param
        return _window(param.kernel_size, param.stride, param.pad)
    return ""


def _window(kernel: int, stride: int, pad: int) -> str:
    return f"{kernel}" + (f"/{stride}" if stride != 1 else "") + (f"+{pad}" if pad else "")


def _width(text: str) -> int:
    """Columns on the screen."""
    return len(re.sub(r"\033\[[\d;]+m", "", text))
