"""`seenet summary`: what a prototxt amounts to, as a table and as a drawing."""

from pathlib import Path
from typing import Annotated

import typer

from port.own_options import AllowModule, Proto, load_own
from prototxt.arguments import the_net
from prototxt.errors import InputError, printable


def summary_command(
    net_: Annotated[
        Path | None,
        typer.Argument(metavar="PROTOTXT", help="A net: deploy.prototxt, train_val.prototxt, …"),
    ] = None,
    prototxt: Annotated[Path | None, typer.Option(help="The same, named.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights that are to fit the net.")] = None,
    phase: Annotated[str, typer.Option(help="TRAIN or TEST: which of the net's layers.")] = "TEST",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input-shape", "--input", help="A blob's shape: data=1,3,224,224.", metavar="BLOB=SHAPE"
        ),
    ] = None,
    graph: Annotated[Path | None, typer.Option(help="Draw the net, as SVG.", metavar="FILE.svg")] = None,
    allow_module: AllowModule = None,
    proto: Proto = None,
) -> None:
    """List a net's layers, shapes, parameters, multiply-adds and memory; nothing is computed."""
    prototxt = the_net(net_, prototxt)
    inputs = dict(_parsed(text) for text in shape or ())
    number = _phase(phase)
    if graph is not None and graph.suffix.lower() != ".svg":
        raise InputError(f"{graph}: the drawing is an SVG: name it FILE.svg")
    modules = load_own(allow_module, proto)
    from port.report.graph import draw_net
    from port.report.summary import lacking, summarise, summary_table, totals
    from weights.progress import plain_console

    try:
        net, remarks = summarise(prototxt, number, inputs=inputs, allow_modules=modules, weights=weights)
    except InputError:
        for line in lacking(prototxt, number):
            typer.echo(line)
        raise
    if graph is not None:
        draw_net(net, graph)
    console = plain_console()
    if not console.is_terminal:
        console = plain_console(width=120)
    console.print(summary_table(net))
    for line in (*totals(net), *remarks):
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _phase(name: str) -> int:
    if name.upper() not in ("TRAIN", "TEST"):
        raise InputError(f"--phase {name}: give TRAIN or TEST")
    return int(name.upper() == "TEST")


def _parsed(text: str) -> tuple[str, tuple[int, ...]]:
    name, sign, sizes = text.partition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
    except ValueError:
        shape = (-1,)
    if not (name and sign) or any(size < 0 for size in shape):
        raise InputError(f"--input-shape {text}: give a blob and its sizes, as data=1,3,224,224")
    return name, shape
