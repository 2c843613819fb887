"""`seenet pipeline`: from image labels to a judged segmentation net, stage by stage."""

from pathlib import Path
from typing import Annotated

import typer

from port.devices import check_device
from port.voc.settings import SETS, PipelineSettings, chosen_nets


def pipeline_command(
    out: Annotated[Path, typer.Option(help="Folder for everything.")],
    voc: Annotated[
        Path | None, typer.Option(help="Dataset in VOC's layout. Without: `shapes`, made in the folder.")
    ] = None,
    nets: Annotated[
        str, typer.Option(help=f"Which nets: {', '.join(SETS)}.", show_default="shapes without --voc")
    ] = "",
    weights: Annotated[
        Path | None,
        typer.Option(help="What the classifiers start from: VGG-16.", show_default="the set's own"),
    ] = None,
    segmentation_weights: Annotated[
        Path | None,
        typer.Option(
            help="What the segmentation nets start from: vgg16_20M or ResNet-101.",
            show_default="the set's own",
        ),
    ] = None,
    backbone: Annotated[str, typer.Option(help="Of the segmentation nets: vgg16 or resnet101.")] = "vgg16",
    share_background: Annotated[
        bool, typer.Option("--share-background", help="SeeNet's S_C is S_B's own classifier.")
    ] = False,
    train_list: Annotated[
        Path | None, typer.Option(help="NAME CLASS [CLASS …].", show_default="VOC/train_cls.txt")
    ] = None,
    val_list: Annotated[
        Path | None, typer.Option(help="Names to judge by.", show_default="ImageSets/Segmentation/val.txt")
    ] = None,
    saliency: Annotated[
        Path | None, typer.Option(help="NAME.png.", show_default="VOC/Saliency, where there")
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Also train on plain CAM's labels, and on exact masks where there are any.")
    ] = True,
    multi_scale: Annotated[
        bool, typer.Option("--multi-scale", help="Segment at five scales, mirrored too.")
    ] = False,
    crf: Annotated[bool, typer.Option(help="Refine by a dense CRF.")] = True,
    number: Annotated[int, typer.Option("-n", "--number", min=10, help="Images, without --voc.")] = 1500,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of all trainings.", show_default="the solvers'")
    ] = None,
    classifier_iterations: Annotated[
        int | None, typer.Option(min=1, show_default="the solver's", help="Of the classifiers.")
    ] = None,
    segmentation_iterations: Annotated[
        int | None, typer.Option(min=1, show_default="the solver's", help="Of the segmentation nets.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that fuse, refine and judge.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    check: Annotated[
        bool, typer.Option("--check", help="Only look whether all is there, and say what it will take.")
    ] = False,
) -> None:
    """Classifier → attention → proxy labels → segmentation net → mIoU; a page with curves and pictures.

    Before anything is trained, everything that any stage reads is opened and held against the rest. Called again,
    it goes on where it was stopped, and passes over what is current.
    """
    chosen = chosen_nets(nets or ("published" if voc else "shapes"), weights, segmentation_weights, backbone)
    check_device(device)
    settings = PipelineSettings(
        nets=chosen,
        backbone=backbone,
        share_background=share_background,
        voc=voc,
        train_list=train_list,
        val_list=val_list,
        saliency=saliency,
        compare=compare,
        multi_scale=multi_scale,
        crf=crf,
        number=number,
        seed=seed,
        classifier_iterations=classifier_iterations,
        segmentation_iterations=segmentation_iterations,
        workers=workers,
        device=device,
        check=check,
    )
    from port.voc.pipeline import run_pipeline

    run_pipeline(out, settings)
    if not check:
        typer.echo(f"Curves and pictures: {out}/pipeline.html; all numbers: {out}/pipeline.json")
