"""What a prototxt amounts to: layers, shapes, parameters, multiply-adds and memory, without computing.

seenet summary deploy.prototxt --graph net.svg
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from port.layer import Layer, Shape
from port.net import CaffeNet
from port.progress import plain_console
from port.report.graph import draw_net
from prototxt.caffe_pb2 import LayerParameter, NetParameter, NetState
from prototxt.errors import InputError, printable
from prototxt.plan import AUTOMATIC, LayerPlan
from prototxt.read import read_net
from prototxt.rules import layer_included
from weights import read_weights

FLOAT = 4
"""Bytes of a blob's value."""


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a net.

    Attributes:
        bottoms, tops: blob names; a blob that is both is worked on in place.
        shapes: of the tops.
        weights: shapes of the weight blobs, borrowed ones too.
        parameters: values in the weight blobs that are this layer's own.
        shared: values in weight blobs that belong to another layer.
        multiply_adds: of a whole pass; see `multiply_adds`.
        memory: bytes of the tops that need memory of their own.
    """

    name: str
    type: str
    param: LayerParameter
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    shapes: tuple[Shape, ...]
    weights: tuple[Shape, ...]
    parameters: int
    shared: int
    multiply_adds: int
    memory: int

    @property
    def in_place(self) -> bool:
        return bool(set(self.bottoms) & set(self.tops))


@dataclass(frozen=True)
class NetSummary:
    """A net's layers and totals. Memory is in bytes, of float32 blobs, all of which Caffe keeps."""

    name: str
    layers: tuple[LayerSummary, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def blob_memory(self) -> int:
        return sum(layer.memory for layer in self.layers)

    @property
    def weight_memory(self) -> int:
        return FLOAT * self.parameters


def summarise(
    prototxt: str | Path | NetParameter,
    phase: int = 1,
    *,
    inputs: Mapping[str, Shape] | None = None,
    allow_modules: Collection[str] = (),
    weights: Path | None = None,
) -> tuple[NetSummary, list[str]]:
    """A net's summary, and remarks on it: shapes that were taken from settings, layers without weights.

    Nothing is computed, filled or, where its settings tell its shape, read: a training net whose database is
    elsewhere can be summarised too.

    Args:
        prototxt: a path, or a net that `read_net` gave.
        phase: 0 TRAIN, 1 TEST.
        inputs: shapes to use for input blobs and for what data layers make, by blob name.
        weights: a file that is to fit the net.

    Raises:
        InputError: a net that Caffe refuses, a data layer of unknown shape, weights that do not fit.
    """
    where = "prototxt" if isinstance(prototxt, NetParameter) else str(prototxt)
    message = prototxt if isinstance(prototxt, NetParameter) else read_net(prototxt)
    fed, original, remarks = _fed(message, phase, dict(inputs or {}), where, allow_modules)
    net = CaffeNet(fed, phase, allow_modules=allow_modules, where=where)
    if weights is not None:
        remarks += _fitted(net, weights)
    return NetSummary(message.name, tuple(_layers(net, original))), remarks


def multiply_adds(plan: LayerPlan, layer: Layer, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """Multiply-adds of one pass through the layers that multiply by weight matrices; 0 for all others.

    These are Convolution, Deconvolution, InnerProduct, RNN and LSTM; biases do not count.
    """
    blobs = [tuple(blob.shape) for blob in layer.blobs]
    if plan.type == "Convolution":
        return sum(math.prod(top) for top in tops) * math.prod(blobs[0][1:])
    if plan.type == "Deconvolution":
        return sum(math.prod(bottom) for bottom in bottoms) * math.prod(blobs[0][1:])
    if plan.type == "InnerProduct":
        return math.prod(tops[0]) * (math.prod(blobs[0]) // plan.param.inner_product_param.num_output)
    if plan.type in ("RNN", "LSTM"):
        steps, streams = bottoms[0][:2]
        return steps * streams * sum(math.prod(blob) for blob in blobs if len(blob) == 2)
    return 0


# ---- Shapes


def _fed(
    message: NetParameter, phase: int, shapes: dict[str, Shape], where: str, allow_modules: Collection[str]
) -> tuple[NetParameter, dict[str, LayerParameter], list[str]]:
    """The net without fillers, its data layers as inputs where they cannot or need not be opened."""
    state = NetState()
    state.CopyFrom(message.state)
    state.phase = phase
    fed, original, remarks = NetParameter(), {}, []
    fed.CopyFrom(message)
    del fed.layer[:]
    for source in message.layer:
        layer = fed.layer.add()
        layer.CopyFrom(source)
        _forget_fillers(layer)
        if source.bottom or not layer_included(source, state):
            continue
        given = _given_shapes(source, shapes)
        if given is None and not _opens(source, phase, allow_modules):
            given = _told_shapes(source, where)
            told = ", ".join(f"{top} {_by(s)}" for top, s in zip(source.top, given, strict=True))
            remarks.append(f"{source.name}: {source.type} as its settings tell it, unread: {told}")
        if given is not None:
            original[source.name] = source
            _as_input(layer, given)
    unused = ", ".join(shapes)
    if unused:
        raise InputError(f"{where}: --input {unused}: no input or data layer makes such a blob")
    return fed, original, remarks


def _given_shapes(layer: LayerParameter, shapes: dict[str, Shape]) -> list[Shape] | None:
    """The shapes that the caller named for the layer's tops, taken out of `shapes`; all tops or none."""
    named = [top for top in layer.top if top in shapes]
    if not named:
        return None
    given = []
    declared = layer.input_param.shape
    for i, top in enumerate(layer.top):
        if top in shapes:
            given.append(shapes.pop(top))
        elif layer.type == "Input" and declared:
            given.append(tuple(declared[i if len(declared) > 1 else 0].dim))
        elif i == 1:
            given.append(given[0][:1])  # labels: one each
        else:
            raise InputError(f'layer "{layer.name}": give --input for {top} too')
    return given


def _opens(layer: LayerParameter, phase: int, allow_modules: Collection[str]) -> bool:
    """Whether the layer itself knows its shapes: everything without files, and files that are there."""
    alone = NetParameter()
    alone.layer.add().CopyFrom(layer)
    _forget_fillers(alone.layer[0])
    try:
        CaffeNet(alone, phase, allow_modules=allow_modules)
    except InputError:
        return layer.type not in _TOLD_BY
    return True


_TOLD_BY = {
    "Data": "data_param",
    "ImageData": "image_data_param",
    "ImageSegData": "image_data_param",
    "WindowData": "window_data_param",
    "HDF5Data": "hdf5_data_param",
}


def _told_shapes(layer: LayerParameter, where: str) -> list[Shape]:
    """A data layer's shapes, from its settings alone. (A database's images are taken for coloured ones.)

    Raises:
        InputError: where they do not tell.
    """
    settings, transform = getattr(layer, _TOLD_BY[layer.type]), layer.transform_param
    height = transform.crop_size or transform.crop_height
    width = transform.crop_size or transform.crop_width
    colour = not transform.force_gray
    if layer.type in ("ImageData", "ImageSegData"):
        height, width = height or settings.new_height, width or settings.new_width
        colour = settings.is_color
    if not (height and width and settings.batch_size):
        raise InputError(
            f'{where}: layer "{layer.name}": its data cannot be read here, and its settings do not tell the '
            f"shape: give it, as in --input {layer.top[0]}=16,3,224,224"
        )
    batch = settings.batch_size
    label = (batch, 1, height, width) if layer.type == "ImageSegData" else (batch,)
    return [(batch, 3 if colour else 1, height, width), label][: len(layer.top)]


def _as_input(layer: LayerParameter, shapes: Sequence[Shape]) -> None:
    kept = LayerParameter(name=layer.name, type="Input", top=layer.top)
    for shape in shapes:
        kept.input_param.shape.add().dim.extend(shape)
    layer.CopyFrom(kept)


def _forget_fillers(layer: LayerParameter) -> None:
    """Weights of zeros will do, and cost no random numbers."""
    for field, value in layer.ListFields():
        if field.name.endswith("_param") and field.type == field.TYPE_MESSAGE and not field.is_repeated:
            for inner, _ in value.ListFields():
                if inner.name in ("filler", "weight_filler", "bias_filler"):
                    value.ClearField(inner.name)


# ---- Rows


def _layers(net: CaffeNet, original: Mapping[str, LayerParameter]) -> list[LayerSummary]:
    """A summary for each layer but the splits that a net inserts by itself."""
    names = dict(enumerate(net.plan.blobs))
    shapes = {i: net.blob_shapes[name] for i, name in enumerate(net.plan.blobs)}
    rows = []
    for plan in net.plan.layers:
        if _inserted(plan):
            names.update(dict.fromkeys(plan.tops, names[plan.bottoms[0]]))
            continue
        layer = net._modules[plan.name]
        param = original.get(plan.name, plan.param)
        bottoms, tops = [shapes[i] for i in plan.bottoms], [shapes[i] for i in plan.tops]
        sizes = [
            (blob.numel(), i >= len(plan.params) or plan.params[i].owner is None)
            for i, blob in enumerate(layer.blobs)
        ]
        rows.append(
            LayerSummary(
                name=plan.name,
                type=param.type,
                param=param,
                bottoms=tuple(names[i] for i in plan.bottoms),
                tops=tuple(names[i] for i in plan.tops),
                shapes=tuple(tops),
                weights=tuple(tuple(blob.shape) for blob in layer.blobs),
                parameters=sum(size for size, own in sizes if own),
                shared=sum(size for size, own in sizes if not own),
                multiply_adds=multiply_adds(plan, layer, bottoms, tops),
                memory=0 if _borrows(plan) else FLOAT * sum(math.prod(top) for top in tops),
            )
        )
    return rows


def _inserted(plan: LayerPlan) -> bool:
    return plan.type == "Split" and plan.name.endswith("_split") and plan.tops != plan.bottoms


def _borrows(plan: LayerPlan) -> bool:
    """Whether the tops lie in the bottom's memory."""
    single = plan.type in ("Concat", "Slice") and len(plan.bottoms) == len(plan.tops) == 1
    return plan.in_place or single or plan.type in ("Flatten", "Reshape", "Split")


def _fitted(net: CaffeNet, path: Path) -> list[str]:
    """Load the weights, which says whether they fit, and name what either side lacks."""
    stored = read_weights(path, with_empty=True)
    skipped = net.copy_weights(stored, str(path))
    from_file = {layer.name for layer in stored}
    lacking = [
        plan.name for plan in net.plan.layers if net._modules[plan.name].blobs and plan.name not in from_file
    ]
    remarks = [f"{path}: fits the net"]
    if lacking:
        remarks.append(f"{path}: has no weights for {', '.join(lacking)}")
    if skipped:
        remarks.append(f"{path}: layers that the net lacks: {', '.join(skipped)}")
    return remarks


# ---- The command


def summary_command(
    prototxt: Annotated[Path, typer.Argument(help="A net: deploy.prototxt, train_val.prototxt, …")],
    weights: Annotated[Path | None, typer.Option(help="Weights that are to fit the net.")] = None,
    phase: Annotated[str, typer.Option(help="TRAIN or TEST: which of the net's layers.")] = "TEST",
    shape: Annotated[
        list[str] | None,
        typer.Option("--input", help="A blob's shape: data=1,3,224,224.", metavar="BLOB=SHAPE"),
    ] = None,
    graph: Annotated[Path | None, typer.Option(help="Draw the net, as SVG.", metavar="FILE.svg")] = None,
    allow_module: Annotated[
        list[str] | None, typer.Option(help="A Python module that the net's Python layers may load.")
    ] = None,
) -> None:
    """List a net's layers, shapes, parameters, multiply-adds and memory; nothing is computed."""
    try:
        net, remarks = summarise(
            prototxt,
            _phase(phase),
            inputs=dict(_parsed(text) for text in shape or ()),
            allow_modules=allow_module or (),
            weights=weights,
        )
        if graph is not None:
            draw_net(net, graph)
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    console = plain_console()
    if not console.is_terminal:
        console = plain_console(width=120)
    console.print(_table(net))
    for line in (*_totals(net), *remarks):
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _phase(name: str) -> int:
    if name.upper() not in ("TRAIN", "TEST"):
        raise InputError(f"--phase {name}: give TRAIN or TEST")
    return int(name.upper() == "TEST")


def _parsed(text: str) -> tuple[str, Shape]:
    name, sign, sizes = text.partition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    except ValueError:
        shape = (-1,)
    if not (name and sign) or any(size < 0 for size in shape):
        raise InputError(f"--input {text}: give a blob and its sizes, as data=1,3,224,224")
    return name, shape


def _table(net: NetSummary) -> Table:
    table = Table(title=printable(net.name) or None, title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("type", no_wrap=True)
    table.add_column("output", overflow="fold")
    for heading in ("parameters", "multiply-adds", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in net.layers:
        tops = [
            ("" if top in (layer.name, AUTOMATIC) else f"{top} ") + (_by(shape) or "single")
            for top, shape in zip(layer.tops, layer.shapes, strict=True)
        ]
        table.add_row(
            printable(layer.name),
            printable(layer.type),
            f"in place: {printable(layer.tops[0])}" if layer.in_place else "\n".join(map(printable, tops)),
            f"{layer.parameters:,}"
            if layer.parameters
            else f"shared {layer.shared:,}"
            if layer.shared
            else "",
            f"{layer.multiply_adds:,}" if layer.multiply_adds else "",
            size_text(layer.memory) if layer.memory else "",
        )
    table.add_section()
    table.add_row(
        "total",
        f"{len(net.layers)} layers",
        "",
        f"{net.parameters:,}",
        f"{net.multiply_adds:,}",
        size_text(net.blob_memory),
        style="bold",
    )
    return table


def _totals(net: NetSummary) -> list[str]:
    both = net.blob_memory + net.weight_memory
    return [
        f"Memory in float32: blobs {size_text(net.blob_memory)}, weights {size_text(net.weight_memory)}; "
        f"with gradients {size_text(2 * both)}.",
        "Multiply-adds: of one pass, in layers with weight matrices; biases do not count.",
    ]


def size_text(size: int) -> str:
    """Bytes with a unit: 12 B, 3.4 KiB, 56.7 MiB, …"""
    unit = min(int(math.log(size, 1024)), 3) if size else 0
    return f"{size} B" if not unit else f"{size / 1024**unit:,.1f} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def _by(shape: Shape) -> str:
    return "×".join(map(str, shape))
