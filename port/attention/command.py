"""`seenet attention`: from photographs to attention files."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from port.attention.dataset import attend_to_dataset, report_dataset
from port.attention.figures import attention_figure
from port.attention.maps import LABEL_STATES, attention_maps, eight_bits
from port.devices import check_device
from port.images import read_image, write_png
from port.models.fast import with_engine
from port.models.seenet import SeeNet
from port.progress import plain_console, progress_bar
from port.voc.classes import CLASSES, class_indices
from prototxt.errors import InputError, printable
from weights.files import atomic_path


def attention_command(
    weights: Annotated[Path, typer.Option(help="SeeNet's weights: .caffemodel, .h5, .safetensors or .pth.")],
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
    ] = 256,
    flip: Annotated[bool, typer.Option(help="Fuse with the mirrored image's maps.")] = True,
    label_state: Annotated[
        str, typer.Option(help='What S_B is told: "accumulate" (as published), "single" or "all".')
    ] = "accumulate",
    maxt: Annotated[float, typer.Option(help="δ_h: attention above it is erased.")] = 0.8,
    mint: Annotated[float, typer.Option(help="δ_l: features where attention is below it are negated.")] = 0.0,
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
    if voc or list_:
        if images or labels or npz or not (voc and list_):
            raise InputError("a dataset is --voc with --list, without IMAGE, --labels or --npz")
        _check_network_options(label_state, test_size, device)
        report_dataset(
            attend_to_dataset(
                voc,
                list_,
                weights,
                out,
                shard,
                batch,
                workers,
                test_size,
                flip,
                label_state,
                maxt,
                mint,
                to_bgr,
                device,
                engine,
            ),
            out,
        )
        return
    if not images:
        raise InputError("give photographs, or a dataset with --voc and --list")
    rows, failed = attend_to_files(
        images, labels, weights, out, test_size, flip, label_state, maxt, mint, npz, to_bgr, device, engine
    )
    print_attention(rows, out, plain_console())
    for error in failed:
        typer.echo(f"error: {error}", err=True)
    if failed:
        raise typer.Exit(2)


def print_attention(rows: list[tuple[str, ...]], out: Path, console: Console) -> None:
    """A line for each map that `attend_to_files` wrote."""
    if not rows:
        return
    table = Table("image", "class", "mean", "share above 0.5", "file")
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)
    console.print(f"Maps and figures (NAME_attention.png) are in {out}", soft_wrap=True)


def attend_to_files(
    images: Sequence[Path],
    labels: str,
    weights: Path,
    out: Path,
    test_size: int = 256,
    flip: bool = True,
    label_state: str = "accumulate",
    maxt: float = 0.8,
    mint: float = 0.0,
    npz: bool = False,
    to_bgr: bool = False,
    device: str = "cpu",
    engine: str = "torch",
) -> tuple[list[tuple[str, ...]], list[InputError]]:
    """Write `NAME_CLASS.png`, `NAME_attention.png` and, on request, `NAME.npz` for each image.

    CLASS is the class's index from 0, as OAA names such files. Arguments as `seenet attention --help` says.

    Returns:
        A row for each map (image, class, mean, share above 0.5, file), and the images that failed: one bad
        image does not stop the others.

    Raises:
        InputError: what is wrong with the options or the weights, before anything is written.
    """
    wanted = class_indices(labels)
    _check_options(images, wanted, label_state, test_size, device)
    model = with_engine(SeeNet.from_caffemodel(weights, maxt=maxt, mint=mint).to(device), engine)
    rows, failed = [], []
    with progress_bar() as bar:
        for path in bar.track(images, description="attention"):
            try:
                image = read_image(path, to_bgr)
                maps = attention_maps(model, image, wanted, test_size, flip, label_state)
                rows += _write(out, path.stem, image, wanted, maps, npz)
            except InputError as error:
                failed.append(error)
    return rows, failed


def _check_options(
    images: Sequence[Path], labels: Sequence[int], label_state: str, test_size: int, device: str
) -> None:
    if not labels:
        raise InputError("--labels is empty: name at least one class, such as --labels person,dog")
    _check_network_options(label_state, test_size, device)
    stems = [path.stem for path in images]
    twice = next((stem for stem, count in Counter(stems).items() if count > 1), None)
    if twice:
        raise InputError(f'two images are called "{twice}": their results would share a name: run them apart')


def _check_network_options(label_state: str, test_size: int, device: str) -> None:
    if label_state not in LABEL_STATES:
        raise InputError(f'--label-state "{label_state}": one of {", ".join(LABEL_STATES)} is due')
    if not 16 <= test_size <= 4096:
        raise InputError(f"--test-size {test_size}: a side of 16 to 4096 pixels is due")
    check_device(device)


def _write(
    out: Path, name: str, image: np.ndarray, labels: Sequence[int], maps: np.ndarray, npz: bool
) -> list[tuple[str, ...]]:
    rows = []
    for label, attention in zip(labels, maps, strict=True):
        path = out / f"{name}_{label}.png"
        write_png(path, eight_bits(attention))
        share = float((attention > 0.5).mean())
        rows.append((name, CLASSES[label], f"{attention.mean():.3f}", f"{share:.1%}", path.name))
    attention_figure(out / f"{name}_attention.png", image, labels, maps)
    if npz:
        with atomic_path(out / f"{name}.npz") as beside, open(beside, "wb") as file:
            np.savez_compressed(file, attention=maps, labels=np.array(labels))
    return rows
