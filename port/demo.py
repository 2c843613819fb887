"""`seenet demo`: the main job on a real photograph, then the way to labels on generated images; nothing to download."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import prototxt
import weights as weights_room
from parity_tests.compare.command import print_report, show_on
from parity_tests.compare.inputs import published_inputs, rebuilt_weights
from parity_tests.compare.page import write_page
from parity_tests.compare.run import compare
from port.attention.command import attend_to_files, print_attention
from port.attention.dataset import attend_to_dataset
from port.attention.figures import coloured, picture_grid
from port.images import read_image
from port.progress import plain_console, progress_bar
from port.pycaffe import TEST, Net
from port.voc.classes import CLASSES, PALETTE, class_indices
from port.voc.each import report_failures
from port.voc.evaluate import Numbers, evaluate_attention, evaluate_labels, percent
from port.voc.gallery import Folders, gather_gallery, write_gallery
from port.voc.label_images import read_label_image, read_map
from port.voc.lists import read_entries
from port.voc.proxy_labels import Fusion, make_proxy_labels
from port.voc.shapes import make_shapes
from port.voc.studies import several_classes
from port.voc.weak_labels import TEST_SIZE
from prototxt.errors import InputError
from weights import write_weights

DEPLOY = Path(prototxt.__file__).parent / "seenet" / "deploy.prototxt"
SEED = 20181023
LABELS = "person,aeroplane"

SMALL = Path(weights_room.__file__).parent / "shapes" / "seenet.caffemodel"
"""A narrow SeeNet that was trained on generated images: weights/shapes/README.md."""
UNSEEN, IMAGES = 2018, 40
"""The seed and the number of the generated images that it is tried on; it was trained on those of seeds 0 and 1."""


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
) -> None:
    """SeeNet on a photograph, each blob held against float64; then a small trained one on generated images.

    The weights for the photograph are rebuilt from a seed (He's rule), not learned: the maps show the
    computation, not where a person is. For that, get the published weights: weights/README.md. The small net's
    are learned: attention, proxy labels and their IoU with the truth, on images that it has not seen.
    """
    console = plain_console()
    within = _on_a_photograph(out, console)
    _on_generated_images(out / "shapes", console)
    console.print(
        f"Next: {sys.argv[0]} attention PHOTO --labels person --weights {out}/seenet_rebuilt.caffemodel --out out/maps",
        soft_wrap=True,
    )
    if not within:
        raise typer.Exit(1)


def _on_a_photograph(out: Path, console: Console) -> bool:
    """Whether every blob is within."""
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
        "The weights are random (He's rule, a fixed seed): the maps show the computation, not learned attention.\n",
        soft_wrap=True,
    )
    return report.within


def _on_generated_images(out: Path, console: Console) -> None:
    voc, maps, proxy = out / "images", out / "attention", out / "proxy"
    list_, truth = voc / "trainval_cls.txt", voc / "SegmentationClass"
    failed = make_shapes(voc, IMAGES, UNSEEN)[1]
    entries = (voc / "train_cls.txt").read_text() + (voc / "val_cls.txt").read_text()
    list_.write_text(entries, encoding="utf-8")
    failed += attend_to_dataset(voc, list_, SMALL, maps, test_size=TEST_SIZE).failed
    failed += make_proxy_labels(maps, voc / "Saliency", list_, proxy, Fusion())[2]
    attention = evaluate_attention(maps, truth, list_)[0]
    labels = evaluate_labels(proxy, truth, list_)[0]
    console.print(_shapes_table(attention, labels))
    rows = []
    for entry in several_classes(read_entries(list_)[0], 5):
        image, label = read_image(voc / "JPEGImages" / f"{entry.name}.jpg"), entry.labels[0]
        attended = read_map(maps / f"{entry.name}_{label}.png", "attention", "run this again") / 255
        shown = [read_label_image(folder / f"{entry.name}.png") for folder in (proxy, truth)]
        pictures = [image[:, :, ::-1], coloured(attended, image, label), *(PALETTE[own] for own in shown)]
        rows.append((CLASSES[label], pictures))
    picture_grid(out / "shapes.png", ("image", "attention", "proxy labels", "truth"), rows)
    gallery = gather_gallery(Folders(voc, {"SeeNet": maps}, {"proxy": proxy}, truth), list_)
    write_gallery(out / "gallery.html", gallery, "A small SeeNet on images that it has not seen")
    console.print(f"Pictures: {out}/shapes.png; all images, sortable by IoU: {out}/gallery.html")
    report_failures(failed, IMAGES)


def _shapes_table(attention: Numbers, labels: Numbers) -> Table:
    table = Table(
        "what", "%", title=f"A small SeeNet, trained on generated images, on {labels['images']} unseen ones"
    )
    table.add_row(
        "attention: IoU with its class, at each class's best threshold", percent(attention["mean_best_iou"])
    )
    table.add_row("attention that falls on its class", percent(attention["mean_on_class"]))
    table.add_row("attention that falls on background", percent(attention["mean_on_background"]))
    table.add_row("proxy labels: mIoU", percent(labels["miou"]))
    return table


def _photograph() -> Path:
    """scikit-image's picture of an astronaut."""
    found = find_spec("skimage")
    if found is None:
        raise InputError("the demo's photograph comes with scikit-image: pip install scikit-image")
    return Path(found.submodule_search_locations[0]) / "data" / "astronaut.png"
