"""The `seenet` command."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from prototxt.errors import InputError
from weights.convert import convert_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="SeeNet and any Caffe net on PyTorch, with the evidence.",
)
app.command("convert")(convert_command)

console = Console()


@app.command("attention")
def attention_command(
    images: Annotated[list[Path], typer.Argument(help="Photographs.", metavar="IMAGE...")],
    labels: Annotated[str, typer.Option(help="Classes in the images: names or numbers, with commas between.")],
    weights: Annotated[Path, typer.Option(help="SeeNet's weights: .caffemodel, .h5, .safetensors or .pth.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    test_size: Annotated[int, typer.Option(help="Side to which images are resized (256 released, 224 paper).")] = 256,
    flip: Annotated[bool, typer.Option(help="Fuse with the mirrored image's maps.")] = True,
    label_state: Annotated[
        str, typer.Option(help='What S_B is told: "accumulate" (as published), "single" or "all".')
    ] = "accumulate",
    maxt: Annotated[float, typer.Option(help="δ_h: attention above it is erased.")] = 0.8,
    mint: Annotated[float, typer.Option(help="δ_l: features where attention is below it are negated.")] = 0.0,
    npz: Annotated[bool, typer.Option("--npz", help="Also write the maps as floats, NAME.npz.")] = False,
    to_bgr: Annotated[bool, typer.Option("--to-bgr", help="Take grey, 16-bit and RGBA images too.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Attention maps of photographs: NAME_CLASS.png (8 bits, original size) and a figure, NAME_attention.png."""
    from port.attention_files import attend_to_files

    written, failed = attend_to_files(
        images, labels, weights, out, test_size, flip, label_state, maxt, mint, npz, to_bgr, device
    )
    table = Table("image", "class", "mean", "share above 0.5", "file")
    for row in written:
        table.add_row(*row)
    if written:
        console.print(table, width=None if console.is_terminal else 110)
        console.print(f"Figures: {out}/NAME_attention.png")
    for error in failed:
        typer.echo(f"error: {error}", err=True)
    if failed:
        raise typer.Exit(2)


def main() -> None:
    """Run the command. What the user can mend is one line on stderr and exit status 2."""
    try:
        app()
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
