"""The options of commands that take nets with layers of the user's own: `--allow-module` and `--proto`."""

from collections.abc import Iterable
from typing import Annotated

import typer

from prototxt.own import use_proto

AllowModule = Annotated[
    list[str] | None,
    typer.Option(
        help="A Python module (or file) that the net's Python layers may load, or that registers layer types; "
        "repeatable."
    ),
]
"""The option of every command that takes a net."""

Proto = Annotated[
    str | None,
    typer.Option(help="The fork's caffe.proto, for layer types that a module registers.", metavar="FILE"),
]
"""Another such option."""


def load_own(allow_module: Iterable[str] | None, proto: str | None) -> list[str]:
    """Do what the two options ask for; gives the names of the modules that are allowed.

    Raises:
        InputError: a module or file that cannot be read.
    """
    if proto is not None:
        use_proto(proto)
    if not allow_module:
        return []
    from runtime.python_layer import load_modules

    return load_modules(allow_module, "port.pycaffe")
