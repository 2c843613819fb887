"""`seenet bench`: its options."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer

from port.devices import check_device
from prototxt.errors import InputError

PARTS = ("forward", "job", "training", "convert", "detection", "memory")
"""What is measured, in this order; each is `bench_NAME` in `parity_tests.bench.parts`."""


def bench_command(
    nets: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Nets in deploy form, instead of SeeNet: one pass of each.", metavar="[PROTOTXT]..."
        ),
    ] = None,
    weights: Annotated[
        list[Path] | None, typer.Option(help="For each PROTOTXT, in order. Without: drawn from a seed.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Of each PROTOTXT also layer by layer.")] = False,
    only: Annotated[str, typer.Option(help=f"Of {', '.join(PARTS)}, commas between. Without: all.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count; one more comes before.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="Of every engine; 0: as many as PyTorch takes.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[
        int, typer.Option(min=1, help="Images in a batch: of a PROTOTXT, or of a training iteration.")
    ] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="A narrow net, small images: only to see that everything runs.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Also write every figure here.", metavar="FILE")] = None,
    chart: Annotated[Path | None, typer.Option(help="Also draw them.", metavar="FILE.png")] = None,
) -> None:
    """Time and memory of SeeNet, or of other nets, here, side by side with other engines.

    In each round every engine runs once, so that what else the machine does falls on all alike; ratios are
    medians of the rounds' ratios. Engines that are not installed are named. SeeNet's weights are drawn from a seed.
    """
    wanted = [name.strip() for name in only.split(",") if name.strip()] or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        raise InputError(f"--only {unknown[0]}: the parts are {', '.join(PARTS)}")
    check_device(device)
    for path in (json, chart):
        if path is not None and path.is_dir():
            raise InputError(f"{path}: is a folder: name a file")
    if chart is not None and chart.suffix.lower() != ".png":
        raise InputError(f"{chart}: the chart is a .png")
    if nets:
        _bench_nets(
            nets,
            weights or [],
            only,
            quick,
            device=device,
            threads=threads,
            rounds=rounds,
            batch=batch,
            layers=layers,
            json=json,
            chart=chart,
        )
        return
    if weights or layers:
        raise InputError("--weights and --layers are for a PROTOTXT: name one")
    from parity_tests.bench.run import run_bench

    run_bench(
        wanted,
        device=device,
        threads=threads,
        rounds=rounds,
        batch=batch,
        quick=quick,
        json=json,
        chart=chart,
    )


def _bench_nets(
    nets: Sequence[Path], weights: Sequence[Path], only: str, quick: bool, **settings: Any
) -> None:
    if weights and len(weights) != len(nets):
        raise InputError(
            f"{len(weights)} --weights for {len(nets)} nets: give one for each, in order, or none"
        )
    if only or quick:
        raise InputError("--only and --quick are for SeeNet: leave out the PROTOTXT")
    from parity_tests.bench.run import run_net_bench

    run_net_bench(list(zip_longest(nets, weights)), **settings)
