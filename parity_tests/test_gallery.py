"""The gallery: what `seenet evaluate` judges is what it shows, and a browser sorts it, from disk alone."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from port.images import write_png
from port.report.pages import picture, svg, table
from port.voc.classes import CLASSES
from port.voc.evaluate import evaluate_attention, evaluate_labels
from port.voc.gallery import gather_gallery, write_gallery
from port.voc.label_images import read_label_image, write_label_image
from port.voc.settings import Folders, named_folders
from prototxt.errors import InputError

Run = Callable[..., tuple[int, str, str]]

DOG, SOFA = 11, 17
IMAGES = {"wide": (DOG,), "both": (SOFA, DOG), "tall": (SOFA,), 'odd<b>&"name': (DOG,)}
"""The list, and its classes."""
SLIPS = {"wide": 6, "both": 2, "tall": 4, 'odd<b>&"name': 0}
"""By how many pixels each image's labels are beside the truth: the more, the lower its IoU."""

PICTURES = 4 * 3 + 2 * 5
"""Photograph, truth and labels of each image; two maps of each class."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in VOC's layout, its list, labels that slipped to a known extent, and two sets of maps."""
    folder, random = tmp_path_factory.mktemp("voc"), np.random.default_rng(0)
    lines = []
    for name, labels in IMAGES.items():
        height, width = (60, 40) if name == "tall" else (40, 60)
        truth = np.zeros((height, width), np.uint8)
        for place, label in enumerate(labels):
            truth[5:25, 5 + 22 * place : 25 + 22 * place] = label + 1
        truth[30:32] = 255
        write_label_image(folder / "SegmentationClass" / f"{name}.png", truth)
        write_label_image(folder / "slipped" / f"{name}.png", np.roll(truth, SLIPS[name], 0))
        for maps, noise in (("sharp", 40), ("blurred", 200)):
            for label in labels:
                values = 50 + 150 * (truth == label + 1) + random.integers(0, noise, truth.shape)
                write_png(folder / maps / f"{name}_{label}.png", values.clip(0, 255).astype(np.uint8))
        (folder / "JPEGImages").mkdir(exist_ok=True)
        photo = random.integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(folder / "JPEGImages" / f"{name}.jpg"), photo)
        lines.append(" ".join([name, *map(str, labels)]))
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def voc(made: Path, tmp_path: Path) -> Path:
    """A copy, to be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "voc"))


def options(voc: Path) -> list[object]:
    maps = ["--attention", voc / "sharp", "--attention", f"CAM={voc / 'blurred'}"]
    return ["gallery", "--voc", voc, "--list", voc / "list.txt", "--pred", voc / "slipped", *maps]


class Page(HTMLParser):
    """Balanced tags, each card's attributes and text, and all that is referred to."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.cards: dict[str, str] = {}
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = dict(attributes)
        self.tags.add(tag)
        self.sources += [
            value for key, value in attributes if key in ("src", "href", "srcset", "action") and value
        ]
        if tag == "article":
            self.cards[told["data-name"]] = ""
        if tag not in ("meta", "img", "input", "br", "fefuncr", "fefuncg", "fefuncb"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "article" in self.open:
            self.cards[list(self.cards)[-1]] += data


def test_page(seenet: Run, made: Path, tmp_path: Path) -> None:
    """Every image and picture is on it, names are escaped, and it refers to nothing but what it carries."""
    status, out, err = seenet(*options(made), "--out", tmp_path / "page.html")
    assert (status, err) == (0, "") and "4 images" in out and "slipped labels" in out
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert list(page.cards) == list(IMAGES)
    assert len(page.sources) == PICTURES
    assert all(re.match(r"data:image/(webp|png);base64,", source) for source in page.sources)
    assert "b" in page.tags and '<b>&"name' not in text and "link" not in page.tags
    assert "default-src 'none'" in text and "://" not in text
    for shown in ("photograph", "ground truth", "slipped labels", "dog, CAM", "sofa, sharp"):
        assert shown in page.cards["both"]
    assert f"0 of {PICTURES} pictures failed" in text
    assert {p.name for p in tmp_path.iterdir()} == {"page.html"}


def test_same_bytes(seenet: Run, made: Path, tmp_path: Path) -> None:
    """From one process or two."""
    for name, workers in (("a", 1), ("b", 2)):
        assert seenet(*options(made), "--out", tmp_path / f"{name}.html", "--workers", workers)[0] == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_pictures_are_bounded(made: Path) -> None:
    """--side bounds a picture; a small label image holds only what the large one does."""
    folders = Folders(made, {"m": made / "sharp"}, {}, made / "SegmentationClass", side=20, quality=50)
    card = gather_gallery(folders, made / "list.txt").cards[2]
    assert [picture.size for picture in card.pictures] == [(13, 20)] * 3
    large = Folders(made, {}, {}, made / "SegmentationClass", side=500)
    assert gather_gallery(large, made / "list.txt").cards[2].pictures[0].size == (40, 60)


def test_judged_as_evaluate_does(made: Path, tmp_path: Path) -> None:
    truth = made / "SegmentationClass"
    maps, pred = {"CAM": made / "blurred", "sharp": made / "sharp"}, {"slipped": made / "slipped"}
    gallery = gather_gallery(Folders(made, maps, pred, truth), made / "list.txt")
    labels, *attention = gallery.columns
    assert [column.title for column in gallery.columns] == [
        "slipped labels",
        "CAM attention",
        "sharp attention",
    ]
    assert labels.numbers == evaluate_labels(made / "slipped", truth, made / "list.txt")[0]
    for name in IMAGES:
        (tmp_path / "one.txt").write_text(name)
        alone = evaluate_labels(made / "slipped", truth, tmp_path / "one.txt")[0]
        own = labels.scores[name]
        assert own.pop(None) == alone["miou"]
        assert own == {label: alone["classes"][CLASSES[label]]["iou"] for label in IMAGES[name]}
    for column, folder in zip(attention, maps.values(), strict=True):
        numbers = evaluate_attention(folder, truth, made / "list.txt")[0]
        assert column.numbers == numbers
        for name, classes in IMAGES.items():
            true = read_label_image(truth / f"{name}.png")
            ious = {}
            for label in classes:
                values = cv2.imread(str(folder / f"{name}_{label}.png"), cv2.IMREAD_UNCHANGED)
                said = (values >= numbers["classes"][CLASSES[label]]["threshold"]) & (true != 255)
                ious[label] = (said & (true == label + 1)).sum() / (said | (true == label + 1)).sum()
            assert column.scores[name] == pytest.approx({None: np.mean(list(ious.values())), **ious})


def test_without_truth(seenet: Run, voc: Path, tmp_path: Path) -> None:
    """Nothing is judged, nothing fails, and a list of names does; classes are those of the labels."""
    shutil.rmtree(voc / "SegmentationClass")
    (voc / "names.txt").write_text("both\nwide\n")
    run = ["gallery", "--voc", voc, "--list", voc / "names.txt", "--pred", voc / "slipped"]
    status, out, err = seenet(*run, "--out", tmp_path / "page.html")
    assert (status, err) == (0, "") and "nothing to judge it by" in out
    text = (tmp_path / "page.html").read_text()
    assert 'data-classes="dog sofa"' in text and 'value="iou"' not in text and "ground truth" not in text


def test_augmented_truth_comes_first(seenet: Run, voc: Path, tmp_path: Path) -> None:
    shutil.copytree(voc / "slipped", voc / "SegmentationClassAug")
    run = ["gallery", "--voc", voc, "--list", voc / "list.txt", "--pred", voc / "slipped"]
    assert seenet(*run, "--out", tmp_path / "a.html")[0] == 0
    assert "slipped labels: mean IoU 100.0 %" in (tmp_path / "a.html").read_text()
    assert seenet(*run, "--out", tmp_path / "b.html", "--gt", voc / "SegmentationClass")[0] == 0
    assert "slipped labels: mean IoU 100.0 %" not in (tmp_path / "b.html").read_text()


def test_each_bad_picture_is_named(seenet: Run, voc: Path, tmp_path: Path) -> None:
    """One line each, in its place on the page too; the image's other pictures and the other images are there."""
    (voc / "JPEGImages" / "wide.jpg").unlink()
    (voc / "sharp" / f"both_{DOG}.png").unlink()
    write_label_image(voc / "slipped" / "tall.png", np.zeros((9, 9), np.uint8))
    cv2.imwrite(str(voc / "SegmentationClass" / "both.png"), np.zeros((40, 60, 3), np.uint8))
    (voc / "blurred" / f"tall_{SOFA}.png").write_bytes(b"torn")
    with (voc / "list.txt").open("a") as lines:
        lines.write("nolabels\nstrange 20\nwide 3\n")
    status, out, err = seenet(*options(voc), "--out", tmp_path / "page.html")
    *told, last = err.splitlines()
    assert status == 2 and last == "8 of 25 failed" and len(told) == 8
    for expected in (
        "list.txt:5: nolabels: names no class",
        "list.txt:6: strange: class 20",
        "list.txt:7: wide is listed again",
        "wide.jpg: cannot be read",
        f"both_{DOG}.png: the attention of dog cannot be read",
        "tall.png: is 9×9 pixels, the photograph is 40×60",
        "both.png: not a palette image",
        f"tall_{SOFA}.png: the attention of sofa does not decode",
    ):
        assert sum(expected in line for line in told) == 1, expected
    page = Page((tmp_path / "page.html").read_text())
    assert list(page.cards) == list(IMAGES) and len(page.sources) == PICTURES - 5
    assert "9×9" in page.cards["tall"] and "cannot be read" in page.cards["wide"]
    shown = " ".join(out.split())
    assert "slipped labels │ 2 │" in shown and "CAM attention │ 2 │" in shown


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--side", 4], "--side"),
        (["--quality", 0], "--quality"),
        (["--attention", "sharp=nowhere"], "--attention sharp=nowhere: give each its own name"),
        (["--pred", "new=nowhere"], "--pred: nowhere: there is no such folder"),
        (["--gt", "nowhere"], "--gt: nowhere"),
        (["--voc", "nowhere"], "JPEGImages"),
        (["--list", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--workers", -1], "--workers"),
    ],
)
def test_bad_options(seenet: Run, made: Path, tmp_path: Path, wrong: list, named: str) -> None:
    status, _, err = seenet(*options(made), "--out", tmp_path / "new" / "page.html", *wrong)
    assert status == 2 and named in err and err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_named_folders(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    given = [f"CAM={tmp_path}", str(tmp_path / "maps"), str(tmp_path / "a=b")]
    assert named_folders("--pred", given) == {
        "CAM": tmp_path,
        "maps": tmp_path / "maps",
        "a=b": tmp_path / "a=b",
    }
    with pytest.raises(InputError, match="its own name"):
        named_folders("--pred", ["=there"])


def test_head(made: Path, tmp_path: Path) -> None:
    """A study's table and figures stand above the pictures, in the same file."""
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([1, 2], [3, 4])
    figure.savefig(tmp_path / "chart.png")
    gallery = gather_gallery(Folders(made, {}, {}, None), made / "list.txt")
    head = (
        table(("a", "<b>"), [("1", "&")], "told"),
        svg(figure),
        picture(tmp_path / "chart.png", "a chart"),
    )
    write_gallery(tmp_path / "page.html", gallery, "study <1>", head)
    text = (tmp_path / "page.html").read_text()
    assert all(piece in text for piece in head) and "<title>study &lt;1&gt;</title>" in text
    assert text.index("a chart") < text.index("<article")
    assert "<td>&amp;</td>" in head[0] and "&lt;b&gt;" in head[0]
    with pytest.raises(InputError, match="cannot be read"):
        picture(tmp_path / "none.png", "")
    with pytest.raises(InputError, match="not a picture"):
        picture(tmp_path / "page.html", "")


# --- in a browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None,
    reason="no chromium on the path: the page's script is not tested (apt-get install chromium)",
)


@pytest.fixture(scope="module")
def browsed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What chromium makes of the page at an address's `#…`, as HTML; with a script of the test's at its end."""
    folder = tmp_path_factory.mktemp("browser")
    maps = {"CAM": made / "blurred", "sharp": made / "sharp"}
    gallery = gather_gallery(
        Folders(made, maps, {"slipped": made / "slipped"}, made / "SegmentationClass"), made / "list.txt"
    )
    write_gallery(folder / "page.html", gallery, "gallery")
    text = (folder / "page.html").read_text()

    def browse(state: str, script: str = "") -> str:
        page = folder / "scripted.html"
        page.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
        flags = [
            *(
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-sync",
            ),
            *("--disable-background-networking", "--disable-component-update", "--window-size=1400,2000"),
            *("--virtual-time-budget=3000", "--dump-dom"),
        ]
        profile = f"--user-data-dir={folder / 'profile'}"
        done = subprocess.run(
            [BROWSER, *flags, profile, f"{page.as_uri()}#{state}"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return browse


def visible(dom: str) -> list[str]:
    cards = re.findall(r"<article [^>]*>", dom)
    return [re.search(r'aria-label="([a-z]+)', card)[1] for card in cards if " hidden" not in card]


@needs_browser
@pytest.mark.parametrize(
    ("state", "order"),
    [
        ("", ["wide", "both", "tall", "odd"]),
        ("sort=name", ["both", "odd", "tall", "wide"]),
        ("sort=iou", ["wide", "tall", "both", "odd"]),
        ("sort=iou-desc&by=slipped+labels", ["odd", "both", "tall", "wide"]),
        ("sort=iou&class=sofa", ["tall", "both"]),
        ("sort=nonsense&by=nothing&class=dog", ["wide", "both", "odd"]),
    ],
)
def test_sorted_in_a_browser(browsed: Callable[..., str], state: str, order: list[str]) -> None:
    dom = browsed(state)
    assert visible(dom) == order
    assert f"{len(order)} of 4 images</span>" in dom


@needs_browser
def test_used_in_a_browser(browsed: Callable[..., str]) -> None:
    """Buttons and keys work, every picture decodes, and photographs lie under maps and labels."""
    script = """
    const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    const told = () => ({ hash: location.hash, names: [...document.querySelectorAll(".card:not([hidden])")]
      .map((card) => card.dataset.name.slice(0, 4)).join() });
    addEventListener("load", () => setTimeout(async () => {
      const wait = () => new Promise((done) => setTimeout(done, 100));
      const seen = [];
      press("s"); await wait(); seen.push(told());
      press("s"); await wait(); seen.push(told());
      document.querySelector("button[value=dog]").click(); await wait(); seen.push(told());
      press("j"); press("j"); seen.push(document.activeElement.dataset.name);
      press("o"); await wait(); seen.push(document.activeElement.dataset.name, document.body.className, told());
      press("a"); await wait(); seen.push(told());
      const images = [...document.images];
      seen.push(images.length, images.filter((image) => image.naturalWidth).length);
      seen.push(document.querySelectorAll(".under").length);
      document.title = JSON.stringify(seen);
    }, 200));
    """
    told = json.loads(html.unescape(re.search(r"<title>(.*)</title>", browsed("", script))[1]))
    assert told == [
        {"hash": "#sort=name", "names": "both,odd<,tall,wide"},
        {"hash": "#sort=iou", "names": "wide,tall,both,odd<"},
        {"hash": "#sort=iou&class=dog", "names": "wide,both,odd<"},
        *("both", "both", ""),
        {"hash": "#sort=iou&class=dog&plain=1", "names": "wide,both,odd<"},
        {"hash": "#sort=iou&plain=1", "names": "wide,tall,both,odd<"},
        *(PICTURES + PICTURES - len(IMAGES), PICTURES + PICTURES - len(IMAGES), PICTURES - len(IMAGES)),
    ]
