"""`seenet demo`: the main job on a real photograph, then the way to labels on generated images; nothing to download."""

import sys
from pathlib import Path

import matplotlib
from rich.console import Console
from rich.table import Table

import prototxt
import weights as weights_room
from parity_tests.compare.page import write_page
from parity_tests.compare.printing import print_report, show_on
from parity_tests.compare.run import compare
from port.attention.figures import coloured, picture_grid
from port.attention.files import attend_to_dataset, attend_to_photographs, print_attention
from port.attention.settings import AttentionSettings
from port.images import read_image
from port.net_inputs import published_inputs
from port.pycaffe import TEST, Net
from port.voc.classes import CLASSES, PALETTE, class_indices
from port.voc.each import report_failures
from port.voc.evaluate import Numbers, evaluate_attention, evaluate_labels, percent
from port.voc.gallery import gather_gallery, write_gallery
from port.voc.label_images import read_label_image, read_map
from port.voc.lists import read_entries
from port.voc.proxy_labels import make_proxy_labels
from port.voc.settings import TEST_SIZE, Folders, Fusion
from port.voc.shapes import make_shapes
from port.voc.studies import several_classes
from prototxt.errors import InputError
from weights import write_weights
from weights.progress import plain_console, progress_bar
from weights.rebuilt import rebuilt_weights

DEPLOY = Path(prototxt.__file__).parent / "seenet" / "deploy.prototxt"
SEED = 20181023
LABELS = "person,aeroplane"

SMALL = Path(weights_room.__file__).parent / "shapes" / "seenet.caffemodel"
"""A narrow SeeNet that was trained on generated images: weights/shapes/README.md."""
UNSEEN, IMAGES = 2018, 40
"""The seed and the number of the generated images that it is tried on; it was trained on those of seeds 0 and 1."""


def run_demo(out: Path) -> bool:
    """Run both parts, print what came of them, write the pictures; whether every blob is within its tolerance."""
    console = plain_console()
    within = _on_a_photograph(out, console)
    _on_generated_images(out / "shapes", console)
    console.print(
        f"Next: {sys.argv[0]} attention PHOTO --labels person --weights {out}/seenet_rebuilt.caffemodel --out out/maps",
        soft_wrap=True,
    )
    return within


def _on_a_photograph(out: Path, console: Console) -> bool:
    """Whether every blob is within."""
    photo, weights = _photograph(), out / "seenet_rebuilt.caffemodel"
    write_weights(weights, rebuilt_weights(Net(str(DEPLOY), TEST, allow_modules=()), SEED))
    done = attend_to_photographs([photo], class_indices(LABELS), out, AttentionSettings(weights))
    for error in done.failed:
        raise error
    inputs = published_inputs(DEPLOY, read_image(photo), class_indices(LABELS))
    with progress_bar() as bar:
        report = compare(DEPLOY, weights, inputs, progress=show_on(bar))
    write_page(out / "parity.html", report)
    print_report(report, console)
    print_attention(done.made, out, console)
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
    failed += attend_to_dataset(voc, list_, maps, AttentionSettings(SMALL, test_size=TEST_SIZE)).failed
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
    """matplotlib's sample, a portrait of Grace Hopper."""
    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not photo.exists():
        raise InputError(f"{photo}: matplotlib is installed without its sample data: install it by pip")
    return photo
