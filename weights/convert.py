"""`seenet convert SRC DST`: weights from one format to another, with a table that tells they are the same."""

import os
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if not __package__:  # run as a script: the folder to import from is the one above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import typer

from prototxt.errors import InputError, errors_on_one_line, printable
from prototxt.files import read_text
from prototxt.read import read_net
from weights.metadata import net_metadata

if TYPE_CHECKING:
    from rich.table import Table

    from weights.layer_weights import LayerWeights

# NumPy, HDF5 and the formats are loaded inside the functions: --help and a wrong option need none of them.

_HASH_CHUNK = 1 << 20
_MOST_SHOWN = 1000
"""Layers in the table: a line takes longer to print than to convert."""


@dataclass
class ConvertedLayer:
    """A line of the closing table.

    Attributes:
        checksum: CRC-32 of the values of all blobs in order, little-endian; the same in every format.
    """

    name: str
    shapes: list[tuple[int, ...]]
    dtype: str
    count: int
    checksum: int


def convert(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    progress: bool = True,
    *,
    allow_nan: bool = False,
    prototxt: str | os.PathLike | None = None,
    names: str = "caffe",
) -> list[ConvertedLayer]:
    """Write the weights of `src` to `dst`, whose suffix names the format; each number stays as wide as it is.

    Args:
        progress: show a bar on stderr, if that is a terminal.
        allow_nan: convert NaN and infinite weights too.
        prototxt: the net whose text a .safetensors is to hold beside the weights. From one .safetensors to
            another, what the first holds is kept.
        names: "caffe", or "torch" for a state dict as PyTorch's modules have it (`weights.torch_names`).

    Returns:
        What was written, layer by layer.

    Raises:
        InputError: for bad input; `dst` is then as it was.
    """
    from weights.formats import check_writable_format, read_weights
    from weights.torch_names import torch_state, write_torch_state

    if names not in ("caffe", "torch"):
        raise InputError(f'--names is "caffe" or "torch", not "{names}"')
    if names == "torch" and prototxt is not None:
        raise InputError("--prototxt goes with Caffe's names: leave out --names torch")
    check_writable_format(dst)
    metadata = _metadata(src, dst, prototxt)
    layers = read_weights(src)
    if not layers:
        raise InputError(f"{src}: none of its layers has weights: there is nothing to convert")
    with ThreadPoolExecutor(1) as beside:
        summary = beside.submit(lambda: [_summary(layer) for layer in layers])
        if not allow_nan:
            _refuse_nan(layers, src)
        if names == "torch":
            write_torch_state(dst, torch_state(layers, src))
            return summary.result()
        _write(dst, layers, metadata, progress)
        return summary.result()


def _metadata(
    src: str | os.PathLike, dst: str | os.PathLike, prototxt: str | os.PathLike | None
) -> dict[str, str]:
    if Path(dst).suffix.lower() != ".safetensors":
        if prototxt is not None:
            raise InputError(f"{dst}: --prototxt is for a .safetensors, which alone holds the net's text")
        return {}
    from weights.tensors import read_safetensors_metadata

    kept = read_safetensors_metadata(src) if Path(src).suffix.lower() == ".safetensors" else {}
    if prototxt is not None:
        read_net(prototxt)
        kept |= net_metadata(read_text(prototxt, errors="replace"))
    return kept


def _refuse_nan(layers: Sequence["LayerWeights"], src: str | os.PathLike) -> None:
    from weights.layer_weights import check_finite

    try:
        check_finite(layers, src)
    except InputError as error:
        raise InputError(f"{error}, or convert it as it is with --allow-nan") from error


def _write(
    dst: str | os.PathLike, layers: Sequence["LayerWeights"], metadata: dict[str, str], progress: bool
) -> None:
    from weights.formats import write_weights
    from weights.progress import progress_bar

    total = sum(blob.nbytes for layer in layers for blob in layer.present)
    with progress_bar("bytes", progress) as bar:
        task = bar.add_task(Path(dst).name, total=total)
        write_weights(dst, layers, metadata=metadata, progress=lambda count: bar.advance(task, count))


def _summary(layer: "LayerWeights") -> ConvertedLayer:
    from weights.wire import raw_bytes

    checksum = 0
    for blob in layer.present:
        values = raw_bytes(blob)
        for start in range(0, len(values), _HASH_CHUNK):
            checksum = zlib.crc32(values[start : start + _HASH_CHUNK], checksum)
    return ConvertedLayer(
        layer.name,
        [blob.shape for blob in layer.present],
        "/".join(dict.fromkeys(blob.dtype.name for blob in layer.present)),
        sum(blob.size for blob in layer.present),
        checksum,
    )


def total_checksum(layers: Sequence[ConvertedLayer]) -> int:
    """One checksum for all layers, whatever their order: CRC-32 of the sorted lines "NAME CHECKSUM"."""
    lines = sorted(f"{layer.name} {layer.checksum:08x}\n" for layer in layers)
    return zlib.crc32("".join(lines).encode())


def _table(layers: Sequence[ConvertedLayer]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from weights.layer_weights import shape_text

    table = Table(show_footer=True)
    table.add_column("layer", Text(f"{len(layers)} layers"), overflow="fold")
    table.add_column("shapes", overflow="fold")
    table.add_column("type", "/".join(dict.fromkeys(layer.dtype for layer in layers)))
    table.add_column("values", f"{sum(layer.count for layer in layers):,}", justify="right", no_wrap=True)
    table.add_column("CRC-32", f"{total_checksum(layers):08x}", no_wrap=True)
    for layer in layers[:_MOST_SHOWN]:
        shapes = ", ".join(map(shape_text, layer.shapes))
        table.add_row(
            Text(printable(layer.name)), shapes, layer.dtype, f"{layer.count:,}", f"{layer.checksum:08x}"
        )
    if len(layers) > _MOST_SHOWN:
        table.add_row(f"… and {len(layers) - _MOST_SHOWN:,} more")
    return table


def convert_command(
    src: Annotated[
        Path, typer.Argument(help="A .caffemodel, .caffemodel.h5, .safetensors, .pth, .npz or .mat file.")
    ],
    dst: Annotated[Path | None, typer.Argument(help="What to write; its suffix names the format.")] = None,
    allow_nan: Annotated[bool, typer.Option(help="Convert NaN and infinite weights too.")] = False,
    prototxt: Annotated[
        Path | None, typer.Option(help="The net; its text goes into a .safetensors, beside the weights.")
    ] = None,
    names: Annotated[
        str, typer.Option(help="Of what is written: caffe's, or torch's, BatchNorm's statistics divided.")
    ] = "caffe",
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Write nothing; tell whether SeeNet's S_C had weights of its own."),
    ] = False,
) -> None:
    """Convert weights between Caffe's formats, safetensors and PyTorch's."""
    if explain == (dst is not None):
        raise InputError("give DST, what to write, or --explain, which writes nothing")
    if dst is None:
        from weights.third_branch import third_branch

        for line in third_branch(src).lines:
            typer.echo(line)
        return
    from weights.progress import plain_console

    layers = convert(src, dst, allow_nan=allow_nan, prototxt=prototxt, names=names)
    console = plain_console()
    console.print(_table(layers), width=None if console.is_terminal else 110)
    console.print("CRC-32 of a layer's values, the same in every format; below, of the names with these.")
    if names == "torch":
        from weights.torch_names import kept_names

        if kept := kept_names(layer.name for layer in layers):
            console.print(kept, soft_wrap=True)
    if dst.suffix.lower() in (".h5", ".hdf5") and any("/" in layer.name for layer in layers):
        console.print('Caffe 1.0 cannot find layers with "/" in their names in HDF5 files; this project can.')


if __name__ == "__main__":
    with errors_on_one_line():
        typer.run(convert_command)
