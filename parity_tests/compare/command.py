"""`seenet parity` and `seenet demo`: their options."""

from pathlib import Path
from typing import Annotated

import typer

from parity_tests.compare.engines import ENGINES, check_engines
from port.own_options import AllowModule, Proto, load_own
from prototxt.arguments import the_net
from prototxt.errors import InputError


def parity_command(
    net: Annotated[
        Path | None,
        typer.Argument(metavar="PROTOTXT", help="The net, of any age, with Input or MemoryData layers."),
    ] = None,
    prototxt: Annotated[Path | None, typer.Option(help="The same, named.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help='In any format, or "shapes". Without: rebuilt from the seed, He\'s rule.'),
    ] = None,
    image: Annotated[Path | None, typer.Option(help="A photograph. Without: a random image.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="VOC classes for the label input: names or numbers, commas between.")
    ] = None,
    test_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side to which the photograph is resized. Without: the input's own size; 256 in SeeNet's nets.",
        ),
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(
            "--engines",
            "--engine",
            help=f"Of {', '.join(ENGINES)}, commas between. Without: all there are but the ONNX route.",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the table and a chart as one page.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of everything random.")] = 0,
    allow_module: AllowModule = None,
    proto: Proto = None,
    to_bgr: Annotated[
        bool, typer.Option("--to-bgr", help="Take a grey, 16-bit or RGBA photograph too.")
    ] = False,
) -> None:
    """Compare a net's blobs in each engine with float64; exit status 1 when anything is out."""
    prototxt = the_net(net, prototxt)
    if html is not None and html.is_dir():
        raise InputError(f"{html}: is a folder: name a file for the page")
    names = None if engines is None else [name.strip() for name in engines.split(",") if name.strip()]
    check_engines(names)
    modules = load_own(allow_module, proto)
    from port.voc.classes import class_indices, class_names

    classes = None if labels is None else class_indices(labels)
    from parity_tests.compare.printing import print_report, show_on
    from parity_tests.compare.run import compare
    from port.images import read_image
    from port.net_inputs import published_inputs
    from weights.progress import plain_console, progress_bar

    photograph = None if image is None else read_image(image, to_bgr)
    inputs = published_inputs(prototxt, photograph, classes, test_size, modules)
    with progress_bar() as bar:
        report = compare(
            prototxt,
            weights,
            inputs,
            names,
            seed=seed,
            allow_modules=modules,
            progress=show_on(bar),
        )
    if image is not None:
        report.title += f" · {image}"
    if classes:
        report.title += f" · {', '.join(class_names(classes))}"
    if html is not None:
        from parity_tests.compare.page import write_page

        write_page(html, report)
    shown = plain_console()
    print_report(report, shown if shown.is_terminal else plain_console(width=110))
    if not report.within:
        raise typer.Exit(1)


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
) -> None:
    """SeeNet on a photograph, each blob held against float64; then a small trained one on generated images.

    The weights for the photograph are rebuilt from a seed (He's rule), not learned: the maps show the
    computation, not where a person is. For that, get the published weights. The small net's
    are learned: attention, proxy labels and their IoU with the truth, on images that it has not seen.
    """
    from parity_tests.compare.demo import run_demo

    if not run_demo(out):
        raise typer.Exit(1)
