"""A net drawn as SVG: layers from top to bottom in ranks, blobs as the lines between them.

The drawing is Sugiyama's: ranks by longest path, order within ranks by neighbours' mean places, and places by
least squares under the order, so that chains are straight and branches do not overlap.
"""

from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np

from port.report.facts import LayerSummary, NetSummary
from prototxt.caffe_pb2 import PoolingParameter
from weights.files import write_text

HEADING, LINE, MARGIN = 20, 15, 24
GAP, RANK_GAP, LANE = 22, 38, 10
LETTER = {"heading": 7.3, "line": 6.0}
"""Widths of a letter: generous, for whatever sans serif is found."""

FILLS = {
    "source": "#e3e8ee",
    "weights": "#cfe3f7",
    "pooling": "#d5efd9",
    "joining": "#f4e6c8",
    "loss": "#f6d2d2",
    "other": "#f3f3f3",
}
_SORTS = {
    "weights": {"Convolution", "Deconvolution", "InnerProduct", "Embed", "LSTM", "RNN"},
    "pooling": {"Pooling", "SPP", "Interp", "Crop", "Im2col"},
    "joining": {"Concat", "Eltwise", "Slice", "Split", "Filter", "BatchReindex"},
}


@dataclass
class Box:
    """A layer with what works in place on its tops, or (without lines) a place where a long line bends.

    `x`, `y`: the middle of the top edge; `floor`: where its row of boxes ends.
    """

    heading: str = ""
    lines: list[str] = field(default_factory=list)
    sort: str = "other"
    above: list[int] = field(default_factory=list)
    rank: int = 0
    x: float = 0.0
    y: float = 0.0
    floor: float = 0.0

    @property
    def bend(self) -> bool:
        return not self.heading

    @property
    def width(self) -> float:
        if self.bend:
            return LANE
        longest = max((len(line) for line in self.lines), default=0)
        return max(len(self.heading) * LETTER["heading"], longest * LETTER["line"], 60) + 16

    @property
    def height(self) -> float:
        return 0 if self.bend else HEADING + LINE * len(self.lines) + 8


def draw_net(net: NetSummary, path: Path) -> None:
    """Write the net's drawing, an SVG.

    Raises:
        InputError: a file that cannot be written.
    """
    text = net_svg(net)
    write_text(path, text)


def net_svg(net: NetSummary) -> str:
    """The drawing as the text of an SVG file."""
    boxes = boxes_of(net)
    lines = _ranked(boxes)
    ranks = _ordered(boxes)
    _place(boxes, ranks)
    return _svg(net.name, boxes, lines)


# ---- What is drawn


def boxes_of(net: NetSummary) -> list[Box]:
    """A box for each layer, but layers that work in place are lines in the box whose blob they change."""
    boxes: list[Box] = []
    made: dict[str, int] = {}
    for layer in net.layers:
        if layer.in_place and all(name in made for name in layer.bottoms):
            home = boxes[made[layer.tops[0]]]
            home.lines.append(f"{layer.type} {_settings(layer)}".rstrip())
            extra = {made[name] for name in layer.bottoms} - {made[layer.tops[0]]}
            home.above.extend(extra - set(home.above))
            continue
        above = list(dict.fromkeys(made[name] for name in layer.bottoms))
        boxes.append(Box(layer.name or layer.type, _lines(layer), _sort(layer), above))
        made.update(dict.fromkeys(layer.tops, len(boxes) - 1))
    return boxes


def _lines(layer: LayerSummary) -> list[str]:
    shapes = [
        ("" if len(layer.tops) == 1 or top == layer.name else f"{top}: ")
        + ("×".join(map(str, shape)) or "single")
        for top, shape in zip(layer.tops, layer.shapes, strict=True)
    ]
    return [f"{layer.type} {_settings(layer)}".rstrip(), *shapes]


def _settings(layer: LayerSummary) -> str:
    """The window of a convolution or pooling, in short: 3×3 /2 (stride) d12 (dilation)."""
    if layer.type in ("Convolution", "Deconvolution") and layer.weights:
        param = layer.param.convolution_param
        kernel = "×".join(map(str, layer.weights[0][2:]))
        strides = list(param.stride) or [value for value in (param.stride_h, param.stride_w) if value] or [1]
        return (
            kernel + _stride(strides) + (f" d{max(param.dilation)}" if max([*param.dilation, 1]) > 1 else "")
        )
    if layer.type == "Pooling":
        pool = layer.param.pooling_param
        name = PoolingParameter.PoolMethod.Name(pool.pool)
        if pool.global_pooling:
            return f"{name} global"
        kernel = (pool.kernel_h, pool.kernel_w) if pool.kernel_h else (pool.kernel_size,) * 2
        strides = [pool.stride_h, pool.stride_w] if pool.stride_h else [pool.stride]
        return f"{name} {kernel[0]}×{kernel[1]}{_stride(strides)}"
    if layer.type == "Python":
        return layer.param.python_param.layer
    return ""


def _stride(strides: list[int]) -> str:
    if set(strides) == {1}:
        return ""
    return f" /{strides[0]}" if len(set(strides)) == 1 else " /" + "×".join(map(str, strides))


def _sort(layer: LayerSummary) -> str:
    if not layer.bottoms:
        return "source"
    if layer.type.endswith("Loss") or layer.type in ("SoftmaxWithLoss", "Accuracy"):
        return "loss"
    return next((sort for sort, types in _SORTS.items() if layer.type in types), "other")


# ---- Where it is drawn


def _ranked(boxes: list[Box]) -> list[list[int]]:
    """Give each box its rank, and long lines bends in the ranks between; the lines, as boxes from top down."""
    count = len(boxes)
    for box in boxes:
        box.rank = max((boxes[i].rank + 1 for i in box.above), default=0)
    below: dict[int, list[int]] = {}
    for i, box in enumerate(boxes):
        for a in box.above:
            below.setdefault(a, []).append(i)
    for i, box in enumerate(boxes):  # labels and other inputs come just above their first reader
        if not box.above and i in below:
            box.rank = min(boxes[j].rank for j in below[i]) - 1
    lines = []
    for i in range(count):
        above, boxes[i].above = boxes[i].above, []
        for a in above:
            line = [a]
            for rank in range(boxes[a].rank + 1, boxes[i].rank):
                boxes.append(Box(above=[line[-1]], rank=rank))
                line.append(len(boxes) - 1)
            boxes[i].above.append(line[-1])
            lines.append([*line, i])
    return lines


def _ordered(boxes: list[Box]) -> list[list[int]]:
    """The boxes of each rank from left to right: sorted by the mean places of those above, of those below, …"""
    ranks: list[list[int]] = [[] for _ in range(1 + max((box.rank for box in boxes), default=0))]
    for i, box in enumerate(boxes):
        ranks[box.rank].append(i)
    neighbours = _neighbours(boxes)
    best, fewest = [list(rank) for rank in ranks], _crossings(ranks, boxes)
    for sweep in range(24):
        down = sweep % 2 == 0
        place = {i: k / max(len(rank) - 1, 1) for rank in ranks for k, i in enumerate(rank)}
        for rank in ranks if down else ranks[::-1]:
            means = {
                i: np.mean([place[j] for j in neighbours[i][0 if down else 1]] or [place[i]]) for i in rank
            }
            rank.sort(key=means.__getitem__)
            place.update((i, k / max(len(rank) - 1, 1)) for k, i in enumerate(rank))
        crossings = _crossings(ranks, boxes)
        if crossings < fewest:
            best, fewest = [list(rank) for rank in ranks], crossings
    return best


def _neighbours(boxes: list[Box]) -> list[tuple[list[int], list[int]]]:
    """Of each box, those above and those below."""
    found: list[tuple[list[int], list[int]]] = [(list(box.above), []) for box in boxes]
    for i, box in enumerate(boxes):
        for a in box.above:
            found[a][1].append(i)
    return found


def _crossings(ranks: list[list[int]], boxes: list[Box]) -> int:
    place = {i: k for rank in ranks for k, i in enumerate(rank)}
    total = 0
    for rank in ranks:
        ends = np.array([(place[a], place[i]) for i in rank for a in boxes[i].above]).reshape(-1, 2)
        left, right = ends[:, 0], ends[:, 1]
        total += int(((left[:, None] < left) & (right[:, None] > right)).sum())
    return total


def _place(boxes: list[Box], ranks: list[list[int]]) -> None:
    """Rows below each other; in a row, each box as near to its neighbours' mean as order and widths allow."""
    y = MARGIN + 16.0
    for rank in ranks:
        for i in rank:
            boxes[i].y = y
        floor = y + max((boxes[i].height for i in rank), default=0)
        for i in rank:
            boxes[i].floor = floor
        y = floor + RANK_GAP
    neighbours = _neighbours(boxes)
    for rank in ranks:
        _spread(boxes, rank, [0.0] * len(rank), [1.0] * len(rank))
    for sweep in range(60):
        down = sweep % 2 == 0
        for rank in ranks if down else ranks[::-1]:
            wanted, pull = [], []
            for i in rank:
                near = neighbours[i][0 if down else 1]
                wanted.append(float(np.mean([boxes[j].x for j in near])) if near else boxes[i].x)
                # Long lines should be straight before anything else is.
                pull.append(8.0 if boxes[i].bend else 1.0 if near else 0.1)
            _spread(boxes, rank, wanted, pull)
    left = min((box.x - box.width / 2 for box in boxes), default=0)
    for box in boxes:
        box.x += MARGIN - left


def _spread(boxes: list[Box], rank: list[int], wanted: list[float], pull: list[float]) -> None:
    """The places nearest to the wanted ones (least weighted squares) that keep the order and the distances.

    Pooling adjacent violators: boxes that would overlap become a block, which stands at its mean wish.
    """
    offsets = [0.0]
    for before, after in pairwise(rank):
        offsets.append(offsets[-1] + (boxes[before].width + boxes[after].width) / 2 + GAP)
    blocks: list[tuple[float, float, int]] = []  # mean wish, weight, members
    for wish, offset, weight in zip(wanted, offsets, pull, strict=True):
        mean, total, members = wish - offset, weight, 1
        while blocks and blocks[-1][0] > mean:
            before, more, count = blocks.pop()
            mean = (mean * total + before * more) / (total + more)
            total, members = total + more, members + count
        blocks.append((mean, total, members))
    places = [mean for mean, _, members in blocks for _ in range(members)]
    for i, place, offset in zip(rank, places, offsets, strict=True):
        boxes[i].x = place + offset


# ---- How it is written


def _svg(name: str, boxes: list[Box], lines: list[list[int]]) -> str:
    width = max((box.x + box.width / 2 for box in boxes), default=0) + MARGIN
    height = max((box.y + box.height for box in boxes), default=0) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{MARGIN}" y="{MARGIN}" font-size="15" font-weight="bold">{escape(name or "net")}</text>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#666"/></marker></defs>',
        '<g fill="none" stroke="#666" stroke-width="1.2">',
        *(f'<path d="{_curve(boxes, line)}" marker-end="url(#tip)"/>' for line in lines),
        "</g>",
        *(_box(box) for box in boxes if not box.bend),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _curve(boxes: list[Box], line: list[int]) -> str:
    """Down from the middle of the first box to the last: upright beside boxes, turning between their rows."""
    first = boxes[line[0]]
    path = [f"M{first.x:.1f} {first.y + first.height:.1f}"]
    for before, after in pairwise(boxes[i] for i in line):
        half = (before.floor + after.y) / 2
        path.append(f"L{before.x:.1f} {before.floor:.1f}")
        path.append(f"C{before.x:.1f} {half:.1f} {after.x:.1f} {half:.1f} {after.x:.1f} {after.y:.1f}")
    return "".join(path)


def _box(box: Box) -> str:
    left = box.x - box.width / 2
    texts = [
        f'<text x="{box.x:.1f}" y="{box.y + 16:.1f}" font-size="12" font-weight="bold">'
        f"{escape(box.heading)}</text>"
    ]
    for k, line in enumerate(box.lines):
        y = box.y + HEADING + LINE * k + 11
        texts.append(f'<text x="{box.x:.1f}" y="{y:.1f}" font-size="11" fill="#333">{escape(line)}</text>')
    return (
        f'<g text-anchor="middle"><rect x="{left:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="5" fill="{FILLS[box.sort]}" stroke="#888"/>{"".join(texts)}</g>'
    )
