"""`caffe.draw`: a net's layers and blobs as a graph (pycaffe's draw.py).

Pictures are laid out by Graphviz where its `dot` is on the path, and here where it is not.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from prototxt.caffe_pb2 import LayerParameter, NetParameter, PoolingParameter
from prototxt.errors import InputError, need_packages
from runtime.graph_layout import Edge, Graph, Node, picture
from weights.files import atomic_path

_COLOURS = {
    "Convolution": "#FF5050",
    "Deconvolution": "#FF5050",
    "Pooling": "#FF9900",
    "InnerProduct": "#CC33FF",
}
_OTHER, _IN_PLACE, _BLOB = "#6495ED", "#90EE90", "#E0E0E0"
_LEARNING = ("Convolution", "Deconvolution", "InnerProduct")


def draw_net_to_file(
    caffe_net: NetParameter,
    filename: str | os.PathLike,
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Draw a net into a file, whose suffix says how: .png, .svg, .pdf, …; .raw and .dot are Graphviz's text.

    Raises:
        InputError: a kind of file that cannot be written.
    """
    extension = os.fspath(filename).rpartition(".")[2]
    drawn = draw_net(caffe_net, rankdir, extension, phase, display_lrm)
    with atomic_path(filename) as beside:
        beside.write_bytes(drawn)


def draw_net(
    caffe_net: NetParameter,
    rankdir: str,
    ext: str = "png",
    phase: int | None = None,
    display_lrm: bool = False,
) -> bytes:
    """The contents of a file of kind `ext` that shows a net.

    Args:
        caffe_net: with `layer` entries, as `read_net` gives it; V1's are not drawn, as in pycaffe.
        rankdir: where the net runs: LR (to the right), TB (down), BT (up), RL.
        phase: show this phase's layers only, judged by the rules' phases alone.
        display_lrm: also show the learning rates' multipliers.

    Raises:
        InputError: another `rankdir`, or a kind of file that cannot be written.
    """
    graph = net_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm)
    if ext in ("raw", "dot"):
        return graph.dot_text().encode()
    dot = shutil.which("dot")
    if dot is None:
        return picture(graph, ext)
    done = subprocess.run([dot, f"-T{ext}"], input=graph.dot_text().encode(), capture_output=True)
    if done.returncode:
        problem = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(f"Graphviz cannot write .{ext}: {problem[0] if problem else done.returncode}")
    return done.stdout


def get_pydot_graph(
    caffe_net: NetParameter,
    rankdir: str,
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> Any:
    """The graph as a `pydot.Dot`.

    Raises:
        ImportError: pydot is not installed.
    """
    try:
        need_packages("pydot", purpose="get_pydot_graph", otherwise=" (draw_net works without)")
    except InputError as error:
        raise ImportError(str(error)) from error
    import pydot

    return pydot.graph_from_dot_data(
        net_graph(caffe_net, rankdir, label_edges, phase, display_lrm).dot_text()
    )[0]


def net_graph(
    caffe_net: NetParameter,
    rankdir: str = "LR",
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> Graph:
    """Layers and blobs, an edge for each bottom and top; see `draw_net`."""
    if rankdir not in ("LR", "RL", "TB", "BT"):
        raise InputError(f'rankdir "{rankdir}" is none of LR, RL, TB, BT')
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    for layer in caffe_net.layer:
        if phase is not None and not _in_phase(layer, phase):
            continue
        name = f"{layer.name}_{layer.type}"
        in_place = len(layer.bottom) == len(layer.top) == 1 and layer.bottom[0] == layer.top[0]
        colour = _IN_PLACE if in_place else choose_color_by_layertype(layer.type)
        lines = _label_lines(layer, display_lrm)
        label = (" " if rankdir in ("TB", "BT") else "\n").join(lines)
        nodes[name] = Node(label, "record", colour)
        for blob in layer.bottom:
            nodes[f"{blob}_blob"] = Node(blob, "octagon", _BLOB)
            edges.append(Edge(f"{blob}_blob", name))
        for blob in layer.top:
            # Unless a later layer reads it, an output.
            nodes[f"{blob}_blob"] = Node(blob, "ellipse", None)
            label = get_edge_label(layer).strip('"') if label_edges else ""
            edges.append(Edge(name, f"{blob}_blob", label))
    return Graph(caffe_net.name or "Net", rankdir, nodes, edges)


def _in_phase(layer: LayerParameter, phase: int) -> bool:
    if layer.include and layer.exclude:
        raise ValueError(f"layer {layer.name} has both include and exclude specified.")
    if layer.include:
        return any(rule.phase == phase for rule in layer.include)
    return not any(rule.phase == phase for rule in layer.exclude)


def get_layer_label(layer: LayerParameter, rankdir: str, display_lrm: bool = False) -> str:
    """What a layer's node says, in double quotes; lines end in `\\n` (two characters) where space is vertical."""
    return '"' + (" " if rankdir in ("TB", "BT") else r"\n").join(_label_lines(layer, display_lrm)) + '"'


def _label_lines(layer: LayerParameter, display_lrm: bool) -> list[str]:
    kind = layer.type
    if kind == "Pooling":
        kind += f" {get_pooling_types_dict()[layer.pooling_param.pool]}"
    parts = [layer.name, f"({kind})", *_window(layer)]
    if display_lrm and layer.type in _LEARNING and any(get_layer_lr_mult(layer)):
        weight, bias = get_layer_lr_mult(layer)
        parts.append(f"lr mult: {weight:.1f}, {bias:.1f}")
    return parts


def _window(layer: LayerParameter) -> Iterator[str]:
    if layer.type == "Pooling":
        pooling = layer.pooling_param
        kernel, stride, pad = pooling.kernel_size, pooling.stride, pooling.pad
    elif layer.type in ("Convolution", "Deconvolution"):
        param = layer.convolution_param
        kernel, stride, pad = (
            values[0] if values else default
            for values, default in ((param.kernel_size, 1), (param.stride, 1), (param.pad, 0))
        )
    else:
        return
    yield from (f"kernel size: {kernel}", f"stride: {stride}", f"pad: {pad}")


def get_edge_label(layer: LayerParameter) -> str:
    """What the edges to a layer's tops say: how many outputs, or the size of the batch; `""` for nothing."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    if layer.type == "InnerProduct":
        return str(layer.inner_product_param.num_output)
    return '""'


def get_layer_lr_mult(layer: LayerParameter) -> tuple[float, float]:
    """The learning rate's multipliers of weights and biases.

    Raises:
        ValueError: a layer of another type than Convolution, Deconvolution, InnerProduct; three or more.
    """
    if layer.type not in _LEARNING:
        raise ValueError(f"{layer.type} layers do not have a learning rate multiplier")
    if len(layer.param) > 2:
        raise ValueError("Could not parse the learning rate multiplier")
    given = [param.lr_mult for param in layer.param]
    weight, bias = (*given, 1.0, 1.0)[:2]
    return weight, bias


def get_pooling_types_dict() -> dict[int, str]:
    """Names of the pooling methods by number."""
    return {number: name for name, number in PoolingParameter.PoolMethod.items()}


def choose_color_by_layertype(layertype: str) -> str:
    """The fill of a layer's node that is not in place."""
    return _COLOURS.get(layertype, _OTHER)
