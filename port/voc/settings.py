"""How the commands for datasets are set: what their options give, checked, without the work's imports."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import prototxt
import weights
from prototxt.errors import InputError

NETS = Path(prototxt.__file__).parent

TRUNK = Path(weights.__file__).parent / "shapes" / "trunk.caffemodel"
TEST_SIZE = 192
"""What the nets for generated images start from, and the square on which their attention is taken."""

OVERLAYS = "overlays"
"""Folder of the images with the classes drawn over them."""


def check_workers(workers: int) -> None:
    """Raises InputError for a number of processes below 0."""
    if workers < 0:
        raise InputError(f"--workers {workers}: give 1 or more, or 0 for one on each core")


MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


def first_folder(voc: Path, names: Sequence[str] = MASK_FOLDERS) -> Path | None:
    """The first of a dataset's folders that is there: by default that of its label images."""
    return next((voc / name for name in names if (voc / name).is_dir()), None)


def check_source(source: str) -> None:
    """Raises InputError for another source of an image's classes than "xml" and "masks"."""
    if source not in ("xml", "masks"):
        raise InputError(f'--from "{source}": must be xml or masks')


@dataclass(frozen=True)
class Kind:
    """What the images of a generated dataset look like.

    Attributes:
        counts: the probabilities of 1, 2, … objects in an image.
        large: the share of large objects; their half length is `large_radius` (from, to), that of the others
            `small_radius`, in shorter sides of the image.
        touching: the share of further objects that are put beside another one.
        textured: whether a body has its class's texture, and not its hue alone.
    """

    counts: tuple[float, ...]
    large: float
    large_radius: tuple[float, float]
    small_radius: tuple[float, float]
    touching: float
    textured: bool


KINDS = {
    "shapes": Kind((0.4, 0.33, 0.17, 0.1), 0.15, (0.38, 0.5), (0.17, 0.28), 0.35, False),
    "objects": Kind((0.7, 0.3), 1.0, (0.34, 0.54), (0.0, 0.0), 0.35, True),
}
"""`shapes`: small objects, plain but for their emblems. `objects`: VOC's geometry, one or two objects that fill a third
of the image; attention to the emblem alone covers little of one, and its body can tell the class, too."""

FUSIONS = ("harmonic", "max", "mean", "saliency")


@dataclass(frozen=True)
class Fusion:
    """How a pixel's label is chosen.

    Attributes:
        fusion: the score of class c from saliency D and attention A_c, both in 0 … 1: "harmonic" is the
            paper's, 2·D·A_c / (D + A_c), which asks for both; "max" is satisfied with either, and "mean"
            lies between. "saliency" is D: saliency alone says what is background, attention only which class.
        ambiguous: where two classes' attentions both reach this, the pixel is ignored; 0: never. The
            authors say to leave such pixels out and give the pair 0.7 and 0.8 as an example, hence 0.7. It
            can touch only images of several classes, and there only pixels whose label is a toss-up.
        low_saliency: pixels whose saliency, in 0 … 255, is below this are ignored; 0, the default: none
            are. The authors propose 32, for precision. It is the paper's rule turned round: there, low
            saliency is what makes background, so that with it background is learned only from the rim of
            objects. On `seenet shapes`, 32 leaves out nine tenths of the background for half
            a point of the classes' IoU (docs/voc.md); use it where saliency misses whole objects.
        background: without saliency, the score of background, against which attention itself stands. 0.3
            of a map's maximum is a usual cut for class attention maps; `seenet evaluate --attention` finds
            the best one for a dataset with ground truth.
    """

    fusion: str = "harmonic"
    ambiguous: float = 0.7
    low_saliency: int = 0
    background: float = 0.3

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise InputError(f'--fusion "{self.fusion}": must be one of {", ".join(FUSIONS)}')
        if not 0 <= self.ambiguous <= 1 or not 0 < self.background < 1:
            raise InputError("--ambiguous and --background: give shares of the attention's maximum, 0 to 1")
        if not 0 <= self.low_saliency <= 255:
            raise InputError(f"--low-saliency {self.low_saliency}: must be 0 to 255")


MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5)
"""The scales of DeepLab-LargeFOV's published numbers."""


@dataclass(frozen=True)
class Views:
    """The parts of an image that a segmentation net is shown.

    Attributes:
        scales: the image's size is multiplied by.
        flip: show each mirrored too.
        tile: the side of the windows that the net is shown, as `crop_size` in the script that came with the
            released DeepLab-LargeFOV. A smaller image is padded on the right and below, with the mean; a
            larger one is cut into windows, each sharing a third or more with the next. 0: the whole image,
            padded to the next multiple of 8, and 1.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    tile: int = 513

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 8 for scale in self.scales):
            raise InputError(f"--scales {','.join(map(str, self.scales))}: give factors of 0.1 to 8")
        if self.tile and not 17 <= self.tile <= 4097:
            raise InputError(
                f"--tile {self.tile}: must be a side of 17 to 4097 pixels, or 0 for whole images"
            )


@dataclass(frozen=True)
class CrfSettings:
    """The weights and the widths of the two kernels; the defaults are the released
    DeepLab-LargeFOV's, and DeepLab's ten iterations.

    Attributes:
        bilateral, bilateral_xy, bilateral_rgb: the weight of "near and alike in colour", and how near, in
            pixels, and how alike, in 0 … 255: standard deviations.
        gaussian, gaussian_xy: the weight of "near", and how near.
        iterations: of the mean field.
    """

    bilateral: float = 3
    bilateral_xy: float = 67
    bilateral_rgb: float = 4
    gaussian: float = 1
    gaussian_xy: float = 3
    iterations: int = 10

    def __post_init__(self) -> None:
        if min(self.bilateral, self.gaussian, self.iterations) < 0:
            raise InputError("CRF: a weight or a number of iterations is below 0: give 0 or more")
        if not all(width > 0 for width in (self.bilateral_xy, self.bilateral_rgb, self.gaussian_xy)):
            raise InputError("CRF: a kernel's width is not above 0: give pixels, or grey levels")
        if not all(map(math.isfinite, astuple(self))):
            raise InputError("CRF: a weight or a width is not finite: give numbers")


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
class Nets:
    """What is trained.

    Attributes:
        seenet, shared, cam: the classifiers' solvers: with erasing; the same, S_C with S_B's weights; without.
        segmentation: by backbone, the segmentation net's solver and the net as it is run.
        weights: what the classifiers start from, by layer name; segmentation_weights: what the segmentation nets do,
            by backbone. None: it must be given.
        test_size: of the attention; tile: of the segmentation.
    """

    seenet: Path
    shared: Path
    cam: Path
    segmentation: dict[str, tuple[Path, Path]]
    weights: Path | None
    segmentation_weights: Path | None
    test_size: int
    tile: int


SETS = {
    "published": Nets(
        NETS / "seenet" / "solver.prototxt",
        NETS / "seenet" / "solver_shared.prototxt",
        NETS / "seenet" / "solver_cam.prototxt",
        {
            "vgg16": (
                NETS / "deeplab_largefov" / "solver.prototxt",
                NETS / "deeplab_largefov" / "deploy.prototxt",
            ),
            "resnet101": (
                NETS / "deeplab_largefov_resnet101" / "solver.prototxt",
                NETS / "deeplab_largefov_resnet101" / "deploy.prototxt",
            ),
        },
        None,
        None,
        256,
        513,
    ),
    "shapes": Nets(
        NETS / "shapes" / "solver.prototxt",
        NETS / "shapes" / "solver_shared.prototxt",
        NETS / "shapes" / "solver_cam.prototxt",
        {
            "vgg16": (
                NETS / "shapes" / "deeplab_solver.prototxt",
                NETS / "shapes" / "deeplab_deploy.prototxt",
            )
        },
        TRUNK,
        TRUNK,
        TEST_SIZE,
        0,
    ),
}


@dataclass(frozen=True)
class PipelineSettings:
    """What `seenet pipeline` is asked for.

    Attributes:
        nets: what is trained; backbone: of the segmentation nets, by its name in `nets.segmentation`.
        share_background: S_C is S_B's own classifier.
        voc: a dataset in VOC's layout; None: `number` images of `shapes`, made in the folder.
        train_list, val_list, saliency: None: the dataset's own.
        compare: train on plain CAM's labels and on exact masks too.
        multi_scale: segment at five scales, mirrored too.
        crf: refine by a dense CRF.
        seed, classifier_iterations, segmentation_iterations: None: the solvers'.
        workers: processes that fuse, refine and judge.
        device: "cpu" or "cuda".
        check: only look whether all is there, and estimate what it takes.
    """

    nets: Nets
    backbone: str
    share_background: bool
    voc: Path | None
    train_list: Path | None
    val_list: Path | None
    saliency: Path | None
    compare: bool
    multi_scale: bool
    crf: bool
    number: int
    seed: int | None
    classifier_iterations: int | None
    segmentation_iterations: int | None
    workers: int
    device: str
    check: bool


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


def chosen_nets(name: str, weights: Path | None, segmentation_weights: Path | None, backbone: str) -> Nets:
    """One of `SETS`, with other weights where they are given.

    Raises:
        InputError: no such set; a backbone that it has not.
    """
    if name not in SETS:
        raise InputError(f'--nets "{name}": must be one of {", ".join(SETS)}')
    nets = SETS[name]
    if backbone not in nets.segmentation:
        raise InputError(f'--backbone "{backbone}": --nets {name} has {", ".join(nets.segmentation)}')
    return replace(
        nets,
        weights=weights or nets.weights,
        segmentation_weights=segmentation_weights or nets.segmentation_weights,
    )
