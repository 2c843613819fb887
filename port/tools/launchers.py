"""Small executables under the names of Caffe's tools, which run this installation's."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from port.tools import SCRIPTS, TOOLS
from prototxt.errors import InputError
from weights.files import write_text

MARK = "# Written by `seenet launchers`."

_LAUNCH = Path(__file__).with_name("launch.py").resolve()


def launchers_command(
    out: Annotated[Path, typer.Option(help="The folder, to be put on the PATH, or build/tools of a recipe.")],
) -> None:
    """Write launchers under the names of Caffe's tools: caffe, convert_imageset, parse_log.py, …

    They work from any folder, and run this installation with its own Python.
    """
    for path in write_launchers(out):
        typer.echo(str(path))


def write_launchers(folder: Path) -> list[Path]:
    """Write them, each program also as NAME.bin, as Caffe's Makefile names it; returns their paths.

    Raises:
        InputError: a file of such a name that is no launcher, a folder that cannot be written to.
    """
    texts = {f"{name}{end}": _shell(name) for name in TOOLS for end in ("", ".bin")}
    texts |= {f"{name}.py": _python(name) for name in SCRIPTS}
    for name in texts:
        path = folder / name
        if path.exists() and (not path.is_file() or MARK.encode() not in path.read_bytes()):
            raise InputError(f"{path}: exists and is no launcher: choose another folder")
    for name, text in texts.items():
        write_text(folder / name, text)
        (folder / name).chmod(0o755)
    return [folder / name for name in texts]


def _shell(name: str) -> str:
    command = shlex.join([sys.executable, str(_LAUNCH), name])
    return f'#!/bin/sh\n{MARK}\nexec {command} "$@"\n'


def _python(name: str) -> str:
    """For `python parse_log.py …` too, by whatever Python."""
    command = [sys.executable, str(_LAUNCH), name]
    return (
        f"#!/usr/bin/env python3\n{MARK}\nimport os\nimport sys\n\n"
        f"command = {command!r}\nos.execv(command[0], command + sys.argv[1:])\n"
    )
