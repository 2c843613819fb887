"""`seenet gallery`: a dataset's images, attention, labels and truth on one page, to be sorted by IoU."""

import html
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from PIL import Image
from rich.table import Table

from port.images import read_image
from port.progress import plain_console
from port.report.pages import data_uri, document, table
from port.voc.classes import CLASSES, COLOURS, IGNORE, PALETTE, voc_name
from port.voc.each import for_each, report_failures
from port.voc.evaluate import attention_numbers, confusion, label_numbers, map_counts, map_ious, percent
from port.voc.label_images import read_label_image, read_map, same_size
from port.voc.lists import Entry, read_entries, read_names
from port.voc.voc_labels import first_folder
from prototxt.errors import InputError, printable
from weights.files import atomic_path

PHOTO, TRUTH = "photograph", "ground truth"

KEYS = (
    ("j", "next"),
    ("k", "previous"),
    ("s", "sort"),
    ("o", "over"),
    ("a", "all classes"),
    ("+", "larger"),
    ("-", "smaller"),
)
"""What the script listens to."""


@dataclass(frozen=True)
class Folders:
    """Where the pictures are, and how small they are carried.

    Attributes:
        voc: holds `JPEGImages/NAME.jpg`.
        attention: folders of `NAME_CLASS.png`, by the name they go under.
        pred: folders of label images, `NAME.png`, by name.
        gt: folder of true label images; None: nothing is judged.
        side: pixels of a carried picture's longer side, at most.
        quality: WebP's, 1 to 100, of photographs and maps. Label images are carried without loss.
    """

    voc: Path
    attention: Mapping[str, Path]
    pred: Mapping[str, Path]
    gt: Path | None
    side: int = 200
    quality: int = 75

    def __post_init__(self) -> None:
        if not 16 <= self.side <= 2000 or not 1 <= self.quality <= 100:
            raise InputError("--side is 16 to 2000 pixels, --quality 1 to 100")
        folders = [
            ("--voc", self.voc / "JPEGImages"),
            ("--gt", self.gt),
            *(("--attention", folder) for folder in self.attention.values()),
            *(("--pred", folder) for folder in self.pred.values()),
        ]
        for option, folder in folders:
            if folder is not None and not folder.is_dir():
                raise InputError(f"{option}: {folder}: there is no such folder")


@dataclass(frozen=True)
class Picture:
    """One picture of a card.

    Attributes:
        column: what it is: PHOTO, TRUTH, or a judged folder's title.
        kind: "photo", "labels" or "map".
        label: a map's class.
        source: the picture as a data URI; "" where there is none.
        size: width and height as carried.
        problem: why there is none.
        counts: what `seenet evaluate` counts of it against the truth.
    """

    column: str
    kind: str
    label: int | None = None
    source: str = ""
    size: tuple[int, int] = (0, 0)
    problem: InputError | None = None
    counts: np.ndarray | None = None


@dataclass(frozen=True)
class Card:
    """An image and all its pictures; `classes` are the list's, else those in the truth or the labels."""

    name: str
    classes: tuple[int, ...]
    pictures: tuple[Picture, ...]

    def of(self, column: str) -> list[Picture]:
        return [picture for picture in self.pictures if picture.column == column]


@dataclass(frozen=True)
class Column:
    """A judged folder.

    Attributes:
        title: such as "CAM attention" or "proxy labels".
        numbers: as `evaluate_attention` or `evaluate_labels` give them; None without truth.
        scores: for each judged image, by name: its mean IoU under None, and by class that class's. Labels
            are judged as `evaluate_labels` judges a list of one image, background with them; attention is
            cut at its class's best threshold over the whole list.
    """

    title: str
    numbers: dict[str, Any] | None
    scores: dict[str, dict[int | None, float | None]]

    def facts(self) -> tuple[str, str, str, str]:
        """Title, images judged, IoU in per cent, and a remark."""
        told = self.numbers
        if not told or not told["images"]:
            return self.title, "0", "–", "nothing to judge it by"
        if "miou" in told:
            remark = f"accuracy {percent(told['accuracy'])} %, ignored {percent(told['ignored'])} %"
            return self.title, str(told["images"]), percent(told["miou"]), remark
        remark = (
            f"each class at its best threshold; {percent(told['mean_on_background'])} % of it on background"
        )
        return self.title, str(told["images"]), percent(told["mean_best_iou"]), remark


@dataclass(frozen=True)
class Gallery:
    """What a page shows; `failed` are lines of the list and pictures, `asked` how many there should be."""

    cards: list[Card]
    columns: list[Column]
    failed: list[InputError]
    asked: int


def gallery_command(
    voc: Annotated[Path, typer.Option(help="Holds JPEGImages; and SegmentationClass[Aug], for the truth.")],
    list_: Annotated[
        Path, typer.Option("--list", help="Names; with --attention, NAME CLASS [CLASS …], classes from 0.")
    ],
    out: Annotated[Path, typer.Option(help="The page, .html.")],
    attention: Annotated[
        list[str] | None, typer.Option(help="[NAME=]DIR with NAME_CLASS.png; may be repeated.")
    ] = None,
    pred: Annotated[
        list[str] | None, typer.Option(help="[NAME=]DIR of label images; may be repeated.")
    ] = None,
    gt: Annotated[
        Path | None, typer.Option(help="Folder of true label images.", show_default="VOC's, where there")
    ] = None,
    side: Annotated[int, typer.Option(help="Pixels of a picture's longer side, at most.")] = Folders.side,
    quality: Annotated[
        int, typer.Option(help="Of photographs and maps: WebP's, 1 to 100.")
    ] = Folders.quality,
    workers: Annotated[int, typer.Option(help="Processes; 0: one on each core.")] = 0,
) -> None:
    """One page of HTML: images, attention, labels and truth side by side, to be sorted by IoU."""
    truth = gt or first_folder(voc)
    folders = Folders(
        voc,
        named_folders("--attention", attention or ()),
        named_folders("--pred", pred or ()),
        truth,
        side,
        quality,
    )
    gallery = gather_gallery(folders, list_, workers)
    write_gallery(out, gallery, f"{voc.name}: {list_.stem}")
    if gallery.columns:
        shown = Table("what", "images", "IoU %", "")
        for column in gallery.columns:
            shown.add_row(*map(printable, column.facts()))
        plain_console().print(shown)
    typer.echo(
        f"{len(gallery.cards)} images on {out}, {out.stat().st_size / 1e6:.1f} MB: open it in a browser"
    )
    report_failures(gallery.failed, gallery.asked)


def named_folders(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """Folders given as `DIR` or `NAME=DIR`, by name; of itself a folder has its own.

    Raises:
        InputError: two of one name.
    """
    folders: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            name, folder = Path(text).resolve().name, text
        if not name or name in folders:
            raise InputError(f"{option} {text}: give each its own name: {option} NAME={folder or 'DIR'}")
        folders[name] = Path(folder)
    return folders


def gather_gallery(folders: Folders, list_: Path, workers: int = 1) -> Gallery:
    """Read, shrink and judge every picture of a list.

    What is wrong with one picture (missing, torn, of another size than its photograph …) is told in its
    place; as for `seenet evaluate`, a folder is judged by the images of which it has everything.

    Args:
        list_: lines `NAME CLASS [CLASS …]`; names alone do where there is no attention.

    Raises:
        InputError: a list that cannot be read or is empty.
    """
    entries, failed = (read_entries if folders.attention else read_names)(list_)
    asked = len(failed)
    cards = []
    for _, card in for_each(partial(_card, folders), entries, workers, "gallery"):
        cards.append(card)
        asked += len(card.pictures)
        failed += [picture.problem for picture in card.pictures if picture.problem]
    columns = [_judged_labels(cards, _title(name, "labels")) for name in folders.pred]
    columns += [_judged_maps(cards, _title(name, "attention")) for name in folders.attention]
    return Gallery(cards, columns, failed, asked)


def write_gallery(path: Path, gallery: Gallery, title: str, head: Sequence[str] = ()) -> None:
    """Write the page: one file, that needs nothing else.

    Args:
        title: plain text.
        head: pieces of HTML above the pictures: `port.report.pages` makes tables, pictures and figures.

    Raises:
        InputError: where it cannot be written.
    """
    here = Path(__file__)
    style, script = (here.with_suffix(kind).read_text(encoding="utf-8") for kind in (".css", ".js"))
    body = (
        f"<h1>{html.escape(title)}</h1>",
        _summary(gallery),
        *head,
        _legend(gallery.cards),
        _controls(gallery.columns),
        _filters(),
        f'<main style="--tiles: {_usual_tiles(gallery)}">{"".join(_cards(gallery))}</main>',
    )
    with atomic_path(path) as beside:
        beside.write_text(document(title, body, style, script), encoding="utf-8")


# ---- an image's pictures


def _card(folders: Folders, entry: Entry) -> Card:
    photo = _attempt(partial(read_image, folders.voc / "JPEGImages" / f"{entry.name}.jpg", to_bgr=True))
    file = f"{entry.name}.png"
    truth = _attempt(partial(_labels, folders.gt / file, photo)) if folders.gt else None
    answers = {
        _title(name, "labels"): _attempt(partial(_labels, folder / file, photo))
        for name, folder in folders.pred.items()
    }
    shown = [_picture(PHOTO, "photo", photo, folders)]
    if truth is not None:
        shown.append(_picture(TRUTH, "labels", truth, folders))
    for title, answer in answers.items():
        shown.append(_picture(title, "labels", answer, folders, counts=_counts(confusion, truth, answer)))
    for label in entry.labels:
        for name, folder in folders.attention.items():
            values = _attempt(partial(_map, folder / f"{entry.name}_{label}.png", label, photo))
            counts = _counts(partial(map_counts, label=label), truth, values)
            shown.append(_picture(_title(name, "attention"), "map", values, folders, label, counts))
    return Card(entry.name, entry.labels or _found_classes([truth, *answers.values()]), tuple(shown))


def _attempt(read: Callable[[], np.ndarray]) -> np.ndarray | InputError:
    try:
        return read()
    except InputError as error:
        return error


def _labels(path: Path, photo: np.ndarray | InputError) -> np.ndarray:
    return _fitting(read_label_image(path), photo, path)


def _map(path: Path, label: int, photo: np.ndarray | InputError) -> np.ndarray:
    values = read_map(path, f"the attention of {CLASSES[label]}", "run seenet attention again")
    return _fitting(values, photo, path)


def _fitting(values: np.ndarray, photo: np.ndarray | InputError, path: Path) -> np.ndarray:
    if isinstance(photo, np.ndarray):
        same_size(values, photo[:, :, 0], path, "the photograph is")
    return values


def _counts(
    count: Callable[[np.ndarray, np.ndarray], np.ndarray],
    truth: np.ndarray | InputError | None,
    values: np.ndarray | InputError,
) -> np.ndarray | None:
    """None where either is missing; where only the photograph is, the two may yet differ in size."""
    known = isinstance(truth, np.ndarray) and isinstance(values, np.ndarray)
    return count(truth, values).astype(np.int32) if known and truth.shape == values.shape else None


def _found_classes(labels: Sequence[np.ndarray | InputError | None]) -> tuple[int, ...]:
    first = next((image for image in labels if isinstance(image, np.ndarray)), np.zeros(1, np.uint8))
    return tuple(int(value) - 1 for value in np.unique(first) if value not in (0, IGNORE))


def _picture(
    column: str,
    kind: str,
    pixels: np.ndarray | InputError,
    folders: Folders,
    label: int | None = None,
    counts: np.ndarray | None = None,
) -> Picture:
    if isinstance(pixels, InputError):
        return Picture(column, kind, label, problem=pixels)
    height, width = pixels.shape[:2]
    scale = min(1.0, folders.side / max(height, width))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if kind == "labels":
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        source = data_uri(_label_png(small), "image/png")
    else:
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".webp", small, (cv2.IMWRITE_WEBP_QUALITY, folders.quality))
        source = data_uri(data.tobytes(), "image/webp")
    return Picture(column, kind, label, source, size, counts=counts)


def _label_png(labels: np.ndarray) -> bytes:
    """With VOC's palette, cut to the colours that occur: of 256, most of a small picture would be palette."""
    used, index = np.unique(labels, return_inverse=True)
    image = Image.fromarray(index.reshape(labels.shape).astype(np.uint8))
    image.putpalette(PALETTE[used].ravel().tolist())
    data = io.BytesIO()
    image.save(data, format="PNG", compress_level=9)
    return data.getvalue()


# ---- judging


def _title(name: str, what: str) -> str:
    return f"{name} {what}"


def _judged_labels(cards: Sequence[Card], title: str) -> Column:
    counts = {card.name: card.of(title)[0].counts for card in cards}
    counts = {name: own for name, own in counts.items() if own is not None}
    scores = {}
    for card in cards:
        if card.name in counts:
            numbers = label_numbers(counts[card.name], 1)
            own = {label: numbers["classes"][CLASSES[label]]["iou"] for label in card.classes}
            scores[card.name] = {None: numbers["miou"], **own}
    if not counts:
        return Column(title, None, {})
    return Column(title, label_numbers(np.sum(list(counts.values()), 0, np.int64), len(counts)), scores)


def _judged_maps(cards: Sequence[Card], title: str) -> Column:
    whole = {card.name: card.of(title) for card in cards}
    whole = {name: own for name, own in whole.items() if all(p.counts is not None for p in own)}
    counts, maps = np.zeros((len(CLASSES), 3, 256), np.int64), np.zeros(len(CLASSES), int)
    for picture in (picture for own in whole.values() for picture in own):
        counts[picture.label] += picture.counts
        maps[picture.label] += 1
    if not whole:
        return Column(title, None, {})
    numbers = attention_numbers(counts, maps, len(whole))
    cuts = {CLASSES.index(name): own["threshold"] for name, own in numbers["classes"].items()}
    scores = {}
    for name, own in whole.items():
        labels = [picture.label for picture in own]
        curves = map_ious(np.stack([picture.counts for picture in own]))
        ious = [float(curve[cuts[label]]) for curve, label in zip(curves, labels, strict=True)]
        scores[name] = {None: float(np.mean(ious)), **dict(zip(labels, ious, strict=True))}
    return Column(title, numbers, scores)


# ---- the page


def _summary(gallery: Gallery) -> str:
    judged = "".join(
        f"; {title}: mean IoU {iou} %" for title, _, iou, _ in map(Column.facts, gallery.columns)
    )
    pictures = f"{len(gallery.failed)} of {gallery.asked} pictures failed"
    told = f"<p>{len(gallery.cards)} images{html.escape(judged)}; {pictures}.</p>"
    if gallery.columns:
        rows = [column.facts() for column in gallery.columns]
        told += f"<details><summary>Numbers</summary>{table(('', 'images', 'IoU %', ''), rows)}</details>"
    if gallery.failed:
        lines = "".join(f"<li>{html.escape(str(error))}</li>" for error in gallery.failed)
        told += f'<details class="bad"><summary>{pictures}</summary><ul>{lines}</ul></details>'
    return told


def _legend(cards: Sequence[Card]) -> str:
    """Each class that occurs, as a button that shows its images alone."""
    count = Counter(label for card in cards for label in card.classes)
    plain = [
        f'<li><span class="plain">{_swatch(value)}{name}</span></li>'
        for value, name in ((0, "background"), (IGNORE, "ignored"))
    ]
    chips = [
        f'<li><button type="button" disabled aria-pressed="false" value="{voc_name(label)}">'
        f'{_swatch(label + 1)}{CLASSES[label]} <span class="count">{count[label]}</span></button></li>'
        for label in sorted(count)
    ]
    return f'<ul class="legend" aria-label="Classes: show one alone">{"".join(plain + chips)}</ul>'


def _swatch(value: int) -> str:
    colour = "#{:02x}{:02x}{:02x}".format(*PALETTE[value])
    return f'<span class="swatch" style="background: {colour}"></span>'


def _controls(columns: Sequence[Column]) -> str:
    orders = [("order", "as listed"), ("name", "name")]
    judged = [column.title for column in columns if column.scores]
    if judged:
        orders += [("iou", "IoU, worst first"), ("iou-desc", "IoU, best first")]
    keys = " · ".join(f"<kbd>{key}</kbd> {what}" for key, what in KEYS)
    return (
        '<form class="bar" hidden aria-label="What is shown">'
        f"<label>Sort {_select('sort', orders)}</label>"
        f"<label{'' if judged else ' hidden'}>IoU of {_select('by', [(t, t) for t in judged])}</label>"
        '<label><input type="checkbox" name="over" checked> over the photograph</label>'
        '<label>Size <input type="range" name="size" min="80" max="400" step="10" value="160"></label>'
        f'<span class="keys">{keys}</span>'
        '<span id="shown" role="status"></span></form>'
    )


def _select(name: str, options: Sequence[tuple[str, str]]) -> str:
    lines = (f'<option value="{html.escape(value)}">{html.escape(text)}</option>' for value, text in options)
    return f'<select name="{name}">{"".join(lines)}</select>'


def _filters() -> str:
    """For each class: black through its colour to white, as `port.attention.figures.class_colormap` has it."""
    filters = []
    for label in range(len(CLASSES)):
        middle = (int(COLOURS[label + 1][i : i + 2], 16) / 255 for i in (1, 3, 5))
        functions = "".join(
            f'<feFunc{channel} type="table" tableValues="0 {value:.4f} 1"/>'
            for channel, value in zip("RGB", middle, strict=True)
        )
        filters.append(
            f'<filter id="class{label}" color-interpolation-filters="sRGB">'
            f"<feComponentTransfer>{functions}</feComponentTransfer></filter>"
        )
    return f'<svg width="0" height="0" style="position: absolute" aria-hidden="true">{"".join(filters)}</svg>'


def _usual_tiles(gallery: Gallery) -> int:
    """How many pictures stand side by side in a card of one class."""
    return max((len({p.column for p in card.pictures}) for card in gallery.cards), default=1)


def _cards(gallery: Gallery) -> list[str]:
    tiles = _usual_tiles(gallery)
    return [_card_html(card, gallery.columns, tiles) for card in gallery.cards]


def _card_html(card: Card, columns: Sequence[Column], tiles: int) -> str:
    scores = {column.title: column.scores[card.name] for column in columns if card.name in column.scores}
    told = {
        title: {
            "" if label is None else voc_name(label): round(v, 5) for label, v in own.items() if v is not None
        }
        for title, own in scores.items()
    }
    ious = "".join(f"<small>{html.escape(t)} {percent(own[None])}</small>" for t, own in scores.items())
    apart = "".join(_tile(p, card, scores) for p in card.pictures if p.kind != "map")
    groups = "".join(
        f'<div class="group">{"".join(_tile(p, card, scores) for p in card.pictures if p.label == label)}</div>'
        for label in card.classes
        if any(p.label == label for p in card.pictures)
    )
    name = html.escape(card.name)
    return (
        f'<article class="card" tabindex="-1" aria-label="{name}" data-name="{name}"'
        f' data-classes="{" ".join(map(voc_name, card.classes))}"'
        f' data-iou="{html.escape(json.dumps(told, separators=(",", ":")))}"'
        f' style="--lines: {-(-len(card.pictures) // tiles)}">'
        f'<h2>{name}{ious}</h2><div class="tiles">{apart}{groups}</div></article>\n'
    )


def _tile(picture: Picture, card: Card, scores: Mapping[str, Mapping[int | None, float | None]]) -> str:
    own = scores.get(picture.column, {})
    title = picture.column
    if picture.label is not None:
        title = f"{CLASSES[picture.label]}, {title.removesuffix(' attention')}"
    iou = own.get(picture.label)
    caption = html.escape(title) + ("" if iou is None else f" <b>{percent(iou)}</b>")
    if picture.label is not None:
        caption = _swatch(picture.label + 1) + caption
    elif own:
        caption += "".join(
            f"<br>{_swatch(label + 1)}{CLASSES[label]} {percent(own[label])}" for label in card.classes
        )
    if picture.problem:
        shown = f'<div class="missing">{html.escape(str(picture.problem))}</div>'
    else:
        width, height = picture.size
        alt = html.escape(f"{card.name}, {title}")
        top = "" if picture.kind == "photo" else ' class="top"'
        cut = "" if picture.label is None else f' style="filter: url(#class{picture.label})"'
        shown = (
            f'<span class="stack"{cut}><img{top} src="{picture.source}" alt="{alt}" width="{width}"'
            f' height="{height}" loading="lazy" decoding="async"></span>'
        )
    return f'<figure class="{picture.kind}">{shown}<figcaption>{caption}</figcaption></figure>'
