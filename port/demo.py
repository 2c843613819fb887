"""`seenet demo`: the main job on a real photograph, with nothing to download."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import prototxt
from port.attention_files import attend_to_files, print_attention
from port.images import read_image
from port.parity.command import print_report, show_on
from port.parity.inputs import published_inputs, rebuilt_weights
from port.parity.page import write_page
from port.parity.run import compare
from port.progress import progress_bar
from port.pycaffe import TEST, Net
from port.voc import class_indices
from prototxt.errors import InputError
from weights import write_weights

DEPLOY = Path(prototxt.__file__).parent / "seenet" / "deploy.prototxt"
SEED = 20181023
LABELS = "person,aeroplane"


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
) -> None:
    """SeeNet on a photograph: attention maps, and the table that holds every blob against float64.

    The weights are rebuilt from a seed (He's rule), not learned: the maps show the computation, not where a person
    is. For that, get the published weights: weights/README.md.
    """
    console = Console()
    photo, weights = _photograph(), out / "seenet_rebuilt.caffemodel"
    write_weights(weights, rebuilt_weights(Net(str(DEPLOY), TEST, allow_modules=()), SEED))
    rows, failed = attend_to_files([photo], LABELS, weights, out)
    for error in failed:
        raise error
    inputs = published_inputs(DEPLOY, read_image(photo), class_indices(LABELS))
    with progress_bar() as bar:
        report = compare(DEPLOY, weights, inputs, progress=show_on(bar))
    write_page(out / "parity.html", report)
    print_report(report, console)
    print_attention(rows, out, console)
    console.print(
        f"Pictures: {out}/{photo.stem}_attention.png and, with a chart, {out}/parity.html\n"
        "The weights are random (He's rule, a fixed seed): the maps show the computation, not learned attention.\n"
        f"Next: {sys.argv[0]} attention PHOTO --labels person --weights {weights} --out out/maps",
        soft_wrap=True,
    )
    if not report.within:
        raise typer.Exit(1)


def _photograph() -> Path:
    """scikit-image's picture of an astronaut."""
    found = find_spec("skimage")
    if found is None:
        raise InputError("the demo's photograph comes with scikit-image: pip install scikit-image")
    return Path(found.submodule_search_locations[0]) / "data" / "astronaut.png"
