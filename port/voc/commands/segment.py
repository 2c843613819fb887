"""`seenet segment`: label images by a segmentation net and a dense CRF."""

from pathlib import Path
from typing import Annotated

import typer

from port.devices import check_device
from port.own_options import AllowModule, Proto, load_own
from port.voc.commands.options import Dataset, DatasetList, Photographs, ToBgr, check_source
from port.voc.settings import MULTI_SCALE, NETS, OVERLAYS, CrfSettings, Views
from prototxt.errors import InputError

DEPLOY = NETS / "deeplab_largefov" / "deploy.prototxt"


def segment_command(
    weights: Annotated[Path, typer.Option(help="The net's: .caffemodel, .h5, .safetensors or .pth.")],
    out: Annotated[Path, typer.Option(help="Folder for the label images, NAME.png.")],
    images: Photographs = None,
    voc: Dataset = None,
    list_: DatasetList = None,
    prototxt: Annotated[
        Path,
        typer.Option(help="Any deploy net with 21 classes.", show_default="DeepLab-LargeFOV on VGG-16"),
    ] = DEPLOY,
    scales: Annotated[str, typer.Option(help="Factors of the image's size, averaged, with commas.")] = "1",
    multi_scale: Annotated[
        bool, typer.Option("--multi-scale", help=f"Short for --scales {','.join(map(str, MULTI_SCALE))}.")
    ] = False,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored image too.")] = False,
    tile: Annotated[
        int,
        typer.Option(help="Side of the windows that the net is shown; 0: whole images."),
    ] = Views.tile,
    crf: Annotated[bool, typer.Option(help="Refine by a dense CRF.")] = True,
    crf_bilateral: Annotated[
        float, typer.Option(help="CRF: weight of pixels near and alike in colour.")
    ] = CrfSettings.bilateral,
    crf_bilateral_xy: Annotated[
        float, typer.Option(help="CRF: how near, pixels.")
    ] = CrfSettings.bilateral_xy,
    crf_bilateral_rgb: Annotated[
        float, typer.Option(help="CRF: how alike, of 255.")
    ] = CrfSettings.bilateral_rgb,
    crf_gaussian: Annotated[float, typer.Option(help="CRF: weight of pixels near.")] = CrfSettings.gaussian,
    crf_gaussian_xy: Annotated[float, typer.Option(help="CRF: how near, pixels.")] = CrfSettings.gaussian_xy,
    crf_iterations: Annotated[int, typer.Option(help="CRF: of its mean field.")] = CrfSettings.iterations,
    overlays: Annotated[
        bool, typer.Option("--overlays", help=f"Also draw the classes over the images, {OVERLAYS}/NAME.jpg.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes for CRF and writing.", min=1)] = 2,
    to_bgr: ToBgr = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    allow_module: AllowModule = None,
    proto: Proto = None,
) -> None:
    """Label images (VOC's palette, the image's own size), NAME.png.

    Of photographs, or of a dataset (--voc, --list), which goes on where it was stopped.
    """
    check_source(images, voc, list_)
    check_device(device)
    if multi_scale and scales != "1":
        raise InputError("--multi-scale and --scales: give one of them")
    views = Views(MULTI_SCALE if multi_scale else _numbers(scales), flip, tile)
    refine = (
        CrfSettings(
            bilateral=crf_bilateral,
            bilateral_xy=crf_bilateral_xy,
            bilateral_rgb=crf_bilateral_rgb,
            gaussian=crf_gaussian,
            gaussian_xy=crf_gaussian_xy,
            iterations=crf_iterations,
        )
        if crf
        else None
    )
    modules = load_own(allow_module, proto)
    from port.voc.each import report_failures
    from port.voc.segment import Segmenting, class_table, image_table, segment_dataset, segment_images
    from weights.progress import plain_console

    settings = Segmenting(
        prototxt=prototxt,
        weights=weights,
        views=views,
        crf=refine,
        overlays=overlays,
        to_bgr=to_bgr,
        allow_modules=tuple(modules),
    )
    console = plain_console()
    if images:
        done = segment_images(images, out, settings, workers, device)
        told = image_table(done)
    else:
        done = segment_dataset(voc, list_, out, settings, workers, device)
        told = class_table(done)
    if done.counts:
        console.print(told)
    typer.echo(f"{len(done.counts)} images segmented, {done.before} done before; label images are in {out}")
    if voc and (done.counts or done.before):
        console.print(
            f"Next: seenet evaluate --pred {out} --gt {voc / 'SegmentationClass'} --list {list_}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    report_failures(done.failed, len(done.counts) + done.before + len(done.failed))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f'--scales "{text}": give numbers with commas between, such as 0.75,1') from error
