"""A directed graph with labels, as plain data and as Graphviz's text."""

import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from prototxt.errors import InputError, figure_text


@dataclass(frozen=True)
class Node:
    """`label` may have several lines; `fill` is a colour or None."""

    label: str
    shape: str
    fill: str | None

    @property
    def lines(self) -> list[str]:
        return self.label.split("\n")


@dataclass(frozen=True)
class Edge:
    source: str
    target: str
    label: str = ""


@dataclass(frozen=True)
class Graph:
    """Nodes by name. `rankdir`: where it runs, in Graphviz's words: LR, RL, TB or BT."""

    name: str
    rankdir: str
    nodes: dict[str, Node]
    edges: list[Edge]

    def dot_text(self) -> str:
        """The graph in Graphviz's language."""
        lines = [f"digraph {_quoted(self.name)} {{", f"rankdir={self.rankdir};"]
        for name, node in self.nodes.items():
            fill = f', fillcolor="{node.fill}", style=filled' if node.fill else ""
            lines.append(f"{_quoted(name)} [label={_quoted(node.label)}, shape={node.shape}{fill}];")
        lines += [
            f"{_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(edge.label)}];"
            for edge in self.edges
        ]
        return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    """A string of Graphviz's language that shows `text` as it is."""
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


_FONT = 9.0  # points


_CHARACTER, _LINE = 0.62 * _FONT / 72, 1.35 * _FONT / 72  # inches


_GAP, _RANK_GAP = 0.18, 0.55  # inches between nodes of a rank, and between ranks


_MOST_PIXELS = 60000  # of a side


def picture(graph: Graph, ext: str) -> bytes:
    """The contents of a file of kind `ext` (png, svg, pdf, …).

    Raises:
        InputError: a kind that Matplotlib does not write.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layout = _Layout(graph)
    figure = Figure(figsize=layout.whole)
    kinds = FigureCanvasAgg(figure).get_supported_filetypes()
    if ext not in kinds:
        raise InputError(f".{ext} cannot be drawn: use one of {', '.join(sorted(kinds))}, raw, dot")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, layout.whole[0]), ylim=(0, layout.whole[1]))
    axes.set_axis_off()
    boxes = {name: _draw_node(axes, layout, name, node) for name, node in graph.nodes.items()}
    for (source, target), label in layout.labels.items():
        _draw_edge(axes, layout, boxes, source, target, label)
    out = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(out, format=ext, dpi=min(96, _MOST_PIXELS / max(layout.whole)))
    return out.getvalue()


def _draw_node(axes: Any, layout: "_Layout", name: str, node: Node) -> Any:
    from matplotlib.patches import FancyBboxPatch

    box = FancyBboxPatch(
        tuple(layout.centres[name] - layout.sizes[name] / 2),
        width=layout.sizes[name][0],
        height=layout.sizes[name][1],
        boxstyle="square,pad=0" if node.shape == "record" else "round,pad=0,rounding_size=0.08",
        facecolor=node.fill or "white",
        edgecolor="black",
        linewidth=0.8,
        zorder=2,
    )
    axes.text(
        *layout.centres[name],
        "\n".join(map(figure_text, node.lines)),
        ha="center",
        va="center",
        fontsize=_FONT,
    )
    return axes.add_patch(box)


def _draw_edge(axes: Any, layout: "_Layout", boxes: dict, source: str, target: str, label: str) -> None:
    from matplotlib.patches import FancyArrowPatch

    points = [layout.centres[name] for name in (source, *layout.routes.get((source, target), ()))]
    axes.plot(*zip(*points, strict=True), color="black", linewidth=0.8, zorder=1)
    both_ways = (target, source) in layout.labels  # a blob and a layer that works in place
    arrow = FancyArrowPatch(
        tuple(points[-1]),
        tuple(layout.centres[target]),
        patchA=boxes[source] if len(points) == 1 else None,
        patchB=boxes[target],
        connectionstyle=f"arc3,rad={0.15 if both_ways else 0}",
        arrowstyle="-|>",
        mutation_scale=9,
        shrinkA=0,
        shrinkB=0,
        linewidth=0.8,
        color="black",
        zorder=1,
    )
    axes.add_patch(arrow)
    if label:
        middle = (points[0] + (points[1] if len(points) > 1 else layout.centres[target])) / 2
        axes.text(
            *middle,
            "\n".join(map(figure_text, label.split("\n"))),
            fontsize=_FONT - 1,
            va="bottom",
            ha="center",
        )


class _Layout:
    """Where everything stands, in inches.

    Attributes:
        whole: the size of the whole.
        sizes, centres: of the nodes, by name, and of the points that long edges pass.
        routes: such points of an edge, by (source, target), where it passes any.
        labels: by (source, target); of several edges between the same two, all.
    """

    def __init__(self, graph: Graph):
        self.labels = _joined_labels(graph)
        ranks = _ranks(graph)
        self.routes = _routes(self.labels, ranks)
        points = {point for route in self.routes.values() for point in route}
        self.sizes = {name: _size(node) for name, node in graph.nodes.items()}
        self.sizes |= dict.fromkeys(points, np.array([_GAP, _GAP]) / 2)
        self._along = 0 if graph.rankdir in ("LR", "RL") else 1
        self._place(_ordered(ranks, self._links()))
        if graph.rankdir in ("RL", "TB"):  # Matplotlib's y goes up
            for centre in self.centres.values():
                centre[self._along] = self.whole[self._along] - centre[self._along]

    def _links(self) -> Iterator[tuple[str, str]]:
        for source, target in self.labels:
            yield from pairwise([source, *self.routes.get((source, target), ()), target])

    def _place(self, ranks: list[list[str]]) -> None:
        along, across = self._along, 1 - self._along
        breadths = [sum(self.sizes[name][across] + _GAP for name in rank) for rank in ranks]
        widest = max(breadths, default=0) + _GAP
        self.centres: dict[str, np.ndarray] = {}
        start = _GAP
        for rank, breadth in zip(ranks, breadths, strict=True):
            depth = max(self.sizes[name][along] for name in rank)
            position = (widest - breadth + _GAP) / 2
            for name in rank:
                centre = np.empty(2)
                centre[along] = start + depth / 2
                centre[across] = position + self.sizes[name][across] / 2
                position += self.sizes[name][across] + _GAP
                self.centres[name] = centre
            start += depth + _RANK_GAP
        length = max(start - _RANK_GAP, _GAP) + _GAP
        self.whole = (length, widest) if along == 0 else (widest, length)


def _joined_labels(graph: Graph) -> dict[tuple[str, str], str]:
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for edge in graph.edges:
        labels[edge.source, edge.target] += [edge.label] if edge.label else []
    return {ends: ", ".join(dict.fromkeys(texts)) for ends, texts in labels.items()}


def _size(node: Node) -> np.ndarray:
    return np.array([max(map(len, node.lines)) * _CHARACTER + 0.2, len(node.lines) * _LINE + 0.14])


def _ranks(graph: Graph) -> dict[str, int]:
    """Each node's longest way from the start. Only an edge from an in-place layer to its blob runs back."""
    sources = defaultdict(list)
    for edge in graph.edges:
        sources[edge.target].append(edge.source)
    reached = dict.fromkeys(end for edge in graph.edges for end in (edge.source, edge.target))
    ranks: dict[str, int] = {}
    for name in (*reached, *(name for name in graph.nodes if name not in reached)):
        ranks[name] = 1 + max((ranks[source] for source in sources[name] if source in ranks), default=-1)
    return ranks


def _routes(labels: dict[tuple[str, str], str], ranks: dict[str, int]) -> dict[tuple[str, str], list[str]]:
    """The points that edges over several ranks pass, one in each rank between; they join `ranks`."""
    routes = {}
    for source, target in labels:
        between = range(ranks[source] + 1, ranks[target])
        if between:
            routes[source, target] = [f"{source}\0{target}\0{rank}" for rank in between]
            ranks |= zip(routes[source, target], between, strict=True)
    return routes


def _ordered(ranks: dict[str, int], links: Iterator[tuple[str, str]]) -> list[list[str]]:
    """The names of each rank, ordered by where those stand that they come from."""
    sources = defaultdict(list)
    for source, target in links:
        sources[target].append(source)
    ordered: list[list[str]] = [[] for _ in range(max(ranks.values(), default=-1) + 1)]
    for name, rank in ranks.items():
        ordered[rank].append(name)
    place: dict[str, float] = {}
    for names in ordered:
        wanted = {
            name: float(np.mean([place[source] for source in sources[name] if source in place] or [0]))
            for name in names
        }
        names.sort(key=wanted.__getitem__)
        place |= {name: i - (len(names) - 1) / 2 for i, name in enumerate(names)}
    return ordered
