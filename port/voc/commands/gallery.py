"""`seenet gallery`: a dataset's images, attention, labels and truth on one page, to be sorted by IoU."""

from pathlib import Path
from typing import Annotated

import typer

from port.voc.settings import Folders, check_workers, first_folder, named_folders


def gallery_command(
    voc: Annotated[Path, typer.Option(help="Holds JPEGImages; and SegmentationClass[Aug], for the truth.")],
    list_: Annotated[
        Path, typer.Option("--list", help="Names; with --attention, NAME CLASS [CLASS …], classes from 0.")
    ],
    out: Annotated[Path, typer.Option(help="The page, .html.")],
    attention: Annotated[
        list[str] | None, typer.Option(help="[NAME=]DIR with NAME_CLASS.png; may be repeated.")
    ] = None,
    pred: Annotated[
        list[str] | None, typer.Option(help="[NAME=]DIR of label images; may be repeated.")
    ] = None,
    gt: Annotated[
        Path | None, typer.Option(help="Folder of true label images.", show_default="VOC's, where there")
    ] = None,
    side: Annotated[int, typer.Option(help="Pixels of a picture's longer side, at most.")] = Folders.side,
    quality: Annotated[
        int, typer.Option(help="Of photographs and maps: WebP's, 1 to 100.")
    ] = Folders.quality,
    workers: Annotated[int, typer.Option(help="Processes; 0: one on each core.")] = 0,
) -> None:
    """One page of HTML: images, attention, labels and truth side by side, to be sorted by IoU."""
    check_workers(workers)
    folders = Folders(
        voc,
        named_folders("--attention", attention or ()),
        named_folders("--pred", pred or ()),
        gt or first_folder(voc),
        side,
        quality,
    )
    from port.voc.each import report_failures
    from port.voc.gallery import gather_gallery, print_gallery, write_gallery

    gallery = gather_gallery(folders, list_, workers)
    write_gallery(out, gallery, f"{voc.name}: {list_.stem}")
    print_gallery(gallery)
    typer.echo(
        f"{len(gallery.cards)} images on {out}, {out.stat().st_size / 1e6:.1f} MB: open it in a browser"
    )
    report_failures(gallery.failed, gallery.asked)
