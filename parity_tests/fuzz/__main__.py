"""`python -m parity_tests.fuzz`."""

import secrets
from pathlib import Path
from typing import Annotated

import typer

from parity_tests.fuzz.edits import broken
from parity_tests.fuzz.guided import guided_all
from parity_tests.fuzz.run import fuzz_all
from parity_tests.fuzz.targets import TARGETS
from prototxt.errors import InputError, errors_on_one_line


def fuzz_command(
    minutes: Annotated[float, typer.Option(help="For all targets together.")] = 1.0,
    target: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(TARGETS)}; repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all cases.", show_default="a new one")] = None,
    cases: Annotated[int, typer.Option(help="Of each target, at most.")] = 1 << 60,
    guided: Annotated[
        bool, typer.Option("--guided", help="By coverage, with atheris: pip install atheris.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the files that something went wrong with.")] = Path(
        "fuzz-findings"
    ),
) -> None:
    """Break files and read them; exit status 1 where one was neither taken nor refused in one line."""
    unknown = [name for name in target or () if name not in TARGETS]
    if unknown:
        raise InputError(f'--target "{unknown[0]}": one of {", ".join(TARGETS)} is needed')
    seed = secrets.randbits(32) if seed is None else seed
    typer.echo(f"seed {seed}")
    names = target or [name for name in TARGETS if not guided or TARGETS[name].breaks is broken]
    if (guided_all if guided else fuzz_all)(names, 60 * minutes, seed, out.absolute(), cases):
        raise typer.Exit(1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(fuzz_command)
    with errors_on_one_line():
        app()
