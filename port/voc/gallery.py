"""A dataset's images, attention, labels and truth on one page, to be sorted by IoU."""

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from PIL import Image
from rich.table import Table

from port.images import read_image
from port.report.pages import data_uri, file_text, render
from port.voc.classes import CLASSES, COLOURS, IGNORE, PALETTE, voc_name
from port.voc.each import for_each
from port.voc.evaluate import attention_numbers, confusion, label_numbers, map_counts, map_ious, percent
from port.voc.label_images import read_label_image, read_map, same_size
from port.voc.lists import Entry, read_entries, read_names
from port.voc.settings import Folders
from prototxt.errors import InputError, printable
from weights.files import write_text
from weights.progress import plain_console

_HERE = Path(__file__).parent

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


def print_gallery(gallery: Gallery) -> None:
    """Print how each judged folder does."""
    if gallery.columns:
        shown = Table("what", "images", "IoU %", "")
        for column in gallery.columns:
            shown.add_row(*map(printable, column.facts()))
        plain_console().print(shown)


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


def write_gallery(path: Path, gallery: Gallery, title: str, head: Sequence[Markup] = ()) -> None:
    """Write the page: one file, that needs nothing else.

    Args:
        title: plain text.
        head: pieces of HTML above the pictures, as `port.report.pages` makes tables, pictures and figures.

    Raises:
        InputError: where it cannot be written.
    """
    text = render(
        _HERE / "gallery.html.jinja",
        title=title,
        style=file_text(_HERE / "gallery.css"),
        script=file_text(_HERE / "gallery.js"),
        head=head,
        failed=gallery.failed,
        asked=gallery.asked,
        facts=[column.facts() for column in gallery.columns],
        judged=[(column.title, column.title) for column in gallery.columns if column.scores],
        plain=[_Swatch(_colour(0), "background"), _Swatch(_colour(IGNORE), "ignored")],
        legend=_legend(gallery.cards),
        keys=KEYS,
        filters=_filters(),
        tiles=_usual_tiles(gallery),
        cards=[_card_view(card, gallery.columns) for card in gallery.cards],
    )
    write_text(path, text)


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


# ---- the page: what the template shows


@dataclass(frozen=True)
class _Swatch:
    """A colour with what it stands for."""

    colour: str
    text: str


@dataclass(frozen=True)
class _Class:
    """A class in the legend: a button that shows its images alone."""

    colour: str
    text: str
    value: str
    count: int


@dataclass(frozen=True)
class _Tile:
    """A picture with its caption; `iou` and `lines` (each class's) are texts."""

    picture: Picture
    title: str
    swatch: str
    iou: str
    lines: list[_Swatch]


@dataclass(frozen=True)
class _CardView:
    """A card: `told` is what the script sorts by, `apart` the pictures of all classes, `groups` each class's."""

    name: str
    classes: str
    told: str
    ious: list[tuple[str, str]]
    apart: list[_Tile]
    groups: list[list[_Tile]]
    pictures: int


def _legend(cards: Sequence[Card]) -> list[_Class]:
    """The classes that occur."""
    count = Counter(label for card in cards for label in card.classes)
    return [
        _Class(_colour(label + 1), CLASSES[label], voc_name(label), count[label]) for label in sorted(count)
    ]


def _colour(value: int) -> str:
    """A label image's value as a colour of HTML."""
    return "#{:02x}{:02x}{:02x}".format(*PALETTE[value])


def _filters() -> list[list[tuple[str, str]]]:
    """For each class, by channel: black through its colour to white, as `class_colormap` has it."""
    return [
        [
            (channel, f"{int(colour[i : i + 2], 16) / 255:.4f}")
            for channel, i in zip("RGB", (1, 3, 5), strict=True)
        ]
        for colour in COLOURS[1:]
    ]


def _usual_tiles(gallery: Gallery) -> int:
    """How many pictures stand side by side in a card of one class."""
    return max((len({p.column for p in card.pictures}) for card in gallery.cards), default=1)


def _card_view(card: Card, columns: Sequence[Column]) -> _CardView:
    scores = {column.title: column.scores[card.name] for column in columns if card.name in column.scores}
    told = {
        title: {
            "" if label is None else voc_name(label): round(v, 5) for label, v in own.items() if v is not None
        }
        for title, own in scores.items()
    }
    of_class = [[p for p in card.pictures if p.label == label] for label in card.classes]
    return _CardView(
        card.name,
        " ".join(map(voc_name, card.classes)),
        json.dumps(told, separators=(",", ":")),
        [(title, percent(own[None])) for title, own in scores.items()],
        [_tile(p, card, scores) for p in card.pictures if p.kind != "map"],
        [[_tile(p, card, scores) for p in pictures] for pictures in of_class if pictures],
        len(card.pictures),
    )


def _tile(picture: Picture, card: Card, scores: Mapping[str, Mapping[int | None, float | None]]) -> _Tile:
    own = scores.get(picture.column, {})
    iou = own.get(picture.label)
    told = "" if iou is None else percent(iou)
    if picture.label is not None:
        title = f"{CLASSES[picture.label]}, {picture.column.removesuffix(' attention')}"
        return _Tile(picture, title, _colour(picture.label + 1), told, [])
    labels = card.classes if own else ()
    lines = [_Swatch(_colour(label + 1), f"{CLASSES[label]} {percent(own[label])}") for label in labels]
    return _Tile(picture, picture.column, "", told, lines)
