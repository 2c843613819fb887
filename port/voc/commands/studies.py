"""`seenet studies`: the paper's studies on the generated dataset, trained, judged and drawn side by side."""

from pathlib import Path
from typing import Annotated

import typer

from port.devices import check_device
from port.voc.settings import check_workers


def studies_command(
    out: Annotated[Path, typer.Option(help="Folder for everything.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings of each.")] = 3,
    number: Annotated[int, typer.Option("-n", "--number", min=10, help="Generated images.")] = 1500,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Of each training.", show_default="the solvers'")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one on each core.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda, for training and attention.")] = "cpu",
) -> None:
    """Plain attention, ACoL-style erasing, SeeNet without C-ReLU and SeeNet on `shapes`: table and figure.

    Stopped in any way, it goes on where it was when called again.
    """
    check_device(device)
    check_workers(workers)
    from port.voc.studies import run_studies, write_studies

    write_studies(out, *run_studies(out, seeds, number, iterations, workers, device))
    typer.echo(f"The same images side by side: {out}/studies.png; the numbers: {out}/studies.json")
