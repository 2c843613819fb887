"""`seenet saliency`: the saliency maps that proxy labels need."""

from pathlib import Path
from typing import Annotated

import typer

from port.devices import check_device
from port.voc.commands.options import Dataset, DatasetList, Photographs, ToBgr, check_source
from prototxt.errors import InputError


def saliency_command(
    prototxt: Annotated[Path, typer.Option(help="DSS's deploy net: VGG-16's or ResNet-101's, as released.")],
    weights: Annotated[Path, typer.Option(help="Its weights: dss_model_released.caffemodel, …")],
    out: Annotated[Path, typer.Option(help="Folder for the maps, NAME.png, 8 bits.")],
    images: Photographs = None,
    voc: Dataset = None,
    list_: DatasetList = None,
    crf: Annotated[bool, typer.Option("--crf", help="Refine as the authors' dss_crf does.")] = False,
    workers: Annotated[int, typer.Option(help="Threads that read, and as many that write.", min=1)] = 2,
    to_bgr: ToBgr = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Saliency maps, NAME.png, of photographs or of a dataset, which goes on where it was stopped."""
    check_source(images, voc, list_)
    check_device(device)
    from port.voc.crf import load_crf
    from port.voc.each import report_failures
    from port.voc.lists import read_names
    from port.voc.saliency import SaliencyNet, make_saliency

    if crf:
        load_crf()
    failed: list[InputError] = []
    if voc:
        entries, failed = read_names(list_)
        if not (voc / "JPEGImages").is_dir():
            raise InputError(f"{voc}: has no folder JPEGImages: is it VOC2012's own folder?")
        images = [voc / "JPEGImages" / f"{entry.name}.jpg" for entry in entries]
    done = make_saliency(images, SaliencyNet(prototxt, weights, device), out, crf, workers, to_bgr)
    typer.echo(f"{done.made} saliency maps in {out}, {done.before} there before")
    report_failures(failed + done.failed, done.made + done.before + len(failed) + len(done.failed))
