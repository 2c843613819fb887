"""`seenet shapes`: a dataset in VOC's layout for those without VOC, with exact ground truth."""

from pathlib import Path
from typing import Annotated

import typer

from port.voc.settings import KINDS, check_workers
from prototxt.errors import InputError


def shapes_command(
    out: Annotated[Path, typer.Option(help="Folder for the dataset.")],
    number: Annotated[int, typer.Option("-n", "--number", help="How many images.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    size: Annotated[int, typer.Option(help="Longer side of an image, in pixels.")] = 160,
    saliency_iou: Annotated[
        float, typer.Option(help="Quality of the simulated saliency: its IoU with the objects at 128 of 255.")
    ] = 0.85,
    kind: Annotated[
        str, typer.Option(help=f"What the images look like: {' or '.join(KINDS)} (VOC's geometry).")
    ] = "shapes",
    crops: Annotated[
        bool, typer.Option("--crops", help="Also cut out each object, 64 by 64: what a trunk is taught with.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0: one on each core.")] = 0,
) -> None:
    """Generate images of twenty classes in VOC's layout, with exact labels and simulated saliency.

    Classes carry VOC's names, so that every command takes them; a "boat" here is a shape with the fourth emblem.
    """
    if number < 1 or seed < 0:
        raise InputError(
            f"-n {number} --seed {seed}: there must be at least one image and a seed of 0 or more"
        )
    if not 64 <= size <= 2048:
        raise InputError(f"--size {size}: must be 64 to 2048 pixels")
    if not 0.3 <= saliency_iou <= 1:
        raise InputError(f"--saliency-iou {saliency_iou}: must be 0.3 to 1")
    if kind not in KINDS:
        raise InputError(f'--kind "{kind}": must be one of {", ".join(KINDS)}')
    check_workers(workers)
    from port.voc.each import report_failures
    from port.voc.shapes import make_shapes, print_facts

    facts, failed = make_shapes(out, number, seed, size, saliency_iou, workers, crops, kind)
    print_facts(facts, str(out))
    report_failures(failed, number)
