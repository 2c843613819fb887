"""`seenet export`: its options."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from port.export.settings import OPSET, ExportSettings
from port.own_options import AllowModule, Proto, load_own
from prototxt.errors import InputError, need_packages


def export_command(
    weights: Annotated[Path, typer.Option(help='In any format; "shapes": small ones of SeeNet.')],
    onnx: Annotated[Path | None, typer.Option(help="ONNX file to write.")] = None,
    torchscript: Annotated[Path | None, typer.Option(help="File for torch.jit.load.")] = None,
    pt2: Annotated[Path | None, typer.Option(help="File for torch.export.load.")] = None,
    safetensors: Annotated[
        Path | None, typer.Option(help="The weights, with the net's text, classes and preprocessing.")
    ] = None,
    prototxt: Annotated[
        Path | None, typer.Option(help="Another net than SeeNet; it keeps the shapes of its inputs.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="A photograph to check on as well; repeatable.")
    ] = None,
    opset: Annotated[int, typer.Option(min=OPSET, help="Of the ONNX file.")] = OPSET,
    test_size: Annotated[
        int, typer.Option(min=16, max=4096, help="Side to which photographs are resized.")
    ] = ExportSettings.test_size,
    maxt: Annotated[float, typer.Option(help="SeeNet's δ_h: attention above it is erased.")] = 0.8,
    mint: Annotated[
        float, typer.Option(help="SeeNet's δ_l: features where attention is below it are negated.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the random images.")] = 0,
    allow_module: AllowModule = None,
    proto: Proto = None,
    to_bgr: Annotated[
        bool, typer.Option("--to-bgr", help="Take grey, 16-bit or RGBA photographs too.")
    ] = False,
) -> None:
    """Write a net for other runtimes; exit status 1 when a file does not compute what the port does.

    SeeNet's batch, height and width are free; a file that is out is not kept.
    """
    files = {"onnx": onnx, "torchscript": torchscript, "pt2": pt2}
    wanted = {kind: path for kind, path in files.items() if path is not None}
    _check_files([*wanted.values(), *([safetensors] if safetensors else [])])
    if safetensors is not None and safetensors.suffix.lower() != ".safetensors":
        raise InputError(f"{safetensors}: name it .safetensors")
    if onnx is not None:
        need_packages("onnx", "onnxscript", "onnxruntime", purpose="ONNX files")
    modules = load_own(allow_module, proto)
    from port.export.run import run_export

    within = run_export(
        ExportSettings(
            weights=weights,
            files=wanted,
            safetensors=safetensors,
            prototxt=prototxt,
            images=image or (),
            opset=opset,
            test_size=test_size,
            maxt=maxt,
            mint=mint,
            seed=seed,
            to_bgr=to_bgr,
            allow_modules=modules,
        )
    )
    if not within:
        raise typer.Exit(1)


def _check_files(paths: Sequence[Path]) -> None:
    if not paths:
        raise InputError("nothing to write: give --onnx, --torchscript, --pt2 or --safetensors with a file")
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path}: is a folder: name a file")
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice:
        raise InputError(f"{twice}: is asked for in two formats: name two files")
