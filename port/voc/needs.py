"""All that a run of the pipeline is given, to be checked before it starts."""

from dataclasses import dataclass
from pathlib import Path

from port.voc.settings import CrfSettings, Views
from port.voc.weak_labels import Images


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
