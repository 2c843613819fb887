"""`seenet voc-labels`: from VOC's annotations to the list of images and classes that training reads."""

from pathlib import Path
from typing import Annotated

import typer

from port.voc.settings import check_source, check_workers


def voc_labels_command(
    voc: Annotated[Path, typer.Option(help="The dataset: JPEGImages, Annotations, SegmentationClass[Aug].")],
    list_: Annotated[Path, typer.Option("--list", help="Names of images, one on a line.")],
    out: Annotated[Path, typer.Option(help="The list to write: NAME CLASS [CLASS …].")] = Path(
        "train_cls.txt"
    ),
    source: Annotated[str, typer.Option("--from", help="xml or masks.")] = "xml",
    workers: Annotated[int, typer.Option(help="Processes; 0: one on each core.")] = 0,
) -> None:
    """Write each image's classes, from 0, in rising order, and hold the counts against the paper's.

    Every object counts, those marked difficult too: they are in the picture. An image without any object is
    reported and left out, for a list without classes could not be trained on.
    """
    check_source(source)
    check_workers(workers)
    from port.voc.each import report_failures
    from port.voc.voc_labels import image_labels, paper_note, write_list

    lines, failed = image_labels(voc, list_, source, workers)
    if lines:
        write_list(out, lines)
        typer.echo(f"{len(lines)} images in {out}")
    typer.echo(paper_note(list_, len(lines)))
    report_failures(failed, len(lines) + len(failed))
