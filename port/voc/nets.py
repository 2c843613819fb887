"""Which nets the pipeline trains, what each starts from, and all that a run of it is given."""

from dataclasses import dataclass
from pathlib import Path

import prototxt
from port.voc.crf import CrfSettings
from port.voc.segmentation import Views
from port.voc.weak_labels import TEST_SIZE, TRUNK, Images

NETS = Path(prototxt.__file__).parent


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
class Needs:
    """Everything that the pipeline is going to read, and the settings that decide what it takes.

    Attributes:
        val: the list to judge by; out: the folder for everything.
        classifiers: by name, the solvers; weights: what they start from.
        segmentation, segmentation_weights: the same of the segmentation net; deploy: that net as it is run.
        views, crf: how it is run.
        exact: whether a net is trained on true masks, too.
        test_size: the square on which attention is taken.
        classifier_iterations, segmentation_iterations: in place of the solvers'.
    """

    images: Images
    val: Path
    out: Path
    classifiers: dict[str, Path]
    weights: Path | None
    segmentation: Path
    segmentation_weights: Path | None
    deploy: Path
    views: Views
    crf: CrfSettings | None
    exact: bool
    test_size: int
    classifier_iterations: int | None
    segmentation_iterations: int | None
    workers: int
    device: str
