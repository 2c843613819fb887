"""`seenet attention`: from photographs, or a dataset, to attention files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from port.attention.settings import AttentionSettings, parse_shard
from prototxt.errors import InputError


def attention_command(
    weights: Annotated[Path, typer.Option(help='SeeNet\'s weights, in any format; "shapes": small ones.')],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Photographs, with --labels.", metavar="[IMAGE...]")
    ] = None,
    labels: Annotated[
        str, typer.Option(help="Classes in the images: names or numbers, with commas between.")
    ] = "",
    voc: Annotated[
        Path | None, typer.Option(help="Or a dataset in VOC's layout (JPEGImages/NAME.jpg), with --list.")
    ] = None,
    list_: Annotated[
        Path | None, typer.Option("--list", help="Its images: lines NAME CLASS [CLASS …], classes from 0.")
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            help="I/N: of the dataset only the I-th of N parts, I from 1; under torchrun, parts of it."
        ),
    ] = "1/1",
    batch: Annotated[int, typer.Option(help="Images of the dataset in a batch.", min=1)] = 4,
    workers: Annotated[
        int, typer.Option(help="Threads that read the dataset, and as many that write.", min=1)
    ] = 4,
    test_size: Annotated[
        int, typer.Option(help="Side to which images are resized (256 released, 224 paper).")
    ] = AttentionSettings.test_size,
    flip: Annotated[bool, typer.Option(help="Fuse with the mirrored image's maps.")] = AttentionSettings.flip,
    label_state: Annotated[
        str, typer.Option(help='What S_B is told: "accumulate" (as published), "single" or "all".')
    ] = AttentionSettings.label_state,
    maxt: Annotated[float, typer.Option(help="δ_h: attention above it is erased.")] = AttentionSettings.maxt,
    mint: Annotated[
        float, typer.Option(help="δ_l: features where attention is below it are negated.")
    ] = AttentionSettings.mint,
    npz: Annotated[bool, typer.Option("--npz", help="Also write the maps as floats, NAME.npz.")] = False,
    to_bgr: Annotated[bool, typer.Option("--to-bgr", help="Take grey, 16-bit and RGBA images too.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    engine: Annotated[
        str, typer.Option(help='What computes the convolutions: "torch", or on a CPU "winograd", for speed.')
    ] = "torch",
) -> None:
    """Attention maps, NAME_CLASS.png (8 bits, original size).

    Of photographs, with a figure each, NAME_attention.png; or of a dataset (--voc, --list), which goes on
    where it was stopped.
    """
    settings = AttentionSettings(
        weights=weights,
        test_size=test_size,
        flip=flip,
        label_state=label_state,
        maxt=maxt,
        mint=mint,
        to_bgr=to_bgr,
        device=device,
        engine=engine,
    )
    if voc or list_:
        if images or labels or npz or not (voc and list_):
            raise InputError("a dataset is --voc with --list, without IMAGE, --labels or --npz")
        parse_shard(shard)  # tells a wrong one before torch is loaded
        _attend_to_dataset(voc, list_, out, settings, shard, batch, workers)
    elif images:
        _attend_to_photographs(images, labels, out, settings, npz)
    else:
        raise InputError("give photographs, or a dataset with --voc and --list")


def _attend_to_dataset(
    voc: Path, list_: Path, out: Path, settings: AttentionSettings, shard: str, batch: int, workers: int
) -> None:
    from port.attention.files import attend_to_dataset
    from port.voc.each import report_failures

    done = attend_to_dataset(voc, list_, out, settings, shard, batch, workers)
    typer.echo(
        f"{len(done.made)} images attended to, {done.before} done before; "
        f"{sum(done.made)} files written to {out}"
    )
    report_failures(done.failed, done.asked)


def _attend_to_photographs(
    images: Sequence[Path], labels: str, out: Path, settings: AttentionSettings, npz: bool
) -> None:
    from port.voc.classes import class_indices
    from port.voc.lists import check_stems

    wanted = class_indices(labels)
    if not wanted:
        raise InputError("--labels is empty: name at least one class, such as --labels person,dog")
    check_stems(images)
    from port.attention.files import attend_to_photographs, print_attention
    from port.voc.each import report_failures
    from weights.progress import plain_console

    done = attend_to_photographs(images, wanted, out, settings, npz)
    print_attention(done.made, out, plain_console())
    report_failures(done.failed)
