"""`seenet studies`: the paper's studies on generated images, trained, judged and drawn side by side."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from port.devices import check_device
from port.voc.settings import check_workers
from port.voc.study_design import DESIGN, read_design


def studies_command(
    out: Annotated[Path, typer.Option(help="Folder for everything.")],
    design: Annotated[
        Path, typer.Option(help="What is run.", show_default="the published results'")
    ] = DESIGN,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Only so many of its seeds.", show_default="all")
    ] = None,
    number: Annotated[
        int | None,
        typer.Option("-n", "--number", min=10, help="Images of each set.", show_default="the design's"),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Of each training.", show_default="the design's")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one on each core.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda, for training and attention.")] = "cpu",
) -> None:
    """CAM, ACoL-style erasing and SeeNet in its forms on generated images: tables and figures.

    Stopped in any way, it goes on where it was when called again. After each run, all numbers so far are in
    studies.json.
    """
    check_device(device)
    check_workers(workers)
    plan = read_design(design)
    changed = {"number": number, "iterations": iterations}
    given = {what: value for what, value in changed.items() if value is not None}
    plan = replace(
        plan,
        seeds=plan.seeds[:seeds],
        sets={name: {**settings, **given} for name, settings in plan.sets.items()},
    )
    from port.voc.studies import write_studies

    write_studies(out, plan, workers, device)
    typer.echo(
        f"Numbers: {out}/studies.json; charts and the same images side by side: {out}/SET.png, SET_maps.png"
    )
