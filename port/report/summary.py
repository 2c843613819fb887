"""What a prototxt amounts to: layers, shapes, parameters, multiply-adds and memory, without computing.

seenet summary deploy.prototxt --graph net.svg
"""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from rich.table import Table

from port.net import open_layer
from port.report.facts import LayerSummary, NetSummary
from prototxt.caffe_pb2 import LayerParameter, NetParameter, NetState
from prototxt.errors import InputError, printable
from prototxt.layers.data import tells_shapes, told_shapes
from prototxt.layers.declare import LAYER_TYPES, Declared, Shape
from prototxt.layers.memory import shares_memory
from prototxt.limits import FLOAT
from prototxt.plan import AUTOMATIC, LayerPlan, Plan, Step, plan_net
from prototxt.read import layer_line, read_net
from prototxt.rules import layer_included
from prototxt.unknown import missing
from runtime import net_weights
from weights import read_weights
from weights.opening import is_hdf5


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
    shapes, remarks = dict(inputs or {}), []

    def set_up(step: Step) -> Declared | None:
        if step.bottoms:
            return _opened(step, allow_modules)
        given = _given_shapes(step, shapes)
        if given is None and tells_shapes(step.param):
            try:
                return _opened(step, allow_modules)
            except InputError:
                given = _told_shapes(step.param)
            told = ", ".join(f"{top} {_by(s)}" for top, s in zip(step.param.top, given, strict=True))
            remarks.append(f"{step.param.name}: {step.param.type} as its settings tell it, unread: {told}")
        return Declared(given) if given else _opened(step, allow_modules)

    plan = plan_net(message, phase, where=where, set_up=set_up)
    if shapes:
        raise InputError(
            f"{where}: --input-shape {', '.join(shapes)}: no input or data layer makes such a blob"
        )
    if weights is not None:
        remarks += _fitted(plan, weights)
    return NetSummary(message.name, tuple(_layers(plan))), remarks


def multiply_adds(plan: LayerPlan) -> int:
    """Multiply-adds of one pass through the layers that multiply by weight matrices; 0 for all others.

    These are Convolution, Deconvolution, InnerProduct, RNN and LSTM; biases do not count.
    """
    weights = [weight.shape for weight in plan.declared.weights]
    bottoms, tops = plan.bottom_shapes, plan.declared.tops
    if plan.type == "Convolution":
        return sum(math.prod(top) for top in tops) * math.prod(weights[0][1:])
    if plan.type == "Deconvolution":
        return sum(math.prod(bottom) for bottom in bottoms) * math.prod(weights[0][1:])
    if plan.type == "InnerProduct":
        return math.prod(tops[0]) * (math.prod(weights[0]) // plan.param.inner_product_param.num_output)
    if plan.type in ("RNN", "LSTM"):
        steps, streams = bottoms[0][:2]
        return steps * streams * sum(math.prod(weight) for weight in weights if len(weight) == 2)
    return 0


# ---- Shapes


def _opened(step: Step, allow_modules: Collection[str]) -> Declared | None:
    """What a layer that opens files makes, and a script's."""
    opened = open_layer(step, allow_modules)
    return opened[1] if opened else None


def _given_shapes(step: Step, shapes: dict[str, Shape]) -> list[Shape] | None:
    """The shapes that the caller named for the layer's tops, taken out of `shapes`; all tops or none."""
    tops = list(step.param.top)
    if not any(top in shapes for top in tops):
        return None
    given: list[Shape] = []
    for i, top in enumerate(tops):
        if top in shapes:
            given.append(shapes.pop(top))
        elif step.declared:
            given.append(step.declared.tops[i])
        elif i == 1:
            given.append(given[0][:1])  # labels: one each
        else:
            raise InputError(f"give --input-shape for {top} too")
    return given


def _told_shapes(layer: LayerParameter) -> list[Shape]:
    """A data layer's shapes, from its settings alone.

    Raises:
        InputError: where they do not tell.
    """
    shapes = told_shapes(layer)
    if shapes is None:
        raise InputError(
            "its data cannot be read here, and its settings do not tell the shape: give it, as in "
            f"--input-shape {layer.top[0]}=16,3,224,224"
        )
    return shapes


# ---- Rows


def _layers(net: Plan) -> list[LayerSummary]:
    """A summary for each layer but the splits that a net inserts by itself."""
    names = dict(enumerate(net.blobs))
    rows = []
    for plan in net.layers:
        if _inserted(plan):
            names.update(dict.fromkeys(plan.tops, names[plan.bottoms[0]]))
            continue
        weights, tops = [weight.shape for weight in plan.declared.weights], plan.declared.tops
        own = [param.owner is None for param in plan.params]
        sizes = [math.prod(weight) for weight in weights]
        rows.append(
            LayerSummary(
                name=plan.name,
                type=plan.type,
                param=plan.param,
                bottoms=tuple(names[i] for i in plan.bottoms),
                tops=tuple(names[i] for i in plan.tops),
                shapes=tuple(tops),
                weights=tuple(weights),
                parameters=sum(size for size, mine in zip(sizes, own, strict=True) if mine),
                shared=sum(size for size, mine in zip(sizes, own, strict=True) if not mine),
                multiply_adds=multiply_adds(plan),
                memory=0 if plan.in_place or shares_memory(plan) else FLOAT * sum(map(math.prod, tops)),
            )
        )
    return rows


def _inserted(plan: LayerPlan) -> bool:
    return plan.type == "Split" and plan.name.endswith("_split") and plan.tops != plan.bottoms


def _fitted(net: Plan, path: Path) -> list[str]:
    """Match the weights with the net, which says whether they fit, and name what either side lacks."""
    stored = read_weights(path, with_empty=True)
    shapes = [[weight.shape for weight in plan.declared.weights] for plan in net.layers]
    _, skipped = net_weights.matched(net, shapes, stored, str(path), hdf5=is_hdf5(path))
    from_file = {layer.name for layer in stored}
    lacking = [plan.name for plan in net.layers if plan.declared.weights and plan.name not in from_file]
    remarks = [f"{path}: fits the net"]
    if lacking:
        remarks.append(f"{path}: has no weights for {', '.join(lacking)}")
    if skipped:
        remarks.append(f"{path}: layers that the net lacks: {', '.join(skipped)}")
    return remarks


def lacking(prototxt: str | Path, phase: int) -> list[str]:
    """A line for each layer of a net that is missing here, and one for those that are not; [] where none is missing.

    Args:
        phase: 0 TRAIN, 1 TEST.
    """
    message = read_net(prototxt)
    state = NetState()
    state.CopyFrom(message.state)
    state.phase = phase
    found = missing(message, state, LAYER_TYPES)
    if not found:
        return []
    selected = sum(layer_included(layer, state) for layer in message.layer)
    lines = [
        f'{layer_line(str(prototxt), layer.name)}: layer "{layer.name}": {layer.what}' for layer in found
    ]
    return [
        *lines,
        f"{len(found)} of {selected} layers are missing; the other {selected - len(found)} would run",
    ]


# ---- What is told


def summary_table(net: NetSummary) -> Table:
    """A row for each layer, and the totals."""
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


def totals(net: NetSummary) -> list[str]:
    """Lines below the table."""
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
