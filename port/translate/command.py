"""`seenet translate`: its options."""

from pathlib import Path
from typing import Annotated

import typer

from port.translate.settings import TranslateSettings
from prototxt.arguments import the_net
from prototxt.errors import InputError


def translate_command(
    out: Annotated[Path, typer.Option(help="Folder to write; it must be new or empty.")],
    net: Annotated[Path | None, typer.Argument(metavar="PROTOTXT", help="The net.")] = None,
    prototxt: Annotated[Path | None, typer.Option(help="The same, named.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help='In any format, or "shapes"; without, they are drawn by the fillers.'),
    ] = None,
    class_name: Annotated[str | None, typer.Option(help="Of the model; by default the net's own.")] = None,
    phase: Annotated[str, typer.Option(help="test, or train: up to the losses.")] = "test",
    input_shape: Annotated[
        list[str] | None,
        typer.Option("--input-shape", help="NAME=64,3,224,224 of what a data layer makes; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the inputs to compare on.")] = 0,
) -> None:
    """Write a net as PyTorch code: model.py, its weights, a test, and the comparison with Caffe's numbers."""
    prototxt = the_net(net, prototxt)
    if phase.lower() not in ("test", "train"):
        raise InputError(f'--phase is "test" or "train", not "{phase}"')
    shapes = dict(map(_shape, input_shape or ()))
    if class_name is not None and not class_name.isidentifier():
        raise InputError(f'--class-name "{class_name}" is not a name in Python: use letters, digits and _')
    from port.translate.run import run_translate

    settings = TranslateSettings(prototxt, out, weights, class_name, phase.lower() == "train", shapes, seed)
    if not run_translate(settings):
        raise typer.Exit(1)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.partition("=")
    if not (name and equals and sizes.replace(",", "").isdigit()):
        raise InputError(f'--input-shape "{text}" must be like data=64,3,224,224')
    return name, tuple(int(size) for size in sizes.split(",") if size)
