"""`seenet explain`: what each branch sees of a photograph."""

from pathlib import Path
from typing import Annotated

import typer

from port.devices import check_device
from port.voc.classes import class_indices
from prototxt.errors import InputError
from weights.opening import README


def explain_command(
    image: Annotated[Path, typer.Argument(help="A photograph.")],
    labels: Annotated[str, typer.Option(help="Classes in it: names or numbers, with commas between.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME_explain.html and NAME_explain.png.")],
    weights: Annotated[
        Path | None, typer.Option(help='SeeNet\'s weights, in any format; "shapes": small ones.')
    ] = None,
    compare: Annotated[Path | None, typer.Option(help="Other weights, to see beside these.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="The true label image: then shares on object and background are told.")
    ] = None,
    test_size: Annotated[int, typer.Option(help="The square that the image is resized to.", min=16)] = 256,
    maxt: Annotated[float, typer.Option(help="δ_h: attention above it is erased (paper: 0.7).")] = 0.7,
    mint: Annotated[
        float,
        typer.Option(help="δ_l: attention below it is negated (paper: 0.05; the release tests with 0)."),
    ] = 0.05,
    channels: Annotated[int, typer.Option(min=0, help="Channels of conv5_3 to show, beside the mean.")] = 2,
    to_bgr: Annotated[bool, typer.Option("--to-bgr", help="Take grey, 16-bit and RGBA images too.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """One page of what S_A, C-ReLU, S_B and S_C see of an image and each label, and the same as a PNG."""
    if weights is None:
        raise InputError(
            f"--weights is missing: SeeNet's weights: {README} says where they come from; or give shapes, small ones"
        )
    if not 0 <= mint <= maxt <= 1:
        raise InputError(f"--maxt {maxt} --mint {mint}: must be 0 ≤ mint ≤ maxt ≤ 1")
    check_device(device)
    chosen = class_indices(labels)
    from port.attention.explain import Explanation, explain
    from port.attention.explain_page import read_truth, write_explanation
    from port.images import read_image
    from port.models.seenet import SeeNet

    photograph = read_image(image, to_bgr)
    truth = read_truth(mask, photograph, chosen) if mask else None
    found: list[tuple[str, list[Explanation]]] = []
    paths = [path for path in (weights, compare) if path]
    for path in paths:
        model = SeeNet.from_caffemodel(path, maxt=maxt, mint=mint).to(device)
        wrong = [label for label in chosen if label >= model.num_classes]
        if wrong:
            raise InputError(f"{path}: has {model.num_classes} classes, no class {wrong[0]}")
        name = path.name if len({own.name for own in paths}) == len(paths) else str(path)
        found.append(
            (name, [explain(model, photograph, label, truth, test_size, channels) for label in chosen])
        )
    page, picture = out / f"{image.stem}_explain.html", out / f"{image.stem}_explain.png"
    write_explanation(page, picture, image.name, photograph, found)
    typer.echo(f"{page}\n{picture}")
