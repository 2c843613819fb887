"""`seenet proxy-labels`: attention and saliency become label images to train segmentation on."""

from pathlib import Path
from typing import Annotated

import typer

from port.voc.settings import Fusion, check_workers
from prototxt.errors import InputError


def proxy_labels_command(
    attention: Annotated[Path, typer.Option(help="Folder of NAME_CLASS.png.")],
    list_: Annotated[Path, typer.Option("--list", help="Lines NAME CLASS [CLASS …], classes from 0.")],
    out: Annotated[Path, typer.Option(help="Folder for the label images, NAME.png.")],
    saliency: Annotated[
        Path | None, typer.Option(help="Folder of NAME.png; without it, attention is cut at --background.")
    ] = None,
    fusion: Annotated[
        str,
        typer.Option(
            help="Class score from saliency and attention: harmonic (the paper's), max, mean, saliency."
        ),
    ] = Fusion.fusion,
    ambiguous: Annotated[
        float, typer.Option(help="Ignore where two classes' attentions reach this; 0: nowhere.")
    ] = Fusion.ambiguous,
    low_saliency: Annotated[
        int, typer.Option(help="Ignore where saliency is below this (authors: 32 of 255); 0: nowhere.")
    ] = Fusion.low_saliency,
    background: Annotated[
        float, typer.Option(help="Without --saliency: background's score.")
    ] = Fusion.background,
    workers: Annotated[int, typer.Option(help="Processes; 0: one on each core.")] = 0,
) -> None:
    """Fuse attention and saliency to label images (VOC's palette, 255 for ignored), NAME.png."""
    rule = Fusion(fusion, ambiguous, low_saliency, background)
    if low_saliency and saliency is None:
        raise InputError("--low-saliency needs --saliency: name the folder of saliency maps")
    check_workers(workers)
    from port.voc.each import report_failures
    from port.voc.proxy_labels import make_proxy_labels

    written, ignored, failed = make_proxy_labels(attention, saliency, list_, out, rule, workers)
    typer.echo(f"{written} label images in {out}; {ignored:.1%} of their pixels are ignored")
    report_failures(failed, written + len(failed))
